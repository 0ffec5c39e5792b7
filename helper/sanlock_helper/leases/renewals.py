# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a lockspace has not been renewed, and what follows from that when.

sanlock gives a lockspace up when its own clock, CLOCK_MONOTONIC in whole seconds, is 8 io_timeout past the
last renewal that succeeded (check_our_lease() in sanlock ``src/lockspace.c``), and sends SIGKILL by the same
clock (kill_pids() in ``src/main.c``).  That clock stands still while the host is suspended, and no change of
the time of day moves it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..numbers import whole_number
from .sanlock_daemon import DEFAULT_IO_TIMEOUT
from .timeline import Timeline, timeline_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Renewals succeed; they fail; they have failed for so long that the loss is near; the lockspace is lost; it
# is removed, as by an administrator.
STAGES = RENEWED, FAILING, NEAR, LOST, REMOVED = ("renewed", "failing", "near", "lost", "removed")


class Renewals(NamedTuple):
    """The renewals of a lockspace that this host has joined, as sanlock reports them at one moment.

    joined: another text after each join.  last_success: of CLOCK_MONOTONIC, in seconds.  given_up: LOST or
    REMOVED where sanlock ends the processes that use it, else "".  has_timeout: sanlock gives it up for want
    of renewals.  has_watchdog: that resets the host for it.
    """

    lockspace: str
    joined: str
    last_success: int
    timeline: Timeline
    given_up: str = ""
    has_timeout: bool = True
    has_watchdog: bool = True

    def age(self, now: float) -> int:
        """Seconds since the last success at NOW of CLOCK_MONOTONIC, rounded."""
        return round(max(0.0, now - self.last_success))

    def stage(self, now: float) -> str:
        """One of STAGES at NOW."""
        if self.given_up:
            return self.given_up
        # As sanlock's whole seconds have it, too: a threshold is passed when the second is.
        age, timeline = now - self.last_success, self.timeline
        if age >= timeline.lost and self.has_timeout:
            return LOST
        if age >= timeline.warning:
            return NEAR
        return FAILING if age >= timeline.failing else RENEWED

    def until(self, after: int, now: float) -> float:
        """Seconds from NOW to what happens AFTER so many seconds without a renewal, never negative."""
        return max(0.0, self.last_success + after - now)

    def left(self, after: int, now: float) -> int:
        """The same for people, rounded: with age() it makes AFTER."""
        return round(self.until(after, now))

    def next_stage(self, now: float) -> float | None:
        """Seconds from NOW until the stage can be another one; None where that is up to sanlock."""
        timeline = self.timeline
        if self.given_up:
            return None
        times = (
            self.last_success + each - now for each in (timeline.failing, timeline.warning, timeline.lost)
        )
        return min((left for left in times if left > 0), default=None)


def renewals_of(lockspace: str, values: Mapping[str, str], settings: Mapping[str, str]) -> Renewals | None:
    """The renewals of LOCKSPACE by sanlock's VALUES for it, with the daemon's own SETTINGS.

    None where it is not joined yet, or this sanlock does not report them.  Source: print_state_lockspace()
    and print_state_daemon() in sanlock ``src/cmd.c``; no_timeout and no_watchdog are those of sanlock 5.
    """
    last_success = whole_number(values.get("renewal_last_success", ""))
    if not last_success or values.get("list") == "add":
        return None
    io_timeout = whole_number(values.get("io_timeout", "")) or DEFAULT_IO_TIMEOUT
    return Renewals(
        lockspace,
        f"{values.get('space_id', '')} {values.get('host_generation', '')}",
        last_success,
        timeline_from(io_timeout, settings),
        _given_up(values),
        not _is_set(values, "no_timeout"),
        settings.get("use_watchdog") != "0" and not _is_set(values, "no_watchdog"),
    )


def _given_up(values: Mapping[str, str]) -> str:
    """rem_lockspace ends the processes as a loss does, but no renewal has failed then."""
    if _is_set(values, "renew_fail") or _is_set(values, "corrupt_result"):
        return LOST
    is_over = _is_set(values, "space_dead") or _is_set(values, "killing_pids") or values.get("list") == "rem"
    # Older ones do not report renew_fail.
    return "" if not is_over else LOST if "renew_fail" not in values else REMOVED


def _is_set(values: Mapping[str, str], name: str) -> bool:
    return values.get(name, "0") != "0"
