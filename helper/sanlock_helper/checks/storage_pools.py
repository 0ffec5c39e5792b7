# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's storage pools: do the paths of volumes, which name the leases, mean the same on every host."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .finding import Finding, failed, passed
from .registry import check

if TYPE_CHECKING:
    from ..virt.storage_pools import Pool

STABLE = "/dev/disk/by-path"

# Whose volumes are block devices by names that libvirt finds in the target (virStorageBackendStablePath() in
# libvirt src/storage/storage_util.c).
_KINDS = ("iscsi", "scsi", "disk")


@check(
    "storage pools",
    f"the target of a pool of block devices is {STABLE}, or the like",
    reads=lambda facts: (facts.pools,),
)
def check_pools(pools: Iterable[Pool]) -> Finding:
    """Whether the volumes of POOLS have names that stay: with the target /dev they are /dev/sda and so on."""
    checked = [pool for pool in pools if pool.kind in _KINDS]
    moving = [pool for pool in checked if not _is_stable(pool.target)]
    if not moving:
        return passed(f"{len(checked)} pools of block devices")
    found = ", ".join(f"{pool.name} ({pool.kind}) {pool.target or 'none'}" for pool in moving)
    remedy = " && ".join(map(_retargeted, moving))
    if any(pool.is_active for pool in moving):
        remedy += "  # from the pool's next start on, with no VM that uses it"
    return failed(f"the names of volumes change from host to host, with the target of {found}", remedy)


def _is_stable(target: str) -> bool:
    return posixpath.normpath(target).startswith("/dev/disk/by-")


def _retargeted(pool: Pool) -> str:
    name = shlex.quote(pool.name)
    edit = shlex.quote(f"/<target>/,/<.target>/s|<path>.*</path>|<path>{STABLE}</path>|")
    return f"virsh pool-dumpxml --inactive {name} | sed {edit} | virsh pool-define /dev/stdin"
