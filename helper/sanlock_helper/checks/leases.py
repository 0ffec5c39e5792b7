# SPDX-License-Identifier: LGPL-2.1-or-later
"""The leases of running domains, and the paths of their disks."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..leases.sanlock_status import SanlockStatus
from ..virt.qemu_sanlock_conf import LOCKSPACE, LockConf
from .finding import Finding, failed, not_checked, passed, warned
from .registry import check
from .remedies import called, redefine, started_again

if TYPE_CHECKING:
    from ..virt.inventory import Disk, KnownDomain
    from .facts import Facts

# Names that the kernel gives in the order in which it finds the devices, and their partitions.  A name with a
# number of the administrator's own (/dev/drbd0), a volume's and a link's of udev or device-mapper stays.
_MOVING = re.compile(
    r"/dev/(?:"
    r"(?:sd|vd|xvd|hd|ubd|dasd|fio)[a-z]+\d*"
    r"|(?:nvme\d+(?:c\d+)?n|mmcblk|rbd|nbd|loop|pmem|bcache|ublkb|rnbd|nullb|zram|zd|rsxx|skd|mtdblock|ram)\d+"
    r"(?:s\d+)?(?:p\d+)?"
    r"|(?:dm-|sr|scd|cciss/c\d+d|ida/c\d+d)\d+(?:p\d+)?"
    r"|md12\d(?:p\d+)?|mmcblk\d+boot\d+"
    r"|block/\d+:\d+"
    r")"
)
# Names from a table that each host makes for itself, unless it was copied.
_BY_TABLE = re.compile(r"/dev/(?:mapper/)?mpath[a-z]+\w*")


# States of a domain whose process lives and whose guest does not run: libvirt has released its leases, also
# for one that panicked and is preserved (processGuestPanicEvent() in libvirt src/qemu/qemu_driver.c).  One
# that sleeps (pmsuspended) holds them: it may wake up at any time.
STOPPED = frozenset(("paused", "crashed"))


def lease_name(path: str) -> str:
    """libvirt's name for the lease of the disk at PATH."""
    return hashlib.new("md5", os.fsencode(path), usedforsecurity=False).hexdigest()


def locked_disks(domain: KnownDomain) -> list[Disk]:
    """The disks that libvirt takes a lease for, without volumes whose path is not known."""
    disks = domain.config.disks if domain.config else ()
    return [disk for disk in disks if not disk.readonly and disk.path]


def unknown_volumes(domain: KnownDomain) -> list[str]:
    """The other volumes, as text."""
    disks = domain.config.disks if domain.config else ()
    return [
        f"volume {disk.volume} of pool {disk.pool}" for disk in disks if not disk.path and not disk.readonly
    ]


def missing_leases(domains: Iterable[KnownDomain], present: Iterable[str]) -> set[str]:
    """Names of leases of DOMAINS' disks that are not among those PRESENT in the lease directory."""
    return {lease_name(disk.path) for domain in domains for disk in locked_disks(domain)} - set(present)


@check(
    "leases",
    "for each disk of a running domain a lease, named by the MD5 of its path, and held",
    reads=lambda facts: (facts.running, facts.lock_conf, facts.sanlock, present(facts)),
)
def check_leases(
    running: Iterable[KnownDomain], conf: LockConf, status: SanlockStatus, present: Iterable[str]
) -> Finding:
    """For each RUNNING domain, a lease for each disk: there (PRESENT in the lease directory), and held."""
    there = set(present)
    problems, unknown, number = [], [], 0
    for domain in running:
        held = {(lease.lockspace, lease.resource) for lease in status.held_by(domain.pid)}
        automatic = {lease_name(disk.path) for disk in locked_disks(domain)}
        for lockspace, resource, what in expected_leases(domain, conf):
            number += 1
            # A <lease> has its path in the XML; only libvirt's own are named after their files.
            if lockspace == LOCKSPACE and resource in automatic - there:
                problems.append((domain, f"{resource} of {what} is not there"))
            elif (lockspace, resource) not in held and domain.state not in STOPPED:
                problems.append((domain, f"{resource} of {what} is not held"))
        if conf.auto_disk_leases and domain.state not in STOPPED:
            unknown += [f"{domain.name}: {volume}" for volume in unknown_volumes(domain)]
    if problems:
        found = "; ".join(f"{domain.name}: {what}" for domain, what in problems)
        return failed(found, started_again(dict.fromkeys(domain for domain, _ in problems)))
    if unknown:
        why = f"libvirt does not give the path of {', '.join(unknown)}"
        return not_checked(why, "virsh pool-list --all; virsh pool-start POOL")
    return passed(f"{number} leases of running domains are there and held")


def expected_leases(domain: KnownDomain, conf: LockConf) -> list[tuple[str, str, str]]:
    """(lockspace, resource, what for) of each lease that DOMAIN should hold."""
    explicit = [
        (space, key, f"lease {key}") for space, key in (domain.config.leases if domain.config else ())
    ]
    if not conf.auto_disk_leases:
        return explicit
    return [*explicit, *((LOCKSPACE, lease_name(disk.path), disk.path) for disk in locked_disks(domain))]


@check(
    "disk paths",
    "block devices named by /dev/disk/by-... or a volume's name, the same on every host",
    reads=lambda facts: (facts.domains, stable_names(facts.host.dev)),
)
def check_disk_paths(domains: Iterable[KnownDomain], names: Mapping[str, str] | None = None) -> Finding:
    """Whether block devices are named by paths that mean the same on every host, as the leases are.

    NAMES: for a device of this host one that stays.
    """
    names = names or {}
    moving, by_table, number = [], [], 0
    for domain in domains:
        for disk in locked_disks(domain):
            # A block device may stand under type='file': libvirt takes its lease by the path all the same.
            path = f"/{os.path.normpath(disk.path).lstrip('/')}"
            if disk.kind != "block" and not path.startswith("/dev/"):
                continue
            number += 1
            if _MOVING.fullmatch(path):
                moving.append((domain, disk.path))
            elif _BY_TABLE.fullmatch(path):
                by_table.append((domain, disk.path))
    if moving:
        return failed(_listed(moving), _renamed(moving, names))
    if by_table:
        remedy = f"{_renamed(by_table, names)}; or the same bindings file on every host"
        return warned(_listed(by_table), remedy)
    return passed(f"{number} block devices")


_DiskOf = tuple["KnownDomain", str]


def _listed(disks: Iterable[_DiskOf]) -> str:
    return "; ".join(f"{domain.name}: {path}" for domain, path in disks)


def _renamed(disks: Iterable[_DiskOf], names: Mapping[str, str]) -> str:
    """What gives DISKS, each with its domain, the NAMES that stay."""
    commands, left = [], []
    for domain, path in disks:
        if path in names:
            commands.append(redefine(called(domain), f"s|'{path}'|'{names[path]}'|"))
        else:
            left.append(f"virsh edit {called(domain)}")
    if left:
        hint = "name it by /dev/disk/by-path or by-id: ls -l /dev/disk/by-*"
        commands.append(f"{' && '.join(dict.fromkeys(left))}  # {hint}")
    return " && ".join(commands)


# Links that udev makes by what a device is, then by where it is; a device has several.
_LINKS = ("disk/by-id/wwn-*", "disk/by-id/nvme-eui.*", "disk/by-id/*", "rbd/*/*", "disk/by-path/*")


def stable_names(dev: Path) -> dict[str, str]:
    """For each device that has a link in DEV whose name stays: that link."""
    found: dict[str, str] = {}
    for pattern in _LINKS:
        for link in sorted(dev.glob(pattern)):
            # sed, in whose command it stands, takes none of these for itself.
            if not set("'|&\\") & set(str(link)):
                found.setdefault(os.path.realpath(link), str(link))
    return found


def present(facts: Facts) -> list[str]:
    """The names in the lease directory, none without one."""
    try:
        return os.listdir(facts.lock_conf.disk_lease_dir)
    except (FileNotFoundError, NotADirectoryError):
        return []
