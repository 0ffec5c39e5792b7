# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens when after a host's last good renewal, in seconds.

Source: sanlock ``src/timeouts.h``, and calc_id_renewal_fail_seconds() in ``src/timeouts.c``.
"""

from __future__ import annotations

from typing import NamedTuple

from ..numbers import whole_number
from .grace import DEFAULT_FIRE_TIMEOUT, DEFAULT_GRACE
from .sanlock_daemon import DEFAULT_IO_TIMEOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .sanlock_status import SanlockStatus

# How often wdmd checks whether it may reset the watchdog's timer (wdmd/main.c, test_interval).
WDMD_INTERVAL = 10


class Timeline(NamedTuple):
    """N = io_timeout, G = kill_grace_seconds, W = watchdog_fire_timeout."""

    io_timeout: int
    grace: int
    fire_timeout: int

    @property
    def failing(self) -> int:
        """Renewals have failed for a while.

        One is due 2 io_timeout after the last; sanlock begins with it up to 1.5 s later (lockspace_thread()
        in src/lockspace.c), which an io_timeout of 1 s leaves no room for within 3.
        """
        return max(3 * self.io_timeout, 2 * self.io_timeout + 2)

    @property
    def warning(self) -> int:
        """sanlock warns of renewals that fail."""
        return 6 * self.io_timeout

    @property
    def lost(self) -> int:
        """The lease is lost, the helper runs."""
        return 8 * self.io_timeout

    @property
    def sigkill(self) -> int:
        """sanlock sends SIGKILL."""
        return self.lost + self.grace

    @property
    def reset(self) -> tuple[int, int]:
        """The watchdog resets the host between these, if a lease is still held."""
        last = self.lost + self.fire_timeout
        return last - WDMD_INTERVAL, last - 1

    @property
    def elsewhere(self) -> int:
        """Another host may take the lease."""
        return self.lost + self.fire_timeout


def timeline_of(status: SanlockStatus, lockspaces: Iterable[str], io_timeout: int = 0) -> Timeline:
    """The times for leases in LOCKSPACES, by name: the first one to be lost counts.

    IO_TIMEOUT is in seconds, for when none of them is on sanlock's list; 0 is sanlock's default.
    """
    spaces = [space for name in lockspaces if (space := status.lockspace(name))]
    first = min((space.io_timeout for space in spaces), default=io_timeout or DEFAULT_IO_TIMEOUT)
    return timeline_from(first, status.daemon)


def timeline_from(io_timeout: int, settings: Mapping[str, str]) -> Timeline:
    """The times at an IO_TIMEOUT in seconds, by the daemon's SETTINGS; an older one does not report all."""
    grace = whole_number(settings.get("kill_grace_seconds", ""))
    fire = whole_number(settings.get("watchdog_fire_timeout", ""))
    return Timeline(
        io_timeout,
        DEFAULT_GRACE if grace is None else grace,
        DEFAULT_FIRE_TIMEOUT if fire is None else fire,
    )
