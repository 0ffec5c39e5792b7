# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's qemu.conf and qemu-sanlock.conf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from ..distribution import UNKNOWN, Distribution
from ..errors import HelperError
from ..leases.sanlock_daemon import DEFAULT_IO_TIMEOUT
from ..leases.sanlock_status import JoinedLockspace
from ..regular_file import read_regular
from ..virt.libvirt_conf import MAX_SIZE, Setting, Value, given_again, in_force, parse_settings, read_settings
from ..virt.qemu_sanlock_conf import DEFAULT_DIRECTORY, LOCKSPACE, LockConf, make_lock_conf
from . import conf_repair
from .finding import FAIL, Finding, failed, not_checked, passed, warned
from .registry import check
from .remedies import give, joined_anew, remove, restart
from .sanlock import MAX_HOST_ID, free_number, read_slots

if TYPE_CHECKING:
    from .facts import Facts

QEMU_CONF = Path("/etc/libvirt/qemu.conf")
LOCK_CONF = Path("/etc/libvirt/qemu-sanlock.conf")

_UNPROTECTED = "set it with no VM running: one that runs has no lease until it is started again"


@check(
    "lock driver",
    "libvirt's sanlock driver is installed",
    reads=lambda facts: (
        facts.plugin_path,
        facts.lock_driver,
        facts.distribution,
        [path for path, serves in facts.plugins.items() if not serves],
    ),
)
def check_lock_driver(
    path: Path | None,
    loaded: str | None,
    distribution: Distribution = UNKNOWN,
    others: Sequence[str] = (),
) -> Finding:
    """Whether libvirt's plugin is there: in PATH, or LOADED by the running daemon from elsewhere.

    The remedy is for DISTRIBUTION.  OTHERS are files in its place that this machine cannot load.
    """
    if path is not None:
        return passed(f"{path}")
    if loaded == "sanlock":
        return passed("the running daemon has loaded it")
    without = "with lock_manager = sanlock libvirt's daemon does not start"
    driver = "libvirt's sanlock driver"
    if others:
        found = f"{', '.join(others)}: no library for this machine, and there is no other one: {without}"
        return failed(found, distribution.reinstall(driver))
    return failed(f"lock-driver/sanlock.so is not there: {without}", distribution.install(driver))


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
    reads=lambda facts: (
        facts.lock_conf,
        facts.joined,
        lambda: _numbered(facts),
        facts.host.daemon,
        facts.host.etc / "libvirt/qemu-sanlock.conf",
    ),
    unread=FAIL,
)
def check_host_id(
    conf: LockConf,
    joined: JoinedLockspace | None,
    numbered: Callable[[], str] = lambda: "set host_id",
    daemon: str = "libvirtd",
    path: Path = LOCK_CONF,
) -> Finding:
    """The host_id of qemu-sanlock.conf, which is PATH; JOINED is the lockspace as it is in use, if it is.

    NUMBERED: the command that gives this host one; DAEMON: libvirt's.
    """
    if not conf.auto_disk_leases:
        return passed("not used: auto_disk_leases is off")
    if not 1 <= conf.host_id <= MAX_HOST_ID:
        found = f"{conf.host_id}" if conf.host_id else "0, or none: libvirt's driver for QEMU does not start"
        return failed(found, f"{numbered()} && {restart(daemon)}  # {_OWN.format(path)}")
    if joined is not None and joined.host_id != conf.host_id:
        found = f"{conf.host_id} in the file, but the lockspace is joined as {joined.host_id}"
        return warned(found, f"{joined_anew(joined, daemon)}  # {_NO_LEASE}")
    return passed(f"{conf.host_id}")


_OWN = "set host_id in {} to a number that no other host has"

_NO_LEASE = "it does nothing while a VM holds a lease: shut them down, or move them away"


def _numbered(facts: Facts) -> str:
    path, number = facts.host.etc / "libvirt/qemu-sanlock.conf", own_number(facts)
    given = give(path, facts.lock_settings, [("host_id", number)])
    return given or f"set host_id = {number} in {path}"


@check(
    "io_timeout",
    "the same on every host, and in force",
    reads=lambda facts: (facts.lock_conf, facts.joined, facts.host.daemon),
    unread=FAIL,
)
def check_io_timeout(conf: LockConf, joined: JoinedLockspace | None, daemon: str = "libvirtd") -> Finding:
    """The io_timeout of qemu-sanlock.conf against that of the joined lockspace; DAEMON is libvirt's."""
    configured = conf.io_timeout or DEFAULT_IO_TIMEOUT
    if joined is None:
        return passed(f"{configured} s, when the lockspace is joined")
    if joined.io_timeout != configured:
        found = f"{configured} s in the file, but the lockspace was joined with {joined.io_timeout} s"
        return warned(found, f"{joined_anew(joined, daemon)}  # {_NO_LEASE}")
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
    reads=lambda facts: (
        facts.files,
        facts.sanlock_conf,
        lambda path: _corrected(facts, path),
        facts.host.daemon,
    ),
)
def check_files(
    files: Mapping[str, list[Setting] | HelperError],
    last_counts: str,
    corrected: Callable[[str], str] = lambda _path: "",
    daemon: str = "libvirtd",
) -> Finding:
    """Whether libvirt takes each of FILES (path to settings, or why not), and whether a setting comes twice.

    Of two libvirt takes the first; sanlock the last, in LAST_COUNTS.  CORRECTED: the command that makes a
    refused file one that libvirt's DAEMON takes, "" where it is not plain what was meant.
    """
    refused = {path: error for path, error in files.items() if isinstance(error, HelperError)}
    if refused:
        found = "; ".join(f"{error.what}: {error.why}" for error in refused.values())
        commands = [corrected(path) for path in refused]
        if all(commands):
            return failed(found, f"{' && '.join(commands)} && {restart(daemon)}")
        first = next(iter(refused.values()))
        return failed(found, first.hint or f"correct it in {next(iter(refused))}, and {restart(daemon)}")
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


def _corrected(facts: Facts, path: str) -> str:
    """The command that corrects libvirt's file PATH, "" where it is not plain what was meant."""
    commands = []
    try:
        settings = read_settings(Path(path))
    except HelperError:
        try:
            command, text = conf_repair.corrected(path, read_regular(path, MAX_SIZE))
        except (HelperError, OSError):
            return ""
        if not command:
            return ""
        commands, settings = [command], parse_settings(text)
    if Path(path).name == LOCK_CONF.name:
        # What has become readable may have the wrong type.
        try:
            make_lock_conf(in_force(settings))
        except HelperError:
            command = conf_repair.retyped(path, settings, own_number(facts))
            commands = [*commands, command] if command else []
    return " && ".join(commands)


def own_number(facts: Facts) -> int:
    """A host_id for this host: its own where it has one, else the lowest that no host has, or 1."""
    try:
        joined = [space.host_id for space in facts.sanlock.lockspaces if space.joined]
    except HelperError:
        joined = []
    if joined:
        return joined[0]
    try:
        if 1 <= facts.lock_conf.host_id <= MAX_HOST_ID:
            return facts.lock_conf.host_id
        folder = facts.lock_conf.disk_lease_dir
    except HelperError:
        folder = DEFAULT_DIRECTORY
    try:
        return free_number(read_slots(f"{folder}/{LOCKSPACE}"))
    except HelperError:
        return 1


def _is_wanted(counts: Setting, other: Setting) -> bool:
    """Whether OTHER, which does not count, is the one that is wanted: check_lock_manager() is about that."""
    return other.name == "lock_manager" and other.value == "sanlock" != counts.value
