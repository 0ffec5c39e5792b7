# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains that a job of libvirt's has paused, before their lockspace is joined again.

A domain that is dumped, saved, snapshotted or migrated is paused, and libvirt has released its leases: at the
loss of the lockspace sanlock runs no killpath for it, and no record is made.  When the job is over, libvirt
lets it run on.  Without the lockspace that fails; with it the guest would go on, although another host may
have had its leases meanwhile and written to its disks (doCoreDump() and qemuProcessStartCPUs() in libvirt
src/qemu).  So such a job has to be over before recovery joins the lockspace.  Its domain stays paused then,
and the administrator decides.
"""

from __future__ import annotations

import time
from typing import Callable

import libvirt

from ..errors import HelperError, TransientError
from ..events import RECOVER, Event
from ..journal import Journal
from ..leases.held import Lockspace
from ..records.record import Record
from ..records.store import RecordStore
from ..threads import within
from ..virt import SYSTEM_URI, processes
from ..virt.connection import failure, is_no_domain, is_unsupported
from ..virt.domain_argument import as_argument
from ..virt.domain_state import describe, ends_by_itself, runs_elsewhere
from ..virt.processes import Process, boot_id
from .domain_identity import has_leases_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect, VirDomain


# All that the QEMU driver has on this host, as libvirt gives them to sanlock for the killpath.  Another one
# in a record is a mistake, and only the domain of that record is not brought back.
_URIS = (SYSTEM_URI, "qemu:///session")

# How long jobs may take to end, once they were aborted, and how long libvirtd may take for all of this.
SETTLE_SECONDS = 10.0
ALL_SECONDS = 30.0
POLL_SECONDS = 0.2

_ACTIVE = libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED | libvirt.VIR_CONNECT_LIST_DOMAINS_OTHER

_MIGRATING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
# The guest of a start has not run yet: it has no memory that could be older than its disks.
_STARTING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
# VIR_DOMAIN_PAUSED_API_ERROR, which libvirt-python has a name for since 9.2: a job is over, and libvirt could
# not let the domain run on, as without its lockspace (qemuProcessStartCPUs() in libvirt
# src/qemu/qemu_process.c).  Before 9.2 the reason stays that of the job.
_NOT_CONTINUED = (libvirt.VIR_DOMAIN_PAUSED, 14)
# These have no job that libvirt would report; their states go when they are over.
_WITHOUT_JOB = (
    _STARTING,
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN),
)


class PausedJobs:
    """Ends the jobs that keep domains paused.  Several threads may use one."""

    def __init__(
        self,
        connect: Callable[[str], VirConnect],
        store: RecordStore,
        journal: Journal,
        find: Callable[[str], Process | None] = processes.find,
        boot: Callable[[], str] = boot_id,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """CONNECT opens a URI; FIND gives the process of a domain's UUID; BOOT is the kernel's boot id."""
        self._connect = connect
        self._store = store
        self._journal = journal
        self._find = find
        self._boot = boot
        self._clock = clock
        self._sleep = sleep

    def settle(self, lockspace: Lockspace) -> None:
        """Let no job be under way whose end would let a domain with leases in LOCKSPACE run on.

        A domain that stays paused gets a record, unless it has one.  Raises HelperError when a job does not
        end, or libvirtd does not answer: the lockspace must not be joined then.
        """
        uris = {record.uri for record in self._store.records().values() if record.uri in _URIS}
        for uri in sorted(uris | {SYSTEM_URI}):
            what = f"find paused jobs in {uri}"
            within(ALL_SECONDS, what, lambda uri=uri: self._settle(uri, lockspace))  # type: ignore[misc]

    def _settle(self, uri: str, lockspace: Lockspace) -> None:
        connection = self._connect(uri)
        try:
            for domain in connection.listAllDomains(_ACTIVE):
                self._settle_one(uri, domain, lockspace)
        except libvirt.libvirtError as error:
            raise failure("find paused jobs", error) from error
        finally:
            connection.close()

    def _settle_one(self, uri: str, domain: VirDomain, lockspace: Lockspace) -> None:
        try:
            found = _state(domain)
            if found != _NOT_CONTINUED and (not ends_by_itself(*found) or runs_elsewhere(*found)):
                return
            if not _is_concerned(domain, lockspace) or (found == _MIGRATING and _is_incoming(domain)):
                return
            now = found if found == _NOT_CONTINUED else self._wait(domain, found)
            if now[0] == libvirt.VIR_DOMAIN_PAUSED and now != _STARTING:
                self._note(uri, domain, found, lockspace)
        except libvirt.libvirtError as error:
            if not is_no_domain(error):
                raise

    def _wait(self, domain: VirDomain, found: tuple[int, int]) -> tuple[int, int]:
        """End what keeps DOMAIN in the state FOUND, wait for that, and return the state then."""
        if found != _MIGRATING and found not in _WITHOUT_JOB and _has_job(domain):
            _abort(domain)
        end = self._clock() + SETTLE_SECONDS
        while True:
            # In this order: a state that is read when no job is left is no longer that of a job.
            has_job = _has_job(domain)
            now = _state(domain)
            if not ends_by_itself(*now) or not _is_under_way(now, has_job):
                return now
            if self._clock() >= end:
                return self._did_not_end(domain, now)
            self._sleep(POLL_SECONDS)

    def _did_not_end(self, domain: VirDomain, now: tuple[int, int]) -> tuple[int, int]:
        if now == _STARTING:
            return now
        name, words = domain.name(), describe(*now)
        argument = as_argument(name, domain.UUIDString())
        raise TransientError(
            f"domain {name}",
            f"it is {words}, which does not end: with its lockspace joined it would run on then, over disks "
            "that another host may have written to",
            f"virsh domjobinfo {argument}; virsh destroy {argument} lets the others come back",
        )

    def _note(self, uri: str, domain: VirDomain, found: tuple[int, int], lockspace: Lockspace) -> None:
        """Leave the domain to the administrator: which versions its leases had is not known."""
        words = describe(*found)
        uuid = domain.UUIDString()
        record = Record(uuid, domain.name(), uri, "pause", found=words, run=domain.ID(), time=time.time())
        record.boot = self._boot()
        process = self._find_process(uuid)
        if process is not None:
            record.pid, record.pid_start = process.pid, process.start
        record.lockspaces = (lockspace,)
        record.unknown = f"it was {words} when they were lost, and libvirt had released them"
        record.mark = "refused"
        record.why = (
            f"it was {words} when its leases were lost, and another host may have had them since: check "
            "whether it ran there"
        )
        try:
            is_new = self._store.add(record)
        except OSError as error:
            # It stays paused all the same.
            is_new = True
            self._journal.report(_event("pause-not-noted", record, note=error))
        if is_new:
            name = as_argument(record.name, record.uuid)
            remedy = f"virt-sanlock-helper recover --resume-anyway {name}, or destroy and start it"
            self._journal.report(
                _event("recovery-refused", record, note=f"it stays paused: {record.why} ({remedy})")
            )

    def _find_process(self, uuid: str) -> Process | None:
        try:
            return self._find(uuid)
        except OSError:
            return None


def _event(kind: str, record: Record, **parts: object) -> Event:
    return Event(kind, RECOVER, record.uuid, record.name, uri=record.uri, **parts)


def _state(domain: VirDomain) -> tuple[int, int]:
    state, reason = domain.state()
    return state, reason


def _is_concerned(domain: VirDomain, lockspace: Lockspace) -> bool:
    """Whether DOMAIN has leases in LOCKSPACE, or that is not known."""
    try:
        return has_leases_in(domain.XMLDesc(0), lockspace.name)
    except HelperError:
        return True


def _is_incoming(domain: VirDomain) -> bool:
    """Whether DOMAIN comes from another host, which holds its leases until the guest stops there.

    So its memory is no older than its disks.  libvirtd has no statistics of such a job
    (qemuDomainGetJobStatsInternal() in libvirt src/qemu/qemu_driver.c).
    """
    try:
        domain.jobInfo()
    except libvirt.libvirtError as error:
        if not is_unsupported(error) and not _is_off(error):
            raise
        return is_unsupported(error)
    return False


def _has_job(domain: VirDomain) -> bool:
    """Whether a job of DOMAIN is under way: never of one that is off.  Raises libvirtError."""
    try:
        return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
    except libvirt.libvirtError as error:
        if _is_off(error):
            return False
        raise


def _is_off(error: libvirt.libvirtError) -> bool:
    """Whether ERROR means that the domain does not run: virDomainObjCheckActive(), src/conf/domain_conf.c."""
    return bool(error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID)


def _is_under_way(now: tuple[int, int], has_job: bool) -> bool:
    """Whether something is under way that will end the state NOW.

    Without a job it lasts: the job has ended, and libvirt could not let the domain run on.
    """
    return now[0] != libvirt.VIR_DOMAIN_PAUSED or now in _WITHOUT_JOB or has_job


def _abort(domain: VirDomain) -> None:
    """Ask for the job's end; a job that cannot be aborted (a memory-only dump) is waited for."""
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        if is_no_domain(error):
            raise
