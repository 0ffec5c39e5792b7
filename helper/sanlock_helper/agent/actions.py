# SPDX-License-Identifier: LGPL-2.1-or-later
"""The actions of on_lockfailure on one domain: what was found, what was done, what was verified.

Success is a state that was read after the call; a state that cannot be read is never "off", and leases that
cannot be read are never "given up".  Where the domain is a QEMU process of this host, that process counts
too: a domain that libvirtd calls off is off only when its process is gone or holds no lease.
"""

from __future__ import annotations

from typing import Any, Callable

import libvirt

from ..errors import GivenUpError, HelperError, LeasesUnknownError, PermanentError, TransientError
from ..threads import NoAnswerError, call_with_timeout
from ..virt.connection import failure, is_no_domain, is_unsupported
from ..virt.domain_state import describe, ends_by_itself, is_administrators_pause, runs_elsewhere, state_name
from .requests import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Loaded only for a domain that is a process of this host: see duty.make_host().
    from ..records.record import Record
    from ..virt.local_domains import LocalDomains
    from ..virt.processes import Process
    from .recorder import RecoveryRecorder

# How long the XML of a transient domain may take.
XML_SECONDS = 3.0

# The id of a domain that is not active.
_OFF = -1

# States of a domain that is in use, beside a pause that no administrator asked for.
_IN_USE = (
    libvirt.VIR_DOMAIN_NOSTATE,
    libvirt.VIR_DOMAIN_RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED,
    libvirt.VIR_DOMAIN_PMSUSPENDED,
)

# States in which QEMU's processors stand still, and which an administrator alone may end: see
# _see_crash_last().
_STOPPED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_CRASHED)

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
_MIGRATED = "it was migrated to another host"
_SWITCHED = "its guest runs on another host since its migration switched to post-copy"


class Outcome:
    """How an action on a domain that is safe ended: reached or not, and the words for the journal."""

    __slots__ = ("did", "found", "reached", "remark", "verified")

    def __init__(self, found: str, did: str, verified: str, remark: str = "", reached: bool = True) -> None:
        self.found = found
        self.did = did
        self.verified = verified
        self.remark = remark
        self.reached = reached

    def __str__(self) -> str:
        text = f"found {self.found}, {self.did}, verified {self.verified}"
        return f"{text}; {self.remark}" if self.remark else text


class Progress:
    """What the tries for one request have learned so far; a later try starts from it.

    A domain's id changes at every start.  The id at first sight names the run that lost its leases: another
    run, started since, holds leases of its own and is left alone.
    """

    __slots__ = (
        "another",
        "calling",
        "did",
        "found",
        "held_before",
        "migrates",
        "moved",
        "name",
        "process",
        "record",
        "record_tried",
        "recorded",
        "run",
        "safe",
        "save_run",
        "start_error",
        "xml",
        "xml_missing",
    )

    def __init__(self, run: int | None = None, save_run: Callable[[int], None] | None = None) -> None:
        """RUN is the id at first sight, where an agent that died since saw it; else NOTE_RUN hears of it."""
        self.name = ""
        self.run = run
        # The id of a run that is known to have begun after the request.
        self.another: int | None = None
        self.save_run = save_run
        # The process of the run that lost its leases, where it is proven.
        self.process: Process | None = None
        self.found = ""
        self.did = "nothing to do"
        # Set once the run that lost its leases was seen to be over.
        self.safe = False
        # XML of a transient domain, with its secrets: never to be logged.
        self.xml: str | None = None
        # Why there is none, where one is needed.
        self.xml_missing = ""
        # Whether recovery's record was made, or tried to be; the record, and whether it was written.
        self.record_tried = False
        self.record: Record | None = None
        self.recorded = False
        # Whether an earlier try found it paused with its leases still held.
        self.held_before = False
        # Whether an earlier try found it on its way to another host.
        self.migrates = False
        # Whether another host has it now: then nothing of it is to be ended, or started, here.
        self.moved = False
        # Why the one try to start again failed, should the domain not run after it.
        self.start_error = ""
        # The tries that are inside a call which changes the domain.
        self.calling: set[Attempt] = set()

    def is_over(self) -> bool:
        """Whether the run that lost its leases is over, by libvirtd's word or by its process."""
        try:
            return self.safe or (self.process is not None and self.process.is_over())
        except OSError:
            return False

    @property
    def next(self) -> str:
        """What comes next for a domain that is to be restarted and is not, as the end of a sentence."""
        return "; recovery (virt-sanlock-helper recover) starts it once its leases can be had" * self.recorded

    def see(self, run: int) -> None:
        """RUN is the one that lost its leases, unless that is known already."""
        if self.run is None:
            self.run = run
            if self.save_run:
                self.save_run(run)

    def follow(self, earlier: Progress) -> None:
        """Take over what EARLIER, of another action on the same domain, has learned of the same run."""
        if self.run is None and earlier.run is not None:
            self.name, self.process = earlier.name, earlier.process
            self.record_tried, self.record, self.recorded = (
                earlier.record_tried,
                earlier.record,
                earlier.recorded,
            )
            self.see(earlier.run)


class Attempt:
    """One try of an action on one domain, over one connection."""

    def __init__(
        self,
        connection: Any,
        request: Request,
        progress: Progress,
        given_up: Callable[[], bool],
        local: LocalDomains | None = None,
        recorder: RecoveryRecorder | None = None,
        await_slot: Callable[[], bool] = lambda: False,
    ) -> None:
        """GIVEN_UP says whether nobody waits for this try any more.

        LOCAL is what the host knows of its domains, None for a domain that is no QEMU process of this host.
        NOTES takes down what recovery needs.  AWAIT_TURN returns when the domain may be destroyed, True when
        it has to be read again since that took so long.
        """
        self.connection = connection
        self.request = request
        self.progress = progress
        self.local = local
        self.recorder = recorder
        self.await_slot = await_slot
        self._given_up = given_up
        self.domain: Any = None

    def look(self) -> int | None:
        """Look the domain up.

        Returns its id, -1 when it is not active, None when libvirtd does not know it (any more).  Raises
        PermanentError when libvirtd never knew it and the host does not know it either, TransientError when
        libvirtd does not answer.
        """
        progress, request = self.progress, self.request
        is_first = self.domain is None
        try:
            self.domain = self.connection.lookupByUUIDString(request.uuid)
        except libvirt.libvirtError as error:
            if is_no_domain(error) and (progress.run is not None or self.local is not None):
                return None
            raise failure("look up the domain", error) from error
        run: int = self.domain.ID()
        progress.name = progress.name or self.domain.name()
        if run != _OFF:
            since = request.deadline.start
            if is_first and self.local and self.local.is_another_run(request.uuid, run, since):
                progress.another = run
            progress.see(_OFF if run == progress.another else run)
        return run

    def state(self) -> tuple[int, int]:
        """The domain's virDomainState now and its reason; shut off when libvirtd no longer knows it."""
        try:
            state, reason = self.domain.state()
        except libvirt.libvirtError as error:
            if is_no_domain(error):
                return libvirt.VIR_DOMAIN_SHUTOFF, 0
            raise failure("read the domain's state", error) from error
        return int(state), int(reason)

    def change(self, what: str, did: str, call: Callable[[], Any]) -> None:
        """Make one CALL that changes the domain; DID is the word for it in the journal.

        Raises GivenUpError instead of calling when nobody waits for this try any more; TransientError or
        PermanentError when the call fails.
        """
        if self._given_up():
            raise GivenUpError(what, "this try was given up")
        self.progress.calling.add(self)
        try:
            call()
        except libvirt.libvirtError as error:
            raise failure(what, error) from error
        finally:
            self.progress.calling.discard(self)
        self.progress.did = did

    def processes(self) -> list[Process]:
        """What may be the process of the run that lost its leases: the proven one, else all that look so."""
        if self.local is None:
            return []
        if self.progress.process is not None:
            return [self.progress.process]
        return self.local.processes(self.request.uuid, self.request.deadline.start)

    def verify_over(self) -> None:
        """Raise TransientError when a process of the run lives on, and does not hold no lease."""
        local = self.local
        for process in self.processes():
            if local is None or process.is_over():
                continue
            what = f"verify that it is off: process {process.pid} of it is still there"
            try:
                held = local.held_by(process)
            except LeasesUnknownError as error:
                raise TransientError(what, f"its leases cannot be read: {error}") from error
            if held:
                raise TransientError(
                    what, f"it holds {', '.join(map(str, held))}, and libvirtd has it as off"
                )

    def outcome(self, verified: str, remark: str = "", reached: bool = True) -> Outcome:
        """The Outcome of a domain that is safe."""
        self.progress.safe = True
        return Outcome(self.progress.found, self.progress.did, verified, remark, reached)


def poweroff(attempt: Attempt) -> Outcome:
    """Destroy the domain without grace; the goal is that the run which lost its leases is over."""
    return _poweroff(attempt, "poweroff")


def _poweroff(attempt: Attempt, action: str) -> Outcome:
    progress = attempt.progress
    run = attempt.look()
    if not _still_runs(attempt, run):
        if progress.found not in ("", "off"):
            _see_xml(attempt, run)
        _see_end(progress)
        return _ended(attempt, run)
    state, reason = attempt.state()
    progress.found = progress.found or state_name(state)
    if runs_elsewhere(state, reason):
        return _moved(attempt)
    # A record there is of a domain that was in use, and may have been paused by an earlier request since.
    if action == "restart" or progress.record is not None or _is_in_use(state, reason):
        _write_record(attempt, action)
    if attempt.await_slot():
        run = attempt.look()
        if not _still_runs(attempt, run):
            return _ended_meanwhile(attempt, run)
        if runs_elsewhere(*attempt.state()):
            return _moved(attempt)
    try:
        attempt.change("destroy the domain", "destroyed", attempt.domain.destroy)
    except (TransientError, PermanentError) as error:
        # It may be over all the same: it ended while we worked, or only the answer was lost.
        now = _look_again(attempt, error)
        if _still_runs(attempt, now):
            raise
        if now is None and isinstance(error, PermanentError):
            # A transient domain that was gone before the call: libvirt's log of it is on a disk, and has why.
            progress.xml = None
            progress.xml_missing = "it ended before it was destroyed, and may have been migrated"
        return _ended_meanwhile(attempt, now)
    now = attempt.look()
    if _still_runs(attempt, now):
        raise TransientError("destroy the domain", "it is still active after the call")
    _see_xml(attempt, now)
    return attempt.outcome(_over(attempt, now))


def _see_end(progress: Progress) -> None:
    """The run is over before this try: it was so at first, or an earlier try had no answer."""
    if not progress.found:
        progress.found = "off"
    elif progress.found != "off" and progress.did == "nothing to do":
        progress.did = "it ended meanwhile"


def _ended_meanwhile(attempt: Attempt, run: int | None) -> Outcome:
    attempt.progress.did = "it ended meanwhile"
    _see_xml(attempt, run)
    return _ended(attempt, run)


def _ended(attempt: Attempt, run: int | None, remark: str = "") -> Outcome:
    """The Outcome of a run that is over; REMARK is for one that no other host has taken over."""
    verified = _over(attempt, run)
    migrated = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED)
    if run == _OFF and attempt.state() == migrated:
        _leave_to_another_host(attempt)
        remark = _MIGRATED
    elif run is None and attempt.progress.migrates:
        # A transient domain is gone from libvirt with its reason: recovery reads libvirt's log of it.
        remark = _MIGRATED
    return attempt.outcome(verified, remark)


def _moved(attempt: Attempt) -> Outcome:
    """The Outcome of a migration's source after the switch to post-copy; TransientError with leases held.

    The guest runs on the other host, and takes the rest of its memory from here: to destroy the domain kills
    the guest there.
    """
    verified, remark = _leases_given_up(attempt, state_name(libvirt.VIR_DOMAIN_PAUSED))
    _leave_to_another_host(attempt)
    return attempt.outcome(verified, f"{_SWITCHED}; {remark}" if remark else _SWITCHED)


def _leave_to_another_host(attempt: Attempt) -> None:
    """Leave nothing to recovery: what another host runs must not run here as well."""
    progress = attempt.progress
    progress.moved = True
    if progress.recorded and attempt.recorder is not None:
        attempt.recorder.drop(attempt.request.uuid)
        progress.recorded = False


def restart(attempt: Attempt) -> Outcome:
    """Power the domain off, verified; then one try to start it again.

    Safety rests on the poweroff alone: an Outcome that is not reached means that the domain is off.
    """
    progress = attempt.progress
    off = _poweroff(attempt, "restart")
    if progress.moved:
        return off
    if progress.record is not None and progress.record.action != "restart":
        # An earlier request has ended the run.
        _complete(attempt, progress.record, "restart", _is_persistent(attempt))
    if _runs_again(attempt, attempt.look()):
        return _restarted(attempt)
    if progress.start_error:
        return _not_started(attempt, off, progress.start_error)
    if progress.calling:
        # An earlier destroy that has not returned would hit the new run.
        raise TransientError("start the domain", "an earlier call for it has not returned yet")
    start = _starter(attempt)
    if start is None:
        return _not_started(attempt, off, progress.xml_missing)
    try:
        attempt.change("start the domain", f"{progress.did}, started again", start)
        progress.start_error = "it was off again after the start"
    except (TransientError, PermanentError) as error:
        progress.start_error = str(error)
    if _runs_again(attempt, attempt.look()):
        return _restarted(attempt)
    return _not_started(attempt, off, progress.start_error)


def pause(attempt: Attempt) -> Outcome:
    """Suspend the domain; the goal is a domain paused for good whose process holds no lease any more."""
    progress = attempt.progress
    run = attempt.look()
    if not _still_runs(attempt, run):
        return _nothing_to_pause(attempt, run)
    state, reason = attempt.state()
    progress.found = progress.found or _found(state, reason)
    if runs_elsewhere(state, reason):
        return _moved(attempt)
    if _is_in_use(state, reason):
        _write_record(attempt, "pause")
    if state not in _STOPPED:
        now = _suspend(attempt, state)
        if not _still_runs(attempt, now):
            return _nothing_to_pause(attempt, now)
        state, reason = attempt.state()
        if state not in _STOPPED:
            raise TransientError("suspend the domain", f"it is {state_name(state)} after the call")
        if runs_elsewhere(state, reason):
            return _moved(attempt)
    if state == libvirt.VIR_DOMAIN_CRASHED:
        _see_crash_last(attempt)
    else:
        _end_job(attempt, state, reason)
    return attempt.outcome(*_leases_given_up(attempt, state_name(state)))


def _suspend(attempt: Attempt, state: int) -> int | None:
    """Suspend a domain that is in STATE; returns its id after that, as look() does."""
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        _wake_up(attempt)
    _end_dump(attempt)
    did = attempt.progress.did
    did = "suspended" if did == "nothing to do" else f"{did}, suspended"
    try:
        attempt.change("suspend the domain", did, attempt.domain.suspend)
    except (TransientError, PermanentError) as error:
        now = _look_again(attempt, error)
        if _still_runs(attempt, now) and attempt.state()[0] not in _STOPPED:
            raise
        return now
    return attempt.look()


def _wake_up(attempt: Attempt) -> None:
    """Wake up a guest that sleeps; raises TransientError, since libvirt learns of that a moment later.

    It holds its leases and runs on at any time, by its clock or its network, and libvirt suspends no such
    domain (qemuDomainSuspend() in libvirt src/qemu/qemu_driver.c).
    """
    attempt.change("wake the guest up", "woken up", attempt.domain.pMWakeup)
    raise TransientError("suspend the domain", "it was pmsuspended, and was woken up for that")


def _see_crash_last(attempt: Attempt) -> None:
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


def _is_in_use(state: int, reason: int) -> bool:
    """Whether the domain is to come back: not from an administrator's own pause, nor from its own end."""
    is_paused = state == libvirt.VIR_DOMAIN_PAUSED
    return state in _IN_USE or (is_paused and not is_administrators_pause(state, reason))


def _end_job(attempt: Attempt, state: int, reason: int) -> None:
    """See that a paused domain stays so: TransientError while a job of libvirt's may let it run on.

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


def _end_dump(attempt: Attempt) -> None:
    """Abort the live dump of a running domain: libvirt suspends no domain before its dump has ended.

    Others are left alone: beside a backup, a migration or a live snapshot a domain can be suspended
    (qemuDomainObjSetAsyncJobMask() in libvirt src/qemu), and _end_job() sees to the rest.
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


def _leases_given_up(attempt: Attempt, stopped: str) -> tuple[str, str]:
    """What was verified of a STOPPED domain, paused or crashed, and a note.

    Raises TransientError while it still holds leases.

    libvirt releases the leases when the guest's processors have stopped, and only warns in its own log when
    that fails (qemuProcessStopCPUs() in libvirt src/qemu/qemu_process.c).
    """
    local, progress = attempt.local, attempt.progress
    if local is None:
        return stopped, "its leases were not read: it is no QEMU process of this host"
    processes = attempt.processes()
    if not processes:
        raise TransientError("read its leases", f"it is {stopped}, but its process was not found")
    held: dict[Process, str] = {}
    try:
        for process in processes:
            names = ", ".join(map(str, local.held_by(process)))
            if names:
                held[process] = names
    except LeasesUnknownError as error:
        if error.absent:
            return stopped, f"its leases were not read: {error}"
        raise TransientError("read its leases", f"it is {stopped}, but {error}") from error
    if not held:
        return f"{stopped}, no lease held", ""
    # The first reading may have come just before libvirt's own release.
    if progress.held_before:
        return _release(attempt, local, held, stopped)
    progress.held_before = True
    who = " and ".join(f"process {process.pid} still holds {names}" for process, names in held.items())
    raise TransientError("pause the domain", f"it is {stopped}, but {who}")


def _release(
    attempt: Attempt, local: LocalDomains, held: dict[Process, str], stopped: str
) -> tuple[str, str]:
    """Give up the leases of the STOPPED domain's own processes, in libvirt's stead.

    A libvirtd that ends after QEMU has stopped the processors and before it has released the leases leaves
    them for good: the next one finds the domain paused, and to suspend it again does nothing
    (qemuDomainSuspend() in libvirt src/qemu/qemu_driver.c).  libvirt cannot release a lease either whose path
    sanlock's text of it escapes: one with a blank, say.
    """
    what, names = f"release the leases of the {stopped} domain", ", ".join(held.values())
    try:
        for process in held:
            local.release(process, attempt.request.uuid)
        left = any(local.held_by(process) for process in held)
    except LeasesUnknownError as error:
        raise TransientError(what, f"{names}: {error}") from error
    if left or attempt.state()[0] not in _STOPPED:
        raise TransientError(what, f"{names}: it was resumed meanwhile")
    return f"{stopped}, no lease held", f"libvirtd had left {names} with it: released"


def _write_record(attempt: Attempt, action: str) -> None:
    """Complete what recovery needs, before the domain is touched.

    The record is there already where the host knew the domain without libvirtd (see preparation.py).  Every
    wait in here is bounded, and a failure is only noted: the virtual machine's safety must not suffer.
    """
    progress, request, recorder = attempt.progress, attempt.request, attempt.recorder
    record = progress.record
    if record is not None:
        # After a destroy libvirtd shows it without being asked: see _see_xml().
        _complete(attempt, record, action, _is_persistent(attempt) if action == "pause" else None)
    elif not progress.record_tried:
        progress.record_tried = True
        if action == "restart" or (action == "poweroff" and recorder is not None):
            _save_transient_xml(attempt)
        if recorder is not None:
            run = _OFF if progress.run is None else progress.run
            record = recorder.make_record(request, progress.name, action, progress.found, run)
            record.xml = progress.xml or ""
            progress.recorded = recorder.write(record, progress.process or _holder(attempt))


def _holder(attempt: Attempt) -> Process | None:
    """The one process that has the domain's UUID and holds leases, where libvirt has no status file of it."""
    local = attempt.local
    if local is None:
        return None
    try:
        found = [process for process in attempt.processes() if local.held_by(process)]
    except (TransientError, LeasesUnknownError):
        return None  # the record says so
    return found[0] if len(found) == 1 else None


def _see_xml(attempt: Attempt, run: int | None) -> None:
    """Complete the record of a run that is over: what libvirtd knows still, as RUN shows, is persistent.

    Where another run is active already, recovery asks.
    """
    record = attempt.progress.record
    if record is not None:
        _complete(attempt, record, record.action, {None: False, _OFF: True}.get(run))


def _is_persistent(attempt: Attempt) -> bool | None:
    """Whether libvirtd keeps a definition of the domain; None where it does not say, and recovery asks."""
    try:
        return attempt.domain is not None and bool(attempt.domain.isPersistent())
    except libvirt.libvirtError as error:
        return False if is_no_domain(error) else None


def _complete(attempt: Attempt, record: Record, action: str, is_persistent: bool | None) -> None:
    """Write RECORD again where libvirtd knows better: a persistent domain is started from its own definition.

    An earlier action on the same run may have left it: what this one does is what recovery has to undo.
    """
    progress = attempt.progress
    before = record.action, record.xml
    record.action = action
    if record.xml and progress.xml is None:
        if is_persistent:
            record.xml = ""
        elif is_persistent is not None:
            progress.xml = record.xml
    # What could not be written has been logged, and no try would make room for it.
    if attempt.recorder is not None and progress.recorded and before != (record.action, record.xml):
        progress.recorded = attempt.recorder.rewrite(record)


def _save_transient_xml(attempt: Attempt) -> None:
    """Keep the XML of a transient domain, which is gone from libvirt once it is off."""
    domain, progress, recorder = attempt.domain, attempt.progress, attempt.recorder
    seconds = recorder.xml_seconds if recorder else XML_SECONDS

    def ask() -> str:
        return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE))

    progress.xml_missing = ""
    came = True
    try:
        # Of high priority, as the destroy is: a libvirtd that has no worker for one has none for the other
        # (libvirt src/remote/remote_protocol.x).
        if domain.isPersistent():
            return
        progress.xml = call_with_timeout(ask, seconds)
    except libvirt.libvirtError as error:
        progress.xml_missing = str(failure("read the domain's XML", error))
    except NoAnswerError:
        progress.xml_missing = f"libvirtd did not give its XML within {seconds:g} s"
        came = False
    if recorder:
        recorder.xml_came(came)


def _starter(attempt: Attempt) -> Callable[[], Any] | None:
    """The call that starts the domain again, None when there is no XML to start it from."""
    progress = attempt.progress
    if progress.xml is not None:
        xml = progress.xml
        return lambda: attempt.connection.createXML(xml, 0)
    if attempt.look() is None:
        progress.xml_missing = progress.xml_missing or "libvirt does not know it"
        return None
    create: Callable[[], Any] = attempt.domain.create
    return create


def _restarted(attempt: Attempt) -> Outcome:
    if attempt.progress.recorded and attempt.recorder is not None:
        attempt.recorder.drop(attempt.request.uuid)
    return attempt.outcome("running again")


def _not_started(attempt: Attempt, off: Outcome, why: str) -> Outcome:
    remark = f"the VM is safe, but was not started again: {why}{attempt.progress.next}"
    return attempt.outcome(off.verified, remark, reached=False)


def _nothing_to_pause(attempt: Attempt, run: int | None) -> Outcome:
    _see_end(attempt.progress)
    return _ended(attempt, run, "there is nothing to pause")


def _look_again(attempt: Attempt, error: HelperError) -> int | None:
    """Look again after ERROR, which is what counts when that fails as well."""
    try:
        return attempt.look()
    except HelperError:
        raise error from None


def _still_runs(attempt: Attempt, run: int | None) -> bool:
    """Whether the run that lost its leases is active."""
    progress = attempt.progress
    return run not in (None, _OFF, progress.another) and run == progress.run


def _runs_again(attempt: Attempt, run: int | None) -> bool:
    """Whether another run is active.

    Raises TransientError while its start is under way, which may still fail.
    """
    progress = attempt.progress
    if run in (None, _OFF) or (run == progress.run and run != progress.another):
        return False
    state, reason = attempt.state()
    if state in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
        return False
    if ends_by_itself(state, reason):
        raise TransientError("start the domain", f"it is {describe(state, reason)}")
    return True


def _over(attempt: Attempt, run: int | None) -> str:
    """What was verified of a run that is over, by libvirtd's word and by its process; TransientError else."""
    attempt.verify_over()
    attempt.progress.see(_OFF)
    if run is None and attempt.progress.name:
        return "off, libvirt no longer knows it"
    if run is None:
        return "off, libvirt does not know it, and no process of this host runs it"
    return "off" if run == _OFF else "over, another run was started since"


ACTIONS: dict[str, Callable[[Attempt], Outcome]] = {"poweroff": poweroff, "restart": restart, "pause": pause}
