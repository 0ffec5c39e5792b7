# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens when after a host's last good renewal, in seconds.

Source: sanlock ``src/timeouts.h``, and calc_id_renewal_fail_seconds() in ``src/timeouts.c``.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_IO_TIMEOUT = 10

# How often wdmd looks whether it may go on petting the watchdog (wdmd/main.c, test_interval).
WDMD_INTERVAL = 10


@dataclass(frozen=True)
class Timeline:
    """N = io_timeout, G = kill_grace_seconds, W = watchdog_fire_timeout."""

    io_timeout: int
    grace: int
    fire_timeout: int

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
