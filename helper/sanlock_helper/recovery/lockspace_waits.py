# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lockspaces that pending domains wait for: each is joined again, with growing delays, until it is."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Callable

from ..errors import HelperError, described
from ..events import RECOVER, Event
from ..journal import Journal, RepeatFilter, log_traceback
from ..leases.held import Lockspace
from ..leases.lockspaces import ABSENT, FAILING, JOINED, JOINING, LEAVING, NOT_THERE, Sanlock, SanlockError
from ..records.record import Record
from ..threads import one_at_a_time
from ..virt.qemu_sanlock_conf import LOCKSPACE
from .pending_domain import PendingDomain, names_in_short

FIRST_DELAY = 1.0
LAST_DELAY = 30.0
# The same reason is logged again after so many seconds.
REPEAT_SECONDS = 600.0
SANLOCK_SECONDS = 10.0
_SANLOCK_HANGS = "see sanlock client status, and journalctl -u sanlock"
# sanlock takes so long at most to join a lockspace that another host may still use (io_timeout 10 s): 14 of
# them.
JOIN_SECONDS = 180.0

# Why libvirt's own lockspace cannot be joined: see qemu_sanlock_conf.auto_lockspace().
NOT_CONFIGURED = (
    "qemu-sanlock.conf does not give its path: auto_disk_leases or host_id is not set there, or libvirt "
    "refuses the file (see virt-sanlock-helper check)"
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


class LockspacePhase(Enum):
    """Where a lockspace that domains wait for stands."""

    WAITING = "waiting"  # it is not joined, and this process asks sanlock for nothing
    JOINING = "joining"  # it is not joined, and a thread of this process has asked sanlock to join it
    RETURNING = "returning"  # it is joined, and the answer to that thread is still to come
    JOINED = "joined"  # it is joined


# The legal transitions; see LockspaceWait.
_NEXT = {
    LockspacePhase.WAITING: {LockspacePhase.JOINING, LockspacePhase.JOINED},
    LockspacePhase.JOINING: {LockspacePhase.WAITING, LockspacePhase.RETURNING},
    LockspacePhase.RETURNING: {LockspacePhase.JOINING, LockspacePhase.JOINED},
    LockspacePhase.JOINED: {LockspacePhase.WAITING},
}


class LockspaceWait:
    """One lockspace that domains wait for.

    | phase | event | next phase |
    | --- | --- | --- |
    | WAITING | sanlock does not have it, and its next try is due | JOINING |
    | WAITING | sanlock has joined it, for another process | JOINED |
    | JOINING | the answer: refused, or joined and not yet reported as such | WAITING |
    | JOINING | sanlock has joined it before it answers | RETURNING |
    | RETURNING | the answer | JOINED |
    | RETURNING | sanlock has lost it before it answers | JOINING |
    | JOINED | sanlock has lost it | WAITING |

    So there is one request to join at a time, and an entry is forgotten only while there is none.  state is
    what sanlock reports of it, which may change from any to any other one: only JOINED counts for the phase.
    """

    def __init__(self, now: float) -> None:
        self.phase = LockspacePhase.WAITING
        self.state = ABSENT
        self.since = now
        self.next_try = now
        self.tries = 0
        self.join_began = now
        self.failures = 0
        self.text = ""

    @property
    def is_joined(self) -> bool:
        """Whether sanlock has it."""
        return self.phase in (LockspacePhase.JOINED, LockspacePhase.RETURNING)

    @property
    def is_asked_for(self) -> bool:
        """Whether an answer of sanlock's is still to come."""
        return self.phase in (LockspacePhase.JOINING, LockspacePhase.RETURNING)

    def enter(self, phase: LockspacePhase) -> None:
        """Change the phase.  Raises ValueError for a transition that is not in the table."""
        if phase not in _NEXT[self.phase]:
            raise ValueError(f"a lockspace that is {self.phase.value} cannot become {phase.value}")
        self.phase = phase

    def set_state(self, state: str, now: float) -> None:
        """sanlock has it in STATE."""
        self.state = state
        self.text = _STATES.get(state, self.text)
        if state == JOINED and not self.is_joined:
            self.enter(LockspacePhase.RETURNING if self.is_asked_for else LockspacePhase.JOINED)
        elif state != JOINED and self.is_joined:
            self.enter(LockspacePhase.JOINING if self.is_asked_for else LockspacePhase.WAITING)
            self.since, self.tries = now, 0

    def begin_join(self, now: float) -> None:
        """A thread asks sanlock to join it."""
        self.enter(LockspacePhase.JOINING)
        self.join_began = now
        self.tries += 1

    def end_join(self) -> None:
        """sanlock has answered."""
        self.enter(LockspacePhase.JOINED if self.is_joined else LockspacePhase.WAITING)


class LockspaceWaits:
    """The lockspaces that the pending domains need.  Only recovery's loop calls this."""

    def __init__(
        self,
        pending: dict[str, PendingDomain],
        sanlock: Sanlock,
        journal: Journal,
        default_lockspace: Callable[[], Lockspace | None],
        clock: Callable[[], float],
        start_thread: StartThread,
        answers: Any,
        before_join: Callable[[Lockspace], None],
    ) -> None:
        """PENDING are the domains by UUID, read anew at each call; the rest is as Recovery has it."""
        self._pending = pending
        self._sanlock = sanlock
        self._journal = journal
        self._default_lockspace = default_lockspace
        self._clock = clock
        self._start_thread = start_thread
        self._answers = answers
        self._before_join = before_join
        self._read_lockspaces = one_at_a_time(
            SANLOCK_SECONDS, "ask sanlock", sanlock.lockspaces, _SANLOCK_HANGS
        )
        self._waits: dict[str, LockspaceWait] = {}
        self._repeats = RepeatFilter(REPEAT_SECONDS)

    def lines(self) -> list[str]:
        """What is waited for, a line for each lockspace, for a person."""
        now = self._clock()
        found = []
        for name, space_wait in sorted(self._waits.items()):
            if not space_wait.is_joined:
                names = [
                    pending.record.name for pending in self._pending.values() if name in self.needs(pending)
                ]
                next_try = (
                    "joining now"
                    if space_wait.is_asked_for
                    else f"next try in {max(0, space_wait.next_try - now):.0f} s"
                )
                first = ", ".join(sorted(names)[:5])
                found.append(
                    f"lockspace {name}: waited for {now - space_wait.since:.0f} s, {next_try}, "
                    f"then {len(names)} to bring back ({first}): {space_wait.text or space_wait.state}"
                )
        return found

    def needs(self, pending: PendingDomain) -> set[str]:
        """The names of the lockspaces that the domain of PENDING needs."""
        return names_needed(pending.record, pending.lockspaces, self._default_lockspace)

    def update(self) -> None:
        """Read what sanlock has, and have joined what is needed and is not."""
        wanted = {
            name
            for pending in self._pending.values()
            if pending.wants_lockspaces
            for name in self.needs(pending)
        }
        now = self._clock()
        for name in self._waits.keys() - wanted:
            if not self._waits[name].is_asked_for:
                del self._waits[name]
                self._repeats.forget(name)
        if not wanted:
            return
        found: dict[str, tuple[Lockspace, str]] = {}
        why = ""
        try:
            found = self._read_lockspaces()
        except HelperError as error:
            why = str(error)
        for name in wanted:
            self._update(name, found[name][1] if name in found else ABSENT, why, now)

    def _update(self, name: str, state: str, why: str, now: float) -> None:
        """sanlock has lockspace NAME in STATE; or that is not known, for the reason WHY."""
        space_wait = self._waits.setdefault(name, LockspaceWait(now))
        was_joined = space_wait.is_joined
        space_wait.set_state(state, now)
        if space_wait.is_joined:
            if not was_joined:
                self._became_joined(name, space_wait)
        elif why:
            self._lockspace_failed(name, space_wait, why)
        elif state == ABSENT and not space_wait.is_asked_for and now >= space_wait.next_try:
            self._join(name, space_wait)

    def _join(self, name: str, space_wait: LockspaceWait) -> None:
        records = [pending.record for pending in self._pending.values()]
        definitions = definitions_of(name, records, self._default_lockspace())
        if not definitions:
            self._lockspace_failed(name, space_wait, why_undefined(name))
            return
        # Records that disagree, as after a LUN got another path, are tried one after the other.
        lockspace = definitions[space_wait.tries % len(definitions)]
        space_wait.begin_join(self._clock())
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
            why = described(error)
            log_traceback(self._journal, error)
        self._answers.put(lambda: self._join_ended(name, why))

    def _join_ended(self, name: str, why: str) -> None:
        space_wait = self._waits[name]
        space_wait.end_join()
        if why:
            self._lockspace_failed(name, space_wait, why)

    def _lockspace_failed(self, name: str, space_wait: LockspaceWait, why: str) -> None:
        now = self._clock()
        space_wait.text = why
        space_wait.failures += 1
        space_wait.next_try = now + delay(now - space_wait.since)
        if self._repeats.is_due(name, why, now):
            waiting = [
                pending.record.name
                for pending in self._pending.values()
                if pending.wants_lockspaces and name in self.needs(pending)
            ]
            parts = {"seconds": f"{now - space_wait.since:.0f}", "names": names_in_short(waiting)}
            self._journal.report(Event("lockspace-awaited", RECOVER, lockspace=name, note=why, **parts))

    def _became_joined(self, name: str, space_wait: LockspaceWait) -> None:
        now = self._clock()
        tries, seconds = space_wait.tries or None, f"{now - space_wait.since:.2f}"
        self._journal.report(Event("lockspace-joined", RECOVER, lockspace=name, tries=tries, seconds=seconds))
        # When it is lost again, that is another outage.
        self._repeats.forget(name)
        for pending in self._pending.values():
            if name in self.needs(pending):
                pending.next_visit = max(now, pending.not_before)
                pending.failed_since = None
                pending.tried = pending.record.tries > 0

    def are_joined(self, pending: PendingDomain) -> bool:
        """Whether all lockspaces that the domain needs are joined."""
        return all(name in self._waits and self._waits[name].is_joined for name in self.needs(pending))

    def is_joining(self) -> bool:
        """Whether sanlock joins one, and may still need the time for it."""
        now = self._clock()
        return any(
            space_wait.is_asked_for and now - space_wait.join_began < JOIN_SECONDS
            for space_wait in self._waits.values()
        )

    def was_tried(self, name: str) -> bool:
        space_wait = self._waits.get(name)
        return space_wait is not None and not space_wait.is_joined and space_wait.failures > 0


def names_needed(record: Record, more: frozenset[str], default: Callable[[], Lockspace | None]) -> set[str]:
    """The names of the lockspaces that the domain of RECORD needs, MORE among them; else that of DEFAULT."""
    names = {lease.lockspace for lease in record.leases} | more
    if not names:
        space = default()
        names = {space.name} if space else set()
    return names


def definitions_of(name: str, records: Iterable[Record], default: Lockspace | None) -> list[Lockspace]:
    """How lockspace NAME may be joined: as libvirt is configured now, else as the newest of RECORDS have it.

    libvirt's own is never joined elsewhere than at DEFAULT: an old copy of it would be no protection against
    other hosts, and an old host_id may be another host's.
    """
    if default is not None and default.name == name:
        return [default]
    if name == LOCKSPACE:
        return []
    found = {
        (lockspace.host_id, lockspace.path, lockspace.offset): lockspace
        for record in sorted(records, key=lambda record: -record.time)
        for lockspace in record.lockspaces
        if lockspace.name == name
    }
    return list(found.values())


def why_undefined(name: str) -> str:
    """Why lockspace NAME, which has no definition, is not joined, and what to do about it."""
    unknown = "neither qemu-sanlock.conf nor a record gives its path"
    return f"{NOT_CONFIGURED if name == LOCKSPACE else unknown}; {_by_hand(name)}"


def _moved(lockspace: Lockspace) -> str:
    """What to do about a lockspace that is not at its path."""
    configured = " or set disk_lease_dir in qemu-sanlock.conf," if lockspace.name == LOCKSPACE else ""
    return (
        f"; it was at {lockspace.path}: bring its storage back there,{configured} or "
        f"{_by_hand(lockspace.name, str(lockspace.host_id), lockspace.offset)}"
    )


def _by_hand(name: str, host_id: str = "HOST_ID", offset: int = 0) -> str:
    return f"join it by hand: sanlock client add_lockspace -s {name}:{host_id}:PATH:{offset}"
