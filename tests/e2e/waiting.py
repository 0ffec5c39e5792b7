# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for a condition, to a deadline."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

T = TypeVar("T")

# Short beside everything that is waited for (a lease lost takes 7 s, a QEMU start 0.2 s).
INTERVAL = 0.05


class WaitTimeout(AssertionError):
    """What was waited for did not happen. An AssertionError: it fails a test, it is no crash."""

    def __init__(self, what: str, timeout: float, last: object) -> None:
        self.what = what
        self.timeout = timeout
        self.last = last
        super().__init__(f"waited {timeout:g} s for {what}; last read: {last!r}")


def wait_for(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Call predicate every 50 ms until it returns something true, and return that.

    Raises WaitTimeout, which names `what` and the last value seen, after timeout seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise WaitTimeout(what, timeout, value)
        time.sleep(INTERVAL)
