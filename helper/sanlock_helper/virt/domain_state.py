# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the state of a domain and its reason mean for a lease: which states last, and which end by themselves.

The numbers are virDomainState and the enumerations of its reasons (libvirt
include/libvirt/libvirt-domain.h), a part of libvirt's ABI.  The reasons stand here by number: an older
libvirt-python has no names for the newer ones.
"""

from __future__ import annotations

import libvirt

# virsh's words (libvirt tools/virsh-domain-monitor.c); the place of a word is its number.
STATES = ("no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended")
_RUNNING_REASONS = (
    "unknown", "booted", "migrated", "restored", "from snapshot", "unpaused", "migration canceled",
    "save canceled", "event wakeup", "crashed", "post-copy", "post-copy failed",
)  # fmt: skip
_PAUSED_REASONS = (
    "unknown", "user", "migrating", "saving", "dumping", "I/O error", "watchdog", "from snapshot",
    "shutting down", "creating snapshot", "crashed", "starting up", "post-copy", "post-copy failed",
    "api error",
)  # fmt: skip
_SHUTOFF_REASONS = (
    "unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot", "daemon",
)  # fmt: skip
_REASONS: dict[int, tuple[str, ...]] = {
    libvirt.VIR_DOMAIN_NOSTATE: ("unknown",),
    libvirt.VIR_DOMAIN_RUNNING: _RUNNING_REASONS,
    libvirt.VIR_DOMAIN_BLOCKED: ("unknown",),
    libvirt.VIR_DOMAIN_PAUSED: _PAUSED_REASONS,
    libvirt.VIR_DOMAIN_SHUTDOWN: ("unknown", "user"),
    libvirt.VIR_DOMAIN_SHUTOFF: _SHUTOFF_REASONS,
    libvirt.VIR_DOMAIN_CRASHED: ("unknown", "panicked"),
    libvirt.VIR_DOMAIN_PMSUSPENDED: ("unknown",),
}

RUNNING_STATES = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)

# The state and the reason of a guest that QEMU has stopped for an I/O error.
IO_ERROR_STOP = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)

# The word for a pause that libvirt takes for a job of its own, or QEMU before the job is known: when the job
# ends, libvirt or QEMU goes on from here, in running or in shut off.
# "shutting down" ends in shut off, or in running when libvirt reboots the guest (qemuProcessFakeReboot()).
_PASSING_PAUSES = frozenset(
    ("migrating", "saving", "dumping", "shutting down", "creating snapshot", "starting up", "post-copy")
)
# The source of a migration that has switched to post-copy: it never runs here again.
_LEFT_BEHIND = frozenset(("post-copy", "post-copy failed"))
# Out of these a domain comes by a wish of the administrator's only.
_ADMINISTRATORS_PAUSES = frozenset(("user", "from snapshot"))


def state_name(state: int) -> str:
    """virsh's word for the virDomainState STATE."""
    return STATES[state] if 0 <= state < len(STATES) else f"state {state}"


def describe(state: int, reason: int) -> str:
    """virsh's words for what virDomainGetState() gives, as in "paused (starting up)".

    A reason that is unknown, to libvirt or to this program, is left out or given as its number.
    """
    words = _REASONS.get(state, ())
    if not 0 <= reason < len(words):
        return f"{state_name(state)} (reason {reason})"
    return state_name(state) if words[reason] == "unknown" else f"{state_name(state)} ({words[reason]})"


def ends_by_itself(state: int, reason: int) -> bool:
    """Whether libvirt leaves this state without being asked: a pause that ends so is no safe state.

    True for a pause of one of libvirt's own jobs, for a guest that is shutting down, and for a pause whose
    reason is a number that this program does not know.  False for states that last, which running is one of.
    "unknown" lasts: it is the reason of a QEMU that libvirt found paused when it started
    (qemuMonitorVMStatusToPausedReason()), and to suspend such a domain changes nothing.

    A state alone is no proof: libvirt keeps "migrating" for a QEMU that it found after a migration, with no
    job under way.  virDomainGetJobInfo() reports whether there is one.
    """
    if state == libvirt.VIR_DOMAIN_SHUTDOWN:
        return True
    if state != libvirt.VIR_DOMAIN_PAUSED:
        return False
    return not 0 <= reason < len(_PAUSED_REASONS) or _PAUSED_REASONS[reason] in _PASSING_PAUSES


def runs_elsewhere(state: int, reason: int) -> bool:
    """Whether the guest went on to another host, for which QEMU here only keeps the rest of its memory.

    libvirt lets no such domain run on here, whether the migration succeeds or fails
    (qemuMigrationSrcPostcopyFailed() in libvirt src/qemu/qemu_migration.c).
    """
    return (
        state == libvirt.VIR_DOMAIN_PAUSED
        and 0 <= reason < len(_PAUSED_REASONS)
        and _PAUSED_REASONS[reason] in _LEFT_BEHIND
    )


def is_administrators_pause(state: int, reason: int) -> bool:
    """Whether the domain is paused because an administrator, or a program, asked libvirt for that.

    The helper's own suspend has the same reason.
    """
    return (
        state == libvirt.VIR_DOMAIN_PAUSED
        and 0 <= reason < len(_PAUSED_REASONS)
        and _PAUSED_REASONS[reason] in _ADMINISTRATORS_PAUSES
    )
