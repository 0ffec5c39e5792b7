# SPDX-License-Identifier: LGPL-2.1-or-later
"""The action pause: the domain's processors stand still for good, and its process holds no lease any more.

A job of libvirt's may let a paused domain run on: it is ended here, or waited for.  So is what QEMU itself
writes to the domain's disks: see block_jobs.py.
"""

from __future__ import annotations

import libvirt

from ..errors import PermanentError, TransientError
from ..virt.connection import failure, is_unsupported
from ..virt.domain_state import describe, ends_by_itself, is_administrators_pause, runs_elsewhere, state_name
from .attempt import Attempt
from .block_jobs import end_block_jobs
from .outcomes import STOPPED, Outcome, ended, leases_given_up, moved
from .preparation import complete_paused, is_in_use, write_record

# The reasons of a pause that libvirt takes for a job which it reports; a start and a shutdown are none.
_JOBS = (
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
    libvirt.VIR_DOMAIN_PAUSED_SAVE,
    libvirt.VIR_DOMAIN_PAUSED_DUMP,
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT,
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY,
)

# Jobs that let no domain run on that is paused for another reason: a backup goes on beside the guest.
_BESIDE = (libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP,)

# libvirtd has no statistics of it: its jobStats() is unsupported (qemuDomainGetJobStatsInternal() in libvirt
# src/qemu/qemu_driver.c).
_INCOMING = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN

# Jobs that are left to end, by their virDomainJobOperation.
_MIGRATIONS = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: "it is being migrated to another host",
    _INCOMING: "it is being migrated to this host",
}

_LEFT_TO_END = ", which is left to end; its guest stands still until then"


def pause(attempt: Attempt) -> Outcome:
    """Suspend the domain; the goal is a domain paused for good whose process holds no lease any more."""
    progress = attempt.progress
    run = attempt.lookup()
    if not attempt.still_runs(run):
        return _nothing_to_pause(attempt, run)
    state, reason = attempt.state()
    progress.found = progress.found or _found(state, reason)
    if runs_elsewhere(state, reason):
        return moved(attempt)
    if is_in_use(state, reason):
        write_record(attempt, "pause")
    if state not in STOPPED:
        now = _suspend(attempt, state)
        if not attempt.still_runs(now):
            return _nothing_to_pause(attempt, now)
        state, reason = attempt.state()
        if state not in STOPPED:
            raise TransientError("suspend the domain", f"it is {state_name(state)} after the call")
        if runs_elsewhere(state, reason):
            return moved(attempt)
    if state == libvirt.VIR_DOMAIN_CRASHED:
        _await_on_crash(attempt)
    else:
        _end_job(attempt, state, reason)
    end_block_jobs(attempt)
    verified, remark = leases_given_up(attempt, state_name(state))
    complete_paused(attempt)
    return attempt.outcome(verified, remark)


def _suspend(attempt: Attempt, state: int) -> int | None:
    """Suspend a domain that is in STATE; returns its id after that, as Attempt.lookup() does."""
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        _wake_up(attempt)
    _end_jobs_before(attempt)
    did = attempt.progress.did
    did = "suspended" if did == "nothing to do" else f"{did}, suspended"
    try:
        attempt.change("suspend the domain", did, attempt.domain.suspend)
    except (TransientError, PermanentError) as error:
        now = attempt.lookup_again(error)
        if attempt.still_runs(now) and attempt.state()[0] not in STOPPED:
            raise
        return now
    return attempt.lookup()


def _wake_up(attempt: Attempt) -> None:
    """Wake up a guest that sleeps; raises TransientError, since libvirt learns of that a moment later.

    It holds its leases and runs on at any time, by its clock or its network, and libvirt suspends no such
    domain (qemuDomainSuspend() in libvirt src/qemu/qemu_driver.c).
    """
    attempt.change("wake the guest up", "woken up", attempt.domain.pMWakeup)
    raise TransientError("suspend the domain", "it was pmsuspended, and was woken up for that")


def _await_on_crash(attempt: Attempt) -> None:
    """Raise TransientError when libvirt itself ends the domain's crash, by starting the guest again or not.

    QEMU stops a guest that panics, and libvirt releases its leases (processGuestPanicEvent() in libvirt
    src/qemu/qemu_driver.c).  libvirt writes one on_crash; where there are more, some are in the metadata.
    """
    try:
        xml = attempt.domain.XMLDesc(0)
    except libvirt.libvirtError as error:
        raise failure("read the on_crash of the crashed domain", error) from error
    if xml.count("<on_crash>") != 1 or "<on_crash>preserve</on_crash>" not in xml:
        raise TransientError("pause the domain", "it is crashed, and its on_crash is waited for")


def _found(state: int, reason: int) -> str:
    return describe(state, reason) if ends_by_itself(state, reason) else state_name(state)


def _end_job(attempt: Attempt, state: int, reason: int) -> None:
    """Verify that a paused domain stays so: TransientError while a job of libvirt's may let it run on.

    libvirt pauses a domain to dump or to save it, and starts its processors when that has ended or failed; to
    suspend it meanwhile does nothing (qemuDomainSuspend() in libvirt src/qemu/qemu_driver.c).  Its pause
    lasts once no job is under way, whatever the reason that is left behind.  QEMU itself stops the guest for
    a memory-only dump that is to be live (dump_init() in QEMU dump/dump.c), and libvirt knows no reason then;
    a live snapshot lets a guest run on that an I/O error has paused meanwhile.
    """
    if is_administrators_pause(state, reason):
        return
    what = "pause the domain"
    where = describe(state, reason)
    lasts = not ends_by_itself(state, reason)
    try:
        operation = _job(attempt)
    except libvirt.libvirtError as error:
        if reason == libvirt.VIR_DOMAIN_PAUSED_MIGRATION and is_unsupported(error):
            raise TransientError(what, f"{_MIGRATIONS[_INCOMING]}{_LEFT_TO_END}") from error
        raise TransientError(
            what, f"it is {where}, and {failure('its job cannot be read', error)}"
        ) from error
    if operation is None or (lasts and operation in _BESIDE):
        if not lasts and reason not in _JOBS:
            raise TransientError(what, f"it is {where}, which ends by itself")
        return
    if operation in _MIGRATIONS:
        attempt.progress.migrates = operation == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
        raise TransientError(what, f"{_MIGRATIONS[operation]}{_LEFT_TO_END}")
    if lasts:
        where += ", with a job under way"
    try:
        attempt.change("abort its job", f"aborted the job of a domain {where}", attempt.domain.abortJob)
    except (TransientError, PermanentError) as error:
        raise TransientError(what, f"it is {where}, and runs on when that has ended; {error}") from error
    raise TransientError(what, f"it was {where}: that job was aborted, and its end is waited for")


def _end_jobs_before(attempt: Attempt) -> None:
    """End what has to end before a running domain is suspended.

    Block jobs, too: the leases are still held, so that sanlock kills the process if a job does not end.  None
    can be aborted beside a job of libvirt's own, and those of a migration are its own.  libvirtd is not asked
    where its status file has no job: its answer would be waited for with the domain still running.
    """
    if attempt.local is not None and attempt.local.has_no_job(attempt.request.uuid, attempt.progress.run):
        end_block_jobs(attempt)
    else:
        _end_dump(attempt)


def _end_dump(attempt: Attempt) -> None:
    """Abort the live dump of a running domain: libvirt suspends no domain before its dump has ended.

    Other jobs are not aborted: beside a backup, a migration or a live snapshot a domain can be suspended
    (qemuDomainObjSetAsyncJobMask() in libvirt src/qemu), and _end_job() ends the rest.
    """
    try:
        operation = _job(attempt)
    except libvirt.libvirtError:
        return  # to suspend it is what counts
    if operation != libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP:
        return
    what = "suspend the domain"
    try:
        attempt.change("abort its dump", "aborted its dump", attempt.domain.abortJob)
    except (TransientError, PermanentError) as error:
        raise TransientError(what, f"it is being dumped, which has to end first; {error}") from error
    raise TransientError(what, "it is being dumped: that was aborted, and its end is waited for")


def _job(attempt: Attempt) -> int | None:
    """The virDomainJobOperation of libvirt's job on the domain, None when none is under way."""
    job = attempt.domain.jobStats()
    if job.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    return int(job.get("operation", libvirt.VIR_DOMAIN_JOB_OPERATION_UNKNOWN))


def _nothing_to_pause(attempt: Attempt, run: int | None) -> Outcome:
    attempt.progress.set_ended()
    return ended(attempt, run, "there is nothing to pause")
