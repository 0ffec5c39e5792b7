# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's event loop: it runs whenever it is woken, and now and then only while calls are made."""

from __future__ import annotations

import _thread
import time

import pytest

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.virt import event_loop  # noqa: E402
from sanlock_helper.virt.event_loop import LoopThrottle  # noqa: E402

SECONDS = 0.2


class Loop:
    """A loop that is woken all the time, until the test is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.throttle = LoopThrottle(SECONDS)
        self.runs = 0
        self.is_over = False
        monkeypatch.setattr(event_loop, "THROTTLE", self.throttle)
        monkeypatch.setattr(libvirt, "virEventRunDefaultImpl", self.run)
        _thread.start_new_thread(event_loop.run, ())

    def run(self) -> None:
        if self.is_over:
            raise libvirt.libvirtError("the test is over")
        self.runs += 1
        time.sleep(0.001)

    def runs_in(self, seconds: float) -> int:
        before = self.runs
        time.sleep(seconds)
        return self.runs - before


def test_the_loop_runs_now_and_then_while_calls_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch)
    try:
        for _ in range(2):
            assert loop.runs_in(SECONDS) > 3
            with loop.throttle:
                loop.runs_in(SECONDS / 10)
                assert 1 <= loop.runs_in(2.5 * SECONDS) <= 3
    finally:
        loop.is_over = True
