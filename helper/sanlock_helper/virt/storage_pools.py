# SPDX-License-Identifier: LGPL-2.1-or-later
"""The storage pools of a connection, and the volumes of pools that domains have for disks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import libvirt

from .connection import failure
from .domain_xml import parse_xml
from .inventory import Disk, KnownDomain

if TYPE_CHECKING:
    from .api import VirConnect


_KINDS = {
    libvirt.VIR_STORAGE_VOL_FILE: "file",
    libvirt.VIR_STORAGE_VOL_BLOCK: "block",
    libvirt.VIR_STORAGE_VOL_DIR: "dir",
}


@dataclass(frozen=True)
class Pool:
    """One pool: its type, as in "iscsi", and the path of its target."""

    name: str
    kind: str
    target: str
    is_active: bool


def list_pools(connection: VirConnect) -> list[Pool]:
    """All pools of CONNECTION, by name.  Raises HelperError."""
    try:
        found = [
            (pool.name(), pool.XMLDesc(0), pool.isActive()) for pool in connection.listAllStoragePools(0)
        ]
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return []  # a libvirt without pools
        raise failure("list the storage pools", error) from error
    return sorted((_pool(*values) for values in found), key=lambda pool: pool.name)


def volume_path(connection: VirConnect, pool: str, volume: str) -> str:
    """The path of VOLUME in POOL, by their names, "" where libvirtd does not know it.

    Its info is not asked for: libvirtd would read the storage for that, which may hang (storageVolGetInfo()
    in libvirt ``src/storage/storage_driver.c``).
    """
    try:
        return connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path()
    except libvirt.libvirtError:
        return ""


def _pool(name: str, xml: str, active: int) -> Pool:
    try:
        root = parse_xml(xml)
    except ValueError:
        return Pool(name, "", "", bool(active))
    return Pool(name, root.get("type", ""), root.findtext("target/path", "").strip(), bool(active))


class Volumes:
    """The volumes that domains have for disks, each looked up once: libvirt locks them by their paths.

    Source: virDomainDiskTranslateSourcePool() in libvirt ``src/conf/domain_conf.c``.
    """

    def __init__(self, connection: VirConnect) -> None:
        self._connection = connection
        self._known: dict[tuple[str, str], tuple[str, str] | None] = {}

    def resolve(self, domain: KnownDomain) -> KnownDomain:
        """DOMAIN, with the path and the kind of each volume that could be looked up."""
        config = domain.config
        if config is None or not any(disk.volume for disk in config.disks):
            return domain
        disks = tuple(self._resolved(disk) if disk.volume else disk for disk in config.disks)
        found = tuple(disk for disk in disks if disk is not None)
        return replace(domain, config=replace(config, disks=found))

    def path(self, pool: str, volume: str) -> str | None:
        """The path of one; "" for what is on no storage of this host, None where it is not known."""
        found = self._find(pool, volume)
        if found is None:
            return None
        path, kind = found
        return path if kind else ""

    def _resolved(self, disk: Disk) -> Disk | None:
        found = self._find(disk.pool, disk.volume)
        if found is None:
            return disk
        path, kind = found
        return replace(disk, path=path, kind=kind) if kind else None

    def _find(self, pool: str, volume: str) -> tuple[str, str] | None:
        key = pool, volume
        if key not in self._known:
            self._known[key] = self._look_up(*key)
        return self._known[key]

    def _look_up(self, pool: str, volume: str) -> tuple[str, str] | None:
        """Path and kind, the kind "" for what is on no storage of this host; None where it is not known."""
        try:
            found = self._connection.storagePoolLookupByName(pool).storageVolLookupByName(volume)
            return found.path(), _KINDS.get(found.info()[0], "")
        except libvirt.libvirtError:
            return None
