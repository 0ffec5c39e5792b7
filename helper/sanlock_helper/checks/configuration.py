# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's qemu.conf and qemu-sanlock.conf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import HelperError
from ..leases.sanlock_daemon import DEFAULT_IO_TIMEOUT
from ..leases.sanlock_status import JoinedLockspace
from ..virt.libvirt_conf import Setting, Value, given_again
from ..virt.qemu_sanlock_conf import LockConf
from .finding import FAIL, Finding, failed, not_checked, passed, warned
from .registry import check
from .remedies import give, remove, restart
from .sanlock import MAX_HOST_ID

QEMU_CONF = Path("/etc/libvirt/qemu.conf")

_UNPROTECTED = "set it with no VM running: one that runs has no lease until it is started again"


@check(
    "lock driver",
    "libvirt's sanlock driver is installed",
    reads=lambda facts: (
        facts.plugin_path,
        facts.lock_driver,
        facts.distribution.install("libvirt's sanlock driver"),
    ),
)
def check_lock_driver(path: Path | None, loaded: str | None, remedy: str) -> Finding:
    """Whether libvirt's plugin is there: in PATH, or LOADED by the running daemon from elsewhere."""
    if path is not None:
        return passed(f"{path}")
    if loaded == "sanlock":
        return passed("the running daemon has loaded it")
    found = "lock-driver/sanlock.so is not there: with lock_manager = sanlock libvirt's daemon does not start"
    return failed(found, remedy)


@check(
    "lock_manager",
    'lock_manager = "sanlock" in /etc/libvirt/qemu.conf, in force',
    reads=lambda facts: (
        facts.qemu_conf.get("lock_manager"),
        facts.host.daemon,
        facts.lock_driver,
        facts.qemu_settings,
        facts.host.etc / "libvirt/qemu.conf",
    ),
)
def check_lock_manager(
    value: Value | None,
    daemon: str,
    loaded: str | None = None,
    settings: Sequence[Setting] = (),
    path: Path = QEMU_CONF,
) -> Finding:
    """VALUE is what counts of lock_manager in qemu.conf, which is PATH and has SETTINGS.

    LOADED is what the running DAEMON has: see HostFiles.lock_driver().
    """
    if value == "sanlock":
        if loaded in (None, "sanlock"):
            return passed("sanlock")
        found = f"sanlock in the file, and {loaded or 'none'} in the running {daemon}: it was started before"
        return failed(found, f"{restart(daemon)}  # {_UNPROTECTED}")
    given = [setting for setting in settings if setting.name == "lock_manager"]
    if value in (None, "nop", ""):
        found = "none: no lease is taken for any disk"
    else:
        found = f"{value}: sanlock is not used"
    ours = next((setting.line for setting in given if setting.value == "sanlock"), None)
    if ours is not None:
        counts = [setting.line for setting in given if setting.line < ours]
        found = f"{found}; line {given[0].line} of {path} counts, which comes before line {ours} (sanlock)"
        remedy = remove(path, settings, counts)
    else:
        remedy = give(path, settings, [("lock_manager", "sanlock")])
    if not remedy:
        return failed(found, f'set lock_manager = "sanlock" in {path}, once; then {restart(daemon)}')
    return failed(found, f"{remedy} && {restart(daemon)}  # {_UNPROTECTED}")


@check(
    "host_id",
    f"1 to {MAX_HOST_ID}, another one on each host",
    reads=lambda facts: (facts.lock_conf, facts.joined),
    unread=FAIL,
)
def check_host_id(conf: LockConf, joined: JoinedLockspace | None) -> Finding:
    """The host_id of qemu-sanlock.conf; JOINED is the lockspace as it is in use, if it is."""
    remedy = "set host_id in /etc/libvirt/qemu-sanlock.conf, then restart libvirt's daemon"
    if not conf.auto_disk_leases:
        return passed("not used: auto_disk_leases is off")
    if not 1 <= conf.host_id <= MAX_HOST_ID:
        return failed(f"{conf.host_id}", remedy)
    if joined is not None and joined.host_id != conf.host_id:
        found = f"{conf.host_id} in the file, but the lockspace is joined as {joined.host_id}"
        return warned(found, "move the VMs away and restart sanlock and libvirt's daemon")
    return passed(f"{conf.host_id}")


@check(
    "io_timeout",
    "the same on every host, and in force",
    reads=lambda facts: (facts.lock_conf, facts.joined),
    unread=FAIL,
)
def check_io_timeout(conf: LockConf, joined: JoinedLockspace | None) -> Finding:
    """The io_timeout of qemu-sanlock.conf against that of the joined lockspace."""
    configured = conf.io_timeout or DEFAULT_IO_TIMEOUT
    if joined is None:
        return passed(f"{configured} s, when the lockspace is joined")
    if joined.io_timeout != configured:
        found = f"{configured} s in the file, but the lockspace was joined with {joined.io_timeout} s"
        return warned(found, "move the VMs away and restart sanlock and libvirt's daemon")
    return passed(f"{configured} s")


@check(
    "disk lease owner",
    "check_disk_lease_owner the same on every host, and known to libvirt",
    reads=lambda facts: (facts.lock_conf, facts.sanlock_plugin),
)
def check_lease_owner(conf: LockConf, plugin: bytes | None) -> Finding:
    """Whether libvirt ties a disk's lease to one domain; PLUGIN is its sanlock driver, None if not found.

    With it libvirt writes the domain's UUID into the lease, and gives no other domain the disk
    (virLockManagerSanlockCheckOwner() in src/locking/lock_driver_sanlock.c).  An older one reads over it.
    """
    if not conf.check_disk_lease_owner:
        return passed("not checked")
    if plugin is None:
        return not_checked("check_disk_lease_owner is on, and libvirt's sanlock driver was not found")
    if b"check_disk_lease_owner" not in plugin:
        found = "check_disk_lease_owner is on, and this libvirt does not know it: no owner is checked"
        remedy = "update libvirt, or remove it from /etc/libvirt/qemu-sanlock.conf"
        return warned(found, remedy)
    return passed("checked: a disk is given to no domain of another UUID")


@check(
    "configuration files",
    "files that are read, and each setting in them once",
    reads=lambda facts: (facts.files, facts.sanlock_conf),
)
def check_files(files: Mapping[str, list[Setting] | HelperError], last_counts: str) -> Finding:
    """Whether libvirt reads each of FILES (path to settings, or why not), and whether a setting comes twice.

    Of two libvirt takes the first; sanlock the last, in LAST_COUNTS.
    """
    refused = [error for error in files.values() if isinstance(error, HelperError)]
    if refused:
        found = "; ".join(f"{error.what}: {error.why}" for error in refused)
        return failed(found, refused[0].hint or "correct it")
    twice, commands, lines = [], [], []
    for path, settings in files.items():
        assert not isinstance(settings, HelperError)
        again = given_again(settings[::-1] if path == last_counts else settings)
        twice += [
            f"{path}: {counts.name} in line {counts.line} counts, not in line {other.line}"
            for counts, other in again
        ]
        others = [other.line for counts, other in again if not _is_wanted(counts, other)]
        lines += [f"line {line} of {path}" for line in others]
        commands += [remove(path, settings, others)] if others else []
    if twice:
        text = f"remove {', '.join(lines)}" if lines else "see lock_manager"
        return warned(
            "; ".join(twice), f"{' && '.join(commands)}  # {text}" if all(commands) and lines else text
        )
    return passed(f"{', '.join(files) or 'none'}")


def _is_wanted(counts: Setting, other: Setting) -> bool:
    """Whether OTHER, which does not count, is the one that is wanted: check_lock_manager() is about that."""
    return other.name == "lock_manager" and other.value == "sanlock" != counts.value
