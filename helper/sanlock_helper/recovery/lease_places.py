# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a lease is on storage now: what a record noted may have moved since.

Storage is mounted elsewhere after an outage, a LUN gets another path, a symbolic link is renamed.  A start
takes the lease where the domain's definition and qemu-sanlock.conf have it now; a resume takes it where it
was when the domain was paused, for libvirt keeps that (virDomainLockProcessResume() in libvirt
src/conf/domain_lock.c).
"""

from __future__ import annotations

import os.path

from ..leases.held import Lease, Lockspace
from ..virt.definition_leases import explicit_leases
from ..virt.qemu_sanlock_conf import LOCKSPACE


def places(lease: Lease, before: Lockspace | None, now: list[Lockspace], xml: str) -> list[Lease]:
    """LEASE at each place where it may be: where a start takes it comes first, where it was noted last.

    BEFORE is its lockspace as the record has it; NOW its lockspace as libvirt's configuration and sanlock
    have it. XML is the domain's definition, "" when it is not known.
    """
    found = _in_definition(lease, xml)
    for lockspace in now:
        if lockspace.name != lease.lockspace:
            continue
        if lease.lockspace == LOCKSPACE:
            found.append((f"{os.path.dirname(lockspace.path)}/{lease.resource}", 0))
        elif before is not None:
            found.append((_moved(lease.path, before.path, lockspace.path), lease.offset))
    found.append((lease.path, lease.offset))
    return [
        Lease(lease.lockspace, lease.resource, lease.version, path, offset, lease.shared)
        for path, offset in dict.fromkeys(found)
        if path
    ]


def _in_definition(lease: Lease, xml: str) -> list[tuple[str, int]]:
    """The <target> of the <lease> element of LEASE."""
    names = (lease.lockspace, lease.resource)
    found = explicit_leases(xml) if xml else []
    return [(one.path, one.offset) for one in found if (one.lockspace, one.resource) == names]


def _moved(path: str, before: str, now: str) -> str:
    """PATH, if its storage has moved as the lockspace has, from BEFORE to NOW."""
    if path == before:
        return now
    old, new = os.path.dirname(before), os.path.dirname(now)
    return new + path[len(old) :] if old and path.startswith(f"{old}/") else path
