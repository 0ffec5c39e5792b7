# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults of the runtime directory, in which the spool and the locks are."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.e2e import immutable
from tests.e2e.lease_loss import RUNTIME_DIR

from .fault import BEFORE, BOTH, CALL, DONE, FOUND, LOGIN, NO_AGENT, RECORD, STANDING, Change, Fault

if TYPE_CHECKING:
    from .cell import Cell


def mount_runtime(cell: Cell) -> None:
    _mount(cell, "size=256k")


def mount_few_inodes(cell: Cell) -> None:
    _mount(cell, "size=1m,nr_inodes=40")


def _mount(cell: Cell, options: str) -> None:
    cell.stack.path(RUNTIME_DIR).mkdir(0o700, exist_ok=True)
    cell.stack.run("mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "faults", RUNTIME_DIR)


def unmount_runtime(cell: Cell) -> None:
    cell.stack.run("umount", "--lazy", RUNTIME_DIR)


def fill_runtime(cell: Cell) -> None:
    with contextlib.suppress(OSError), cell.stack.path(f"{RUNTIME_DIR}/.filler").open("wb", 0) as filler:
        while True:
            filler.write(bytes(4096))


def take_inodes(cell: Cell) -> None:
    with contextlib.suppress(OSError):
        for number in range(1000):
            cell.stack.path(f"{RUNTIME_DIR}/.filler-{number}").touch()


def read_only(cell: Cell) -> None:
    cell.stack.run("mount", "-o", "remount,ro", RUNTIME_DIR)


def replace_runtime(cell: Cell) -> None:
    path = cell.stack.path(RUNTIME_DIR)
    if path.is_dir():
        path.rename(f"{path}.replaced")
    path.mkdir(0o700)


def drop_replaced(cell: Cell) -> None:
    cell.stack.run("rm", "-rf", f"{RUNTIME_DIR}.replaced")


def put_on_ext4(cell: Cell) -> None:
    immutable.put_on_ext4(cell.stack, RUNTIME_DIR)


def make_immutable(files: bool) -> Change:
    def change(cell: Cell) -> None:
        immutable.set_immutable(cell.stack, RUNTIME_DIR, files)

    return change


def clear_immutable(cell: Cell) -> None:
    immutable.clear_immutable(cell.stack, RUNTIME_DIR)
    unmount_runtime(cell)


def _immutable(
    name: str,
    worst: str,
    files: bool,
    action: str,
    agents: tuple[str, ...],
    stages: tuple[str, ...] = (),
) -> Fault:
    return Fault(
        *(name, worst, make_immutable(files), clear_immutable),
        prepare=put_on_ext4,
        kinds=BOTH,
        is_ours=True,
        missing=immutable.no_immutable_directories,
        action=action,
        agents=agents,
        stages=stages,
    )


RUNTIME_FAULTS = (
    Fault(
        *("runtime directory full", RECORD, fill_runtime, unmount_runtime),
        prepare=mount_runtime,
        kinds=BOTH,
        is_ours=True,
    ),
    Fault(
        *("runtime directory read-only", BEFORE, read_only, unmount_runtime),
        prepare=mount_runtime,
        # Later the agent has files open there to write to, and the kernel refuses (EBUSY).
        stages=(BEFORE,),
        kinds=BOTH,
        is_ours=True,
        agents=(NO_AGENT,),
    ),
    Fault(
        *("runtime directory without inodes", BEFORE, take_inodes, unmount_runtime),
        prepare=mount_few_inodes,
        kinds=BOTH,
        is_ours=True,
    ),
    Fault(
        *("runtime directory replaced", CALL, replace_runtime, drop_replaced),
        kinds=BOTH,
        is_ours=True,
        is_quick_beside_it=True,
    ),
    _immutable("runtime directory immutable", FOUND, False, "pause", (NO_AGENT, STANDING)),
    # No outcome can be noted then: where an agent stands, which leaves, or others stand by, as at a slot, the
    # next process serves again what was served.
    _immutable(
        *("runtime directory and its files immutable", CALL, True, "restart", (NO_AGENT,)),
        stages=(BEFORE, LOGIN, FOUND, RECORD, CALL, DONE),
    ),
)
