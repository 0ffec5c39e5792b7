# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is asked for beside the leases before a guest is resumed that has stopped by an I/O error.

Its storage has failed, and no lockspace need have been lost: so its lockspaces have to be renewed since, and
its disks to be read.  A guest that stops again all the same is tried again, and given up in the end.
"""

from __future__ import annotations

import time
from typing import Callable

import libvirt

from ..errors import TransientError
from ..leases.held import Lease
from ..leases.lockspaces import Sanlock
from ..records.record import IO_ERROR, Record
from ..virt.domain_argument import as_argument
from ..virt.domain_state import IO_ERROR_STOP, describe
from ..virt.storage_pools import volume_path
from .disk_reads import DiskReads
from .lockspace_waits import FIRST_DELAY, LAST_DELAY
from .verdict import DropError, RefusalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirDomain

# How often in a row a guest is resumed that stops again, though its disks can be read: half a minute, by
# wait_before().
MOST_TRIES = 20
# The same where its disks cannot be asked, and only a try shows whether its storage is back: an hour.
MOST_BLIND_TRIES = 150

# Pauses that are still that one.  VIR_DOMAIN_PAUSED_API_ERROR, which libvirt-python has a name for since 9.2:
# libvirt could not let the domain go on (qemuProcessStartCPUs() in libvirt src/qemu/qemu_process.c).
_STILL = (libvirt.VIR_DOMAIN_PAUSED_IOERROR, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN, 14)

# The first tries come FIRST_DELAY after one another, and each further one a tenth later than the one before,
# as with lockspace_waits.delay().
_QUICK_TRIES = 10


def wait_before(record: Record) -> float:
    """Seconds until the guest of RECORD is tried, which is more each time it stops again."""
    if not record.tries:
        return 0.0
    tries = min(record.tries, MOST_BLIND_TRIES)
    return min(LAST_DELAY, FIRST_DELAY * 1.1 ** max(0, tries - _QUICK_TRIES))


class StoppedGuests:
    """Checks before a resume; several threads may use one."""

    def __init__(
        self,
        sanlock: Sanlock,
        reads: DiskReads | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """WALL is the time of day; CLOCK is CLOCK_MONOTONIC, which sanlock's timestamps are of."""
        self._sanlock = sanlock
        self._reads = reads or DiskReads()
        self._wall = wall
        self._clock = clock

    def check(self, domain: VirDomain, record: Record, reason: int, age: float) -> None:
        """Raise unless DOMAIN, paused for REASON, may go on as far as its storage is concerned.

        AGE: seconds that recovery has known RECORD.  Raises RefusalError, DropError, or a HelperError for
        what may pass.
        """
        _drop_if_paused_since(domain, record, reason)
        _refuse_after(MOST_BLIND_TRIES, record)
        self._await_renewal(record, age)
        if self._reads.check(domain.XMLDesc(0), lambda pool, name: volume_path(domain.connect(), pool, name)):
            _refuse_after(MOST_TRIES, record)

    def _await_renewal(self, record: Record, age: float) -> None:
        """sanlock reports one that is lost soon as healthy for a while: see leases.held.is_renewed()."""
        # The time of day may have been set back since.
        stopped_at = self._clock() - max(age, self._wall() - record.time)
        for name in sorted({lease.lockspace for lease in record.leases}):
            if not self._sanlock.renewed_since(name, stopped_at):
                raise TransientError(
                    "resume the domain", f"it stays paused: lockspace {name} was not renewed since it stopped"
                )


def _refuse_after(most: int, record: Record) -> None:
    if record.tries >= most:
        raise RefusalError(
            f"it was resumed {record.tries} times in a row and stopped again by an I/O error each time: "
            f"given up after {record.tries} tries"
        )


def _drop_if_paused_since(domain: VirDomain, record: Record, reason: int) -> None:
    name = as_argument(record.name, record.uuid)
    if reason not in _STILL:
        now = describe(libvirt.VIR_DOMAIN_PAUSED, reason)
        raise DropError(f"it had stopped by an I/O error, and is {now} now, which is left as it is")
    try:
        found = domain.diskErrors()
    except libvirt.libvirtError:
        return  # QEMU does not answer now: the guest finds out
    if libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE in found.values():
        disks = ", ".join(sorted(found))
        raise DropError(
            f"it stopped for want of space on {disks}, which is no outage; once there is space: "
            f"virsh resume {name}"
        )


def is_stopped(state: int, reason: int) -> bool:
    """Whether virDomainState STATE with its REASON is that of a guest that has stopped by an I/O error."""
    return (state, reason) == IO_ERROR_STOP


def note_stopped_again(record: Record) -> None:
    """The guest of RECORD was resumed, and has stopped again by an I/O error: what it held then.

    libvirt has taken each lease once for the resume.  If another host had one in between, its version is
    higher still, and the next try refuses it.
    """
    record.cause, record.mark, record.why = IO_ERROR, "", ""
    record.tries += 1
    record.leases = tuple(
        lease
        if lease.shared
        else Lease(lease.lockspace, lease.resource, lease.version + 1, lease.path, lease.offset)
        for lease in record.leases
    )
