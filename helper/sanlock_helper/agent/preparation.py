# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done before a domain is touched: name it, find its process, write the record that recovery needs.

libvirtd may be away until the request expires.  The host itself knows enough before the first try:
see local_domains.py.  What only libvirtd knows is added by the try, once that answers.
"""

from __future__ import annotations

import libvirt

from ..errors import HelperError, LeasesUnknownError, TransientError
from ..threads import NoAnswerError, call_with_timeout
from ..virt.connection import failure, is_no_domain
from ..virt.domain_state import is_administrators_pause
from .outcomes import OFF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..records.record import Record
    from ..virt.local_domains import LocalDomains
    from ..virt.processes import Process
    from .attempt import Attempt, Progress
    from .recorder import RecoveryRecorder
    from .requests import Request

# How long the XML of a transient domain may take.
XML_SECONDS = 3.0

# States of a domain that is in use, beside a pause that no administrator asked for.
_IN_USE = (
    libvirt.VIR_DOMAIN_NOSTATE,
    libvirt.VIR_DOMAIN_RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED,
    libvirt.VIR_DOMAIN_PMSUSPENDED,
)


def prepare(
    request: Request, progress: Progress, local: LocalDomains, recorder: RecoveryRecorder | None
) -> None:
    """Put what the host knows of the domain of REQUEST into PROGRESS, and write its record with RECORDER.

    Raises nothing, and takes no longer than the bounds of LOCAL and RECORDER.
    """
    try:
        run = local.run(request.uuid, request.deadline.start, request.pid)
    except HelperError:
        return  # the tries go on without it
    status = run.status
    progress.process = run.process
    if status is None:
        return
    progress.name = status.name
    if run.is_over or run.process is None:
        return
    if progress.run is not None:
        # An agent that died since has done all this, before it touched the domain.
        progress.record_tried = progress.recorded = recorder is not None and recorder.has(request.uuid)
        return
    if recorder is not None:
        progress.record_tried = True
        progress.record = recorder.of_status(status, request.uri, request.action)
        progress.recorded = progress.record is not None and recorder.write(progress.record, run.process)
    progress.set_run(status.id)


def is_in_use(state: int, reason: int) -> bool:
    """Whether the domain is to come back: not from an administrator's own pause, nor from its own end."""
    is_paused = state == libvirt.VIR_DOMAIN_PAUSED
    return state in _IN_USE or (is_paused and not is_administrators_pause(state, reason))


def write_record(attempt: Attempt, action: str) -> None:
    """Complete what recovery needs, before the domain is touched.

    The record is there already where the host knew the domain without libvirtd (see prepare()).  Every
    wait in here is bounded, and a failure is only logged: the virtual machine's safety must not suffer.
    """
    progress, request, recorder = attempt.progress, attempt.request, attempt.recorder
    record = progress.record
    if record is not None:
        # Whether libvirtd keeps a definition is found out once the domain is safe: see complete_at_end() and
        # complete_paused().
        complete(attempt, record, action, None)
    elif not progress.record_tried:
        progress.record_tried = True
        if action == "restart" or (action == "poweroff" and recorder is not None):
            _save_transient_xml(attempt)
        if recorder is not None:
            run = OFF if progress.run is None else progress.run
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
        return None  # the record has that
    return found[0] if len(found) == 1 else None


def complete_at_end(attempt: Attempt, run: int | None) -> None:
    """Complete the record of a run that is over: what libvirtd knows still, as RUN shows, is persistent.

    Where another run is active already, recovery asks.
    """
    record = attempt.progress.record
    if record is not None:
        complete(attempt, record, record.action, {None: False, OFF: True}.get(run))


def complete_paused(attempt: Attempt) -> None:
    """Complete the record of a domain that is paused: libvirtd is asked whether it keeps a definition."""
    record = attempt.progress.record
    if record is not None:
        complete(attempt, record, record.action, is_persistent(attempt))


def is_persistent(attempt: Attempt) -> bool | None:
    """Whether libvirtd keeps a definition of the domain; None where it does not answer, and recovery asks."""
    try:
        return attempt.is_known and bool(attempt.domain.isPersistent())
    except libvirt.libvirtError as error:
        return False if is_no_domain(error) else None


def complete(attempt: Attempt, record: Record, action: str, is_persistent: bool | None) -> None:
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
    """Keep the XML of a transient domain, which libvirt forgets once it is off."""
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
