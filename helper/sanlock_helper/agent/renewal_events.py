# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is logged of a lockspace whose renewals fail: its virtual machines, what happens to them, and when."""

from __future__ import annotations

from typing import NamedTuple

from ..escapes import quoted
from ..events import Event
from ..leases.grace import time_of_day
from ..leases.renewals import NEAR, Renewals

# The names that a line has of those with one fate, and their length together, in bytes: with all fates, a
# field of the journal still holds them (journal.MAX_BYTES).
MOST_NAMES, MOST_NAME_BYTES = 20, 600

# What happens at the loss to those with an on_lockfailure, in the order of a line.  Where libvirt has
# registered no killpath, sanlock begins with SIGTERM (kill_pids() in sanlock src/main.c).
_FATES = {
    "pause": "paused",
    "poweroff": "powered off",
    "restart": "powered off",
    "ignore": "left to SIGKILL",
    "default": "ended with SIGTERM",
}
_SIGKILL, _OTHERS = "ended with SIGKILL", "of other programs ended"

_NO_VM = "no VM has a lease in it, and none that needs one starts here until it is joined again"


class Dependents(NamedTuple):
    """What has leases in a lockspace: the names of VMs by their on_lockfailure; other processes, in words."""

    domains: dict[str, list[str]]
    others: list[str]


def warning(renewals: Renewals, dependents: Dependents | None, now: float, wall: float) -> Event:
    """The event of RENEWALS that fail; DEPENDENTS is None where sanlock does not report them.

    NOW is CLOCK_MONOTONIC, WALL the time of day then, both in seconds.
    """
    seconds = renewals.age(now)
    if not renewals.has_timeout:
        what = _listing(_names(dependents)) if dependents else _NOT_KNOWN
        return Event("renewals-failing", lockspace=renewals.lockspace, seconds=seconds, names=what)
    timeline = renewals.timeline
    return Event(
        "loss-near" if renewals.stage(now) == NEAR else "renewals-failing",
        lockspace=renewals.lockspace,
        seconds=seconds,
        lost=time_of_day(wall + renewals.until(timeline.lost, now)),
        left=renewals.left(timeline.lost, now),
        fates=_fates(dependents, timeline.grace),
        next=_next(renewals, now, wall),
    )


_NOT_KNOWN = "sanlock does not report which VMs have a lease in it"


def _fates(dependents: Dependents | None, grace: int) -> str:
    """What becomes of DEPENDENTS at the loss."""
    if dependents is None:
        return _NOT_KNOWN
    groups: dict[str, list[str]] = {}
    for action, fate in _FATES.items():
        groups.setdefault(fate if grace else _SIGKILL, []).extend(dependents.domains.get(action, ()))
    known = [f"{len(names)} {fate}: {_listing(names)}" for fate, names in groups.items() if names]
    if not known:
        known = [_NO_VM]
    if dependents.others:
        known.append(f"{len(dependents.others)} {_OTHERS}: {_listing(dependents.others)}")
    return "; ".join(known)


def _names(dependents: Dependents) -> list[str]:
    return [name for names in dependents.domains.values() for name in names] + dependents.others


def _listing(names: list[str]) -> str:
    """As many of NAMES as there is room for, and the number of the others."""
    listed: list[str] = []
    room = MOST_NAME_BYTES
    for name in sorted(names)[:MOST_NAMES]:
        text = quoted(name)
        room -= len(text.encode()) + 2
        if room < 0:
            break
        listed.append(text)
    more = len(names) - len(listed)
    if more:
        listed[-1:] = [f"{listed[-1]} and {more} more"] if listed else [f"{more} with long names"]
    return ", ".join(listed) or "none"


def _next(renewals: Renewals, now: float, wall: float) -> str:
    """What follows where a lease is held still."""

    def at(after: int) -> str:
        return f"{time_of_day(wall + renewals.until(after, now))}, in {renewals.left(after, now)} s"

    timeline = renewals.timeline
    sigkill = f"SIGKILL at {at(timeline.sigkill)}, to what still holds a lease"
    if not renewals.has_watchdog:
        return f"{sigkill}; no watchdog resets this host"
    return f"{sigkill}, and a reset of this host by the watchdog at {at(timeline.reset[0])}, at the earliest"


def back(lockspace: str, seconds: int) -> Event:
    """LOCKSPACE is renewed again, after SECONDS without that."""
    return Event("renewals-back", lockspace=lockspace, seconds=seconds)


def gone(lockspace: str, seconds: int) -> Event:
    """LOCKSPACE is not joined any more, SECONDS after its last renewal, and was not lost."""
    return Event("failing-lockspace-left", lockspace=lockspace, seconds=seconds)
