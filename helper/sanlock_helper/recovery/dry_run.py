# SPDX-License-Identifier: LGPL-2.1-or-later
"""What recovery would do now to each domain, in which order, and why not: nothing is changed.

Each domain is visited as recovery visits it, over connections that change nothing and with records that are
not written: where recovery would act, the visit ends.  No lockspace is joined, so of a domain whose
lockspaces are not, it is only known what is to be done then.
"""

from __future__ import annotations

import copy
import time
from _queue import Empty, SimpleQueue
from enum import Enum
from typing import Any, Callable, NamedTuple, cast

from ..errors import HelperError, described
from ..leases.held import Lockspace
from ..leases.lockspaces import JOINED, Sanlock
from ..records.record import Record
from ..records.store import RecordStore
from ..threads import WORKERS, within
from ..virt.host_conf import HostConf
from .domain import DomainRecovery
from .lockspace_waits import SANLOCK_SECONDS, definitions_of, names_needed, why_undefined
from .order import rank
from .verdict import TO_BE_RESUMED, Verdict, VisitResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect, VirDomain, VirStoragePool

# How long libvirtd and sanlock are waited for, for all domains.
ALL_SECONDS = 60.0


class Step(Enum):
    """What would be done to a domain."""

    START = "start"
    RESUME = "resume"
    PAUSE = "pause"  # it was resumed by a recovery that was cut short, and does not hold what it should
    REMOVE = "remove"  # it is back, or not to be brought back any more: the record goes
    LEAVE = "leave"  # it stays as it is, and the record goes
    KEEP = "keep"  # it stays as it is, and the record stays for the administrator
    SET_ASIDE = "set aside"  # its record is no record that can be used
    RETRY = "retry"  # something does not answer, or not as it should: it would be tried again


_STEPS = {
    Verdict.DONE: Step.REMOVE,
    Verdict.DROPPED: Step.REMOVE,
    Verdict.LEFT_ALONE: Step.LEAVE,
    Verdict.UNDECIDED: Step.KEEP,
    Verdict.REFUSED: Step.KEEP,
    Verdict.UNUSABLE: Step.SET_ASIDE,
    Verdict.EARLY: Step.RETRY,
    Verdict.AGAIN: Step.RETRY,
}


class PlannedDomain(NamedTuple):
    """A STEP for the domain of RECORD, WHY, and the LOCKSPACES that have to be joined before."""

    record: Record
    step: Step
    why: str
    lockspaces: tuple[str, ...] = ()


class Plan(NamedTuple):
    """The domains in the order of recovery; and each lockspace that would be joined: where, or why not."""

    domains: list[PlannedDomain]
    joins: dict[str, str]


class WouldActError(Exception):
    """Recovery would change a domain now; step is how."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.value)
        self.step = step


class ReadOnlyStore(RecordStore):
    """The records, as a visit may not mark them."""

    def mark(self, record: Record, mark: str, why: str = "") -> bool:
        """Nothing is written; the record is as good as marked."""
        return True


class _ReadOnlyDomain:
    """A virDomain without what changes it."""

    _READS = frozenset(
        (
            "ID", "name", "UUIDString", "state", "isActive", "isPersistent", "XMLDesc", "jobInfo",
            "diskErrors",
        )
    )  # fmt: skip

    def __init__(self, domain: VirDomain) -> None:
        self._domain = domain

    def __getattr__(self, name: str) -> Any:
        if name not in self._READS:
            raise AttributeError(name)
        return getattr(self._domain, name)

    def connect(self) -> _ReadOnlyConnection:
        return _ReadOnlyConnection(self._domain.connect())

    def create(self) -> int:
        raise WouldActError(Step.START)

    def resume(self) -> int:
        raise WouldActError(Step.RESUME)

    def suspend(self) -> int:
        raise WouldActError(Step.PAUSE)


class _ReadOnlyConnection:
    """A virConnect that gives such domains."""

    def __init__(self, connection: VirConnect) -> None:
        self._connection = connection

    def lookupByUUIDString(self, uuid: str) -> _ReadOnlyDomain:
        return _ReadOnlyDomain(self._connection.lookupByUUIDString(uuid))

    def storagePoolLookupByName(self, name: str) -> VirStoragePool:
        return self._connection.storagePoolLookupByName(name)

    def createXML(self, xml: str, flags: int = 0) -> _ReadOnlyDomain:
        raise WouldActError(Step.START)

    def close(self) -> int:
        return self._connection.close()


class DryRun:
    """Reads what recovery would read."""

    def __init__(
        self,
        connect: Callable[[str], VirConnect],
        sanlock: Sanlock,
        store: ReadOnlyStore,
        default_lockspace: Callable[[], Lockspace | None],
        host_conf: HostConf,
        wall: Callable[[], float] = time.time,
        **more: Any,
    ) -> None:
        """WALL is the time of day; the other parameters, and MORE, are those of DomainRecovery."""
        self._sanlock = sanlock
        self._default_lockspace = default_lockspace
        self._host_conf = host_conf
        self._wall = wall
        self._recovery = DomainRecovery(
            lambda uri: cast("VirConnect", _ReadOnlyConnection(connect(uri))),
            sanlock,
            store,
            default_lockspace=default_lockspace,
            host_conf=lambda: host_conf,
            **more,
        )
        self._joined: set[str] = set()
        self._unread = ""

    def plan(self, records: list[Record], seconds: float = ALL_SECONDS) -> Plan:
        """What would be done to the domains of RECORDS, within SECONDS."""
        try:
            spaces = within(SANLOCK_SECONDS, "ask sanlock", self._sanlock.lockspaces)
            self._joined = {name for name, (_, state) in spaces.items() if state == JOINED}
        except HelperError as error:
            self._unread = str(error)
        # A visit notes what it reads in its record.
        found = self._visit_all([copy.copy(record) for record in records], seconds)
        found.sort(key=lambda one: rank(one.record, self._host_conf.order))
        names = sorted({name for one in found for name in one.lockspaces})
        return Plan(found, {name: self._join(name, records) for name in names})

    def _join(self, name: str, records: list[Record]) -> str:
        if self._unread:
            return self._unread
        definitions = definitions_of(name, records, self._default_lockspace())
        places = [f"{space}:{space.host_id}:{space.path}:{space.offset}" for space in definitions]
        return ", else ".join(places) or why_undefined(name)

    def _visit_all(self, records: list[Record], seconds: float) -> list[PlannedDomain]:
        """Visit the domains of RECORDS, as many at a time as recovery does."""
        todo: SimpleQueue[Record] = SimpleQueue()
        answers: SimpleQueue[PlannedDomain] = SimpleQueue()
        for record in records:
            todo.put(record)

        def work() -> None:
            while True:
                try:
                    record = todo.get(block=False)
                except Empty:
                    return
                answers.put(self._planned(record))

        for _ in range(min(len(records), self._host_conf.side_by_side)):
            WORKERS.start(work, ())
        end = time.monotonic() + seconds
        found: dict[str, PlannedDomain] = {}
        while len(found) < len(records):
            try:
                answer = answers.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                break
            found[answer.record.uuid] = answer
        why = f"no answer from libvirtd or sanlock within {seconds:g} s"
        return [found.get(record.uuid) or PlannedDomain(record, Step.RETRY, why) for record in records]

    def _planned(self, record: Record) -> PlannedDomain:
        try:
            return self._visit(record)
        except WouldActError as found:
            return PlannedDomain(record, found.step, "")
        except Exception as error:
            return PlannedDomain(record, Step.RETRY, f"internal error: {described(error)}")

    def _visit(self, record: Record) -> PlannedDomain:
        age = self._wall() - record.time
        names = names_needed(record, frozenset(), self._default_lockspace)
        result = self._recovery.visit(record, names <= self._joined, age)
        if result.verdict is Verdict.WAIT and result.lockspaces:
            # As recovery does once it knows them.
            names = names_needed(record, result.lockspaces, self._default_lockspace)
            if names <= self._joined:
                result = self._recovery.visit(record, True, age)
        return self._of_result(record, result, names)

    def _of_result(self, record: Record, result: VisitResult, names: set[str]) -> PlannedDomain:
        if result.verdict is Verdict.WAIT:
            step = Step.RESUME if result.text == TO_BE_RESUMED else Step.START
            return PlannedDomain(record, step, "", tuple(sorted(names - self._joined)))
        return PlannedDomain(record, _STEPS[result.verdict], result.text)
