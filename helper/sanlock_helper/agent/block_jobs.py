# SPDX-License-Identifier: LGPL-2.1-or-later
"""Block jobs: what QEMU reads and writes beside the guest, and goes on with while its processors stand still.

A pull, a commit or a copy writes to the disks of a domain that is paused and whose leases libvirt has given
up (virDomainLockProcessPause() in libvirt src/locking/domain_lock.c), when another host may have them.  So a
paused domain is safe only without one.  One that is aborted leaves the guest's disks as it found them.
"""

from __future__ import annotations

from pyexpat import ParserCreate

import libvirt

from ..errors import PermanentError, TransientError
from ..virt.connection import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .attempt import Attempt

# A backup reads the disks, and writes to a file of its own.
_HARMLESS = libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP

WHAT = "pause the domain"

_TARGET = ["domain", "devices", "disk", "target"]


def end_block_jobs(attempt: Attempt) -> None:
    """Abort the block jobs of the domain, one of this host's; raises TransientError unless it had none."""
    local, progress = attempt.local, attempt.progress
    if local is None:
        return
    noted = local.block_jobs(attempt.request.uuid, progress.run)
    active = [
        target for target in sorted(_disks(attempt) if noted is None else noted) if _has(attempt, target)
    ]
    if not active:
        return
    disks = ", ".join(active)
    did = f"aborted the block job of {disks}"
    if progress.did != "nothing to do":
        did = progress.did if did in progress.did else f"{progress.did}, {did}"
    for target in active:
        _abort(attempt, target, did)
    raise TransientError(WHAT, f"QEMU had a block job on {disks}: it was aborted, and its end is waited for")


def _abort(attempt: Attempt, target: str, did: str) -> None:
    def abort() -> None:
        attempt.domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC)

    try:
        attempt.change("abort its block job", did, abort)
    except (TransientError, PermanentError) as error:
        raise TransientError(
            WHAT, f"QEMU has a block job on {target}, and writes to its disks; {error}"
        ) from error


def _has(attempt: Attempt, target: str) -> bool:
    """Whether QEMU has a job on the disk TARGET that writes to it.  TransientError when that is not known."""
    try:
        job = attempt.domain.blockJobInfo(target)
    except libvirt.libvirtError as error:
        raise TransientError(WHAT, str(failure(f"read the block job of {target}", error))) from error
    return bool(job) and job.get("type") != _HARMLESS


def _disks(attempt: Attempt) -> list[str]:
    """The targets of all disks, where libvirt's status file of the domain cannot be read."""
    try:
        xml = attempt.domain.XMLDesc(0)
    except libvirt.libvirtError as error:
        raise TransientError(WHAT, str(failure("read its disks", error))) from error
    found: list[str] = []
    path: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name)
        if path == _TARGET:
            found.append(attributes["dev"])

    parser = ParserCreate("utf-8")
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: path.pop()
    parser.Parse(xml.encode(), True)
    return found
