# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults of the machine's own process, and jobs of libvirt's on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .control_group import ControlGroup
from .fault import AWAY, CALL, FOUND, Fault, nothing
from .victims import QemuVm

if TYPE_CHECKING:
    from .cell import Cell

FREEZER = ControlGroup("freezer")
# Runs QEMU with SIGTERM blocked: libvirt then has SIGKILL alone.
DEAF = str(Path(__file__).with_name("deaf_qemu"))


def _vm(cell: Cell) -> QemuVm:
    assert isinstance(cell.victim, QemuVm)
    return cell.victim


def freeze_group(cell: Cell) -> None:
    """No signal reaches a process in a frozen group, SIGKILL neither."""
    vm = _vm(cell)
    if vm.is_gone():
        return
    FREEZER.path.mkdir()
    (FREEZER.path / "cgroup.procs").write_text(str(vm.outer_pid()))
    (FREEZER.path / "freezer.state").write_text("FROZEN")


def thaw_group(cell: Cell) -> None:
    if not FREEZER.path.is_dir():
        return
    (FREEZER.path / "freezer.state").write_text("THAWED")
    FREEZER.remove()


def save(cell: Cell) -> None:
    _vm(cell).virsh("managedsave", cell.victim.uuid)


def _dump_file(cell: Cell) -> str:
    return f"/run/stack/{_vm(cell).domain.name}.dump"


def dump(cell: Cell) -> None:
    cell.beside(lambda: _vm(cell).virsh("dump", "--live", cell.victim.uuid, _dump_file(cell)))


def remove_dump(cell: Cell) -> None:
    cell.stack.path(_dump_file(cell)).unlink(missing_ok=True)


def copy_disk(cell: Cell) -> None:
    """A copy that goes on until an administrator ends it."""
    copy = _vm(cell).domain.disks[0] + ".copy"
    _vm(cell).virsh("blockcopy", cell.victim.uuid, "vda", copy, "--format", "raw", "--transient-job")


MACHINE_FAULTS = (
    Fault(
        *("QEMU in a frozen cgroup for 4 s", CALL, freeze_group, thaw_group, AWAY),
        missing=FREEZER.missing,
    ),
    Fault("QEMU ignores SIGTERM", CALL, nothing, emulator=DEAF),
    Fault("domain saved", FOUND, save, action="restart"),
    Fault("domain dumped", CALL, dump, remove_dump, action="pause"),
    Fault("disk block-copied", CALL, copy_disk, action="pause"),
)
