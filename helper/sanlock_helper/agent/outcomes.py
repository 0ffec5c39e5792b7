# SPDX-License-Identifier: LGPL-2.1-or-later
"""How an attempt ends: the run is over, another host has it, or its process holds no lease any more."""

from __future__ import annotations

import libvirt

from ..errors import LeasesUnknownError, TransientError
from ..events import STILL_HOLDS, outcome_text
from ..virt.domain_state import state_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.local_domains import LocalDomains
    from ..virt.processes import Process
    from .attempt import Attempt

# The id of a domain that is not active.
OFF = -1

# States in which QEMU's processors stand still, and which only an administrator may end: see pause.py.
STOPPED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_CRASHED)

_MIGRATED = "it was migrated to another host"
_SWITCHED = "its guest runs on another host since its migration switched to post-copy"


class Outcome:
    """How an action on a domain that is safe ended: reached or not, and the words for the journal.

    `found`, `did` and `verified` are parts of the event; `remark` is its note.
    """

    __slots__ = ("did", "found", "reached", "remark", "verified")

    def __init__(self, found: str, did: str, verified: str, remark: str = "", reached: bool = True) -> None:
        self.found = found
        self.did = did
        self.verified = verified
        self.remark = remark
        self.reached = reached

    def __str__(self) -> str:
        return outcome_text(self.found, self.did, self.verified, self.remark)


def ended(attempt: Attempt, run: int | None, remark: str = "") -> Outcome:
    """The Outcome of a run that is over, with RUN the domain's id now (see Attempt.lookup()).

    REMARK is for one that no other host has taken over.
    """
    verified = attempt.over(run)
    migrated = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED)
    if run == OFF and attempt.state() == migrated:
        _leave_to_another_host(attempt)
        remark = _MIGRATED
    elif run is None and attempt.progress.migrates:
        # libvirt has forgotten a transient domain, and why it ended: recovery reads libvirt's log of it.
        remark = _MIGRATED
    return attempt.outcome(verified, remark)


def moved(attempt: Attempt) -> Outcome:
    """The Outcome of a migration's source after the switch to post-copy; TransientError with leases held.

    The guest runs on the other host, and takes the rest of its memory from here: to destroy the domain kills
    the guest there.
    """
    verified, remark = leases_given_up(attempt, state_name(libvirt.VIR_DOMAIN_PAUSED))
    _leave_to_another_host(attempt)
    return attempt.outcome(verified, f"{_SWITCHED}; {remark}" if remark else _SWITCHED)


def _leave_to_another_host(attempt: Attempt) -> None:
    """Leave nothing to recovery: what another host runs must not run here as well."""
    progress = attempt.progress
    progress.moved = True
    if progress.recorded and attempt.recorder is not None:
        attempt.recorder.drop(attempt.request.uuid)
        progress.recorded = False


def leases_given_up(attempt: Attempt, stopped: str) -> tuple[str, str]:
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
    holders = " and ".join(f"process {process.pid}{STILL_HOLDS}{names}" for process, names in held.items())
    raise TransientError("pause the domain", f"it is {stopped}, but {holders}")


def _release(
    attempt: Attempt, local: LocalDomains, held: dict[Process, str], stopped: str
) -> tuple[str, str]:
    """Give up the leases of the STOPPED domain's own processes, in libvirt's stead.

    A libvirtd that ends after QEMU has stopped the processors and before it has released the leases leaves
    them for good: the next one finds the domain paused, and to suspend it again does nothing
    (qemuDomainSuspend() in libvirt src/qemu/qemu_driver.c).  libvirt cannot release a lease either whose path
    sanlock's text of it escapes: one with a blank, for example.
    """
    what, names = f"release the leases of the {stopped} domain", ", ".join(held.values())
    try:
        for process in held:
            local.release(process, attempt.request.uuid)
        left = any(local.held_by(process) for process in held)
    except LeasesUnknownError as error:
        raise TransientError(what, f"{names}: {error}") from error
    if left or attempt.state()[0] not in STOPPED:
        raise TransientError(what, f"{names}: it was resumed meanwhile")
    return f"{stopped}, no lease held", f"libvirtd had left {names} with it: released"
