# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain that recovery has a record of, and how far it has come with it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from ..records.record import Record
from .verdict import Verdict, VisitResult, may_be_decided


class DomainPhase(Enum):
    """Where a pending domain stands."""

    IDLE = "idle"  # no visit is under way; the next one is due at next_visit
    READING = "reading"  # a visit is under way that only reads: its lockspaces are not joined
    RECOVERING = "recovering"  # a visit is under way that may start or resume it
    HANGING = "hanging"  # a visit of either kind has not returned in time, and nothing waits for it
    ENDED = "ended"  # its record is done with, or was removed or replaced


# The legal transitions; see PendingDomain.
_NEXT = {
    DomainPhase.IDLE: {DomainPhase.READING, DomainPhase.RECOVERING, DomainPhase.ENDED},
    DomainPhase.READING: {DomainPhase.HANGING, DomainPhase.IDLE, DomainPhase.ENDED},
    DomainPhase.RECOVERING: {DomainPhase.HANGING, DomainPhase.IDLE, DomainPhase.ENDED},
    DomainPhase.HANGING: {DomainPhase.IDLE, DomainPhase.ENDED},
    DomainPhase.ENDED: set(),
}


class PendingDomain:
    """One record of recovery.

    | phase | event | next phase |
    | --- | --- | --- |
    | IDLE | its visit is due, and not all of its lockspaces are joined | READING |
    | IDLE | its visit is due, and all of its lockspaces are joined | RECOVERING |
    | READING, RECOVERING | the visit has not returned for HANG_SECONDS | HANGING |
    | READING, RECOVERING, HANGING | the visit returns | IDLE |
    | IDLE | its verdict ended the record, which is removed or set aside | ENDED |
    | any but ENDED | the record was removed, or replaced by a newer one | ENDED |

    A visit that returns once the phase is ENDED changes nothing.  Beside the phase, and true in any of them:
    verdict is what the last visit found that has returned (None before it; never one that ends the record,
    unless the record could not be removed); failed_since is when its visits began to fail, and is forgotten
    when a lockspace that it needs is joined; so is tried, which is true once a visit has found more than that
    lockspaces are awaited, or hangs, and of a guest that has stopped again: see order.py; such a one is not
    visited before not_before; record.mark is what is on storage and outlives this process: "starting" and
    "resuming" are written while RECOVERING, "refused" after a verdict REFUSED.
    """

    def __init__(self, record: Record, now: float, wait: float = 0.0) -> None:
        """WAIT: seconds until its first visit."""
        self.record = record
        self.phase = DomainPhase.IDLE
        self.since = now
        self.next_visit = self.not_before = now + wait
        self.failed_since: float | None = None
        self.visit_began = now
        # Whether its lockspaces were joined when its last visit began, or would have.
        self.ready = False
        self.verdict: Verdict | None = None
        self.tried = record.tries > 0
        # The names of those that its definition asks for, where its leases are not known.
        self.lockspaces: frozenset[str] = frozenset()
        self.text = "not checked yet"

    def enter(self, phase: DomainPhase) -> None:
        """Change the phase.  Raises ValueError for a transition that is not in the table."""
        if phase not in _NEXT[self.phase]:
            raise ValueError(f"{self.record}: {self.phase.value} cannot become {phase.value}")
        self.phase = phase

    def begin_visit(self, now: float) -> None:
        """A visit starts, of the kind that ready asks for."""
        self.enter(DomainPhase.RECOVERING if self.ready else DomainPhase.READING)
        self.visit_began = now

    def end_visit(self, result: VisitResult) -> None:
        """A visit has returned RESULT."""
        self.enter(DomainPhase.IDLE)
        self.verdict, self.text = result.verdict, result.text
        self.tried = self.tried or result.verdict is not Verdict.WAIT
        self.lockspaces = self.lockspaces | result.lockspaces

    @property
    def is_visited(self) -> bool:
        """Whether a visit has not returned."""
        return self.phase in (DomainPhase.READING, DomainPhase.RECOVERING, DomainPhase.HANGING)

    @property
    def is_refused(self) -> bool:
        """Whether it is left to the administrator: not once what kept it from coming back is mended."""
        is_mended = self.verdict in (Verdict.WAIT, Verdict.AGAIN) and may_be_decided(self.record.why)
        return self.record.mark == "refused" and not is_mended

    @property
    def wants_lockspaces(self) -> bool:
        """Whether the lockspaces that it needs have to be joined, and to stay so."""
        return self.ready or self.verdict is Verdict.WAIT


def names_in_short(names: Iterable[str]) -> str:
    """The first twenty of NAMES: an outage may have hundreds."""
    every = sorted(names)
    return f"{', '.join(every[:20])}{', …' if len(every) > 20 else ''}"
