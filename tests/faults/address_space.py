# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits on the address space of this program's processes (RLIMIT_AS, LimitAS= of a service)."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from sanlock_helper.memory_limits import NEEDED

from .fault import BEFORE, BOTH, CALL, Change, Fault

if TYPE_CHECKING:
    from .cell import Cell

# What this program asks for, in MiB.
ENOUGH = next(mebibytes for name, _, mebibytes in NEEDED if name == "Max address space")
# What libvirt's own helper gets through with, and this program does not try to.
LITTLE = 160


def limit_to(mebibytes: int) -> Change:
    """For what is started from now on."""

    def change(cell: Cell) -> None:
        cell.prefix = f"ulimit -v {mebibytes << 10};"

    return change


def use_up(cell: Cell) -> None:
    """Not a page more than the process that serves has now."""
    if not cell.helper_pid:
        return
    status = cell.stack.path(f"/proc/{cell.helper_pid}/status").read_text()
    used = int(status.partition("VmSize:")[2].split()[0]) << 10
    _, hard = resource.prlimit(cell.outer_pid, resource.RLIMIT_AS)
    resource.prlimit(cell.outer_pid, resource.RLIMIT_AS, (used, hard))


ADDRESS_SPACE_FAULTS = (
    Fault(
        "no more address space", CALL, use_up, prepare=limit_to(ENOUGH), kinds=BOTH, is_quick_beside_it=True
    ),
    Fault(
        *(f"address space of {LITTLE} MiB", BEFORE, limit_to(LITTLE)),
        kinds=BOTH,
        stages=(BEFORE,),
        # An agent that stands serves; else each process has libvirt's helper take over.
        outcome="this program failed: MemoryError: address space is limited to .* takes over, to .*",
    ),
)
