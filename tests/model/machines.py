# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with virtual machines for models: libvirtd, QEMU's processes, sanlock, and libvirt's files on tmpfs.

The status and pid files are real ones in a directory; processes are what /proc would have of them.  A machine
does what libvirt and QEMU do with it when time passes: a job ends, a start goes on, a guest shuts down.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple
from xml.sax.saxutils import escape

import libvirt

from sanlock_helper.errors import LeasesUnknownError
from sanlock_helper.leases.held import Lease

from ..unit.fake_host import status_xml
from ..unit.libvirt_errors import libvirt_error

TICKS = os.sysconf("SC_CLK_TCK")

RUNNING, PAUSED, OFF = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_SHUTOFF

# How long a job takes that nothing ends.
JOB_SECONDS = 3.0


class Begin(NamedTuple):
    """The state of a machine at the loss, libvirt's job on it, and in which state that ends by itself.

    is_wish: it is paused, or goes off, because an administrator wants that.
    """

    state: int
    reason: int = 0
    job: int = 0
    ends_in: int = 0
    is_wish: bool = False


# Each state with each of its reasons in which libvirt has a domain with a process.
BEGINNINGS = {
    "running": Begin(RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED),
    "running, being dumped": Begin(RUNNING, 1, libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP, RUNNING),
    "idle": Begin(libvirt.VIR_DOMAIN_BLOCKED),
    "no state": Begin(libvirt.VIR_DOMAIN_NOSTATE),
    "pmsuspended": Begin(libvirt.VIR_DOMAIN_PMSUSPENDED),
    "in shutdown": Begin(libvirt.VIR_DOMAIN_SHUTDOWN, 1, 0, OFF, True),
    "paused": Begin(PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER, is_wish=True),
    "paused, unknown": Begin(PAUSED, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN),
    "paused, I/O error": Begin(PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR),
    "paused, watchdog": Begin(PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG),
    "paused, from snapshot": Begin(PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT, is_wish=True),
    "paused, dumping": Begin(
        *(PAUSED, libvirt.VIR_DOMAIN_PAUSED_DUMP, libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP, RUNNING)
    ),
    "paused, saving": Begin(
        *(PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE, libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE, OFF)
    ),
    "paused, creating snapshot": Begin(
        *(PAUSED, libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT, libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT, RUNNING)
    ),
    "paused, starting up": Begin(PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP, 0, RUNNING),
    "paused, migrating": Begin(
        *(PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT, OFF)
    ),
    "paused, a reason of a newer libvirt": Begin(PAUSED, 99, 0, RUNNING),
}

# libvirt's words in a status file (VIR_ENUM_IMPL(virDomainState) in src/conf/domain_conf.c, and the reasons).
_STATES = ("nostate", "running", "blocked", "paused", "shutdown", "shutoff", "crashed", "pmsuspended")
_PAUSES = (
    *("unknown", "user", "migration", "save", "dump", "ioerror", "watchdog", "from snapshot", "shutdown"),
    *("snapshot", "panicked", "starting up"),
)


class Machine:
    """One virtual machine."""

    def __init__(self, host: Host, name: str, number: int, begin: Begin) -> None:
        self.host = host
        self.name = name
        self.uuid = f"{number:08d}-0000-0000-0000-000000000000"
        self.id = number
        self.pid = 4000 + number
        # In the past, and after this host's boot, however lately that was.
        self.started = host.now / 2
        self.state, self.reason = begin.state, begin.reason
        self.job = begin.job
        self.ends_in = begin.ends_in
        self.ends_at = host.now + JOB_SECONDS if begin.ends_in else float("inf")
        self.persistent = True
        # Whether libvirtd knows it at all, and as what it runs; whether it has a process.
        self.known = self.runs = True
        self.leases = [Lease("LS", f"key{number}", 1, "/storage/disk", 0)]
        # What libvirt cannot give up; whether sanlock gives it up when it is asked for that.
        self.sticks = False
        self.can_release = True
        self.changes: list[str] = []
        self.had_record: bool | None = None

    def write(self) -> None:
        """libvirt's files of it: the status file is named after it, the pid file in XML's escapes."""
        reason = _PAUSES[self.reason] if self.state == PAUSED and self.reason < len(_PAUSES) else "booted"
        xml = status_xml(self.name, self.uuid, self.pid, state=_STATES[self.state])
        xml = xml.replace(b"reason='booted'", f"reason='{reason}'".encode())
        xml = xml.replace(b"id='3'", f"id='{self.id}'".encode())
        (self.host.folder / f"{self.name}.xml").write_bytes(xml)
        (self.host.folder / f"{escape(self.name)}.pid").write_text(str(self.pid))

    def is_active(self) -> bool:
        return bool(self.state != OFF)

    def end(self, reason: int) -> None:
        """Its process ends."""
        self.state, self.reason, self.job, self.ends_in = OFF, reason, 0, 0
        self.ends_at = float("inf")
        self.runs = False
        self.leases = []
        self.known = self.persistent
        (self.host.folder / f"{self.name}.xml").unlink(missing_ok=True)

    def run_on(self) -> None:
        """Its processors start, and libvirt takes its leases again."""
        self.state, self.reason, self.job, self.ends_in = RUNNING, 5, 0, 0
        self.ends_at = float("inf")
        self.leases = [Lease("LS", f"key{self.id}", 2, "/storage/disk", 0)]

    def pass_time(self) -> None:
        """Do what is due by now."""
        if self.ends_at <= self.host.now:
            if self.ends_in == RUNNING and self.state == PAUSED:
                self.run_on()
            elif self.ends_in == OFF:
                self.end(libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
            self.job, self.ends_in, self.ends_at = 0, 0, float("inf")

    def change(self, what: str) -> None:
        """A call that changes it: was its record there before?"""
        if self.had_record is None:
            self.had_record = self.host.has_record(self.uuid)
        self.changes.append(what)


class Domain:
    """A virDomain of libvirtd's."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def _ask(self) -> Machine:
        if not self._machine.known:
            raise libvirt_error(libvirt.VIR_ERR_NO_DOMAIN)
        return self._machine

    def ID(self) -> int:
        machine = self._machine
        return machine.id if machine.is_active() and not machine.host.forgets else -1

    def name(self) -> str:
        return self._machine.name

    def state(self) -> list[int]:
        machine = self._ask()
        return [OFF, 0] if machine.host.forgets else [machine.state, machine.reason]

    def isPersistent(self) -> int:
        return int(self._ask().persistent)

    def XMLDesc(self, flags: int) -> str:
        return f"<domain><name>x</name><uuid>{self._machine.uuid}</uuid></domain>"

    def jobStats(self) -> dict[str, int]:
        machine = self._ask()
        if not machine.job:
            return {"type": libvirt.VIR_DOMAIN_JOB_NONE}
        return {"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "operation": machine.job}

    def destroy(self) -> None:
        machine = self._ask()
        machine.change("destroy")
        machine.end(libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED)

    def suspend(self) -> None:
        machine = self._ask()
        machine.change("suspend")
        if machine.state == PAUSED:
            return
        if machine.state in (libvirt.VIR_DOMAIN_PMSUSPENDED, libvirt.VIR_DOMAIN_SHUTDOWN, OFF):
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID, message="domain is not running")
        if machine.job == libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP:
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_TIMEOUT, message="cannot acquire state change lock")
        machine.state, machine.reason = PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER
        if not machine.sticks:
            machine.leases = []

    def abortJob(self) -> None:
        machine = self._ask()
        machine.change("abort")
        if machine.state == PAUSED:
            machine.run_on()
        machine.job, machine.ends_in, machine.ends_at = 0, 0, float("inf")

    def pMWakeup(self) -> None:
        machine = self._ask()
        machine.change("wake up")
        machine.run_on()

    def create(self) -> None:
        machine = self._ask()
        machine.change("create")
        start_again(machine)


def start_again(machine: Machine) -> None:
    """Another run of it: its start is under way, and then it runs, or fails."""
    host = machine.host
    machine.id += 100
    machine.pid += 100
    machine.started = host.now
    machine.runs, machine.known = True, True
    machine.state, machine.reason = PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP
    machine.ends_in = OFF if host.starts_fail else RUNNING
    machine.ends_at = host.now + JOB_SECONDS
    machine.leases = [Lease("LS", "key", 3, "/storage/disk", 0)]
    machine.write()


class Host:
    """The machines, what libvirtd and sanlock answer, and the time."""

    def __init__(self, folder: Path, records: Path) -> None:
        self.folder = folder
        self.records = records
        self.now = time.monotonic()
        # Read once: between two clocks this process may be kept from a processor, and the start of a process
        # never changes.
        self._suspended = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
        self.machines: list[Machine] = []
        # Whether libvirtd has active domains as off; whether a start fails; whether sanlock answers.
        self.forgets = self.starts_fail = False
        self.sanlock: LeasesUnknownError | None = None

    def __call__(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        for machine in self.machines:
            machine.pass_time()

    def has_record(self, uuid: str) -> bool:
        """Whether the helper has written the record of domain UUID."""
        return (self.records / f"{uuid}.record").exists()

    # virConnect

    def isAlive(self) -> int:
        return 1

    def close(self) -> None:
        pass

    def lookupByUUIDString(self, uuid: str) -> Domain:
        for machine in self.machines:
            if machine.uuid == uuid and machine.known:
                return Domain(machine)
        raise libvirt_error(libvirt.VIR_ERR_NO_DOMAIN)

    def createXML(self, xml: str, flags: int) -> Domain:
        machine = next(machine for machine in self.machines if machine.uuid in xml)
        machine.change("create")
        start_again(machine)
        return Domain(machine)

    # /proc

    def read(self, pid: int, name: str, size: int) -> bytes:
        """The file NAME of process PID."""
        machine = next((machine for machine in self.machines if machine.pid == pid and machine.runs), None)
        if machine is None:
            return b""
        if name == "cmdline":
            return f"qemu\0-name\0guest={machine.name}\0-uuid\0{machine.uuid}\0-S\0".encode()
        start = int((machine.started + self._suspended) * TICKS)
        fields = ["S", *["0"] * 16, "4", "0", str(start), *["0"] * 9]
        return f"{pid} (qemu-system-x86) {' '.join(fields)}".encode()

    def pids_or(self, listdir: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
        """listdir(3), for which /proc has the machines' processes."""

        def names(path: str) -> list[str]:
            if path != "/proc":
                return listdir(path)
            return [str(machine.pid) for machine in self.machines if machine.runs]

        return names

    # sanlock

    def held_by(self, pid: int) -> list[Lease]:
        """The leases of process PID."""
        if self.sanlock is not None:
            raise self.sanlock
        return [lease for machine in self.machines if machine.pid == pid for lease in machine.leases]

    def release(self, pid: int) -> None:
        """Give up the leases of process PID."""
        for machine in self.machines:
            if machine.pid == pid:
                machine.changes.append("release")
                if not machine.can_release:
                    raise LeasesUnknownError("sanlock does not release them")
                machine.leases = []

    def ask(self, pid: int) -> tuple[tuple[Any, ...], tuple[Lease, ...]]:
        """The lockspaces and the leases of process PID."""
        return (), tuple(self.held_by(pid))
