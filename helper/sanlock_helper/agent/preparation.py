# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done for a request before its first try: name the domain, find its process, write its record.

libvirtd may be away for all of the time that there is.  The host itself knows enough: see local_domains.py.
"""

from __future__ import annotations

from ..errors import HelperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.local_domains import LocalDomains
    from .actions import Progress
    from .recorder import RecoveryRecorder
    from .requests import Request


def prepare(
    request: Request, progress: Progress, local: LocalDomains, recorder: RecoveryRecorder | None
) -> None:
    """Put what the host knows of the domain of REQUEST into PROGRESS, and write its record with NOTES.

    Raises nothing, and takes no longer than the bounds of LOCAL and NOTES.
    """
    try:
        run = local.run(request.uuid, request.deadline.start, request.pid)
    except HelperError:
        return  # the tries go on without
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
    progress.see(status.id)
