# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of the spool from which no request can be had: they are none, or cannot be read now.

What is no request is moved out of the spool, and is logged once.  What cannot be read for want of a resource
(descriptors, memory) is a virtual machine's all the same, and is read later.
"""

from __future__ import annotations

from typing import Callable

from ..journal import Journal
from ..leases.grace import DEFAULT_GRACE
from ..spool import RUNTIME_DIR
from .requests import Requests

# So many are logged one by one, the rest in one line.
_LOGGED = 10


class OddFiles:
    """Those that one agent met."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        """CLOCK is monotonic, in seconds."""
        self._journal = journal
        self._clock = clock
        self._moved = 0
        self._kept = 0
        # When a file could not be read first.
        self._unread: dict[str, float] = {}

    def move(self, requests: Requests, name: str, why: str) -> None:
        """NAME is no request, WHY says why: move it out of the spool, or ignore it."""
        line = f"the file {name!r} in {RUNTIME_DIR}/requests is not a request: {why}"
        try:
            place = requests.put_aside(name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._kept += 1
            if self._kept <= _LOGGED:
                self._journal.warning(f"{line}; it cannot be moved ({error.strerror}), and is ignored")
        else:
            self._moved += 1
            if self._moved <= _LOGGED:
                self._journal.warning(f"{line}; it was moved to {place}")

    def report(self) -> None:
        """Log how many more there were than were logged one by one."""
        for number, what in ((self._moved, "were moved out of"), (self._kept, "are ignored in")):
            if number > _LOGGED:
                self._journal.warning(
                    f"{number - _LOGGED} more files that are not requests {what} {RUNTIME_DIR}/requests"
                )
        self._moved, self._kept = min(self._moved, _LOGGED), min(self._kept, _LOGGED)

    def later(self, name: str, error: OSError) -> bool:
        """Request NAME cannot be read now; False when it is too late to read it."""
        now = self._clock()
        if name not in self._unread:
            self._unread[name] = now
            self._journal.warning(f"the request {name!r} cannot be read now: {error.strerror}; trying again")
        elif now - self._unread[name] > DEFAULT_GRACE:
            del self._unread[name]
            self._journal.crit(f"the request {name!r} could not be read: {error.strerror}; FAILED")
            return False
        return True

    def was_read(self, name: str) -> None:
        """Request NAME was read."""
        self._unread.pop(name, None)

    def are_there(self, names: list[str]) -> bool:
        """Whether one of NAMES, all that are in the spool, is still to be read."""
        for name in [name for name in self._unread if name not in names]:
            del self._unread[name]
        return bool(self._unread)
