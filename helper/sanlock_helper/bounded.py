# SPDX-License-Identifier: LGPL-2.1-or-later
"""A call that is waited for no longer than it is worth."""

from __future__ import annotations

import _thread
from _queue import Empty, SimpleQueue
from typing import Any, Callable


class NoAnswerError(Exception):
    """A call has not returned in time.  A TimeoutError is what Python makes of a call's own ETIMEDOUT."""


def bounded(call: Callable[[], Any], seconds: float) -> Any:
    """What CALL returns or raises, run in a thread of its own; NoAnswerError after SECONDS.

    A call that took too long goes on by itself, and what comes of it is lost.  Where no thread can be started
    (RLIMIT_NPROC, pids.max of the cgroup) it is made in place, for as long as it takes.
    """
    answers: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:
            answers.put((None, error))

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:
        return call()
    try:
        value, error = answers.get(timeout=seconds)
    except Empty:
        raise NoAnswerError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value
