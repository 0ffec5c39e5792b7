# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real loss on a host whose disk has the interpreter, libvirt-python and this program, and answers no more.

With an agent that stands the virtual machines are safe.  Without one it depends on what the kernel still has
in its caches; so it does for libvirt's C helper.
"""

from __future__ import annotations

import os
import signal
import sysconfig
from pathlib import Path

import pytest

from .conftest import StackFactory
from .lease_loss import GRACE, HELPER, LOSS, assert_safe, outcomes, two_domains
from .stack import Stack
from .standing import StandingAgent
from .waiting import wait_for

# Half of an hour for all of them: `make e2e` runs them, `make modular` those that are marked so.
pytestmark = pytest.mark.long

DISK = Path(__file__).with_name("cached_disk.py")
INTERPRETER = os.path.realpath("/usr/bin/python3")
STDLIB = sysconfig.get_path("stdlib", vars={"installed_base": "/usr", "base": "/usr"})

# Has the kernel drop what it need not keep of each file below the arguments: what no process has mapped.
EVICT = """
import os, sys
for top in sys.argv[1:]:
    names = [top] if os.path.isfile(top) else [f"{a}/{n}" for a, _, b in os.walk(top) for n in b]
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
"""


class ProgramDisk:
    """The interpreter, its library, libvirt-python, the program and libvirt's own helper on one disk."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        stack.run("mknod", "-m", "0666", "/dev/fuse", "c", "10", "229", check=False)
        stack.run(
            "sh",
            "-c",
            f"mkdir -p /run/program /run/disk && cp -a {HELPER.parent} {HELPER.parents[1]}/auth /run/program",
        )
        stack.run("cp", stack.stock_helper, "/run/program/stock_helper")
        self._process = stack.popen("/usr/bin/python3", str(DISK), "/", "/run/disk")
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", self._process.communicate()[1]
        # FUSE asks the process for each ioctl(2) as well, and Python makes one of each file that it opens; a
        # disk's file system reads nothing for that.  overlayfs answers those itself.
        stack.run("sh", "-c", "mkdir -p /run/empty /run/shown")
        stack.run("mount", "-t", "overlay", "-o", "lowerdir=/run/disk:/run/empty", "overlay", "/run/shown")
        self.parts = [INTERPRETER, STDLIB, "/usr/lib/python3", "/run/program"]
        for part in self.parts:
            stack.run("mount", "--bind", f"/run/shown{part}", part)
        self.helper = "/run/program/helper/libvirt_sanlock_helper"
        self.command = Path("/run/program/helper/virt-sanlock-helper")
        self.stock = "/run/program/stock_helper"

    def evict(self) -> None:
        """As a host that needs its memory: what is neither mapped nor locked is read again."""
        self._stack.run("/usr/bin/python3", "-c", EVICT, *self.parts)

    def hang(self) -> None:
        (pid,) = [process.pid for process in self._stack.processes() if str(DISK) in process.cmdline]
        self._stack.signal(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        (pid,) = [process.pid for process in self._stack.processes() if str(DISK) in process.cmdline]
        self._stack.signal(pid, signal.SIGCONT)


def warm(stack: Stack, helper: str) -> None:
    """One call that ends early: what each call reads is in the kernel's caches then."""
    stack.run(helper, "--version", check=False)


@pytest.mark.parametrize("kind", ["evicted", "cached"])
def test_with_an_agent_that_stands(stacks: StackFactory, kind: str) -> None:
    stack = stacks(grace=GRACE)
    disk = ProgramDisk(stack)
    stack.install_helper(disk.helper)
    off, held = two_domains(stack)
    pid = held.qemu_pid()
    agent = StandingAgent(stack, command=disk.command)
    standing = agent.wait_ready()
    warm(stack, disk.helper)
    if kind == "evicted":
        disk.evict()
    disk.hang()
    stack.storage.fail()
    try:
        wait_for(lambda: off.state().name == "shut off" and held.state().name == "paused", LOSS, "both safe")
        wait_for(lambda: len(outcomes(stack)) == 2, 5, "both outcomes")
        assert_safe(stack, off, held, pid)
        assert agent.pid == standing
    finally:
        disk.go_on()


@pytest.mark.parametrize("helper", ["ours", "C"])
@pytest.mark.parametrize("kind", ["evicted", "cached"])
def test_without_one(stacks: StackFactory, kind: str, helper: str) -> None:
    """What is on the disk alone is of no use: sanlock kills both, and the paused one is lost."""
    stack = stacks(grace=GRACE)
    disk = ProgramDisk(stack)
    path = disk.helper if helper == "ours" else disk.stock
    stack.install_helper(path)
    _, held = two_domains(stack)
    # A whole call, with all that it loads: of a domain that is not there.
    stack.run(
        path, "qemu:///system", "6695eb01-f6a4-8304-79aa-97f2502e193f", "pause", check=False, timeout=60
    )
    if kind == "evicted":
        disk.evict()
    disk.hang()
    stack.storage.fail()
    try:
        wait_for(lambda: held.state().name in ("paused", "shut off"), LOSS + GRACE + 10, "an end")
        assert held.state().name == {"evicted": "shut off", "cached": "paused"}[kind]
    finally:
        disk.go_on()
