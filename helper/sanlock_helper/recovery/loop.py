# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop that brings domains back: records, lockspaces, starts and resumes, until nothing is left."""

from __future__ import annotations

import _thread
import time
from _queue import Empty, SimpleQueue
from typing import Any, Callable

from ..errors import PermanentError, described
from ..events import RECOVER, Event, outcome_parts
from ..journal import Journal, RepeatFilter, log_traceback
from ..leases.held import Lockspace
from ..leases.lockspaces import Sanlock
from ..records.record import Record
from ..records.recovery_hold import RELEASE
from ..records.store import RecordStore
from ..timestamps import moment
from ..virt import policy
from ..virt.domain_argument import as_argument
from ..virt.host_conf import HostConf
from .domain import DomainRecovery
from .lockspace_waits import FIRST_DELAY, LAST_DELAY, REPEAT_SECONDS, LockspaceWaits, StartThread, delay
from .order import RecoveryOrder, is_untried
from .pending_domain import DomainPhase, PendingDomain, names_in_short
from .stopped_guests import wait_before
from .verdict import GONE, RAN_UNPROTECTED, UNPROTECTED, Verdict, VisitResult

# While a domain's lockspaces are not joined its state is only read: one domain at a time, and not often,
# for the helper may still be making others safe over the same libvirtd.  A longer read is not waited for.
READ_AGAIN = 5.0
READ_SECONDS = 10.0
# How often records and lockspaces are read; both are in memory.
TICK = 0.5
# How long one pass waits for sanlock to leave a lost lockspace, or to renew a failing one; and, when nothing
# is answered any more, for the next answer.
PASS_SECONDS = 30.0
# A visit that takes longer hangs: it goes on by itself, and the others no longer wait for it.
HANG_SECONDS = 30.0


def _stopped_state(record: Record, why: str) -> str:
    is_paused = record.todo == "resume" and not why.startswith(RAN_UNPROTECTED)
    return "paused" if is_paused else "off"


def _remedy(record: Record, why: str) -> str:
    """What the administrator can do for the domain of RECORD, which is refused for the reason WHY."""
    domain = as_argument(record.name, record.uuid)
    if why.endswith(GONE):
        return f"virt-sanlock-helper recover --forget {domain}, then virsh create with its XML"
    if policy.is_malformed(why):
        return "then virt-sanlock-helper recover"
    if why.startswith(RAN_UNPROTECTED):
        return f"virt-sanlock-helper check, then virsh start {domain}"
    if why.startswith(UNPROTECTED):
        return f"virsh destroy {domain}, then virsh start {domain}"
    return f"virt-sanlock-helper recover --resume-anyway {domain}, or destroy and start it"


def _event(kind: str, pending: PendingDomain, **parts: object) -> Event:
    """An event of KIND with PARTS, of the domain that is PENDING."""
    record = pending.record
    return Event(kind, RECOVER, record.uuid, record.name, uri=record.uri, **parts)


class Recovery:
    """Brings back what the records name."""

    def __init__(
        self,
        store: RecordStore,
        domain_recovery: DomainRecovery,
        sanlock: Sanlock,
        journal: Journal,
        default_lockspace: Callable[[], Lockspace | None],
        show: Callable[[list[str]], None] = lambda lines: None,
        clock: Callable[[], float] = time.monotonic,
        start_thread: StartThread = _thread.start_new_thread,
        answers: Any = None,
        before_join: Callable[[Lockspace], None] = lambda lockspace: None,
        host_conf: Callable[[], HostConf] = HostConf,
        held_since: Callable[[], float | None] = lambda: None,
    ) -> None:
        """DEFAULT_LOCKSPACE is what libvirt's configuration gives.  SHOW gets what is waited for, each tick.

        CLOCK is monotonic; START_THREAD runs what may block, and its results come through ANSWERS.
        BEFORE_JOIN does what must be done before a lockspace is joined; it raises HelperError when it
        cannot.  HOST_CONF are the host's settings as they are now, and HELD_SINCE is when an administrator
        held recovery, in seconds since the epoch, None where it is not held.
        """
        self._store = store
        self._domain_recovery = domain_recovery
        self._journal = journal
        self._show = show
        self._clock = clock
        self._start_thread = start_thread
        self._answers = answers or SimpleQueue()
        self._pending: dict[str, PendingDomain] = {}
        self._lockspaces = LockspaceWaits(
            self._pending,
            sanlock,
            journal,
            default_lockspace,
            clock,
            start_thread,
            self._answers,
            before_join,
        )
        self._host_conf = host_conf
        self._held_since = held_since
        self._order = RecoveryOrder()
        # The hold that was logged last.
        self._logged_hold: float | None = None
        # The names of those that stay as they are, by the reason.
        self._left: dict[str, list[str]] = {}
        # By domain, why it is tried again.
        self._repeats = RepeatFilter(REPEAT_SECONDS)
        # The domains whose visit is under way and waited for: not those that hang.
        self._visits: set[PendingDomain] = set()
        self._answered_at = 0.0

    def run(self, wait: bool) -> bool:
        """Work until nothing is left, or without WAIT until all was tried once; True when nothing is left.

        A record that was refused is left to the administrator, and not waited for.
        """
        self._answered_at = self._clock()
        start = self._answered_at
        while True:
            self._gather()
            is_held = self._is_held()
            self._count_out_hanging()
            if not is_held:
                self._lockspaces.update()
                self._visit_due()
            self._log_left_alone()
            self._show(self.lines())
            waiting = self._waiting()
            if not waiting and not any(pending in self._visits for pending in self._pending.values()):
                return not self._pending
            if not wait and (self._tried_all(waiting, start) or is_held):
                return False
            self._collect()

    def _waiting(self) -> list[PendingDomain]:
        """What is not left to the administrator."""
        return [pending for pending in self._pending.values() if not pending.is_refused]

    def _is_held(self) -> bool:
        """Whether an administrator has held recovery; logged once, with what waits for the release."""
        since = self._held_since()
        waiting = self._waiting()
        if since is not None and since != self._logged_hold and waiting:
            self._logged_hold = since
            count = len(waiting) if len(waiting) > 1 else None
            names = names_in_short(pending.record.name for pending in waiting)
            self._journal.report(
                Event("recovery-waits", RECOVER, count=count, since=moment(since), names=names)
            )
        return since is not None

    @property
    def visiting(self) -> int:
        """How many visits are under way and waited for."""
        return len(self._visits)

    def lines(self) -> list[str]:
        """What is waited for, a line each, for a person."""
        since = self._held_since()
        if since is not None:
            return [f"held since {moment(since)}, {len(self._waiting())} to bring back: {RELEASE}"]
        return (
            self._lockspaces.lines()
            + self._order_lines()
            + [
                f"{pending.record.name}: {pending.record.todo}: {pending.text}"
                for pending in self._pending.values()
                if (pending.is_visited and pending.ready) or pending.failed_since is not None
            ]
        )

    def _order_lines(self) -> list[str]:
        """How many wait for their turn, and the first whose delay is not over."""
        now = self._clock()
        ready = [
            one for one in self._pending.values() if is_untried(one) and not one.is_visited and one.ready
        ]
        left = {one.record.name: self._order.seconds_left(one, now) for one in ready}
        delayed = {name: seconds for name, seconds in left.items() if seconds}
        if not delayed:
            return []
        first = min(delayed, key=lambda name: delayed[name])
        return [f"{len(left)} wait for their turn: {first} in {delayed[first]:.0f} s"]

    # Records

    def _gather(self) -> None:
        """Bring the domains into line with the records: new ones come, removed ones go, replaced ones too."""
        try:
            records = self._store.gather()
        except OSError as error:
            raise PermanentError("recover: read the records", str(error)) from error
        for uuid, pending in list(self._pending.items()):
            if uuid not in records or records[uuid].time != pending.record.time:
                self._end(pending)
                # A guest that stops again and again for the same reason is logged once in REPEAT_SECONDS.
                if uuid not in records or not records[uuid].tries:
                    self._repeats.forget(uuid)
        for uuid, record in records.items():
            if uuid not in self._pending:
                self._pending[uuid] = PendingDomain(record, self._clock(), wait_before(record))

    def _forget(self, pending: PendingDomain) -> None:
        self._end(pending)
        self._repeats.forget(pending.record.uuid)

    def _end(self, pending: PendingDomain) -> None:
        pending.enter(DomainPhase.ENDED)
        del self._pending[pending.record.uuid]

    # Domains

    def _visit_due(self) -> None:
        now, conf = self._clock(), self._host_conf()
        are_joined = self._lockspaces.are_joined
        for pending in self._order.begin_pass(self._pending.values(), conf.order, are_joined):
            if self.visiting >= conf.side_by_side:
                return
            if not pending.is_visited and now >= pending.next_visit:
                pending.ready = are_joined(pending)
                if not (self._order.may_begin(pending, now) if pending.ready else not self._is_reading(now)):
                    continue
                if pending.ready:
                    self._order.begun(pending, now)
                pending.begin_visit(now)
                self._visits.add(pending)
                self._start_thread(self._run_visit, (pending, now))

    def _count_out_hanging(self) -> None:
        """Go on without the visits that do not return: a domain that libvirtd hangs for costs that one."""
        now = self._clock()
        for pending in list(self._visits):
            if now - pending.visit_began >= HANG_SECONDS:
                self._visits.remove(pending)
                if pending.phase is not DomainPhase.ENDED:
                    pending.enter(DomainPhase.HANGING)
                    pending.tried = True
                seconds = f"{now - pending.visit_began:.0f}"
                pending.text = f"no answer from libvirtd or sanlock for {seconds} s"
                self._journal.report(_event("recovery-hangs", pending, seconds=seconds))

    def _is_reading(self, now: float) -> bool:
        """Whether a visit that only reads is under way and waited for: less long, once one has hung."""
        ages = [
            now - pending.visit_began
            for pending in self._pending.values()
            if pending.is_visited and not pending.ready
        ]
        seconds = FIRST_DELAY if ages and max(ages) >= READ_SECONDS else READ_SECONDS
        return any(age < seconds for age in ages)

    def _run_visit(self, pending: PendingDomain, now: float) -> None:
        """The thread that visits one domain; it waits as long as libvirtd does."""
        try:
            result = self._domain_recovery.visit(pending.record, pending.ready, now - pending.since)
        except Exception as error:
            # A defect of ours: one domain is tried again, the others are brought back.
            result = VisitResult(Verdict.AGAIN, f"internal error: {described(error)}")
            log_traceback(self._journal, error)
        self._answers.put(lambda: self._visited(pending, result))

    def _visited(self, pending: PendingDomain, result: VisitResult) -> None:
        self._visits.discard(pending)
        if pending.phase is DomainPhase.ENDED:
            return  # its record was removed or replaced meanwhile
        pending.end_visit(result)
        self._order.ended(pending, result.verdict)
        now = self._clock()
        if result.verdict is Verdict.EARLY:
            pending.next_visit = now + FIRST_DELAY
        elif result.verdict in (Verdict.WAIT, Verdict.AGAIN):
            self._again(pending, result, now)
        elif result.verdict is Verdict.REFUSED:
            self._refuse(pending, result, now)
        elif result.verdict is Verdict.UNDECIDED:
            self._leave_undecided(pending, result, now)
        elif result.verdict is Verdict.UNUSABLE:
            self._set_aside(pending, result, now)
        else:
            self._finish(pending, result, now)

    def _again(self, pending: PendingDomain, result: VisitResult, now: float) -> None:
        if result.verdict is Verdict.WAIT:
            # It is visited again when its lockspaces are joined, which may have been during the visit, and
            # from time to time: an administrator may have started it.
            pending.next_visit = (
                now
                if self._lockspaces.are_joined(pending)
                else now + max(READ_AGAIN, delay(now - pending.since))
            )
            return
        if pending.failed_since is None:
            pending.failed_since = now
        pending.next_visit = now + delay(now - pending.failed_since)
        if self._repeats.is_due(pending.record.uuid, result.text, now):
            self._journal.report(_event("recovery-attempt-failed", pending, note=result.text))

    def _refuse(self, pending: PendingDomain, result: VisitResult, now: float) -> None:
        pending.next_visit = now + LAST_DELAY
        if pending.record.mark == "refused" and pending.record.why == result.text:
            return
        record, seconds = pending.record, f"{now - pending.since:.2f}"
        note = (
            f"it stays {_stopped_state(record, result.text)}: {result.text} ({_remedy(record, result.text)})"
        )
        self._journal.report(_event("recovery-refused", pending, seconds=seconds, note=note))
        self._mark_refused(pending, result)

    def _leave_undecided(self, pending: PendingDomain, result: VisitResult, now: float) -> None:
        """Its record stays, and it is visited again: the default that is missing may be given meanwhile."""
        pending.next_visit = now + LAST_DELAY
        if pending.record.mark != "refused" or pending.record.why != result.text:
            self._left.setdefault(result.text, []).append(pending.record.name)
            self._mark_refused(pending, result)

    def _mark_refused(self, pending: PendingDomain, result: VisitResult) -> None:
        record = pending.record
        try:
            self._store.mark(record, "refused", result.text)
        except OSError as error:
            record.mark, record.why = "refused", result.text
            self._journal.report(_event("refusal-not-noted", pending, note=error))

    def _finish(self, pending: PendingDomain, result: VisitResult, now: float) -> None:
        try:
            self._store.remove(pending.record)
        except OSError as error:
            self._again(pending, VisitResult(Verdict.AGAIN, f"remove its record: {error}"), now)
            return
        self._forget(pending)
        if result.verdict is Verdict.LEFT_ALONE:
            self._left.setdefault(result.text, []).append(pending.record.name)
        elif result.verdict is Verdict.DONE:
            seconds = f"{now - pending.since:.2f}"
            parts = outcome_parts(result.text)
            self._journal.report(_event("recovered", pending, seconds=seconds, **parts))
        else:
            self._journal.report(_event("recovery-dropped", pending, note=result.text))

    def _set_aside(self, pending: PendingDomain, result: VisitResult, now: float) -> None:
        try:
            self._store.set_aside(pending.record, result.text)
        except OSError as error:
            self._again(
                pending, VisitResult(Verdict.AGAIN, f"{result.text}; set its record aside: {error}"), now
            )
            return
        self._forget(pending)

    def _log_left_alone(self) -> None:
        """One line for all that stay as they are, for each reason: an outage may have hundreds."""
        if self.visiting:
            return
        for why, names in self._left.items():
            count = len(names) if len(names) > 1 else None
            event = Event("left-alone", RECOVER, count=count, note=why, names=names_in_short(names))
            self._journal.report(event)
        self._left = {}

    # Time

    def _collect(self) -> None:
        """Wait for the next result or the next tick, and act on all results that are there."""
        timeout = TICK
        while True:
            try:
                answer = self._answers.get(timeout=timeout)
            except Empty:
                return
            self._answered_at = self._clock()
            answer()
            timeout = 0

    def _tried_all(self, waiting: list[PendingDomain], start: float) -> bool:
        """Whether every domain was tried once, and every lockspace that is needed; or nothing answers."""
        now = self._clock()
        if self._lockspaces.is_joining() or any(
            is_untried(pending) and pending.ready and not pending.is_visited for pending in waiting
        ):
            return False
        if now - self._answered_at > PASS_SECONDS:
            return True
        if self.visiting:
            return False
        if now - start > PASS_SECONDS:
            return True
        return all(self._was_tried(pending) for pending in waiting)

    def _was_tried(self, pending: PendingDomain) -> bool:
        if pending.phase is DomainPhase.HANGING or pending.failed_since is not None:
            return True
        needs = self._lockspaces.needs(pending)
        return pending.verdict is Verdict.WAIT and any(self._lockspaces.was_tried(name) for name in needs)
