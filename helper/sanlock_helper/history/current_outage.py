# SPDX-License-Identifier: LGPL-2.1-or-later
"""What there is of an outage now: lockspaces that are not renewed, what was done, what waits for recovery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..leases.renewals import LOST, RENEWED, Renewals, renewals_of
from ..leases.sanlock_status import SanlockStatus
from ..records.record import Record
from .forecast import Row
from .outages import OutageEvent, make_outages

# The stage of a lockspace that sanlock has not joined and that domains wait for, beside those of renewals.py.
ABSENT = "absent"


class LockspaceRow(NamedTuple):
    """One lockspace.  renewals is None where it is not joined, or its renewals are not reported.

    domains: how many hold leases in it.  waiting: how many have held some and wait for recovery.
    """

    name: str
    renewals: Renewals | None
    domains: int = 0
    waiting: int = 0
    is_joined: bool = True

    def stage(self, now: float) -> str | None:
        """One of renewals.STAGES, ABSENT, or None where it is not known; NOW is CLOCK_MONOTONIC."""
        if self.renewals is not None:
            return self.renewals.stage(now)
        return None if self.is_joined else ABSENT


class CurrentOutage(NamedTuple):
    """The last one, while it is not over: when it began, in seconds since the epoch, and what came of it.

    outcomes: how many domains have each kind of OutageEvent as the outcome of their action.
    """

    began: float
    outcomes: dict[str, int]
    waiting: int


def lockspace_rows(
    status: SanlockStatus, rows: Iterable[Row], waiting: Iterable[Record]
) -> list[LockspaceRow]:
    """The lockspaces of STATUS, and those that WAITING records have and it has not; ROWS are the domains."""
    held = Counter(name for row in rows for name in row.leases or ())
    awaited = Counter(
        name
        for record in waiting
        for name in {
            *(space.name for space in record.lockspaces),
            *(lease.lockspace for lease in record.leases),
        }
    )
    found = {
        space.name: LockspaceRow(
            space.name,
            renewals_of(space.name, space.values, status.daemon),
            held[space.name],
            awaited[space.name],
        )
        for space in status.lockspaces
        if space.values.get("list") != "add" and space.state != "ADD"
    }
    missing = [
        LockspaceRow(name, None, 0, awaited[name], False) for name in sorted(set(awaited) - set(found))
    ]
    return [*found.values(), *missing]


def read_again(
    rows: Iterable[LockspaceRow], lockspaces: Mapping[str, Mapping[str, str]], settings: Mapping[str, str]
) -> list[LockspaceRow]:
    """ROWS, with their renewals as they are in LOCKSPACES, sanlock's values by name, and its SETTINGS."""
    return [
        row._replace(renewals=renewals_of(row.name, lockspaces.get(row.name, {}), settings))
        if row.is_joined
        else row
        for row in rows
    ]


def is_at_rest(rows: Iterable[LockspaceRow], now: float) -> bool:
    """Whether no renewals of ROWS are known to fail at NOW."""
    return all(row.stage(now) in (RENEWED, ABSENT, None) for row in rows)


def current_outage(
    rows: Iterable[LockspaceRow], events: Iterable[OutageEvent], waiting: Mapping[str, Record], now: float
) -> CurrentOutage | None:
    """The outage of which a lockspace of ROWS is lost, or awaited by a domain; None where there is none.

    EVENTS are the past's, WAITING recovery's records by UUID.
    """
    if not any(row.stage(now) == LOST or row.waiting for row in rows):
        return None
    outages = [outage for outage in make_outages(events, waiting) if outage.lost or outage.domains]
    if not outages:
        return None
    last = outages[-1]
    kinds = Counter(domain.outcome.kind for domain in last.domains.values() if domain.outcome)
    return CurrentOutage(last.lost[0] if last.lost else last.began, dict(kinds), len(waiting))
