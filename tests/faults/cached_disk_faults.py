# SPDX-License-Identifier: LGPL-2.1-or-later
"""Folders on a disk that does not answer, and of which the kernel has in its caches what was read before.

Cold: nothing of it was read.  Warm: a call has been made before, so all that this one reads is in memory, and
so is what it searches for and is not there.  It is so for the helper alone, as in disk_faults.py, where the
disk is asked for each name.

In root's home libvirt's client searches for auth.conf before it does so in /etc, for each login
(virAuthGetConfigFilePathURI() in libvirt src/util/virauth.c).  Nothing else is read there: the libvirt.conf
of root is the one in /etc (virConnectGetConfigFilePath() in src/libvirt.c), and the executable's -I leaves
the user's modules of Python out.
"""

from __future__ import annotations

import pwd
import signal
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e import cached_disk
from tests.e2e.lease_loss import HELPER

from .disk_faults import DISK
from .fault import BEFORE, LOGIN, Change, Fault

if TYPE_CHECKING:
    from .cell import Cell

PROGRAM = str(Path(cached_disk.__file__).resolve())
HOME = pwd.getpwuid(0).pw_dir
EMPTY_HOME = "/run/stack/home"
# FUSE asks its process for each ioctl(2), and Python makes one of each file that it opens; a disk's file
# system reads nothing for that.  overlayfs answers those itself.
BELOW, NOTHING = "/run/stack/below", "/run/stack/nothing"


def no_home() -> str:
    return f"this program is in {HOME} itself" if Path(HOME) in HELPER.parents else ""


def put_on_a_disk(folder: str, content: str, is_warm: bool) -> Change:
    """FOLDER, with what is in CONTENT, on a disk of its own, which answers until it is stopped."""

    def change(cell: Cell) -> None:
        stack = cell.stack
        stack.run("mknod", "-m", "0666", "/dev/fuse", "c", "10", "229", check=False)
        stack.run("mkdir", "-p", DISK, BELOW, NOTHING, EMPTY_HOME)
        cell.disk = stack.popen("/usr/bin/python3", "-ISB", PROGRAM, content, BELOW)
        assert cell.disk.stdout is not None
        assert cell.disk.stdout.readline() == "ready\n", cell.disk.communicate()
        stack.run("mount", "-t", "overlay", "-o", f"lowerdir={BELOW}:{NOTHING}", "overlay", DISK)
        cell.mounts = folder
        if is_warm:
            cell.call_for_none()

    return change


def _signal_disk(cell: Cell, number: int) -> None:
    (pid,) = [process.pid for process in cell.stack.processes() if PROGRAM in process.cmdline]
    cell.stack.signal(pid, number)


def hang(cell: Cell) -> None:
    _signal_disk(cell, signal.SIGSTOP)


def answer_again(cell: Cell) -> None:
    """What waits for it can end, and be killed, only then."""
    _signal_disk(cell, signal.SIGCONT)
    cell.end_helpers()
    cell.stack.run("umount", "--lazy", DISK, BELOW)
    assert cell.disk is not None
    cell.disk.kill()
    cell.disk.communicate()


def _home(
    name: str,
    worst: str,
    action: str,
    *,
    is_warm: bool = False,
    login: bool = True,
    is_quick: bool = False,
) -> Fault:
    """A home without credentials: those are in /etc."""
    return Fault(
        *(name, worst, hang, answer_again),
        prepare=put_on_a_disk(HOME, EMPTY_HOME, is_warm),
        missing=no_home,
        login=login,
        action=action,
        is_quick=is_quick,
    )


def _warm(name: str, folder: str, action: str, is_quick: bool = False) -> Fault:
    return Fault(
        *(f"{name} on a disk that hangs after a call", BEFORE, hang, answer_again),
        prepare=put_on_a_disk(folder, folder, is_warm=True),
        # Later there is less to be read.
        stages=(BEFORE,),
        action=action,
        is_quick=is_quick,
    )


CACHED_DISK_FAULTS = (
    _home("home on a disk that hangs", BEFORE, "pause", login=False),
    _home("home on a disk that hangs, with a login", BEFORE, "poweroff", is_quick=True),
    _home("home on a disk that hangs after a call, with a login", LOGIN, "pause", is_warm=True),
    _warm("/etc/libvirt", "/etc/libvirt", "poweroff"),
    _warm("/etc/sanlock", "/etc/sanlock", "pause"),
    _warm("/var", "/var", "restart"),
    _warm("Python", sysconfig.get_path("stdlib"), "pause"),
    _warm("the modules of Python", "/usr/lib/python3", "restart"),
    _warm("this program", str(HELPER.parent), "poweroff", is_quick=True),
)
