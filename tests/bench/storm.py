# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many processes at once, started as sanlock starts them; run inside a stack by the distribution's Python.

    storm.py URI HELPER < lines of UUID ACTION

starts one HELPER per line, and prints as JSON how long it took until every domain was in its goal state, the
CPU time of the helpers and of libvirtd, and how many helpers and connections there were at one time.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from threading import Event, Thread
from typing import Any, Callable

import libvirt

# Of whichever daemon the stack has.
LIBVIRTD_PIDS = ("/run/libvirtd.pid", "/run/virtqemud.pid")
TICKS = os.sysconf("SC_CLK_TCK")

# struct sm_header and sanlk_state of sanlock src/sanlock_sock.h.  What follows the state of a lockspace is a
# struct sanlk_lockspace, of a lease a struct sanlk_resource, which ends with the number of its disks.
SANLOCK = "/run/sanlock/sanlock.sock"
HEADER, STATE = struct.Struct("=8I"), struct.Struct("=4IQ48s2I")
LOCKSPACE_BYTES, LEASE, DISK_BYTES = 1104, struct.Struct("=124xI"), 1040
# The state of all that the daemon knows.
STATUS = HEADER.pack(0x04282010, 1, 5, 0, HEADER.size, 0, 0, 0)
LOCKSPACE_STATE, LEASE_STATE = 3, 4
GIVE_UP = 60.0


def cpu_of(pid: int) -> float:
    """The CPU seconds that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def standing_agent() -> int:
    """The process id of the agent that stands, 0 where none does; a helper that is an agent is a child."""
    try:
        with open("/run/virt-sanlock-helper/agent.pid", encoding="ascii") as pid_file:
            words = pid_file.read().split()
        return (
            int(words[0]) if words and os.stat("/run/virt-sanlock-helper/agent.lock").st_atime_ns == 0 else 0
        )
    except OSError:
        return 0


def connections() -> int:
    """The clients that are connected to libvirtd's read-write socket."""
    with open("/proc/net/unix", encoding="ascii") as table:
        # State 03 is connected.
        ends = ("/libvirt/libvirt-sock\n", "/libvirt/virtqemud-sock\n")
        return sum(" 03 " in line and line.endswith(ends) for line in table)


class Sampler:
    """Counts helpers and connections every few milliseconds, beside the measurement."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self.most_processes = 0
        self.most_connections = 0
        self._stop = Event()
        self._base = connections()
        self._thread = Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.most_processes = max(self.most_processes, len(self.pids))
            self.most_connections = max(self.most_connections, connections() - self._base)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Watch(Thread):
    """Checks every few milliseconds whether a goal is reached, and notes when it was.

    A check may block until then, and so each has a thread.
    """

    def __init__(self, reached: Callable[[], bool], start: float, step: float = 0.005) -> None:
        super().__init__(daemon=True)
        self._step = step
        self.seconds = 0.0
        self._reached = reached
        self._begin = start
        self.start()

    def run(self) -> None:
        while not self._reached():
            if time.perf_counter() - self._begin > GIVE_UP:
                return
            time.sleep(self._step)
        self.seconds = time.perf_counter() - self._begin


class TestHost:
    """Persistent domains of libvirtd's test driver: they exist while this connection is open."""

    def __init__(self, connection: libvirt.virConnect, requests: list[list[str]]) -> None:
        self._connection = connection
        # What the driver begins with belongs to no test; what an earlier storm has left is there while an
        # agent that stands keeps its connection.
        for domain in connection.listAllDomains():
            if domain.isActive():
                domain.destroy()
            domain.undefine()
        for number, (uuid, _) in enumerate(requests):
            connection.defineXML(
                f"<domain type='test'><name>vm{number}</name><uuid>{uuid}</uuid><memory>8192</memory>"
                "<os><type>hvm</type></os></domain>"
            ).create()

    def all_off(self) -> bool:
        return bool(self._connection.numOfDomains() == 0)


class QemuHost:
    """Real virtual machines: what counts is that the process is dead, or holds no lease."""

    def __init__(self, connection: libvirt.virConnect, requests: list[list[str]]) -> None:
        pids = {True: [], False: []}  # type: dict[bool, list[int]]
        for uuid, action in requests:
            name = connection.lookupByUUIDString(uuid).name()
            with open(f"/run/libvirt/qemu/{name}.pid", encoding="ascii") as pid_file:
                pids[action == "pause"].append(int(pid_file.read()))
        self._paused = pids[True]
        # To read forty processes every few milliseconds would take the processor from those that are
        # measured: the kernel reports when each has ended.
        self._ends = select.poll()
        self._alive = [os.pidfd_open(pid) for pid in pids[False]]
        for descriptor in self._alive:
            self._ends.register(descriptor, select.POLLIN)

    def all_off(self) -> bool:
        if self._alive:
            for descriptor, _ in self._ends.poll(int(GIVE_UP * 1000)):
                self._ends.unregister(descriptor)
                self._alive.remove(descriptor)
        return not self._alive

    def all_paused(self) -> bool:
        holders = lease_holders()
        self._paused = [pid for pid in self._paused if pid in holders]
        return not self._paused


def lease_holders() -> set[int]:
    """The processes that hold leases, as `sanlock client status` shows them.

    sanlock does one command for a process at a time and refuses others: an inquiry about one would make the
    release fail that is waited for, libvirtd's own among them, and leave the domain with its leases.
    """
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answer:
        connection.connect(SANLOCK)
        connection.sendall(STATUS)
        answer.read(HEADER.size)
        found = set()
        while head := answer.read(STATE.size):
            kind, _, pid, _, _, _, length, _ = STATE.unpack(head)
            answer.read(length)
            if kind == LOCKSPACE_STATE:
                answer.read(LOCKSPACE_BYTES)
            elif kind == LEASE_STATE:
                (disks,) = LEASE.unpack(answer.read(LEASE.size))
                answer.read(disks * DISK_BYTES)
                found.add(pid)
    return found


def main() -> None:
    uri, helper = sys.argv[1:]
    requests = [line.split() for line in sys.stdin]
    with_pauses = any(action == "pause" for _, action in requests)
    types = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
    connection = libvirt.openAuth(uri, [types, refuse, None], 0)
    host: Any = (TestHost if uri.startswith("test") else QemuHost)(connection, requests)
    (pid_path,) = filter(os.path.exists, LIBVIRTD_PIDS)
    with open(pid_path, encoding="ascii") as pid_file:
        libvirtd = int(pid_file.read())
    agent = standing_agent()
    cpu, times = cpu_of(libvirtd) + (cpu_of(agent) if agent else 0.0), os.times()
    with Sampler() as sampler:
        start = time.perf_counter()
        # A program that does nothing is asked for nothing.
        nothing = all(action == "ignore" for _, action in requests)
        off = Watch((lambda: True) if nothing else host.all_off, start)
        # One call takes some 20 ms.
        step = 0.0005 if len(requests) == 1 else 0.005
        paused = Watch(host.all_paused, start, step) if with_pauses else None
        for uuid, action in requests:
            sampler.pids.add(spawn(helper, uri, uuid, action))
            reap(sampler.pids, os.WNOHANG)
        while off.is_alive() or (paused and paused.is_alive()):
            reap(sampler.pids, os.WNOHANG)
            time.sleep(0.005)
        while sampler.pids:
            reap(sampler.pids, 0)
        ended = time.perf_counter() - start
    after = os.times()
    helpers = after.children_user + after.children_system - times.children_user - times.children_system
    result = {
        "off": off.seconds,
        "paused": paused.seconds if paused else 0.0,
        "cpu": helpers + cpu_of(libvirtd) + (cpu_of(agent) if agent else 0.0) - cpu,
        "processes": sampler.most_processes,
        "connections": sampler.most_connections,
        "ended": ended,
    }
    print(json.dumps(result))


def refuse(_credentials: object, _data: object) -> int:
    """All credentials are in auth.conf."""
    return -1


def spawn(helper: str, uri: str, uuid: str, action: str) -> int:
    """Start one helper as sanlock does, with stdio on /dev/null and a bare environment."""
    return os.posix_spawn(helper, [helper, uri, uuid, action], {"PATH": os.defpath}, file_actions=FILES)


def reap(pids: set[int], options: int) -> None:
    """Collect children that have ended."""
    while pids:
        pid, _ = os.waitpid(-1, options)
        if pid == 0:
            return
        pids.discard(pid)


NULL = os.open(os.devnull, os.O_RDWR)
FILES = [(os.POSIX_SPAWN_DUP2, NULL, descriptor) for descriptor in (0, 1, 2)]

if __name__ == "__main__":
    main()
