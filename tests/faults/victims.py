# SPDX-License-Identifier: LGPL-2.1-or-later
"""The virtual machine that a fault meets, seen from outside: by QEMU itself, by sanlock and by /proc."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from tests.e2e import testdriver
from tests.e2e.leases import parse_leases
from tests.e2e.namespace import CommandError
from tests.e2e.pair import DIRTIES, MEMORY_MIB, Migration, Pair, wait_until_booted
from tests.e2e.recovery import POLICY
from tests.e2e.stack import Stack
from tests.e2e.testdriver import TestDomains
from tests.e2e.waiting import wait_for

from .proxy import Proxy

# How long QEMU may take to answer on its monitor.
QMP_SECONDS = 2.0

# A guest that panics at the first key: wait for one (BIOS interrupt 16h), write to the pvpanic port, halt.
_PANICS_AT_A_KEY = b"\xb4\x00\xcd\x16" + b"\xba\x05\x05\xb0\x01\xee" + b"\xf4\xeb\xfd"

_NAMESPACE = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
_MONITOR = """\
<on_crash>preserve</on_crash>
  <qemu:commandline>
    <qemu:arg value='-qmp'/>
    <qemu:arg value='unix:{path},server=on,wait=off'/>
  </qemu:commandline>
"""


class Victim:
    """One running virtual machine of a kind of daemon."""

    uri = ""
    uuid = ""

    def __init__(self, stack: Stack, name: str, emulator: str = "") -> None:
        """Make it run, by that EMULATOR where its kind has one."""

    def is_safe(self, action: str) -> bool | None:
        """Whether the run that began the test is in the goal state of ACTION; None while that is unknown."""
        raise NotImplementedError

    def remark(self) -> str:
        """What its outcome has to have in the journal, once that is logged."""
        return ""

    def close(self) -> None:
        """Leave nothing of it."""


class QemuVm(Victim):
    """A domain of libvirt's QEMU driver.  Its QEMU has a monitor of its own, which libvirt does not know."""

    uri = "qemu:///system"
    # What its guest runs, and in how many MiB.
    boot_sector = _PANICS_AT_A_KEY
    memory_mib = 16

    def __init__(self, stack: Stack, name: str, emulator: str = "") -> None:
        self.stack = stack
        # What stands before libvirtd, for commands that are to go past it.
        self.proxy: Proxy | None = None
        self.domain = stack.domain(name, metadata=POLICY, memory_mib=self.memory_mib)
        self.uuid = self.domain.uuid
        self._monitor = f"/run/stack/{name}.qmp"
        xml = self.domain.xml.replace("<domain ", f"<domain {_NAMESPACE} ", 1)
        xml = xml.replace("</domain>", _MONITOR.format(path=self._monitor) + "</domain>")
        chosen = f"<emulator>{emulator}</emulator>" if emulator else ""
        self.domain.xml = xml.replace("<devices>", f"<devices>{chosen}<panic model='isa'/>")
        stack.path(self.domain.xml_path).write_text(self.domain.xml)
        with stack.path(self.domain.disks[0]).open("r+b") as disk:
            disk.write(self.boot_sector.ljust(510, b"\0") + b"\x55\xaa")
        self.domain.start()
        self.pid: int = wait_for(lambda: self.domain.qemu_pid() or 0, 10, "its QEMU")
        self._start = self._started()

    def _started(self) -> str:
        try:
            stat = self.stack.path(f"/proc/{self.pid}/stat").read_text(errors="replace")
        except OSError:
            return ""
        return stat.rpartition(")")[2].split()[19]

    def outer_pid(self) -> int:
        """Its process as the outside has it."""
        return outer_pid(self.stack, self.pid)

    def is_gone(self) -> bool:
        """Whether its process has ended."""
        return not self.stack.is_alive(self.pid) or self._started() != self._start

    def is_safe(self, action: str) -> bool | None:
        """Gone, or for a pause: its processors stand still by QEMU's own word, and sanlock has no lease."""
        if self.is_gone():
            return True
        if action != "pause":
            return False
        status = self.status()
        if status is None:
            return None
        if status in ("running", "prelaunch", "inmigrate"):
            return False
        held = self.holds_lease()
        return None if held is None else not held

    def is_back(self) -> bool:
        """Whether it runs, in this process or in a new one, with its lease."""
        self.pid = self.domain.qemu_pid() or 0
        return bool(self.pid) and self.status() == "running" and bool(self.holds_lease())

    def status(self, host: Stack | None = None) -> str | None:
        """QEMU's own word for its state (query-status), on HOST if not on its own; None without an answer."""
        answer = self.ask("query-status", host)
        return answer["return"]["status"] if answer and "return" in answer else None

    def ask(self, command: str, host: Stack | None = None, **arguments: Any) -> dict[str, Any] | None:
        """QEMU's answer to a monitor command; None when there is none in time."""
        try:
            with socket.socket(socket.AF_UNIX) as monitor:
                monitor.settimeout(QMP_SECONDS)
                monitor.connect(str((host or self.stack).path(self._monitor)))
                lines = monitor.makefile("rw", encoding="utf-8")
                lines.readline()
                for execute, words in (("qmp_capabilities", {}), (command, arguments)):
                    lines.write(json.dumps({"execute": execute, "arguments": words}) + "\n")
                    lines.flush()
                    answer = json.loads(lines.readline() or "null")
                    while answer and "event" in answer:
                        answer = json.loads(lines.readline() or "null")
                return dict(answer) if answer else None
        except (OSError, ValueError):
            return None

    def holds_lease(self) -> bool | None:
        """Whether sanlock has a lease of its process; None when sanlock does not answer."""
        try:
            lines = self.stack.run("sanlock", "client", "status", timeout=QMP_SECONDS).stdout.splitlines()
        except CommandError:
            return None
        return any(lease.pid == self.pid for lease in parse_leases(lines))

    def panic(self) -> None:
        """Press a key, until the guest has panicked, or stands still for another reason."""

        def pressed() -> bool:
            self.ask("send-key", keys=[{"type": "qcode", "data": "ret"}])
            return self.is_gone() or self.status() not in (None, "running")

        wait_for(pressed, 15, "the guest to panic")

    def virsh(self, *words: str) -> None:
        """An administrator's command, not through a proxy; it may fail."""
        path = self.proxy.direct if self.proxy else self.stack.libvirtd.socket
        self.stack.run("virsh", "-q", "-c", f"{self.uri}?socket={path}", *words, check=False, timeout=20)

    def close(self) -> None:
        for words in (("destroy", self.uuid), ("undefine", "--managed-save", self.uuid)):
            self.virsh(*words)
        if not self.is_gone():
            self.stack.signal(self.pid, 9)
            wait_for(self.is_gone, 10, "the end of its QEMU")


class MigratingVm(QemuVm):
    """A domain on its way to another host, which it does not reach before hurry()."""

    boot_sector = DIRTIES
    memory_mib = MEMORY_MIB

    def __init__(self, pair: Pair, name: str) -> None:
        super().__init__(pair.source, name)
        self._pair = pair
        wait_until_booted(pair.source, self.domain)
        self._migration = Migration(pair, self.domain, ())

    @property
    def target(self) -> Stack:
        """Where it migrates to."""
        return self._pair.target

    def hurry(self) -> None:
        """Let the migration end, if it is still under way: it may have as much bandwidth as it likes."""
        self.virsh("migrate-setspeed", self.uuid, "1000")

    def give_up(self) -> None:
        """Give the migration up, as an administrator would, if it is still under way."""
        self.virsh("domjobabort", self.uuid)

    def is_safe(self, action: str) -> bool | None:
        """The same of its process here; and where it has gone to, it runs with its lease, and there alone."""
        here = super().is_safe(action)
        if not here or not self._runs_on(self.target):
            return here
        there = set(self._pair.qemu_pids(self.target, self.domain))
        return not self._runs_on(self.stack) and there <= {lease.pid for lease in self.target.leases()}

    def _runs_on(self, host: Stack) -> bool:
        return bool(self._pair.qemu_pids(host, self.domain)) and self.status(host) == "running"

    def remark(self) -> str:
        """Where it went."""
        return "it was migrated to another host" if self._runs_on(self.target) else ""

    def close(self) -> None:
        self._migration.close()
        super().close()
        self._pair.remove(self.target, self.domain)


def processes_inside(stack: Stack) -> dict[int, int]:
    """The processes of a stack by their pids inside, with those that the outside has."""
    namespace = os.readlink(f"/proc/{stack.init_pid}/ns/pid")
    found = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):  # it has just ended
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                status = Path(f"/proc/{pid}/status").read_text()
                found[int(status.partition("NSpid:")[2].split("\n")[0].split()[-1])] = pid
    return found


def outer_pid(stack: Stack, pid: int) -> int:
    """The process that is PID inside a stack, as the outside has it."""
    return processes_inside(stack)[pid]


class TestVm(Victim):
    """A domain of libvirtd's test driver: no process, no lease; its state is libvirtd's."""

    __test__ = False
    uri = testdriver.URI

    def __init__(self, stack: Stack, name: str, emulator: str = "") -> None:
        self._domains = TestDomains(stack, 1)
        (self.uuid,) = self._domains.uuids
        self._ids = self._domains.ids()

    def is_safe(self, action: str) -> bool | None:
        """Off or in another run, or for a pause: paused."""
        if self._domains.ids() != self._ids:
            return True
        (state,) = self._domains.states()
        return action == "pause" and state == testdriver.PAUSED

    def close(self) -> None:
        self._domains.close()


# The kinds of daemon: another one is one more entry.
KINDS: dict[str, type[Victim]] = {"qemu": QemuVm, "test": TestVm}
