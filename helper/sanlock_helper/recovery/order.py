# SPDX-License-Identifier: LGPL-2.1-or-later
"""The order in which domains are brought back: by priority, within one by delay, then by the time of the
loss.

A domain begins once each of a higher priority has been tried: it is back, it stays as it is, or its try has
failed.  So a failure, a hang (after HANG_SECONDS of loop.py) or storage that is away costs none but its own
domain.  Its delay is counted from when the first of its priority began; that one itself does not wait.

With the host's order "time" neither counts: the first to be lost is the first to be brought back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable

from ..records.record import Record
from ..virt.host_conf import TIME
from .pending_domain import DomainPhase, PendingDomain
from .verdict import Verdict

Rank = tuple[int, int, float, str, str]


def rank(record: Record, order: str) -> Rank:
    """The place of RECORD in ORDER, PRIORITY or TIME: the lowest is the first, and no two share one."""
    tail = (record.time, record.name, record.uuid)
    return (0, 0, *tail) if order == TIME else (-record.priority, record.delay, *tail)


class RecoveryOrder:
    """Which pending domains may begin.  Only recovery's loop calls this."""

    def __init__(self) -> None:
        # When each domain began that counts for the delays of the others, by priority and UUID.
        self._began: dict[int, dict[str, float]] = {}
        self._order = ""
        # Of all that may be brought back now and have not been tried: the first, and the first of each
        # priority.
        self._first: PendingDomain | None = None
        self._first_of: dict[int, PendingDomain] = {}

    def begin_pass(
        self, pending: Iterable[PendingDomain], order: str, are_joined: Callable[[PendingDomain], bool]
    ) -> list[PendingDomain]:
        """PENDING in ORDER; may_begin() goes by these.  ARE_JOINED: whether a domain's lockspaces are."""
        found = sorted(pending, key=lambda one: rank(one.record, order))
        self._order = order
        untried = [one for one in found if is_untried(one) and are_joined(one)]
        self._first = untried[0] if untried else None
        self._first_of = {one.record.priority: one for one in reversed(untried)}
        priorities = {one.record.priority for one in found}
        self._began = {key: value for key, value in self._began.items() if key in priorities}
        return found

    def may_begin(self, pending: PendingDomain, now: float) -> bool:
        """Whether it is the turn of PENDING, whose lockspaces are joined."""
        return self.seconds_left(pending, now) == 0

    def seconds_left(self, pending: PendingDomain, now: float) -> float | None:
        """Seconds until PENDING may begin; None where that depends on another one, which has not begun."""
        if self._order == TIME or pending.tried:
            return 0
        if self._first is not None and self._first.record.priority > pending.record.priority:
            return None
        priority, delay = pending.record.priority, pending.record.delay
        began = self._began.get(priority)
        if began:
            return max(0.0, min(began.values()) + delay - now)
        return 0 if not delay or self._first_of.get(priority) in (pending, None) else None

    def begun(self, pending: PendingDomain, now: float) -> None:
        """PENDING begins."""
        if not pending.tried:
            self._began.setdefault(pending.record.priority, {})[pending.record.uuid] = now

    def ended(self, pending: PendingDomain, verdict: Verdict) -> None:
        """PENDING was visited: where it is not to be brought back, it was not the first of its priority."""
        if verdict not in (Verdict.DONE, Verdict.AGAIN):
            for began in self._began.values():
                began.pop(pending.record.uuid, None)


def is_untried(pending: PendingDomain) -> bool:
    """Whether PENDING keeps others back while its lockspaces are joined."""
    hangs = pending.phase in (DomainPhase.HANGING, DomainPhase.ENDED)
    return not pending.tried and not hangs and not pending.is_refused
