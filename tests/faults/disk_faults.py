# SPDX-License-Identifier: LGPL-2.1-or-later
"""Folders on a disk that does not answer: for the helper alone, in a mount namespace of its own.

libvirtd and QEMU have theirs, for else there would be nothing that could be done.
"""

from __future__ import annotations

import shutil
import signal
import sysconfig
from typing import TYPE_CHECKING

from tests.e2e.lease_loss import HELPER
from tests.e2e.waiting import wait_for

from .fault import BEFORE, CALL, DONE, FOUND, LOGIN, RECORD, SLOT, Change, Fault

if TYPE_CHECKING:
    from .cell import Cell

DISK = "/run/stack/disk"

# At these Python and this program are loaded; before, nothing could run from a disk that does not answer.
_LOADED = (LOGIN, FOUND, RECORD, SLOT, CALL, DONE)
# At these there is a connection.  libvirt's client reads /etc/libvirt/libvirt.conf for each
# (virConnectOpenInternal() in libvirt src/libvirt.c), and Debian's finds the socket by /var/run: no client
# gets past these folders.
_CONNECTED = (FOUND, CALL, DONE)


def no_bindfs() -> str:
    return "" if shutil.which("bindfs") else "bindfs is not installed"


def put_on_a_disk(folder: str) -> Change:
    """A disk of its own, which answers until it is stopped."""

    def change(cell: Cell) -> None:
        stack = cell.stack
        stack.run("mknod", "-m", "0666", "/dev/fuse", "c", "10", "229", check=False)
        stack.path(DISK).mkdir(exist_ok=True)
        cell.disk = stack.popen("bindfs", "-f", folder, DISK)
        wait_for(lambda: stack.run("mountpoint", "-q", DISK, check=False).returncode == 0, 10, "bindfs")
        cell.mounts = folder

    return change


def _pid(cell: Cell) -> int:
    (process,) = cell.stack.processes("bindfs")
    return process.pid


def hang(cell: Cell) -> None:
    cell.stack.signal(_pid(cell), signal.SIGSTOP)


def answer_again(cell: Cell) -> None:
    """What waits for it can end, and be killed, only then."""
    cell.stack.signal(_pid(cell), signal.SIGCONT)
    cell.end_helpers()
    cell.stack.run("umount", "--lazy", DISK)
    assert cell.disk is not None
    cell.disk.kill()
    cell.disk.communicate()
    wait_for(lambda: not cell.stack.processes("bindfs"), 10, "the end of bindfs")


def _hangs(name: str, folder: str, worst: str, stages: tuple[str, ...] = ()) -> Fault:
    return Fault(
        f"{name} on a disk that hangs",
        *(worst, hang, answer_again),
        prepare=put_on_a_disk(folder),
        stages=stages,
        missing=no_bindfs,
        action="pause",
    )


DISK_FAULTS = (
    _hangs("/etc/libvirt", "/etc/libvirt", FOUND, _CONNECTED),
    _hangs("/etc/sanlock", "/etc/sanlock", BEFORE),
    _hangs("/var", "/var", FOUND, _CONNECTED),
    _hangs("/var/lib", "/var/lib", BEFORE),
    _hangs("/var/log", "/var/log", BEFORE),
    _hangs("Python", sysconfig.get_path("stdlib"), LOGIN, _LOADED),
    _hangs("the modules of Python", "/usr/lib/python3", LOGIN, _LOADED),
    _hangs("this program", str(HELPER.parent), LOGIN, _LOADED),
)
