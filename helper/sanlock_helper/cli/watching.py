# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shows something again and again, and what counts down in it meanwhile, however long it takes to read it."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue
from typing import Callable, Generic, TypeVar

from ..errors import TransientError
from ..threads import WORKERS

T = TypeVar("T")

# A number of seconds that is shown, rounded, is right within one.
TICK_SECONDS = 0.25


class Watch(Generic[T]):
    """READ makes what SHOW shows with an error, "" where there is none; it may take long, and hang.

    COUNT_DOWN makes another one of the last, or returns that itself where there is nothing to count; without
    it what was read last stays until the next reading has ended.
    """

    def __init__(
        self,
        read: Callable[[], T],
        show: Callable[[T | None, str], None],
        count_down: Callable[[T], T] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """CLOCK is in seconds."""
        self._read = read
        self._show = show
        self._count_down = count_down
        self._clock = clock
        self._shown: T | None = None
        self._error = ""

    def run(self, seconds: float) -> None:
        """Show it again SECONDS after each reading; what READ raises but for TransientError ends this."""
        while True:
            self._read_once()
            end = self._clock() + seconds
            while (left := end - self._clock()) > 0:
                time.sleep(min(left, TICK_SECONDS) if self._count_down else left)
                if self._clock() < end:
                    self._tick()

    def _read_once(self) -> None:
        answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

        def read() -> None:
            try:
                answers.put((self._read(), None))
            except BaseException as error:  # raised in the thread that waits for the answer
                answers.put((None, error))

        try:
            WORKERS.start(read, ())
        except RuntimeError:
            read()  # no more threads
        while True:
            try:
                found, error = answers.get(timeout=TICK_SECONDS)
                break
            except Empty:
                self._tick()
        if isinstance(error, TransientError):
            # An outage is what a watch is for: what did not answer may do so the next time.
            self._error = str(error)
            self._show(None, self._error)
            return
        if error is not None:
            raise error
        self._shown, self._error = found, ""
        self._show(found, "")

    def _tick(self) -> None:
        if self._shown is None or self._count_down is None:
            return
        counted = self._count_down(self._shown)
        if counted is not self._shown:
            self._shown = counted
            self._show(counted, self._error)
