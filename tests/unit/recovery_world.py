# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host as recovery sees it: one domain in libvirt, its lease in sanlock, and what others do to both.

The sanlock half has the methods of lockspaces.Sanlock; tests/e2e/test_fake_sanlock.py holds it against the
real daemon.
"""

from __future__ import annotations

import errno
from typing import Any, Callable

import libvirt

from sanlock_helper.leases.held import Lease, Lockspace
from sanlock_helper.leases.lockspaces import JOINED, SanlockError
from sanlock_helper.records.record import Record
from sanlock_helper.virt import NAMESPACE

from .libvirt_errors import libvirt_error

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
SPACE = Lockspace("LS", 1, "/storage/LS", 0, 1)
PID = 4711
URI = "qemu:///system"

RUNNING, PAUSED, OFF = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_SHUTOFF


class Killed(BaseException):
    """SIGKILL of the recovery, as far as one process can show it."""


class RecoveryWorld:
    """One domain vm1, its lease LS:disk, and the storage."""

    def __init__(self) -> None:
        self.clock = 1000.0
        # Storage
        self.storage = True
        self.version = 1
        self.owner: int | None = 1
        self.host_states = {2: "live"}
        # sanlock
        self.answers = True
        self.state: str | None = JOINED
        self.registered = True
        self.held: int | None = 1
        # This host's joins of the lockspace; and whether sanlock is about to leave it.
        self.generation = 3
        self.losing = False
        # When it renewed the lockspace last, and what the disks give.
        self.renewed_at = 1e9
        self.disk_errors: dict[str, int] = {}
        # So often the guest stops again as soon as it was resumed.
        self.stops = 0
        # libvirt
        self.known = True
        self.persistent = True
        # Whether it asks for recovery, or the value of its attribute.
        self.policy: bool | str = True
        self.name = "vm1"
        self.xml = "<domain><devices><lease><lockspace>LS</lockspace></lease></devices></domain>"
        # The path and the type of each volume, by its pool and its name.
        self.volumes: dict[tuple[str, str], tuple[str, int]] = {}
        # The type of the job that is under way (virDomainJobType).
        self.job = 0
        self.is_process_known = True
        # Where the lease is, when it is not everywhere; and the errors of other places.
        self.lease_path = ""
        self.path_errors: dict[str, int] = {}
        # libvirt's log of the domain.
        self.log = ""
        self.vm = RUNNING
        self.reason = 0
        self.run = 7
        self.pid = PID
        self.started = 0
        self.resumed = 0
        self.refuses: dict[str, Exception] = {}
        # Called at each call of recovery's, to interfere or to kill it.
        self.before_call: Callable[[str], None] = lambda name: None
        # The lease's version when the guest was paused; None when no guest waits.
        self.guest_version: int | None = None

    # What happens to the domain before recovery comes

    def record(self, action: str, **changes: Any) -> Record:
        """Make the domain safe as the helper does, and return its record."""
        record = Record(
            UUID, "vm1", URI, action, run=self.run, pid=self.pid, pid_start=99, boot="boot", time=5.0
        )
        record.lockspaces = (SPACE,)
        record.leases = (Lease("LS", "disk", self.version, "/storage/disk", 0),)
        for key, value in changes.items():
            setattr(record, key, value)
        if action == "pause":
            self.pause()
            self.guest_version = self.version
        else:
            self.destroy()
        return record

    def destroy(self) -> None:
        self.vm, self.run, self.held, self.registered = OFF, -1, None, False
        self.reason = libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED
        self.known = self.persistent
        self.guest_version = None
        self._release()

    def pause(self) -> None:
        self.vm, self.held = PAUSED, None
        self.reason = libvirt.VIR_DOMAIN_PAUSED_USER
        self._release()

    def stop(self) -> None:
        """The guest stops by an I/O error, and libvirt gives its lease up."""
        self.pause()
        self.reason = libvirt.VIR_DOMAIN_PAUSED_IOERROR

    def _release(self) -> None:
        if self.storage and self.owner == 1:
            self.owner = None

    def lose(self) -> None:
        """The storage goes, and sanlock leaves the lockspace; the domain is safe already."""
        self.storage, self.state = False, None

    def healthy(self) -> Lockspace:
        """The lockspace as the helper notes it while it is healthy."""
        return Lockspace("LS", 1, "/storage/LS", 0, 1, self.generation)

    def other_takes(self) -> bool:
        if self.owner in (None, 1) and self.vm != RUNNING:
            self.owner, self.version = 2, self.version + 1
            return True
        return False

    def other_gives_back(self) -> None:
        if self.owner == 2:
            self.owner = None

    def acquire(self) -> None:
        """What libvirt does at a start and at a resume."""
        if not self.registered:
            return
        if self.state != JOINED or self.losing:
            raise libvirt_error(libvirt.VIR_ERR_SYSTEM_ERROR, message="No space left on device")
        if not self.storage:
            raise libvirt_error(libvirt.VIR_ERR_SYSTEM_ERROR, message="Input/output error")
        if self.owner not in (None, 1):
            raise libvirt_error(libvirt.VIR_ERR_RESOURCE_BUSY, message="Lease is held by another host")
        self.owner, self.version = 1, self.version + 1
        self.held = self.version

    def start(self) -> None:
        if self.vm != OFF:
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID, message="domain is already running")
        self.registered = True
        try:
            self.acquire()
        except Exception:
            self.registered = False
            raise
        self.vm, self.known = RUNNING, True
        self.started += 1
        self.run, self.pid = 20 + self.started, PID + self.started

    def release(self, pid: int) -> None:
        self._ask("release")
        assert (pid, self.vm) == (self.pid, PAUSED)
        self.held = None
        self._release()

    def resume(self) -> None:
        if self.held is not None and self.vm == PAUSED:
            raise libvirt_error(libvirt.VIR_ERR_SYSTEM_ERROR, message="Failed to acquire lock: File exists")
        if self.vm != PAUSED:
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID, message="domain is already running")
        self.acquire()
        self.vm = RUNNING
        self.resumed += 1
        if self.stops:
            self.stops -= 1
            self.stop()

    # virConnect and virDomain

    def connect(self, uri: str) -> RecoveryWorld:
        assert uri == URI
        self._called("connect")
        return self

    def close(self) -> None:
        pass

    def lookupByUUIDString(self, uuid: str) -> Domain:
        assert uuid == UUID
        self._called("lookup")
        if not self.known:
            raise libvirt_error(libvirt.VIR_ERR_NO_DOMAIN)
        return Domain(self)

    def storagePoolLookupByName(self, pool: str) -> Pool:
        self._called("pool")
        return Pool({name: found for (of, name), found in self.volumes.items() if of == pool})

    def createXML(self, xml: str, flags: int) -> Domain:
        self._called("create")
        self.start()
        self._called("created")
        return Domain(self)

    def _called(self, name: str) -> None:
        self.before_call(name)
        if name in self.refuses:
            raise self.refuses[name]

    # lockspaces.Sanlock

    def _ask(self, name: str) -> None:
        self._called(name)
        if not self.answers:
            raise SanlockError(name, errno.ECONNREFUSED)

    def lockspaces(self) -> dict[str, tuple[Lockspace, str]]:
        self._ask("lockspaces")
        return {} if self.state is None else {"LS": (SPACE, self.state)}

    def join(self, lockspace: Lockspace) -> None:
        self._ask("join")
        if not self.storage:
            raise SanlockError("join", errno.EIO)
        if self.state is None:
            self.generation += 1
            self.losing = False
        self.state = JOINED

    def still_joined_since(self, lockspace: Lockspace) -> bool:
        self._called("still_joined_since")
        same = 0 != lockspace.generation == self.generation and self.state is not None
        return self.answers and same and not self.losing

    def renewed_since(self, name: str, moment: float) -> bool:
        self._ask("renewed_since")
        return self.renewed_at >= moment

    def version_of(self, lease: Lease) -> int:
        self._ask("version")
        if not self.storage:
            raise SanlockError("read", errno.EIO)
        self._look_at(lease)
        return self.version

    def _look_at(self, lease: Lease) -> None:
        if self.lease_path not in ("", lease.path):
            raise SanlockError("read", self.path_errors.get(lease.path, errno.ENOENT))

    def holders(self, lease: Lease, host_id: int) -> dict[int, str]:
        self._ask("holders")
        if not self.storage:
            raise SanlockError("read", errno.EIO)
        self._look_at(lease)
        others = [self.owner] if self.owner not in (None, host_id) else []
        return {other: self.host_states[other] for other in others if other is not None}

    def is_registered(self, pid: int) -> bool:
        self._ask("is_registered")
        return self.registered and pid == self.pid

    def held_by(self, pid: int) -> list[Lease]:
        self._ask("held_by")
        return [] if self.held is None or pid != self.pid else [Lease("LS", "disk", self.held)]


class Domain:
    """A virDomain of RecoveryWorld's."""

    def __init__(self, world: RecoveryWorld) -> None:
        self._world = world

    def ID(self) -> int:
        return self._world.run

    def name(self) -> str:
        return self._world.name

    def UUIDString(self) -> str:
        return UUID

    def isActive(self) -> int:
        return int(self._world.vm != OFF)

    def isPersistent(self) -> int:
        return int(self._world.persistent)

    def state(self) -> list[int]:
        self._world._called("state")
        return [self._world.vm, self._world.reason]

    def XMLDesc(self, flags: int) -> str:
        self._world._called("XMLDesc")
        policy = self._world.policy
        if policy is False:
            return self._world.xml
        element = f'<lockfailure xmlns="{NAMESPACE}" recover="{"yes" if policy is True else policy}"/>'
        return self._world.xml.replace("</domain>", f"<metadata>{element}</metadata></domain>")

    def connect(self) -> RecoveryWorld:
        return self._world

    def diskErrors(self) -> dict[str, int]:
        self._world._called("diskErrors")
        return self._world.disk_errors

    def jobInfo(self) -> list[int]:
        return [self._world.job]

    def create(self) -> None:
        self._world._called("create")
        self._world.start()
        self._world._called("created")

    def resume(self) -> None:
        self._world._called("resume")
        self._world.resume()
        self._world._called("resumed")

    def destroy(self) -> None:
        self._world._called("destroy")
        self._world.destroy()

    def suspend(self) -> None:
        self._world._called("suspend")
        self._world.pause()


class Pool:
    """A virStoragePool with the path and the type of each of its volumes."""

    def __init__(self, volumes: dict[str, tuple[str, int]]) -> None:
        self._volumes = volumes

    def storageVolLookupByName(self, name: str) -> Volume:
        if name not in self._volumes:
            raise libvirt_error(libvirt.VIR_ERR_NO_STORAGE_VOL)
        return Volume(*self._volumes[name])


class Volume:
    """A virStorageVol."""

    def __init__(self, path: str, kind: int) -> None:
        self._path, self._kind = path, kind

    def path(self) -> str:
        return self._path

    def info(self) -> list[int]:
        return [self._kind, 1, 1]


class FakeSanlock:
    """RecoveryWorld's half of sanlock, under the names of lockspaces.Sanlock."""

    def __init__(self, world: RecoveryWorld) -> None:
        self.lockspaces = world.lockspaces
        self.join = world.join
        self.still_joined_since = world.still_joined_since
        self.renewed_since = world.renewed_since
        self.version = world.version_of
        self.holders = world.holders
        self.is_registered = world.is_registered
        self.held_by = world.held_by
        self.release = world.release
