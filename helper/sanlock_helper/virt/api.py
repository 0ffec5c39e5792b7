# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of libvirt-python's virConnect and virDomain that this program uses, for the type checker alone.

libvirt-python has no type hints.  Import this below TYPE_CHECKING only.  Each method blocks for as long as
libvirtd does, and raises libvirt.libvirtError.
"""

from __future__ import annotations

from typing import Any, Callable, Protocol


class VirDomain(Protocol):
    """One domain; see libvirt include/libvirt/libvirt-domain.h."""

    def ID(self) -> int:
        """Its number, another one after each start; -1 when it is not active."""

    def name(self) -> str: ...

    def UUIDString(self) -> str: ...

    def connect(self) -> VirConnect:
        """The connection that it is of."""

    def state(self, flags: int = 0, /) -> list[int]:
        """[virDomainState, reason]."""

    def isActive(self) -> int: ...

    def isPersistent(self) -> int: ...

    def XMLDesc(self, flags: int = 0, /) -> str: ...

    def setMetadata(
        self, kind: int, metadata: str | None, key: str | None, uri: str | None, flags: int = 0, /
    ) -> int: ...

    def create(self) -> int: ...

    def destroy(self) -> int: ...

    def suspend(self) -> int: ...

    def resume(self) -> int: ...

    def pMWakeup(self, flags: int = 0, /) -> int: ...

    def abortJob(self) -> int: ...

    def blockJobInfo(self, disk: str, flags: int = 0, /) -> dict[str, int]:
        """Among others "type" (virDomainBlockJobType); empty where the disk has none."""

    def blockJobAbort(self, disk: str, flags: int = 0, /) -> int: ...

    def diskErrors(self, flags: int = 0, /) -> dict[str, int]:
        """virDomainDiskErrorCode by the disk's target; only those with an error."""

    def jobInfo(self) -> list[int]:
        """[virDomainJobType, ...]."""

    def jobStats(self, flags: int = 0, /) -> dict[str, Any]:
        """Among others "type" (virDomainJobType) and "operation" (virDomainJobOperation)."""


class VirStorageVol(Protocol):
    """One volume; see libvirt include/libvirt/libvirt-storage.h."""

    def path(self) -> str: ...

    def info(self) -> list[int]:
        """[virStorageVolType, capacity, allocation]."""


class VirStoragePool(Protocol):
    """One pool."""

    def name(self) -> str: ...

    def isActive(self) -> int: ...

    def XMLDesc(self, flags: int = 0, /) -> str: ...

    def storageVolLookupByName(self, name: str, /) -> VirStorageVol: ...


class VirConnect(Protocol):
    """One connection; see libvirt include/libvirt/libvirt-host.h and libvirt-domain.h."""

    def isAlive(self) -> int: ...

    def close(self) -> int: ...

    def getURI(self) -> str: ...

    def lookupByID(self, number: int, /) -> VirDomain: ...

    def lookupByName(self, name: str, /) -> VirDomain: ...

    def lookupByUUIDString(self, uuid: str, /) -> VirDomain: ...

    def listAllDomains(self, flags: int = 0, /) -> list[VirDomain]: ...

    def getAllDomainStats(
        self, stats: int = 0, flags: int = 0, /
    ) -> list[tuple[VirDomain, dict[str, Any]]]: ...

    def domainEventRegisterAny(
        self, domain: VirDomain | None, event: int, callback: Callable[..., None], opaque: object, /
    ) -> int: ...

    def domainEventDeregisterAny(self, number: int, /) -> int: ...

    def createXML(self, xml: str, flags: int = 0, /) -> VirDomain: ...

    def storagePoolLookupByName(self, name: str, /) -> VirStoragePool: ...

    def listAllStoragePools(self, flags: int = 0, /) -> list[VirStoragePool]: ...

    def getDomainCapabilities(
        self,
        emulator: str | None,
        arch: str | None,
        machine: str | None,
        virttype: str | None,
        flags: int = 0,
        /,
    ) -> str:
        """XML; None is libvirt's own choice for this host."""
