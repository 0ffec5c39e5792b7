# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `status` shows of an outage: a countdown for each lockspace, what was done, and what waits."""

from __future__ import annotations

from typing import Any

from ..history.current_outage import ABSENT, CurrentOutage, LockspaceRow
from ..leases.renewals import LOST, NEAR, REMOVED, RENEWED, Renewals
from ..timestamps import iso, moment
from .terminal import plain
from .wrapping import Piece


def lockspace_lines(rows: list[LockspaceRow], now: float) -> list[Piece]:
    """A line for each lockspace that is not renewed, or awaited; NOW is CLOCK_MONOTONIC in seconds."""
    return [line for row in rows if (line := _line(row, now))]


def _line(row: LockspaceRow, now: float) -> Piece | None:
    stage, renewals = row.stage(now), row.renewals
    head = f"lockspace {plain(row.name)}: "
    if stage == ABSENT:
        what = f"not joined, {_domains(row.waiting)} {_verb(row.waiting, 'wait')} for recovery to join it"
        return Piece(f"{head}{what}", "yellow")
    if renewals is None or stage in (None, RENEWED):
        return None
    if stage == REMOVED:
        return Piece(f"{head}it is removed, and sanlock ends what holds a lease in it", "red")
    what = f"no renewal for {renewals.age(now)} s"
    if not renewals.has_timeout:
        return Piece(f"{head}{what}; sanlock does not give it up (no_timeout)", "yellow")
    if stage == LOST:
        return Piece(f"{head}LOST, {what}; {_held(row, renewals, now)}", "red")
    left = renewals.left(renewals.timeline.lost, now)
    return Piece(
        f"{head}{what}; lost in {left} s, {_then(renewals, now)}", "red" if stage == NEAR else "yellow"
    )


def _held(row: LockspaceRow, renewals: Renewals, now: float) -> str:
    if not row.domains:
        return "no domain holds a lease in it"
    return f"{_domains(row.domains)} {_verb(row.domains, 'hold')} leases in it still: {_then(renewals, now)}"


def _then(renewals: Renewals, now: float) -> str:
    """What follows the loss where a lease is held still."""
    timeline = renewals.timeline
    sigkill = f"SIGKILL in {renewals.left(timeline.sigkill, now)} s"
    if not renewals.has_watchdog:
        return f"{sigkill}, no reset of this host"
    first, last = (renewals.left(at, now) for at in timeline.reset)
    return f"{sigkill}, reset of this host in {first} to {last} s"


def _domains(number: int) -> str:
    return f"{number} domain{'' if number == 1 else 's'}"


def _verb(number: int, plural: str) -> str:
    return f"{plural}s" if number == 1 else plural


def outage_line(outage: CurrentOutage) -> Piece:
    """What was done in OUTAGE so far, and what recovery has to do still."""
    done = ", ".join(f"{number} {kind}" for kind, number in outage.outcomes.items()) or "nothing on record"
    waits = f"{_domains(outage.waiting)} {_verb(outage.waiting, 'wait')} for recovery"
    colour = "red" if "failed" in outage.outcomes else "yellow"
    return Piece(f"outage since {moment(outage.began)}: {done}; {waits}", colour)


def lockspace_json(row: LockspaceRow, now: float) -> dict[str, Any]:
    """ROW for programs, at NOW."""
    renewals = row.renewals
    found: dict[str, Any] = {
        "name": row.name,
        "stage": row.stage(now),
        "io_timeout": None,
        "renewal_age_seconds": None,
        "lost_in_seconds": None,
        "sigkill_in_seconds": None,
        "reset_in_seconds": None,
        "domains": row.domains,
        "waiting": row.waiting,
    }
    if renewals is None:
        return found
    timeline = renewals.timeline
    found.update(io_timeout=timeline.io_timeout, renewal_age_seconds=renewals.age(now))
    if renewals.has_timeout:
        found["lost_in_seconds"] = 0 if renewals.given_up else renewals.left(timeline.lost, now)
        found["sigkill_in_seconds"] = renewals.left(timeline.sigkill, now)
        found["reset_in_seconds"] = renewals.left(timeline.reset[0], now) if renewals.has_watchdog else None
    return found


def outage_json(outage: CurrentOutage | None) -> dict[str, Any] | None:
    """OUTAGE for programs."""
    return outage and {
        "began": iso(outage.began),
        "outcomes": outage.outcomes,
        "waiting": outage.waiting,
    }
