# SPDX-License-Identifier: LGPL-2.1-or-later
"""The leases of running domains, and the paths of their disks."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..leases.sanlock_status import SanlockStatus
from ..virt.qemu_sanlock_conf import LOCKSPACE, LockConf
from .finding import Finding, failed, passed, warned
from .registry import check

if TYPE_CHECKING:
    from ..virt.inventory import Disk, KnownDomain
    from .facts import Facts

# Names that the kernel gives in the order in which it finds the devices.
_UNSTABLE = re.compile(r"/dev/(?:(?:sd|vd|xvd|hd)[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|dm-\d+|loop\d+|nbd\d+)")
# Names from a table that each host makes for itself, unless it was copied.
_BY_TABLE = re.compile(r"/dev/mapper/mpath[a-z]+\w*")


def lease_name(path: str) -> str:
    """libvirt's name for the lease of the disk at PATH."""
    return hashlib.new("md5", os.fsencode(path), usedforsecurity=False).hexdigest()


def locked_disks(domain: KnownDomain) -> list[Disk]:
    """The disks that libvirt takes a lease for."""
    return [disk for disk in domain.config.disks if not disk.readonly] if domain.config else []


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
    problems, number = [], 0
    for domain in running:
        held = {(lease.lockspace, lease.resource) for lease in status.held_by(domain.pid)}
        automatic = {lease_name(disk.path) for disk in locked_disks(domain)}
        for lockspace, resource, what in expected_leases(domain, conf):
            number += 1
            # A <lease> has its path in the XML; only libvirt's own are named after their files.
            if lockspace == LOCKSPACE and resource in automatic - there:
                problems.append(f"{domain.name}: {resource} of {what} is not there")
            elif (lockspace, resource) not in held and domain.state != "paused":
                problems.append(f"{domain.name}: {resource} of {what} is not held")
    if problems:
        remedy = "power these domains off and start them again: they run unprotected"
        return failed("; ".join(problems), remedy)
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
    reads=lambda facts: (facts.domains,),
)
def check_disk_paths(domains: Iterable[KnownDomain]) -> Finding:
    """Whether block devices are named by paths that mean the same on every host, as the leases are."""
    unstable, by_table, number = [], [], 0
    for domain in domains:
        for disk in domain.config.disks if domain.config else ():
            if disk.kind != "block":
                continue
            number += 1
            if _UNSTABLE.fullmatch(disk.path):
                unstable.append(f"{domain.name}: {disk.path}")
            elif _BY_TABLE.fullmatch(disk.path):
                by_table.append(f"{domain.name}: {disk.path}")
    remedy = "virsh edit DOMAIN: name it by /dev/disk/by-path or by-id, see ls -l /dev/disk/by-*"
    if unstable:
        return failed("; ".join(unstable), remedy)
    if by_table:
        return warned("; ".join(by_table), f"{remedy}; or the same bindings file on every host")
    return passed(f"{number} block devices")


def present(facts: Facts) -> list[str]:
    """The names in the lease directory, none without one."""
    try:
        return os.listdir(facts.lock_conf.disk_lease_dir)
    except FileNotFoundError:
        return []
