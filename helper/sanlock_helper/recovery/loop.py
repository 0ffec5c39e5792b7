# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop that brings domains back: records, lockspaces, starts and resumes, until nothing is left."""

from __future__ import annotations

import _thread
import time
from _queue import Empty, SimpleQueue
from typing import Any, Callable

from ..errors import FinalError, HelperError
from ..journal import Journal
from ..leases.held import Lockspace
from ..leases.lockspaces import ABSENT, FAILING, JOINED, JOINING, LEAVING, NOT_THERE, Sanlock, SanlockFailure
from ..patience import OneAtATime
from ..records.record import Record
from ..records.store import Book
from ..virt import policy
from ..virt.lookup import as_argument
from ..virt.qemu_sanlock_conf import LOCKSPACE
from .domain import GONE, UNPROTECTED, Comeback, Finding, Verdict

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


class Case:
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
        self.told = ""
        self.told_at = 0.0


class Door:
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
        self.told = ""
        self.told_at = 0.0


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
        book: Book,
        comeback: Comeback,
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
        self._book = book
        self._comeback = comeback
        self._sanlock = sanlock
        self._journal = journal
        self._default_lockspace = default_lockspace
        self._show = show
        self._clock = clock
        self._start_thread = start_thread
        self._answers = answers or SimpleQueue()
        self._before_join = before_join
        self._look_at_sanlock = OneAtATime(sanlock.lockspaces, SANLOCK_SECONDS)
        self._cases: dict[str, Case] = {}
        self._doors: dict[str, Door] = {}
        # The names of those that stay as they are, by the reason.
        self._left: dict[str, list[str]] = {}
        # Of whom a visit is under way and waited for: not those that hang.
        self._visits: set[Case] = set()
        self._answered_at = 0.0

    def run(self, wait: bool) -> bool:
        """Work until nothing is left, or without WAIT until all was tried once; True when nothing is left.

        A record that was refused is left to the administrator, and not waited for.
        """
        self._answered_at = self._clock()
        start = self._answered_at
        while True:
            self._gather()
            self._look_at_doors()
            self._count_out_hanging()
            self._visit_due()
            self._tell_left()
            self._show(self.lines())
            waiting = [case for case in self._cases.values() if case.record.mark != "refused"]
            if not waiting and not any(case in self._visits for case in self._cases.values()):
                return not self._cases
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
        for name, door in sorted(self._doors.items()):
            if door.state != JOINED:
                names = [case.record.name for case in self._cases.values() if name in self._needs(case)]
                next_try = (
                    "joining now" if door.joining else f"next try in {max(0, door.next_try - now):.0f} s"
                )
                first = ", ".join(sorted(names)[:5])
                found.append(
                    f"lockspace {name}: waited for {now - door.since:.0f} s, {next_try}, "
                    f"then {len(names)} to bring back ({first}): {door.text or door.state}"
                )
        found += [
            f"{case.record.name}: {case.record.todo}: {case.text}"
            for case in self._cases.values()
            if (case.visiting and case.ready) or case.failed_since is not None
        ]
        return found

    # Records

    def _gather(self) -> None:
        """Bring the cases into line with the records: new ones come, removed ones go, replaced ones too."""
        try:
            records = self._book.gather()
        except OSError as error:
            raise FinalError("recover: read the records", str(error)) from error
        for uuid in [uuid for uuid in self._cases if uuid not in records]:
            del self._cases[uuid]
        for uuid, record in records.items():
            case = self._cases.get(uuid)
            if case is None or case.record.time != record.time:
                self._cases[uuid] = Case(record, self._clock())

    # Lockspaces

    def _needs(self, case: Case) -> set[str]:
        """The names of the lockspaces that the domain of CASE needs."""
        names = {lease.lockspace for lease in case.record.leases} | case.lockspaces
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
        records = sorted((case.record for case in self._cases.values()), key=lambda record: -record.time)
        found = {
            (lockspace.host_id, lockspace.path, lockspace.offset): lockspace
            for record in records
            for lockspace in record.lockspaces
            if lockspace.name == name
        }
        return list(found.values())

    def _look_at_doors(self) -> None:
        wanted = {
            name for case in self._cases.values() if case.waits or case.ready for name in self._needs(case)
        }
        now = self._clock()
        for name in [name for name in self._doors if name not in wanted and not self._doors[name].joining]:
            del self._doors[name]
        if not wanted:
            return
        try:
            found = self._look_at_sanlock()
            why = ""
        except HelperError as error:
            found, why = {}, str(error)
        for name in wanted:
            door = self._doors.setdefault(name, Door(now))
            before, door.state = door.state, found[name][1] if name in found else ABSENT
            if before == JOINED != door.state:
                door.since, door.tries, door.told = now, 0, ""
            door.text = _STATES.get(door.state, door.text)
            if door.state == JOINED:
                if before != JOINED:
                    self._opened(name, door)
            elif why:
                self._door_failed(name, door, why)
            elif door.state == ABSENT and not door.joining and now >= door.next_try:
                self._join(name, door)

    def _join(self, name: str, door: Door) -> None:
        definitions = self._definitions(name)
        if not definitions:
            why = NOT_CONFIGURED if name == LOCKSPACE else "nobody knows where it is"
            self._door_failed(name, door, f"{why}; {_by_hand(name)}")
            return
        # Records that disagree, as after a LUN got another path: each has its turn.
        lockspace = definitions[door.tries % len(definitions)]
        door.joining = True
        door.join_began = self._clock()
        door.tries += 1
        self._start_thread(self._run_join, (name, lockspace))

    def _run_join(self, name: str, lockspace: Lockspace) -> None:
        """The thread that joins; it waits as long as sanlock does."""
        why = ""
        try:
            self._before_join(lockspace)
            self._sanlock.join(lockspace)
        except SanlockFailure as error:
            why = f"{error}{_moved(lockspace) if error.number in NOT_THERE else ''}"
        except HelperError as error:
            why = str(error)
        except Exception as error:
            why = repr(error)
        self._answers.put(lambda: self._joined(name, why))

    def _joined(self, name: str, why: str) -> None:
        self._answered_at = self._clock()
        door = self._doors[name]
        door.joining = False
        if why:
            self._door_failed(name, door, why)

    def _door_failed(self, name: str, door: Door, why: str) -> None:
        now = self._clock()
        door.text = why
        door.failures += 1
        door.next_try = now + delay(now - door.since)
        if door.told != why or now - door.told_at >= REPEAT_SECONDS:
            door.told, door.told_at = why, now
            self._journal.warning(
                f"recover: waiting for lockspace {name} since {now - door.since:.0f} s: {why}; trying again"
            )

    def _opened(self, name: str, door: Door) -> None:
        now = self._clock()
        how = f"joined again at try {door.tries}" if door.tries else "is joined"
        self._journal.notice(f"recover: lockspace {name} {how}, waited for {now - door.since:.2f} s")
        for case in self._cases.values():
            if name in self._needs(case):
                case.next_visit = now
                case.failed_since = None

    # Domains

    def _visit_due(self) -> None:
        now = self._clock()
        for case in list(self._cases.values()):
            if self._visiting >= SIDE_BY_SIDE:
                return
            if not case.visiting and now >= case.next_visit:
                case.ready = self._is_open(case)
                if not case.ready and self._is_looking(now):
                    continue
                case.visiting = True
                case.visit_began = now
                self._visits.add(case)
                self._start_thread(self._run_visit, (case, now))

    def _count_out_hanging(self) -> None:
        """Go on without the visits that do not return: a domain that libvirtd hangs for costs that one."""
        now = self._clock()
        for case in list(self._visits):
            if now - case.visit_began >= HANG_SECONDS:
                self._visits.remove(case)
                case.text = f"no answer from libvirtd or sanlock for {now - case.visit_began:.0f} s"
                self._journal.warning(
                    f"recover {case.record}: {case.text}; it is still waited for, the others are brought back"
                )

    def _is_open(self, case: Case) -> bool:
        """Whether all lockspaces that the domain needs are joined."""
        return all(name in self._doors and self._doors[name].state == JOINED for name in self._needs(case))

    def _is_looking(self, now: float) -> bool:
        """Whether a look is under way that is waited for: less long, once one has hung."""
        looks = [now - case.visit_began for case in self._cases.values() if case.visiting and not case.ready]
        seconds = FIRST_DELAY if looks and max(looks) >= LOOK_SECONDS else LOOK_SECONDS
        return any(look < seconds for look in looks)

    def _run_visit(self, case: Case, now: float) -> None:
        """The thread that visits one domain; it waits as long as libvirtd does."""
        try:
            finding = self._comeback.visit(case.record, case.ready, now - case.since)
        except Exception as error:
            # A defect of ours: one domain is tried again, the others are brought back.
            finding = Finding(Verdict.AGAIN, f"internal error: {error!r}")
        self._answers.put(lambda: self._visited(case, finding))

    def _visited(self, case: Case, finding: Finding) -> None:
        case.visiting = False
        self._visits.discard(case)
        self._answered_at = self._clock()
        case.text = finding.text
        case.waits = finding.verdict is Verdict.WAIT
        case.lockspaces = case.lockspaces | finding.lockspaces
        if self._cases.get(case.record.uuid) is not case:
            return  # removed or replaced meanwhile
        now = self._clock()
        if finding.verdict is Verdict.EARLY:
            case.next_visit = now + FIRST_DELAY
        elif finding.verdict in (Verdict.WAIT, Verdict.AGAIN):
            self._again(case, finding, now)
        elif finding.verdict is Verdict.REFUSED:
            self._refuse(case, finding, now)
        elif finding.verdict is Verdict.UNUSABLE:
            self._set_aside(case, finding, now)
        else:
            self._finish(case, finding, now)

    def _again(self, case: Case, finding: Finding, now: float) -> None:
        if finding.verdict is Verdict.WAIT:
            # It is visited again when its lockspaces are joined; and from time to time, for somebody may have
            # started it.
            # They may have been joined during the look.
            case.next_visit = now if self._is_open(case) else now + max(LOOK_AGAIN, delay(now - case.since))
            return
        if case.failed_since is None:
            case.failed_since = now
        case.next_visit = now + delay(now - case.failed_since)
        if case.told != finding.text or now - case.told_at >= REPEAT_SECONDS:
            case.told, case.told_at = finding.text, now
            self._journal.warning(f"recover {case.record}: {finding.text}; trying again")

    def _refuse(self, case: Case, finding: Finding, now: float) -> None:
        case.next_visit = now + LAST_DELAY
        if case.record.mark == "refused" and case.record.why == finding.text:
            return
        self._journal.error(
            f"recover {case.record}: NOT DONE after {now - case.since:.2f} s: "
            f"it stays {_stays(case.record)}: {finding.text} ({_remedy(case.record, finding.text)})",
        )
        try:
            self._book.mark(case.record, "refused", finding.text)
        except OSError as error:
            case.record.mark, case.record.why = "refused", finding.text
            self._journal.warning(f"recover {case.record}: that could not be written down: {error}")

    def _finish(self, case: Case, finding: Finding, now: float) -> None:
        try:
            self._book.remove(case.record)
        except OSError as error:
            self._again(case, Finding(Verdict.AGAIN, f"remove its record: {error}"), now)
            return
        del self._cases[case.record.uuid]
        if finding.verdict is Verdict.LEFT:
            self._left.setdefault(finding.text, []).append(case.record.name)
        elif finding.verdict is Verdict.DONE:
            after = f"done after {now - case.since:.2f} s"
            self._journal.notice(f"recover {case.record}: {after}: {finding.text}")
        else:
            self._journal.warning(f"recover {case.record}: dropped: {finding.text}")

    def _set_aside(self, case: Case, finding: Finding, now: float) -> None:
        try:
            self._book.set_aside(case.record, finding.text)
        except OSError as error:
            self._again(case, Finding(Verdict.AGAIN, f"{finding.text}; set its record aside: {error}"), now)
            return
        del self._cases[case.record.uuid]

    def _tell_left(self) -> None:
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

    def _tried_all(self, waiting: list[Case], start: float) -> bool:
        """Whether every case was tried once, and every lockspace that is needed; or nothing answers."""
        now = self._clock()
        if any(door.joining and now - door.join_began < JOIN_SECONDS for door in self._doors.values()):
            return False
        if now - self._answered_at > PASS_SECONDS:
            return True
        if self._visiting:
            return False
        if now - start > PASS_SECONDS:
            return True
        return all(
            (case.visiting and case not in self._visits)
            or case.failed_since is not None
            or (case.waits and any(self._door_was_tried(name) for name in self._needs(case)))
            for case in waiting
        )

    def _door_was_tried(self, name: str) -> bool:
        door = self._doors.get(name)
        return door is not None and door.state != JOINED and door.failures > 0


def _moved(lockspace: Lockspace) -> str:
    """What to do about a lockspace that is not at its path."""
    configured = " or set disk_lease_dir in qemu-sanlock.conf," if lockspace.name == LOCKSPACE else ""
    return (
        f"; it is looked for at {lockspace.path}: bring its storage back there,{configured} or "
        f"{_by_hand(lockspace.name, str(lockspace.host_id), lockspace.offset)}"
    )


def _by_hand(name: str, host_id: str = "HOST_ID", offset: int = 0) -> str:
    return f"join it by hand: sanlock client add_lockspace -s {name}:{host_id}:PATH:{offset}"
