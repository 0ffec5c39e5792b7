# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's settings during a recovery: read again, never waited for long, and logged once."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.recovery import host_settings
from sanlock_helper.recovery.host_settings import AGE_SECONDS, HostSettings
from sanlock_helper.virt.host_conf import HostConf, parse_host_conf

from ..fakes import Clock, RecordedJournal

BROKEN = parse_host_conf("[recover]\nside_by_side = 0\n")


def test_they_are_read_again_and_each_error_is_logged_once() -> None:
    clock, journal = Clock(), RecordedJournal()
    now = [BROKEN]
    reads: list[float] = []

    def read() -> HostConf:
        reads.append(clock())
        return now[0]

    settings = HostSettings(journal, read, clock)  # type: ignore[arg-type]
    assert settings.conf == HostConf()
    for _ in range(20):
        assert settings.refresh() is BROKEN is settings.conf
        clock.now += 1.0
    assert len(reads) == 4
    (line,) = [line for _, line in journal.lines]
    assert line == (
        "recover: settings that do not count: /etc/virt-sanlock-helper.conf: line 2: side_by_side is '0', "
        "not a whole number from 1 to 64 (correct what is named: see CONFIGURATION in man "
        "virt-sanlock-helper); going on with default = no, side_by_side = 8, order = priority"
    )
    # Mended, and broken again: that is new.
    for conf, lines in ((HostConf(default=True), 1), (BROKEN, 2)):
        now[0] = conf
        clock.now += AGE_SECONDS
        assert settings.refresh() is conf
        assert len(journal.lines) == lines


def test_a_disk_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_settings, "READ_SECONDS", 0.2)
    clock, journal, end = Clock(), RecordedJournal(), threading.Event()

    def read() -> HostConf:
        end.wait()
        return HostConf(default=True)

    settings = HostSettings(journal, read, clock)  # type: ignore[arg-type]
    start = time.monotonic()
    for _ in range(5):
        conf = settings.refresh()
        # What the file has may be yes.
        assert (conf.default, conf.side_by_side) == (None, 8)
        clock.now += AGE_SECONDS
    assert time.monotonic() - start < 1.0
    (line,) = [line for _, line in journal.lines]
    assert "read /etc/virt-sanlock-helper.conf: its disk does not answer (findmnt -T " in line
    end.set()
    deadline = time.monotonic() + 5.0
    while settings.refresh().default is None and time.monotonic() < deadline:
        clock.now += AGE_SECONDS
        time.sleep(0.01)
    assert settings.conf == HostConf(default=True)
