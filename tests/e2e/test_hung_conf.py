# SPDX-License-Identifier: LGPL-2.1-or-later
"""A loss on a host whose configuration files are on a disk that does not answer any more."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .conftest import StackFactory
from .lease_loss import GRACE, HELPER, LOSS, assert_safe, story, two_domains, wait_for_calls
from .preconditions import need_programs
from .stack import Stack
from .waiting import wait_for

FOLDERS = HELPER.parent

# What the agent learns, and in what time.
LEARN = f"""
import sys, time
sys.path.insert(0, {str(FOLDERS)!r})
from sanlock_helper.leases.grace import Grace
began = time.monotonic()
print(Grace().wait(), time.monotonic() - began)
"""


def hang(stack: Stack, folder: str) -> None:
    """Move FOLDER to a disk of its own, and stop that."""
    stack.run("mknod", "-m", "0666", "/dev/fuse", "c", "10", "229", check=False)
    stack.run("cp", "-a", folder, "/run/disk")
    # Over an empty folder: FUSE 2 needs the option nonempty for another one, and FUSE 3 refuses that option.
    stack.run("mkdir", "/run/fuse")
    disk = stack.popen("bindfs", "-f", "/run/disk", "/run/fuse")
    wait_for(lambda: stack.run("mountpoint", "-q", "/run/fuse", check=False).returncode == 0, 10, "bindfs")
    stack.run("mount", "--bind", "/run/fuse", folder)
    (pid,) = [process.pid for process in stack.processes("bindfs")]
    stack.signal(pid, signal.SIGSTOP)
    assert disk.poll() is None


def learned(stack: Stack) -> tuple[int, float]:
    seconds, took = stack.run("/usr/bin/python3", "-IS", "-c", LEARN).stdout.split()
    return int(seconds), float(took)


@pytest.mark.parametrize("kind", ["hung", "fifo"])
def test_sanlock_conf(stacks: StackFactory, kind: str) -> None:
    need_programs("bindfs")
    stack = stacks(grace=GRACE)
    stack.install_helper(HELPER)
    off, held = two_domains(stack)
    pid = held.qemu_pid()
    if kind == "hung":
        hang(stack, "/etc/sanlock")
    else:
        stack.run("sh", "-c", "rm /etc/sanlock/sanlock.conf; mkfifo /etc/sanlock/sanlock.conf")
    stack.storage.fail()
    wait_for(lambda: off.state().name == "shut off" and held.state().name == "paused", LOSS, "both safe")
    calls = wait_for_calls(stack, 2, GRACE)
    # `sanlock client` reads the file, too.
    if kind == "hung":
        stack.signal(stack.processes("bindfs")[0].pid, signal.SIGCONT)
    else:
        stack.run("rm", "/etc/sanlock/sanlock.conf")
    assert_safe(stack, off, held, pid)
    assert {call.status for call in calls.values()} == {0}
    assert {line.level for line in story(stack)} == {"notice"}


def test_the_grace_is_the_running_daemons(stack: Stack) -> None:
    """sanlock.conf may have been changed since, and sanlock 3.8 does not read it from there."""
    need_programs("bindfs")
    assert learned(stack)[0] == 40
    command = stack.sanlock.command()
    option = command.index("-g")
    for options, grace in ((["-g", "12"], 12), (["-g", "0"], 0), ([], None)):
        stack.libvirtd.stop()
        stack.sanlock.stop()
        stack.write("/etc/sanlock/sanlock.conf", "kill_grace_seconds = 20\n")
        stack.run(*command[:option], *options, *command[option + 2 :], env=stack.sanlock.environment())
        stack.sanlock.wait_ready()
        stack.libvirtd.start()
        daemon = stack.run("sanlock", "client", "status", "-D").stdout
        assert f" kill_grace_seconds={learned(stack)[0]}\n" in daemon
        assert grace in (None, learned(stack)[0])
    # Nothing but the daemon's own answer has it now.
    before = learned(stack)[0]
    hang(stack, "/etc/sanlock")
    seconds, took = learned(stack)
    assert (seconds, took < 0.2) == (before, True)
    # And with a daemon that is silent: soon, and sanlock's default.
    stack.signal(int(Path(stack.path("/run/sanlock/sanlock.pid")).read_text()), signal.SIGSTOP)
    seconds, took = learned(stack)
    assert (seconds, took < 1) == (40, True)
