# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop that brings domains back: records, lockspaces, starts and resumes, until nothing is left."""

from __future__ import annotations

import _thread
import time
from _queue import Empty, SimpleQueue
from typing import Any, Callable

from ..errors import HelperError, PermanentError
from ..journal import Journal
from ..leases.held import Lockspace
from ..leases.lockspaces import ABSENT, FAILING, JOINED, JOINING, LEAVING, NOT_THERE, Sanlock, SanlockError
from ..records.record import Record
from ..records.store import RecordStore
from ..threads import OneAtATime
from ..virt import policy
from ..virt.lookup import as_argument
from ..virt.qemu_sanlock_conf import LOCKSPACE
from .domain import GONE, UNPROTECTED, DomainRecovery, Verdict, VisitResult

FIRST_DELAY = 1.0
LAST_DELAY = 30.0
# Starts and resumes side by side.
SIDE_BY_SIDE = 8
# While a domain's lockspaces are not joined it is only looked at: one domain at a time, and not often, for
# the helper may still be making others safe over the same libvirtd.  A longer look is not waited for.
LOOK_AGAIN = 5.0
LOOK_SECONDS = 10.0
# How often records and lockspaces are looked at; both looks read memory only.
TICK = 0.5
# The same reason is told again after so many seconds.
REPEAT_SECONDS = 600.0
# How long one pass waits for sanlock to leave a lost lockspace, or to renew a failing one; and, when nothing
# is answered any more, for the next answer.
PASS_SECONDS = 30.0
# A visit or a look that takes longer hangs: it goes on by itself, and the others no longer wait for it.
HANG_SECONDS = 30.0
SANLOCK_SECONDS = 10.0
# sanlock takes so long at most to join a lockspace that another host may still use (io_timeout 10 s): 14 of
# them.
JOIN_SECONDS = 180.0

# Why libvirt's own lockspace cannot be joined: see qemu_sanlock_conf.auto_lockspace().
NOT_CONFIGURED = (
    "qemu-sanlock.conf does not say where: auto_disk_leases or host_id is not set there, or libvirt refuses "
    "the file (see virt-sanlock-helper check)"
)

# sanlock's transitions in words; it takes part in them by itself, and joining waits for their end.
_STATES = {
    JOINING: "sanlock is joining it",
    LEAVING: "sanlock is leaving it, which ends when no process holds a lease in it",
    FAILING: "sanlock cannot renew it",
}

StartThread = Callable[[Callable[..., object], "tuple[Any, ...]"], object]


def delay(waited: float) -> float:
    """Seconds until the next try, WAITED seconds after the first: a tenth of that, from 1 s to 30 s.

    So a return of the storage is noticed late by a tenth of the outage at most.
    """
    return min(LAST_DELAY, max(FIRST_DELAY, waited / 10))


class PendingDomain:
    """One record in recovery's hands."""

    def __init__(self, record: Record, now: float) -> None:
        self.record = record
        self.since = now
        self.next_visit = now
        self.failed_since: float | None = None
        self.visiting = False
        self.visit_began = now
        self.ready = False
        self.waits = False
        self.lockspaces: frozenset[str] = frozenset()
        self.text = "not looked at yet"
        self.logged = ""
        self.logged_at = 0.0


class LockspaceWait:
    """One lockspace that domains wait for."""

    def __init__(self, now: float) -> None:
        self.since = now
        self.next_try = now
        self.tries = 0
        self.joining = False
        self.join_began = now
        self.failures = 0
        self.state = ABSENT
        self.text = ""
        self.logged = ""
        self.logged_at = 0.0


def _stays(record: Record) -> str:
    return "paused" if record.todo == "resume" else "off"


def _remedy(record: Record, why: str) -> str:
    """What the administrator can do for the domain of RECORD, which is refused for the reason WHY."""
    domain = as_argument(record.name, record.uuid)
    if why.endswith(GONE):
        return f"virt-sanlock-helper recover --forget {domain}, then virsh create with its XML"
    if policy.is_malformed(why):
        return "then virt-sanlock-helper recover"
    if why.startswith(UNPROTECTED):
        return f"virsh destroy {domain}, then virsh start {domain}"
    return f"virt-sanlock-helper recover --resume-anyway {domain}, or destroy and start it"


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
    ) -> None:
        """DEFAULT_LOCKSPACE is what libvirt's configuration says.  SHOW gets what is waited for, each tick.

        CLOCK is monotonic; START_THREAD runs what may block, and its results come through ANSWERS.
        BEFORE_JOIN does what must be done before a lockspace is joined; it raises HelperError when it cannot.
        """
        self._store = store
        self._domain_recovery = domain_recovery
        self._sanlock = sanlock
        self._journal = journal
        self._default_lockspace = default_lockspace
        self._show = show
        self._clock = clock
        self._start_thread = start_thread
        self._answers = answers or SimpleQueue()
        self._before_join = before_join
        self._look_at_sanlock = OneAtATime(sanlock.lockspaces, SANLOCK_SECONDS)
        self._pending: dict[str, PendingDomain] = {}
        self._waits: dict[str, LockspaceWait] = {}
        # The names of those that stay as they are, by the reason.
        self._left: dict[str, list[str]] = {}
        # Of whom a visit is under way and waited for: not those that hang.
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
            self._update_lockspaces()
            self._count_out_hanging()
            self._visit_due()
            self._log_left_alone()
            self._show(self.lines())
            waiting = [pending for pending in self._pending.values() if pending.record.mark != "refused"]
            if not waiting and not any(pending in self._visits for pending in self._pending.values()):
                return not self._pending
            if not wait and self._tried_all(waiting, start):
                return False
            self._collect()

    @property
    def _visiting(self) -> int:
        return len(self._visits)

    def lines(self) -> list[str]:
        """What is waited for, a line each, for a person."""
        now = self._clock()
        found = []
        for name, space_wait in sorted(self._waits.items()):
            if space_wait.state != JOINED:
                names = [
                    pending.record.name for pending in self._pending.values() if name in self._needs(pending)
                ]
                next_try = (
                    "joining now"
                    if space_wait.joining
                    else f"next try in {max(0, space_wait.next_try - now):.0f} s"
                )
                first = ", ".join(sorted(names)[:5])
                found.append(
                    f"lockspace {name}: waited for {now - space_wait.since:.0f} s, {next_try}, "
                    f"then {len(names)} to bring back ({first}): {space_wait.text or space_wait.state}"
                )
        found += [
            f"{pending.record.name}: {pending.record.todo}: {pending.text}"
            for pending in self._pending.values()
            if (pending.visiting and pending.ready) or pending.failed_since is not None
        ]
        return found

    # Records

    def _gather(self) -> None:
        """Bring the cases into line with the records: new ones come, removed ones go, replaced ones too."""
        try:
            records = self._store.gather()
        except OSError as error:
            raise PermanentError("recover: read the records", str(error)) from error
        for uuid in [uuid for uuid in self._pending if uuid not in records]:
            del self._pending[uuid]
        for uuid, record in records.items():
            pending = self._pending.get(uuid)
            if pending is None or pending.record.time != record.time:
                self._pending[uuid] = PendingDomain(record, self._clock())

    # Lockspaces

    def _needs(self, pending: PendingDomain) -> set[str]:
        """The names of the lockspaces that the domain of CASE needs."""
        names = {lease.lockspace for lease in pending.record.leases} | pending.lockspaces
        if not names:
            default = self._default_lockspace()
            names = {default.name} if default else set()
        return names

    def _definitions(self, name: str) -> list[Lockspace]:
        """How lockspace NAME may be joined: as libvirt is configured now, else as the newest records have it.

        libvirt's own is never joined elsewhere: an old copy of it would be no protection against other hosts,
        and an old host_id may be another host's.
        """
        default = self._default_lockspace()
        if default is not None and default.name == name:
            return [default]
        if name == LOCKSPACE:
            return []
        records = sorted(
            (pending.record for pending in self._pending.values()), key=lambda record: -record.time
        )
        found = {
            (lockspace.host_id, lockspace.path, lockspace.offset): lockspace
            for record in records
            for lockspace in record.lockspaces
            if lockspace.name == name
        }
        return list(found.values())

    def _update_lockspaces(self) -> None:
        wanted = {
            name
            for pending in self._pending.values()
            if pending.waits or pending.ready
            for name in self._needs(pending)
        }
        now = self._clock()
        for name in [name for name in self._waits if name not in wanted and not self._waits[name].joining]:
            del self._waits[name]
        if not wanted:
            return
        try:
            found = self._look_at_sanlock()
            why = ""
        except HelperError as error:
            found, why = {}, str(error)
        for name in wanted:
            space_wait = self._waits.setdefault(name, LockspaceWait(now))
            before, space_wait.state = space_wait.state, found[name][1] if name in found else ABSENT
            if before == JOINED != space_wait.state:
                space_wait.since, space_wait.tries, space_wait.logged = now, 0, ""
            space_wait.text = _STATES.get(space_wait.state, space_wait.text)
            if space_wait.state == JOINED:
                if before != JOINED:
                    self._became_joined(name, space_wait)
            elif why:
                self._lockspace_failed(name, space_wait, why)
            elif space_wait.state == ABSENT and not space_wait.joining and now >= space_wait.next_try:
                self._join(name, space_wait)

    def _join(self, name: str, space_wait: LockspaceWait) -> None:
        definitions = self._definitions(name)
        if not definitions:
            why = NOT_CONFIGURED if name == LOCKSPACE else "nobody knows where it is"
            self._lockspace_failed(name, space_wait, f"{why}; {_by_hand(name)}")
            return
        # Records that disagree, as after a LUN got another path: each has its turn.
        lockspace = definitions[space_wait.tries % len(definitions)]
        space_wait.joining = True
        space_wait.join_began = self._clock()
        space_wait.tries += 1
        self._start_thread(self._run_join, (name, lockspace))

    def _run_join(self, name: str, lockspace: Lockspace) -> None:
        """The thread that joins; it waits as long as sanlock does."""
        why = ""
        try:
            self._before_join(lockspace)
            self._sanlock.join(lockspace)
        except SanlockError as error:
            why = f"{error}{_moved(lockspace) if error.number in NOT_THERE else ''}"
        except HelperError as error:
            why = str(error)
        except Exception as error:
            why = repr(error)
        self._answers.put(lambda: self._join_ended(name, why))

    def _join_ended(self, name: str, why: str) -> None:
        self._answered_at = self._clock()
        space_wait = self._waits[name]
        space_wait.joining = False
        if why:
            self._lockspace_failed(name, space_wait, why)

    def _lockspace_failed(self, name: str, space_wait: LockspaceWait, why: str) -> None:
        now = self._clock()
        space_wait.text = why
        space_wait.failures += 1
        space_wait.next_try = now + delay(now - space_wait.since)
        if space_wait.logged != why or now - space_wait.logged_at >= REPEAT_SECONDS:
            space_wait.logged, space_wait.logged_at = why, now
            self._journal.warning(
                f"recover: waiting for lockspace {name} since {now - space_wait.since:.0f} s: {why}; "
                "trying again"
            )

    def _became_joined(self, name: str, space_wait: LockspaceWait) -> None:
        now = self._clock()
        how = f"joined again at try {space_wait.tries}" if space_wait.tries else "is joined"
        self._journal.notice(f"recover: lockspace {name} {how}, waited for {now - space_wait.since:.2f} s")
        for pending in self._pending.values():
            if name in self._needs(pending):
                pending.next_visit = now
                pending.failed_since = None

    # Domains

    def _visit_due(self) -> None:
        now = self._clock()
        for pending in list(self._pending.values()):
            if self._visiting >= SIDE_BY_SIDE:
                return
            if not pending.visiting and now >= pending.next_visit:
                pending.ready = self._lockspaces_are_joined(pending)
                if not pending.ready and self._is_looking(now):
                    continue
                pending.visiting = True
                pending.visit_began = now
                self._visits.add(pending)
                self._start_thread(self._run_visit, (pending, now))

    def _count_out_hanging(self) -> None:
        """Go on without the visits that do not return: a domain that libvirtd hangs for costs that one."""
        now = self._clock()
        for pending in list(self._visits):
            if now - pending.visit_began >= HANG_SECONDS:
                self._visits.remove(pending)
                pending.text = f"no answer from libvirtd or sanlock for {now - pending.visit_began:.0f} s"
                self._journal.warning(
                    f"recover {pending.record}: {pending.text}; it is still waited for, "
                    "the others are brought back"
                )

    def _lockspaces_are_joined(self, pending: PendingDomain) -> bool:
        """Whether all lockspaces that the domain needs are joined."""
        return all(name in self._waits and self._waits[name].state == JOINED for name in self._needs(pending))

    def _is_looking(self, now: float) -> bool:
        """Whether a look is under way that is waited for: less long, once one has hung."""
        looks = [
            now - pending.visit_began
            for pending in self._pending.values()
            if pending.visiting and not pending.ready
        ]
        seconds = FIRST_DELAY if looks and max(looks) >= LOOK_SECONDS else LOOK_SECONDS
        return any(look < seconds for look in looks)

    def _run_visit(self, pending: PendingDomain, now: float) -> None:
        """The thread that visits one domain; it waits as long as libvirtd does."""
        try:
            finding = self._domain_recovery.visit(pending.record, pending.ready, now - pending.since)
        except Exception as error:
            # A defect of ours: one domain is tried again, the others are brought back.
            finding = VisitResult(Verdict.AGAIN, f"internal error: {error!r}")
        self._answers.put(lambda: self._visited(pending, finding))

    def _visited(self, pending: PendingDomain, finding: VisitResult) -> None:
        pending.visiting = False
        self._visits.discard(pending)
        self._answered_at = self._clock()
        pending.text = finding.text
        pending.waits = finding.verdict is Verdict.WAIT
        pending.lockspaces = pending.lockspaces | finding.lockspaces
        if self._pending.get(pending.record.uuid) is not pending:
            return  # removed or replaced meanwhile
        now = self._clock()
        if finding.verdict is Verdict.EARLY:
            pending.next_visit = now + FIRST_DELAY
        elif finding.verdict in (Verdict.WAIT, Verdict.AGAIN):
            self._again(pending, finding, now)
        elif finding.verdict is Verdict.REFUSED:
            self._refuse(pending, finding, now)
        elif finding.verdict is Verdict.UNUSABLE:
            self._set_aside(pending, finding, now)
        else:
            self._finish(pending, finding, now)

    def _again(self, pending: PendingDomain, finding: VisitResult, now: float) -> None:
        if finding.verdict is Verdict.WAIT:
            # It is visited again when its lockspaces are joined; and from time to time, for somebody may have
            # started it.
            # They may have been joined during the look.
            pending.next_visit = (
                now
                if self._lockspaces_are_joined(pending)
                else now + max(LOOK_AGAIN, delay(now - pending.since))
            )
            return
        if pending.failed_since is None:
            pending.failed_since = now
        pending.next_visit = now + delay(now - pending.failed_since)
        if pending.logged != finding.text or now - pending.logged_at >= REPEAT_SECONDS:
            pending.logged, pending.logged_at = finding.text, now
            self._journal.warning(f"recover {pending.record}: {finding.text}; trying again")

    def _refuse(self, pending: PendingDomain, finding: VisitResult, now: float) -> None:
        pending.next_visit = now + LAST_DELAY
        if pending.record.mark == "refused" and pending.record.why == finding.text:
            return
        self._journal.error(
            f"recover {pending.record}: NOT DONE after {now - pending.since:.2f} s: "
            f"it stays {_stays(pending.record)}: {finding.text} ({_remedy(pending.record, finding.text)})",
        )
        try:
            self._store.mark(pending.record, "refused", finding.text)
        except OSError as error:
            pending.record.mark, pending.record.why = "refused", finding.text
            self._journal.warning(f"recover {pending.record}: that could not be written down: {error}")

    def _finish(self, pending: PendingDomain, finding: VisitResult, now: float) -> None:
        try:
            self._store.remove(pending.record)
        except OSError as error:
            self._again(pending, VisitResult(Verdict.AGAIN, f"remove its record: {error}"), now)
            return
        del self._pending[pending.record.uuid]
        if finding.verdict is Verdict.LEFT_ALONE:
            self._left.setdefault(finding.text, []).append(pending.record.name)
        elif finding.verdict is Verdict.DONE:
            after = f"done after {now - pending.since:.2f} s"
            self._journal.notice(f"recover {pending.record}: {after}: {finding.text}")
        else:
            self._journal.warning(f"recover {pending.record}: dropped: {finding.text}")

    def _set_aside(self, pending: PendingDomain, finding: VisitResult, now: float) -> None:
        try:
            self._store.set_aside(pending.record, finding.text)
        except OSError as error:
            self._again(
                pending, VisitResult(Verdict.AGAIN, f"{finding.text}; set its record aside: {error}"), now
            )
            return
        del self._pending[pending.record.uuid]

    def _log_left_alone(self) -> None:
        """One line for all that stay as they are, for each reason: an outage may have hundreds."""
        if self._visiting:
            return
        for why, names in self._left.items():
            first = ", ".join(sorted(names)[:20])
            more = ", …" if len(names) > 20 else ""
            self._journal.notice(f"recover: {len(names)} left as they are, {why}: {first}{more}")
        self._left = {}

    # Time

    def _collect(self) -> None:
        """Wait for the next result or the next tick, and see to all results that are there."""
        timeout = TICK
        while True:
            try:
                answer = self._answers.get(timeout=timeout)
            except Empty:
                return
            answer()
            timeout = 0

    def _tried_all(self, waiting: list[PendingDomain], start: float) -> bool:
        """Whether every case was tried once, and every lockspace that is needed; or nothing answers."""
        now = self._clock()
        if any(
            space_wait.joining and now - space_wait.join_began < JOIN_SECONDS
            for space_wait in self._waits.values()
        ):
            return False
        if now - self._answered_at > PASS_SECONDS:
            return True
        if self._visiting:
            return False
        if now - start > PASS_SECONDS:
            return True
        return all(
            (pending.visiting and pending not in self._visits)
            or pending.failed_since is not None
            or (pending.waits and any(self._lockspace_was_tried(name) for name in self._needs(pending)))
            for pending in waiting
        )

    def _lockspace_was_tried(self, name: str) -> bool:
        space_wait = self._waits.get(name)
        return space_wait is not None and space_wait.state != JOINED and space_wait.failures > 0


def _moved(lockspace: Lockspace) -> str:
    """What to do about a lockspace that is not at its path."""
    configured = " or set disk_lease_dir in qemu-sanlock.conf," if lockspace.name == LOCKSPACE else ""
    return (
        f"; it is looked for at {lockspace.path}: bring its storage back there,{configured} or "
        f"{_by_hand(lockspace.name, str(lockspace.host_id), lockspace.offset)}"
    )


def _by_hand(name: str, host_id: str = "HOST_ID", offset: int = 0) -> str:
    return f"join it by hand: sanlock client add_lockspace -s {name}:{host_id}:PATH:{offset}"
