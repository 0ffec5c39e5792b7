# SPDX-License-Identifier: LGPL-2.1-or-later
"""One domain's way back: look at it, decide, start or resume it, and look again.

libvirt takes the leases when a domain starts, so a start is always safe.  A resume is not: libvirt resumes a
paused domain whatever became of its lease, with memory older than its disk.  So a domain is resumed only when
each lease on storage has the version that its process held, nobody else has it, and the version is just one
more after the resume.  Changed, unknown or unreadable is no.
"""

from __future__ import annotations

import contextlib
import uuid
from enum import Enum
from typing import Any, Callable, NamedTuple
from xml.etree import ElementTree

import libvirt

from ..errors import HelperError, PermanentError, TransientError
from ..leases.held import Lease, Lockspace
from ..leases.lockspaces import NOT_THERE, Sanlock, SanlockError
from ..records.record import Record
from ..records.store import RecordStore
from ..virt import policy, processes
from ..virt.connection import failure, is_no_domain
from ..virt.domain_log import last_end
from ..virt.domain_state import RUNNING_STATES, describe, ends_by_itself, is_administrators_pause, state_name
from ..virt.lookup import as_argument
from ..virt.processes import boot_id
from ..virt.qemu_sanlock_conf import auto_lockspace
from . import domain_identity, lease_places

# A run that is still there so long after its record was never powered off.
STILL_RUNS_SECONDS = 120.0
# So long a process is looked for: libvirt's status file of it is there before the start has returned.
PROCESS_SECONDS = 120.0

# Marks of a record whose domain recovery has already touched.
_BEGUN = ("starting", "resuming")

_OFF = -1

# libvirt's words for the end of a run that nobody wished for.  "failed" is a start that was wanted, and
# refused.
_UNWISHED_ENDS = ("crashed", "daemon", "failed")


class Verdict(Enum):
    """How a visit ended; each but EARLY, WAIT and AGAIN is the last word on a record."""

    DONE = "done"  # it is back: the record goes
    DROPPED = "dropped"  # it is not ours to bring back any more: the record goes
    LEFT_ALONE = "left"  # its policy does not ask for it, or it lost no lease: the record goes
    UNUSABLE = "unusable"  # no domain can have such a record: it is set aside
    REFUSED = "refused"  # it could come back, but must not by itself: the record stays for the administrator
    EARLY = "early"  # the helper is still making it safe
    WAIT = "wait"  # its lockspaces are not joined
    AGAIN = "again"  # a failure that may pass


class VisitResult(NamedTuple):
    """A verdict and its reason, in words for the journal.

    lockspaces: the names of those that the domain's definition asks for, where its leases are not known.
    """

    verdict: Verdict
    text: str
    lockspaces: frozenset[str] = frozenset()


# How the refusals begin of which --resume-anyway thinks the same: no lease would be taken at a resume.
_NO_PROCESS = "its process could not be found in /run/libvirt/qemu"
_UNREGISTERED = "sanlock was restarted since and does not know its process"
UNPROTECTED = (_NO_PROCESS, _UNREGISTERED)
# How the refusal for a malformed policy ends where the domain is gone, and with it the metadata to be set.
GONE = ", and libvirt no longer knows the domain"

NO_POLICY = VisitResult(Verdict.LEFT_ALONE, "as their policy says")
LOST_NOTHING = VisitResult(
    Verdict.LEFT_ALONE,
    "for no lockspace was lost: the helper was called by hand, or a host asked for the lease",
)


class RefusalError(Exception):
    """The domain must not be resumed; the text says why."""


class DropError(Exception):
    """The domain is not ours any more; the text says why."""


class UnusableError(Exception):
    """No domain can have such a record; the text says why."""


class DomainRecovery:
    """Visits domains; several threads may use one."""

    def __init__(
        self,
        connect: Callable[[str], Any],
        sanlock: Sanlock,
        store: RecordStore,
        boot: Callable[[], str] = boot_id,
        process_started: Callable[[int], int] = processes.process_start,
        pid_of: Callable[[str], int | None] | None = None,
        default_lockspace: Callable[[], Lockspace | None] = auto_lockspace,
        ended: Callable[[str, float], str] = last_end,
        is_persistent: Callable[[str, str], bool] = domain_identity.is_persistent,
    ) -> None:
        """CONNECT opens a URI; BOOT and PROCESS_STARTED look at the host (see notes, processes).

        PID_OF gives the QEMU process of a domain's UUID, None when none is proven.  DEFAULT_LOCKSPACE is what
        libvirt's configuration says; ENDED is libvirt's log of a domain (see domain_log);
        IS_PERSISTENT looks for its definition on disk.
        """
        self._connect = connect
        self._sanlock = sanlock
        self._store = store
        self._boot = boot
        self._process_started = process_started
        self._pid_of = pid_of or _pid_of
        self._default_lockspace = default_lockspace
        self._ended = ended
        self._is_persistent = is_persistent

    def visit(self, record: Record, ready: bool, age: float = 0.0, anyway: bool = False) -> VisitResult:
        """Bring the domain of RECORD back as far as that is possible now.

        READY: its lockspaces are joined.  AGE: seconds that recovery has known it.  ANYWAY: the administrator
        vouches that nobody wrote to the disks of a paused domain.
        """
        try:
            _check_uuid(record.uuid)
            # While libvirtd is away, too: the domain may be undefined as soon as it is back.
            if (
                record.xml
                and record.uri == "qemu:///system"
                and self._is_persistent(record.name, record.uuid)
            ):
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

    def _visit(self, connection: Any, record: Record, ready: bool, age: float, anyway: bool) -> VisitResult:
        domain = self._look_up(connection, record.uuid)
        if domain is not None and record.xml and domain.isPersistent():
            self._forget_xml(record)
        run = _OFF if domain is None else domain.ID()
        if run == _OFF:
            self._drop_if_migrated(domain, record)
            if record.todo == "resume":
                self._drop_if_ended_by_wish(domain, record)
            return self._start(connection, domain, record, ready, age)
        state = domain.state()[0]
        if state == libvirt.VIR_DOMAIN_SHUTOFF:
            return VisitResult(Verdict.EARLY, "it is just ending")
        if not self._is_same_run(record, run):
            return self._another_run(domain, record, age)
        if record.todo == "start":
            return self._still_runs(record, age)
        if state in RUNNING_STATES and not self._was_paused(record, age):
            return self._still_runs(record, age)
        return self._resume(domain, record, ready, age, anyway)

    def _forget_xml(self, record: Record) -> None:
        """The definition of a persistent domain is libvirt's: when it is undefined later, that counts.

        The helper notes the XML of any domain: without libvirtd it cannot tell a transient one.
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

    def _look_up(self, connection: Any, uuid: str) -> Any:
        try:
            return connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if is_no_domain(error):
                return None
            raise

    def _process(self, record: Record) -> int | None:
        """The process id of the domain of RECORD, None when none is proven to be its.

        Raises TransientError when the host's processes cannot be read.
        """
        try:
            return self._pid_of(record.uuid)
        except OSError as error:
            raise TransientError("look for its process", str(error)) from error

    def _is_same_run(self, record: Record, run: int) -> bool:
        """Whether RUN is the run that lost its leases.

        The id alone does not tell: libvirtd may give it again after a restart.  A process id and its start
        time do; a process that has just ended was still that one.
        """
        if run != record.run:
            return False
        if not record.pid_start:
            return record.boot == self._boot()
        pid = self._process(record)
        return pid is None or (pid == record.pid and self._process_started(pid) in (0, record.pid_start))

    # To start

    def _drop_if_migrated(self, domain: Any, record: Record) -> None:
        """Go on only if no other host has taken the run over, whatever was to be done with it here."""
        if self._end_reason(domain, record) == "migrated":
            raise DropError("it was migrated to another host")

    def _drop_if_ended_by_wish(self, domain: Any, record: Record) -> None:
        """Go on only if a paused run ended by no wish of an administrator's; then a start is what is left.

        sanlock kills a process that still holds a lease when the grace is over.  libvirt calls that end
        "crashed", also where its daemon was away and finds the process gone later.  An end whose reason is
        known nowhere is taken for such a one: a start takes its leases, and harms nothing.
        """
        if domain is None and not record.xml:
            raise DropError("it was paused, and libvirt no longer knows it")
        if record.mark == "refused" and not policy.is_malformed(record.why):
            raise DropError("it was left paused, and has ended since")
        if record.boot != self._boot() or record.mark == "starting":
            return
        why = self._end_reason(domain, record)
        if why == "destroyed":
            raise DropError("it was paused, and was powered off since")
        if why and why not in _UNWISHED_ENDS:
            raise DropError(f"it was paused, and has ended since: {why}")

    def _end_reason(self, domain: Any, record: Record) -> str:
        """libvirt's word for why the domain's last run ended, "" where it is known nowhere."""
        state, reason = (libvirt.VIR_DOMAIN_SHUTOFF, 0) if domain is None else domain.state()
        if state == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN:
            # A transient domain, or libvirtd was restarted since.
            return self._ended(record.name, record.time)
        return describe(state, reason).partition("(")[2].rstrip(")")

    def _start(self, connection: Any, domain: Any, record: Record, ready: bool, age: float) -> VisitResult:
        if domain is None and not record.xml:
            raise DropError(
                "libvirt no longer knows it: undefined, or transient and its XML could not be had"
            )
        if domain is None:
            _check_definition(record)
        else:
            self._drop_another_machine(domain, record)
        if record.action != "restart":
            left = self._why_left(domain, record)
            if left:
                return left
        if not ready:
            return VisitResult(Verdict.WAIT, "to be started", _own_lockspaces(domain, record))
        for lease in record.leases:
            self._check_before_start(lease, domain, record)
        if not self._store.mark(record, "starting"):
            raise DropError("its record was removed or replaced")
        try:
            domain = connection.createXML(record.xml, 0) if domain is None else domain
            if not domain.isActive():
                domain.create()
        except libvirt.libvirtError as error:
            raise failure("start the domain", error) from error
        return self._started(domain, record, "started", age)

    def _drop_another_machine(self, domain: Any, record: Record) -> None:
        try:
            why = domain_identity.why_another(record, domain.name(), domain.XMLDesc(0))
        except libvirt.libvirtError as error:
            raise failure("read the domain's XML", error) from error
        if why:
            raise DropError(
                f"not started: {why}; if it is to run: virsh start {as_argument(domain.name(), record.uuid)}"
            )

    def _check_before_start(self, lease: Lease, domain: Any, record: Record) -> None:
        """Drop a domain that runs on another host, or ran since it was made safe."""
        if record.action == "restart" or record.mark in _BEGUN:
            self._refuse_other_holders(lease, before_start=True)
            return
        xml = record.xml if domain is None else domain.XMLDesc(0)
        there, now = self._find(lease, record, xml)
        self._refuse_other_holders(there, before_start=True)
        if now != lease.version:
            raise DropError(f"it ran since: its lease {lease} was version {lease.version} and is {now} now")

    def _find(self, lease: Lease, record: Record, xml: str) -> tuple[Lease, int]:
        """LEASE where it is on storage now, and its version there; TransientError when it cannot be read."""
        tried = []
        for there in self._places(lease, record, xml):
            try:
                return there, self._sanlock.version(there)
            except SanlockError as error:
                # Where storage is that does not answer, no other place counts.
                if error.number not in NOT_THERE:
                    raise
                tried.append(f"{there.path} ({error.why})")
        by_hand = f"virsh start {as_argument(record.name, record.uuid)}"
        raise TransientError(
            f"look for lease {lease}",
            f"it is not where it was noted, nor where libvirt has it now: {', '.join(tried)}",
            f"bring its storage back to {lease.path}, or start the domain by hand: {by_hand}",
        )

    def _places(self, lease: Lease, record: Record, xml: str) -> list[Lease]:
        before = next((space for space in record.lockspaces if space.name == lease.lockspace), None)
        joined = self._sanlock.lockspaces().get(lease.lockspace)
        now = [self._default_lockspace(), joined[0] if joined else None]
        return lease_places.places(lease, before, [space for space in now if space], xml)

    def _another_run(self, domain: Any, record: Record, age: float) -> VisitResult:
        if record.mark == "starting":
            return self._started(domain, record, "started by an earlier recovery", age)
        state, reason = domain.state()
        if ends_by_itself(state, reason):
            raise TransientError(
                "look at the domain", f"somebody started it, and it is {describe(state, reason)}"
            )
        return VisitResult(Verdict.DONE, f"found {state_name(state)}, nothing to do, somebody started it")

    def _started(self, domain: Any, record: Record, did: str, age: float) -> VisitResult:
        """What became of a start: only a state that lasts is the end of it."""
        state, reason = domain.state()
        if is_administrators_pause(state, reason):
            return VisitResult(Verdict.DONE, f"found off, {did}, verified paused: somebody paused it since")
        if state == libvirt.VIR_DOMAIN_PAUSED and not ends_by_itself(state, reason):
            now = describe(state, reason)
            command = f"virsh resume {as_argument(domain.name(), record.uuid)}"
            raise DropError(f"{did}, and it is {now} now; once that is mended: {command}")
        if state not in RUNNING_STATES:
            raise TransientError("start the domain", f"it is {describe(state, reason)} after the call")
        pid = self._process(record)
        if pid is None:
            return self._started_unseen(did, age)
        held = self._sanlock.held_by(pid)
        if record.leases and not held:
            raise TransientError("start the domain", "it runs without a lease: see lock_manager in qemu.conf")
        return VisitResult(Verdict.DONE, f"found off, {did}, verified running, {_count(held)} held")

    def _started_unseen(self, did: str, age: float) -> VisitResult:
        """A domain runs, and its process is not to be found: that is no failure of the start."""
        why = f"{_NO_PROCESS}, so its leases were not looked at"
        if age < PROCESS_SECONDS:
            raise TransientError("look at the leases of the started domain", why)
        return VisitResult(
            Verdict.DONE, f"found off, {did}, verified running; {why}: see sanlock client status"
        )

    def _still_runs(self, record: Record, age: float) -> VisitResult:
        """The record is written before the domain is touched: perhaps the helper is just about to."""
        if age > STILL_RUNS_SECONDS:
            raise DropError(f"it still runs: its {record.action} was not done")
        return VisitResult(Verdict.EARLY, f"its {record.action} is not done yet")

    # To resume

    def _resume(self, domain: Any, record: Record, ready: bool, age: float, anyway: bool) -> VisitResult:
        state, reason = domain.state()
        if state in RUNNING_STATES:
            return self._found_running(domain, record, state)
        if state != libvirt.VIR_DOMAIN_PAUSED:
            return VisitResult(Verdict.AGAIN, f"it is {state_name(state)}")
        if record.mark == "refused" and not anyway and not policy.is_malformed(record.why):
            raise RefusalError(record.why)
        if ends_by_itself(state, reason) and _has_job(domain):
            raise TransientError(
                "resume the domain", f"it is {describe(state, reason)}, which ends by itself"
            )
        left = None if anyway else self._why_left(domain, record)
        if left:
            return left
        if not ready:
            return VisitResult(Verdict.WAIT, "to be resumed", _own_lockspaces(domain, record))
        self._check_before_resume(domain, record, age, anyway)
        if not self._store.mark(record, "resuming"):
            raise DropError("its record was removed or replaced")
        try:
            domain.resume()
        except libvirt.libvirtError as error:
            raise failure("resume the domain", error) from error
        return self._resumed(domain, record, "resumed", anyway)

    def _found_running(self, domain: Any, record: Record, state: int) -> VisitResult:
        if record.mark == "resuming":
            return self._resumed(domain, record, "resumed by an earlier recovery")
        return VisitResult(Verdict.DONE, f"found {state_name(state)}, nothing to do, somebody resumed it")

    def _check_before_resume(self, domain: Any, record: Record, age: float, anyway: bool) -> None:
        try:
            for lease in record.leases:
                self._refuse_other_holders(lease, before_start=False)
        except SanlockError as error:
            raise self._stays_paused(error, domain, record) from error
        except HelperError as error:
            raise TransientError("resume the domain", f"it stays paused: {error}") from error
        self._refuse_unless_registered(record, age)
        if not anyway:
            self._refuse_unless_untouched(domain, record)

    def _stays_paused(self, error: SanlockError, domain: Any, record: Record) -> TransientError:
        """Why a lease could not be read: where it has moved, that is the reason, and it has a remedy.

        libvirt takes the leases of a paused domain where they were when it was paused.
        """
        if error.number in NOT_THERE:
            for lease in record.leases:
                with contextlib.suppress(HelperError):
                    there, _ = self._find(lease, record, domain.XMLDesc(0))
                    if (there.path, there.offset) != (lease.path, lease.offset):
                        return TransientError(
                            "resume the domain",
                            f"it stays paused: its lease {lease} is at {there.path} now, and libvirt takes "
                            f"it at {lease.path}, where it was when the domain was paused",
                            f"make {lease.path} lead to it again, or destroy and start the domain",
                        )
        return TransientError("resume the domain", f"it stays paused: {error}")

    def _refuse_unless_registered(self, record: Record, age: float) -> None:
        """libvirt takes no lease for a process that sanlock does not know, and resumes it all the same.

        See virLockManagerSanlockNew() and -Acquire() in libvirt src/locking/lock_driver_sanlock.c.
        """
        pid = self._process(record)
        if pid is None:
            why = f"{_NO_PROCESS}, so sanlock cannot be asked for it"
            if age < PROCESS_SECONDS:
                raise TransientError("resume the domain", f"it stays paused: {why}")
            raise RefusalError(why)
        if not self._sanlock.is_registered(pid):
            raise RefusalError(f"{_UNREGISTERED}: it would go on without a lease")

    def _refuse_unless_untouched(self, domain: Any, record: Record) -> None:
        if record.unknown or not record.leases:
            why = record.unknown or "it held none"
            raise RefusalError(f"the versions of its leases before the pause are not known: {why}")
        for lease in record.leases:
            if lease.shared:
                raise RefusalError(f"its lease {lease} is shared: its version says nothing")
            try:
                now = self._sanlock.version(lease)
            except SanlockError as error:
                raise self._stays_paused(error, domain, record) from error
            except HelperError as error:
                raise TransientError("resume the domain", f"it stays paused: {error}") from error
            if now != lease.version:
                raise RefusalError(
                    f"its lease {lease} was version {lease.version} when it was paused and is {now} now: "
                    "somebody else held it, and the guest's memory may be older than its disk"
                )

    def _resumed(self, domain: Any, record: Record, did: str, anyway: bool = False) -> VisitResult:
        """Look at what the resume took; anything but what was expected, and the domain is paused again."""
        try:
            held = {str(lease): lease.version for lease in self._held(record)}
            for lease in record.leases:
                self._check_held(lease, held.get(str(lease)), anyway)
        except (RefusalError, HelperError) as error:
            try:
                domain.suspend()
            except libvirt.libvirtError as again:
                raise TransientError(
                    "pause the domain again", f"{error}; {failure('suspend', again)}"
                ) from again
            raise RefusalError(f"it was paused again at once: {error}") from error
        state, reason = domain.state()
        if state not in RUNNING_STATES:
            raise TransientError("resume the domain", f"it is {describe(state, reason)} after the call")
        return VisitResult(
            Verdict.DONE, f"found paused, {did}, verified {state_name(state)}, {_count(held)} held"
        )

    def _check_held(self, lease: Lease, version: int | None, anyway: bool) -> None:
        if version is None:
            raise RefusalError(f"it went on without its lease {lease}")
        if version != lease.version + 1 and not anyway:
            raise RefusalError(
                f"its lease {lease} was version {lease.version} when it was paused and {version} after the "
                f"resume, not {lease.version + 1}: somebody else held it in between"
            )

    # Both

    def _why_left(self, domain: Any, record: Record) -> VisitResult | None:
        """Why the domain is to stay as it is, if it is."""
        wanted = _policy_of(record) if domain is None else policy.recovers(domain)
        if not wanted:
            return NO_POLICY
        return LOST_NOTHING if self._lost_nothing(record) else None

    def _lost_nothing(self, record: Record) -> bool:
        """Whether the domain was made safe while all its lockspaces were healthy, and they still are.

        Then somebody wanted it so.  In doubt it has lost its leases.  What recovery has begun, it ends.
        """
        named = {lockspace.name for lockspace in record.lockspaces}
        return (
            bool(record.leases)
            and record.mark not in _BEGUN
            and named >= {lease.lockspace for lease in record.leases}
            and record.boot == self._boot()
            and all(self._sanlock.kept(lockspace) for lockspace in record.lockspaces)
        )

    def _refuse_other_holders(self, lease: Lease, before_start: bool) -> None:
        """Drop a domain whose LEASE another host holds: it runs there.

        Where sanlock cannot tell yet whether that host lives, a start may be tried: sanlock itself decides.
        """
        joined = self._sanlock.lockspaces().get(lease.lockspace)
        if joined is None:
            raise TransientError(
                "look for other holders", f"lockspace {lease.lockspace} is not joined any more"
            )
        try:
            holders = self._sanlock.holders(lease, joined[0].host_id)
        except HelperError:
            if before_start:
                return
            raise
        for host_id, state in holders.items():
            if state == "live":
                raise DropError(f"its lease {lease} is held by host_id {host_id}: it runs there")
            if state == "unknown" and not before_start:
                raise TransientError(
                    "look for other holders", f"host_id {host_id} has lease {lease}, and may be alive"
                )

    def _held(self, record: Record) -> list[Lease]:
        pid = self._process(record)
        if pid is None:
            raise PermanentError("ask for its leases", "its process could not be found")
        return self._sanlock.held_by(pid)


def _words(error: Exception) -> str:
    if isinstance(error, libvirt.libvirtError):
        return str(failure("look at the domain", error))
    return str(error) if isinstance(error, HelperError) else f"write the record: {error}"


def _check_uuid(text: str) -> None:
    try:
        found = str(uuid.UUID(text))
    except ValueError:
        found = ""
    if not found or found != text.lower():
        raise UnusableError(f"{text[:60]!r} is no UUID")


def _policy_of(record: Record) -> bool:
    """Whether the XML of RECORD asks for recovery."""
    try:
        return policy.in_xml(record.xml)
    except policy.PolicyError as error:
        raise RefusalError(f"{error.what}: {error.why}{GONE}") from error


def _check_definition(record: Record) -> None:
    """Refuse RECORD when its XML is no definition of its domain: no try would start it, or another one."""
    try:
        found = ElementTree.fromstring(record.xml).findtext("uuid", record.uuid).strip()
    except (ElementTree.ParseError, ValueError) as error:
        raise UnusableError(f"its XML is malformed: {error}") from error
    if found.lower() != record.uuid.lower():
        raise UnusableError(f"its XML is of another domain, {found[:60]!r}")


def _pid_of(uuid: str) -> int | None:
    process = processes.find(uuid)
    return None if process is None else process.pid


def _has_job(domain: Any) -> bool:
    """Whether a job of libvirt's is under way that may let the domain run on."""
    return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)


def _own_lockspaces(domain: Any, record: Record) -> frozenset[str]:
    """The lockspaces of the <lease> elements in the domain's definition, for a record without leases."""
    if record.leases:
        return frozenset()
    xml = record.xml if domain is None else domain.XMLDesc(0)
    found = ElementTree.fromstring(xml).findall("devices/lease/lockspace")
    return frozenset(element.text for element in found if element.text)


def _count(held: Any) -> str:
    return "1 lease" if len(held) == 1 else f"{len(held)} leases"
