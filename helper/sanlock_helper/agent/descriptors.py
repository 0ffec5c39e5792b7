# SPDX-License-Identifier: LGPL-2.1-or-later
"""The descriptors that this process may still have, of which a low limit (RLIMIT_NOFILE) leaves few.

With one descriptor left libvirt does not fail to connect: GLib ends the process, since it has no pipe to wake
a loop up with (g_wakeup_new() in GLib's gwakeup.c).  With none left the agent can read neither its spool nor
a domain's process.
"""

from __future__ import annotations

import _thread
import posix

import libvirt

from ..errors import TransientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..virt.api import VirConnect

# What is kept back for the moment in which no other is free, and at most a quarter of the limit.
RESERVE = 8

# What a connection takes: its socket, and GLib's eventfd.
OF_A_CONNECTION = 2
# What the agent's threads may take at the same time, to read a file of /proc or to write a record: with fewer
# than these no connection is made, or no further one.
OF_OTHERS = 2
OF_MANY_OTHERS = 8

# errno(3): EMFILE, this process has no more; ENFILE, this host.
_NO_DESCRIPTOR = (24, 23)


def lacks_descriptor(error: BaseException | None) -> bool:
    """Whether ERROR, or what it was raised from, is that no descriptor is free."""
    while error is not None:
        # An OSError, or what a call into sanlock's library raises.
        if getattr(error, "errno", None) in _NO_DESCRIPTOR:
            return True
        # virReportSystemError() of libvirt has the errno there (its src/util/virerror.c).
        if (
            isinstance(error, libvirt.libvirtError)
            and error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR
            and error.get_int1() in _NO_DESCRIPTOR
        ):
            return True
        error = error.__cause__
    return False


class Descriptors:
    """What is kept back, and what connections that are being opened will take; for several threads."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._opening = 0
        self._has_one = False
        self._reserve = _take(min(RESERVE, posix.sysconf("SC_OPEN_MAX") // 4))

    def free_reserve(self) -> bool:
        """No descriptor is free: give up what was kept back; whether there was any."""
        with self._lock:
            reserve, self._reserve = self._reserve, []
        _close(reserve)
        return bool(reserve)

    def keep_reserve(self) -> None:
        """Keep some back again, where that was given up and as many are free."""
        with self._lock:
            if not self._reserve:
                self._reserve = _take(min(RESERVE, posix.sysconf("SC_OPEN_MAX") // 4))

    def guard(self, connect: Callable[[str], VirConnect]) -> Callable[[str], VirConnect]:
        """CONNECT, which raises TransientError where too few descriptors are free for a connection."""

        def guarded(uri: str) -> VirConnect:
            if not (self._claim() or (self.free_reserve() and self._claim())):
                limit = posix.sysconf("SC_OPEN_MAX")
                why = f"the limit of {limit} open files leaves no room for a connection"
                hint = "set LimitNOFILE= of sanlock.service to more"
                cause = OSError(_NO_DESCRIPTOR[0], "Too many open files")
                raise TransientError(f"connect to {uri}", why, hint) from cause
            try:
                connection = connect(uri)
                self._has_one = True
                return connection
            finally:
                with self._lock:
                    self._opening -= 1

        return guarded

    def _claim(self) -> bool:
        """Whether there is room for one more connection; then it counts as being opened."""
        with self._lock:
            others = OF_MANY_OTHERS if self._has_one else OF_OTHERS
            needed = OF_A_CONNECTION * (self._opening + 1) + others
            found = _take(needed)
            _close(found)
            if len(found) < needed:
                return False
            self._opening += 1
            return True


def _take(number: int) -> list[int]:
    """So many new descriptors, or an empty list where that many are not free."""
    taken: list[int] = []
    try:
        for _ in range(number):
            taken.append(posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC))
    except OSError:
        _close(taken)
        return []
    return taken


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        posix.close(descriptor)
