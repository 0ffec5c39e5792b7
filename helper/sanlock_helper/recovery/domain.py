# SPDX-License-Identifier: LGPL-2.1-or-later
"""One domain's way back: read its state, decide, start or resume it (domain_start.py, domain_resume.py)."""

from __future__ import annotations

import contextlib
import uuid
from typing import Callable

import libvirt

from ..errors import HelperError, TransientError
from ..leases.held import Lockspace
from ..leases.lockspaces import Sanlock
from ..records.record import Record
from ..records.store import RecordStore
from ..virt import SYSTEM_URI, policy, processes
from ..virt.connection import failure, is_no_domain
from ..virt.domain_log import last_end
from ..virt.domain_state import RUNNING_STATES, describe, ends_by_itself, state_name
from ..virt.host_conf import HostConf, read_host_conf
from ..virt.processes import boot_id
from ..virt.qemu_sanlock_conf import auto_lockspace
from . import domain_identity
from .disk_reads import DiskReads
from .domain_resume import DomainResume
from .domain_start import DomainStart
from .recorded_leases import RecordedLeases
from .stopped_guests import StoppedGuests
from .verdict import DropError, RefusalError, UnusableError, Verdict, VisitResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect, VirDomain

# A run that is still there so long after its record was never powered off.
STILL_RUNS_SECONDS = 120.0

_OFF = -1


class DomainRecovery:
    """Visits domains; several threads may use one."""

    def __init__(
        self,
        connect: Callable[[str], VirConnect],
        sanlock: Sanlock,
        store: RecordStore,
        boot: Callable[[], str] = boot_id,
        process_started: Callable[[int], int] = processes.process_start,
        pid_of: Callable[[str], int | None] | None = None,
        default_lockspace: Callable[[], Lockspace | None] = auto_lockspace,
        ended: Callable[[str, float], str] = last_end,
        is_persistent: Callable[[str, str], bool] = domain_identity.is_persistent,
        host_conf: Callable[[], HostConf] = read_host_conf,
        reads: DiskReads | None = None,
        is_held: Callable[[], bool] = lambda: False,
    ) -> None:
        """CONNECT opens a URI; BOOT and PROCESS_STARTED read from the host (see notes, processes).

        PID_OF gives the QEMU process of a domain's UUID, None when none is proven.  DEFAULT_LOCKSPACE is what
        libvirt's configuration gives; ENDED reads libvirt's log of a domain (see domain_log); IS_PERSISTENT
        searches for its definition on disk.  HOST_CONF has the default for those without a policy of their
        own; READS reads disks.  IS_HELD returns whether an administrator holds recovery by now.
        """
        self._connect = connect
        self._sanlock = sanlock
        self._store = store
        self._boot = boot
        self._process_started = process_started
        self._is_persistent = is_persistent
        self._leases = RecordedLeases(sanlock, boot, pid_of or _pid_of, default_lockspace, host_conf)
        self._starts = DomainStart(sanlock, store, self._leases, boot, ended, is_held)
        self._resumes = DomainResume(sanlock, store, self._leases, StoppedGuests(sanlock, reads), is_held)

    def visit(self, record: Record, ready: bool, age: float = 0.0, anyway: bool = False) -> VisitResult:
        """Bring the domain of RECORD back as far as that is possible now.

        READY: its lockspaces are joined.  AGE: seconds that recovery has known it.  ANYWAY: the administrator
        vouches that no other host wrote to the disks of a paused domain.
        """
        try:
            _check_uuid(record.uuid)
            # While libvirtd is away, too: the domain may be undefined as soon as it is back.
            if record.xml and record.uri == SYSTEM_URI and self._is_persistent(record.name, record.uuid):
                self._forget_xml(record)
            connection = self._connect(record.uri)
            try:
                return self._visit(connection, record, ready, age, anyway)
            finally:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.close()
        except DropError as error:
            return VisitResult(Verdict.DROPPED, str(error))
        except (RefusalError, policy.PolicyError) as error:
            return VisitResult(Verdict.REFUSED, str(error))
        except UnusableError as error:
            return VisitResult(Verdict.UNUSABLE, str(error))
        except (libvirt.libvirtError, HelperError, OSError) as error:
            return VisitResult(Verdict.AGAIN, _words(error))

    def _visit(
        self, connection: VirConnect, record: Record, ready: bool, age: float, anyway: bool
    ) -> VisitResult:
        domain = self._look_up(connection, record.uuid)
        if domain is not None and record.xml and domain.isPersistent():
            self._forget_xml(record)
        run = _OFF if domain is None else domain.ID()
        if domain is None or run == _OFF:
            self._starts.drop_if_migrated(domain, record)
            if record.todo == "resume":
                self._starts.drop_if_ended_by_wish(domain, record)
            return self._starts.start(connection, domain, record, ready, age)
        state = domain.state()[0]
        if state == libvirt.VIR_DOMAIN_SHUTOFF:
            return VisitResult(Verdict.EARLY, "it is just ending")
        if not self._is_same_run(record, run):
            return self._another_run(domain, record, age)
        if record.todo == "start":
            return self._still_runs(record, age)
        # Of one that stopped by itself the record was written when it was paused.
        if state in RUNNING_STATES and not record.cause and not self._was_paused(record, age):
            return self._still_runs(record, age)
        return self._resumes.resume(domain, record, ready, age, anyway)

    def _forget_xml(self, record: Record) -> None:
        """The definition of a persistent domain is libvirt's: when it is undefined later, that counts.

        The helper notes the XML of any domain: without libvirtd it does not know a transient one.
        """
        record.xml = ""
        with contextlib.suppress(OSError):
            self._store.mark(record, record.mark, record.why)

    def _was_paused(self, record: Record, age: float) -> bool:
        """Whether a domain that runs was paused since its record was written: its leases are others then."""
        if not record.leases:
            return age > STILL_RUNS_SECONDS
        held = {str(lease): lease.version for lease in self._sanlock.held_by(record.pid)}
        return all(held.get(str(lease)) != lease.version for lease in record.leases)

    def _look_up(self, connection: VirConnect, uuid: str) -> VirDomain | None:
        try:
            return connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if is_no_domain(error):
                return None
            raise

    def _is_same_run(self, record: Record, run: int) -> bool:
        """Whether RUN is the run that lost its leases.

        The id by itself is no proof: libvirtd may give it again after a restart.  A process id and its start
        time do; a process that has just ended was still that one.
        """
        if run != record.run:
            return False
        if not record.pid_start:
            return record.boot == self._boot()
        pid = self._leases.process(record)
        return pid is None or (pid == record.pid and self._process_started(pid) in (0, record.pid_start))

    def _another_run(self, domain: VirDomain, record: Record, age: float) -> VisitResult:
        if record.mark == "starting":
            return self._starts.started(domain, record, "started by an earlier recovery", age)
        state, reason = domain.state()
        if ends_by_itself(state, reason):
            raise TransientError(
                "read the state of the domain",
                f"it was started meanwhile, and it is {describe(state, reason)}",
            )
        now = state_name(state)
        why = "an administrator or another process started it"
        return VisitResult(Verdict.DONE, f"found {now}, nothing to do, verified {now}; {why}")

    def _still_runs(self, record: Record, age: float) -> VisitResult:
        """The record is written before the domain is touched: perhaps the helper is just about to."""
        if age > STILL_RUNS_SECONDS:
            raise DropError(f"it still runs: its {record.action} was not done")
        return VisitResult(Verdict.EARLY, f"its {record.action} is not done yet")


def _words(error: Exception) -> str:
    if isinstance(error, libvirt.libvirtError):
        return str(failure("read the state of the domain", error))
    return str(error) if isinstance(error, HelperError) else f"write the record: {error}"


def _check_uuid(text: str) -> None:
    try:
        found = str(uuid.UUID(text))
    except ValueError:
        found = ""
    if not found or found != text.lower():
        raise UnusableError(f"{text[:60]!r} is no UUID")


def _pid_of(uuid: str) -> int | None:
    process = processes.find(uuid)
    return None if process is None else process.pid
