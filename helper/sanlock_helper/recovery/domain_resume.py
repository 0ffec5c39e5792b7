# SPDX-License-Identifier: LGPL-2.1-or-later
"""The resume of a domain that was paused: the checks before it, the resume, and the check after it.

libvirt resumes a paused domain whatever became of its lease, with memory older than its disk.  So a domain is
resumed only when each lease on storage has the version that its process held, no other host has it, and the
version is just one more after the resume.  A version that is changed, unknown or unreadable forbids it.
"""

from __future__ import annotations

import contextlib
from typing import Callable

import libvirt

from ..errors import HelperError, TransientError
from ..leases.held import Lease
from ..leases.lockspaces import NOT_THERE, Sanlock, SanlockError
from ..records.record import Record
from ..records.store import RecordStore
from ..virt import policy
from ..virt.connection import failure
from ..virt.domain_state import RUNNING_STATES, describe, ends_by_itself, state_name
from ..virt.qemu_sanlock_conf import LOCKSPACE
from . import domain_identity
from .recorded_leases import PROCESS_SECONDS, RecordedLeases, count, own_lockspaces, read_policy
from .stopped_guests import StoppedGuests, is_stopped, note_stopped_again
from .verdict import (
    HELD_MEANWHILE,
    NO_PROCESS,
    TO_BE_RESUMED,
    UNREGISTERED,
    DropError,
    RefusalError,
    Verdict,
    VisitResult,
    may_be_decided,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirDomain


class DomainResume:
    """Resumes domains; several threads may use one."""

    def __init__(
        self,
        sanlock: Sanlock,
        store: RecordStore,
        leases: RecordedLeases,
        stopped: StoppedGuests,
        is_held: Callable[[], bool],
    ) -> None:
        """The parameters are those of DomainRecovery; LEASES are looked up through them."""
        self._sanlock = sanlock
        self._store = store
        self._leases = leases
        self._stopped = stopped
        self._is_held = is_held

    def resume(self, domain: VirDomain, record: Record, ready: bool, age: float, anyway: bool) -> VisitResult:
        """Resume DOMAIN, which RECORD is of, if no check fails.

        Raises what DomainRecovery.visit() makes verdicts of.
        """
        state, reason = domain.state()
        if state in RUNNING_STATES:
            return self._found_running(domain, record, state)
        if state != libvirt.VIR_DOMAIN_PAUSED:
            return VisitResult(Verdict.AGAIN, f"it is {state_name(state)}")
        if record.mark == "refused" and not anyway and not may_be_decided(record.why):
            raise RefusalError(record.why)
        if ends_by_itself(state, reason) and _has_job(domain):
            raise TransientError(
                "resume the domain", f"it is {describe(state, reason)}, which ends by itself"
            )
        found = policy.Policy(True) if anyway else read_policy(domain, record)
        left = None if anyway else self._leases.why_left(found, record)
        if left:
            return left
        if not ready:
            return VisitResult(Verdict.WAIT, TO_BE_RESUMED, own_lockspaces(domain, record))
        if record.cause and not anyway:
            self._stopped.check(domain, record, reason, age)
        self._check_before_resume(domain, record, age, anyway)
        if self._is_held():
            return HELD_MEANWHILE
        if not self._store.mark(record, "resuming"):
            raise DropError("its record was removed or replaced")
        try:
            self._call_resume(domain, record)
        except libvirt.libvirtError as error:
            raise failure("resume the domain", error) from error
        return self._resumed(domain, record, "resumed", anyway).with_note(found.problem)

    def _call_resume(self, domain: VirDomain, record: Record) -> None:
        """Resume DOMAIN.  Raises libvirtError, or another HelperError.

        A guest that stopped while libvirtd was away, or before a resume had returned, has its leases still,
        and libvirt cannot take them again ("File exists"): they are given up first, as at any other pause.
        """
        try:
            domain.resume()
        except libvirt.libvirtError:
            pid = self._leases.process(record) if record.cause else None
            # libvirt resumes no domain whose leases are held, so it stays paused meanwhile.
            if (
                pid is None
                or domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED
                or not self._sanlock.held_by(pid)
            ):
                raise
            self._sanlock.release(pid)
            domain.resume()

    def _found_running(self, domain: VirDomain, record: Record, state: int) -> VisitResult:
        if record.mark == "resuming":
            return self._resumed(domain, record, "resumed by an earlier recovery")
        return VisitResult(
            Verdict.DONE,
            f"found {state_name(state)}, nothing to do, verified {state_name(state)}; an administrator or "
            "another process resumed it",
        )

    def _check_before_resume(self, domain: VirDomain, record: Record, age: float, anyway: bool) -> None:
        try:
            for lease in record.leases:
                self._leases.refuse_other_holders(lease, before_start=False)
        except SanlockError as error:
            raise self._stays_paused(error, domain, record) from error
        except HelperError as error:
            raise TransientError("resume the domain", f"it stays paused: {error}") from error
        self._refuse_unless_registered(record, age)
        if not anyway:
            self._refuse_unless_untouched(domain, record)

    def _stays_paused(self, error: SanlockError, domain: VirDomain, record: Record) -> TransientError:
        """Why a lease could not be read: where it has moved, that is the reason, and it has a remedy.

        libvirt takes the leases of a paused domain where they were when it was paused.
        """
        if error.number in NOT_THERE:
            for lease in record.leases:
                with contextlib.suppress(HelperError):
                    there, _ = self._leases.find(lease, record, domain.XMLDesc(0))
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
        pid = self._leases.process(record)
        if pid is None:
            why = f"{NO_PROCESS}, so sanlock cannot be asked for it"
            if age < PROCESS_SECONDS:
                raise TransientError("resume the domain", f"it stays paused: {why}")
            raise RefusalError(why)
        if not self._sanlock.is_registered(pid):
            raise RefusalError(f"{UNREGISTERED}: it would go on without a lease")

    def _refuse_unless_untouched(self, domain: VirDomain, record: Record) -> None:
        if record.unknown or not record.leases:
            why = record.unknown or "it held none"
            raise RefusalError(f"the versions of its leases before the pause are not known: {why}")
        for lease in record.leases:
            if lease.shared:
                raise RefusalError(f"its lease {lease} is shared: its version proves nothing")
            try:
                now = self._sanlock.version(lease)
            except SanlockError as error:
                raise self._stays_paused(error, domain, record) from error
            except HelperError as error:
                raise TransientError("resume the domain", f"it stays paused: {error}") from error
            if now != lease.version:
                raise RefusalError(
                    f"its lease {lease} was version {lease.version} when it was paused and is {now} now: "
                    "another host held it, and the guest's memory may be older than its disk"
                )

    def _resumed(self, domain: VirDomain, record: Record, did: str, anyway: bool = False) -> VisitResult:
        """Check what the resume took; anything but what was expected, and the domain is paused again."""
        try:
            held = {str(lease): lease.version for lease in self._leases.held(record)}
            for lease in record.leases:
                version = held.get(str(lease))
                if version is not None or not held or _asks_for(domain, lease):
                    self._check_held(lease, version, anyway)
        except (RefusalError, HelperError) as error:
            if is_stopped(*domain.state()):
                return self._stopped_again(record)
            try:
                domain.suspend()
            except libvirt.libvirtError as again:
                raise TransientError(
                    "pause the domain again", f"{error}; {failure('suspend', again)}"
                ) from again
            raise RefusalError(f"it was paused again at once: {error}") from error
        state, reason = domain.state()
        if is_stopped(state, reason):
            return self._stopped_again(record)
        if state not in RUNNING_STATES:
            raise TransientError("resume the domain", f"it is {describe(state, reason)} after the call")
        return VisitResult(
            Verdict.DONE, f"found paused, {did}, verified {state_name(state)}, {count(held)} held"
        )

    def _stopped_again(self, record: Record) -> VisitResult:
        """The agent that stands notes that, too; without one this record is what is left."""
        note_stopped_again(record)
        self._store.mark(record, "")
        return VisitResult(Verdict.AGAIN, "it was resumed, and stopped again by an I/O error")

    def _check_held(self, lease: Lease, version: int | None, anyway: bool) -> None:
        if version is None:
            raise RefusalError(f"it went on without its lease {lease}")
        # The same one is held all the while: libvirt could not give it up, as with a blank in its name.
        if version not in (lease.version, lease.version + 1) and not anyway:
            raise RefusalError(
                f"its lease {lease} was version {lease.version} when it was paused and {version} after the "
                f"resume, not {lease.version + 1}: another host held it in between"
            )


def _asks_for(domain: VirDomain, lease: Lease) -> bool:
    """Whether the definition of DOMAIN, or a volume in it, asks for LEASE: libvirt takes it at a resume then.

    A block job has a lease of its target or its base beside those, which is not taken once the job has ended.
    That of an active commit's base is even left with the process.
    """
    try:
        xml = domain.XMLDesc(0)
    except libvirt.libvirtError as error:
        raise failure("read the domain's XML", error) from error
    is_volumes = lease.lockspace == LOCKSPACE and bool(domain_identity.volumes(xml))
    return is_volumes or (lease.lockspace, lease.resource) in domain_identity.leases(xml)


def _has_job(domain: VirDomain) -> bool:
    """Whether a job of libvirt's is under way that may let the domain run on."""
    return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
