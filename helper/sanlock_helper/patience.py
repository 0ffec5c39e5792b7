# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for a call no longer than it is worth, and never deaf to Ctrl-C.

A call into libvirt, into sanlock or to storage that is gone may never return, and Python sees no signal
meanwhile.  So it runs in a thread of its own, which is left behind when nobody waits for it any more.
"""

from __future__ import annotations

import threading
from _queue import Empty, SimpleQueue
from typing import Any, Callable, Generic, TypeVar

from .errors import PassingError

T = TypeVar("T")

_SANLOCK_HANGS = "see sanlock client status, and journalctl -u sanlock"


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """What CALL returns or raises, if it does so within SECONDS; PassingError about WHAT if it does not."""
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((True, call()))
        except BaseException as error:  # handed over, and raised by the thread that asked
            answers.put((False, error))

    threading.Thread(target=run, daemon=True, name=what).start()
    try:
        returned, value = answers.get(timeout=seconds)
    except Empty:
        raise PassingError(what, f"no answer within {seconds:g} s") from None
    if not returned:
        raise value
    answer: T = value
    return answer


class OneAtATime(Generic[T]):
    """A call that is made again and again, and never again while an earlier one has not returned."""

    def __init__(self, call: Callable[[], T], seconds: float) -> None:
        """Each CALL is waited for SECONDS at most."""
        self._call = call
        self._seconds = seconds
        self._hangs = threading.Event()

    def __call__(self) -> T:
        """What the call returns or raises; PassingError when it does not, or an earlier one still has not."""
        if self._hangs.is_set():
            raise PassingError("ask sanlock", "it has not answered the last question yet", _SANLOCK_HANGS)
        self._hangs.set()
        return within(self._seconds, "ask sanlock", self._run)

    def _run(self) -> T:
        try:
            return self._call()
        finally:
            self._hangs.clear()
