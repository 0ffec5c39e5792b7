# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for a call no longer than it is worth, and never deaf to Ctrl-C.

A call into libvirt, into sanlock or to storage that is gone may never return, and Python sees no signal
meanwhile.  So it runs in a thread of its own, which is left behind when nobody waits for it any more.
"""

from __future__ import annotations

import threading
from _queue import Empty, SimpleQueue
from typing import Any, Callable, TypeVar

from .errors import PassingError

T = TypeVar("T")


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
