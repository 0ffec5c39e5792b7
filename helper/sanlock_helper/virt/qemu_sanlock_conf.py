# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's qemu-sanlock.conf: what its sanlock driver does on this host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import PermanentError
from ..escapes import shown
from ..leases.held import Lockspace
from .libvirt_conf import Value, read_conf

PATH = "/etc/libvirt/qemu-sanlock.conf"

# libvirt's name for the lockspace of its automatic leases: VIR_LOCK_MANAGER_SANLOCK_AUTO_DISK_LOCKSPACE.
LOCKSPACE = "__LIBVIRT__DISKS__"


_REFUSED = "libvirt refuses the file: correct that setting"

DEFAULT_DIRECTORY = "/var/lib/libvirt/sanlock"


@dataclass(frozen=True)
class LockConf:
    """The settings, with libvirt's defaults (libvirt src/locking/lock_driver_sanlock.c).

    `io_timeout` 0 is sanlock's default; `user` and `group` are None where none is set, which is root.
    `check_disk_lease_owner` is new in libvirt 12: a lease belongs to the domain that took it first.
    `require_lease_for_disks`: a domain with a disk to write to and without any lease does not start; without
    automatic leases that is the default.
    """

    auto_disk_leases: bool
    host_id: int
    io_timeout: int
    disk_lease_dir: str
    user: str | None
    group: str | None
    check_disk_lease_owner: bool = False
    require_lease_for_disks: bool = False


def read_lock_conf(path: Path) -> LockConf:
    """The settings in the file PATH, the defaults where there is none.

    Raises PermanentError for what libvirt refuses, and where the file cannot be read.
    """
    return make_lock_conf(read_conf(path))


def make_lock_conf(values: Mapping[str, Value]) -> LockConf:
    """A LockConf out of the file's VALUES.  Raises PermanentError for one of a wrong type."""
    folder = _text(values, "disk_lease_dir")
    automatic = bool(_number(values, "auto_disk_leases", 1))
    return LockConf(
        auto_disk_leases=automatic,
        host_id=_number(values, "host_id", 2**32 - 1),
        io_timeout=_number(values, "io_timeout", 2**32 - 1),
        disk_lease_dir=DEFAULT_DIRECTORY if folder is None else folder,
        user=_text(values, "user"),
        group=_text(values, "group"),
        check_disk_lease_owner=bool(_number(values, "check_disk_lease_owner", 1)),
        require_lease_for_disks=bool(_number(values, "require_lease_for_disks", 1, int(not automatic))),
    )


def _number(values: Mapping[str, Value], name: str, most: int, default: int = 0) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or not 0 <= value <= most:
        why = f"{shown(value)} is no whole number from 0 to {most}"
        raise PermanentError(f"qemu-sanlock.conf: {name}", why, _REFUSED)
    return value


def _text(values: Mapping[str, Value], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise PermanentError(f"qemu-sanlock.conf: {name}", f"{shown(value)} is no text in quotes", _REFUSED)
    return value


def auto_lockspace(path: str = PATH) -> Lockspace | None:
    """The lockspace of libvirt's automatic disk leases; None where they are off or libvirt has no such file.

    A file that libvirt refuses names no lockspace either: its driver joins none.
    """
    try:
        conf = read_lock_conf(Path(path))
    except PermanentError:
        return None
    if not conf.auto_disk_leases or not conf.host_id:
        return None
    return Lockspace(LOCKSPACE, conf.host_id, f"{conf.disk_lease_dir}/{LOCKSPACE}", 0, conf.io_timeout)
