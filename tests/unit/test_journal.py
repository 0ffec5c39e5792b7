# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journal never makes anybody wait."""

from __future__ import annotations

import syslog
import threading
import time

import pytest

from sanlock_helper.journal import Journal

pytestmark = pytest.mark.pure


def test_levels_and_order() -> None:
    lines: list[tuple[int, str]] = []
    terminal: list[str] = []
    journal = Journal(lambda priority, line: lines.append((priority, line)), terminal.append)
    journal.warning("trying")
    journal.crit("failed")
    journal.tell("error", "safe")
    journal.notice("done")
    assert journal.flush()
    assert lines == [
        (syslog.LOG_WARNING, "trying"),
        (syslog.LOG_CRIT, "failed"),
        (syslog.LOG_ERR, "safe"),
        (syslog.LOG_NOTICE, "done"),
    ]
    assert terminal == [f"virt-sanlock-helper: {line}" for _, line in lines]


def test_a_syslog_that_blocks_holds_up_nobody() -> None:
    release = threading.Event()

    def blocked(_priority: int, _line: str) -> None:
        release.wait()

    journal = Journal(blocked, lambda line: None)
    start = time.monotonic()
    journal.notice("one")
    journal.notice("two")
    assert not journal.flush(timeout=0.1)
    assert time.monotonic() - start < 5
    release.set()


def test_a_silent_journal_is_flushed_at_once() -> None:
    assert Journal().flush(timeout=0)
