# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is shown again and again, while a reading takes long or fails."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from sanlock_helper.cli.watching import TICK_SECONDS, Watch
from sanlock_helper.errors import PermanentError, TransientError

pytestmark = pytest.mark.pure


class End(BaseException):
    """Ctrl-C."""


class Screen:
    """Ends the watch after so many pictures."""

    def __init__(self, most: int) -> None:
        self.shown: list[tuple[int | None, str]] = []
        self._most = most

    def show(self, what: int | None, error: str) -> None:
        self.shown.append((what, error))
        if len(self.shown) == self._most:
            raise End


def test_it_reads_again() -> None:
    screen = Screen(3)
    numbers = iter(range(9))
    with pytest.raises(End):
        Watch(lambda: next(numbers), screen.show, None).run(0.01)
    assert screen.shown == [(0, ""), (1, ""), (2, "")]


def test_it_counts_down_while_a_reading_hangs() -> None:
    screen = Screen(4)
    hangs = threading.Event()
    read: list[int] = []

    def reading() -> int:
        if read:
            hangs.wait(20)
        read.append(100)
        return 100

    start = time.monotonic()
    try:
        with pytest.raises(End):
            Watch(reading, screen.show, lambda shown: shown - 1).run(0.01)
    finally:
        hangs.set()
    assert screen.shown == [(100, ""), (99, ""), (98, ""), (97, "")]
    assert time.monotonic() - start < 4 * TICK_SECONDS + 2


def test_it_counts_down_between_two_readings() -> None:
    screen = Screen(3)
    with pytest.raises(End):
        Watch(lambda: 100, screen.show, lambda shown: shown - 1).run(60)
    assert screen.shown == [(100, ""), (99, ""), (98, "")]


def test_what_does_not_change_is_not_shown_again() -> None:
    screen = Screen(2)
    with pytest.raises(End):
        Watch(lambda: 100, screen.show, lambda shown: shown).run(2 * TICK_SECONDS)
    assert screen.shown == [(100, ""), (100, "")]


def test_an_error_that_may_pass_stays_until_the_next_reading() -> None:
    why = "list the domains: no answer"
    shown: list[tuple[int | None, str]] = []
    answers: list[int | Exception] = [100, TransientError("list the domains", "no answer"), 50]

    def read() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def show(what: int | None, error: str) -> None:
        shown.append((what, error))
        if what == 50:
            raise End

    # Each question for the time takes 0.1 s: one tick and no more after each reading, however long it slept.
    ticks = itertools.count(0.0, 0.1)
    with pytest.raises(End):
        Watch(read, show, lambda last: last - 1, lambda: next(ticks)).run(0.35)
    # One more tick for each that a reading was late by, on a busy machine.
    at = shown.index((None, why))
    before, after = shown[:at], shown[at + 1 : -1]
    assert before == [(100 - number, "") for number in range(len(before))]
    assert after == [(100 - number, why) for number in range(len(before), len(before) + len(after))]
    assert len(before) >= 2
    assert len(after) >= 1
    assert shown[-1] == (50, "")


def test_another_error_ends_it() -> None:
    def read() -> int:
        raise PermanentError("domain 'x'", "there is no such domain")

    with pytest.raises(PermanentError, match="there is no such domain"):
        Watch(read, Screen(9).show, None).run(1)
