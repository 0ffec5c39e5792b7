# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host is suspended: all its processes are stopped, and go on together.

No test can suspend the machine.  In a suspend CLOCK_MONOTONIC stands still, and CLOCK_BOOTTIME goes on: this
program notices the time of day alone.  Here the clock goes on, which is harder: since all were stopped, none
may be taken for one that hangs.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .control_group import ControlGroup
from .fault import BOTH, CALL, DONE, FOUND, LOGIN, RECORD, SLOT, Fault
from .victims import processes_inside

if TYPE_CHECKING:
    from .cell import Cell

GROUP = ControlGroup("freezer")

# Longer than the silence after which an agent is ended.
SECONDS = 6.0

# What it takes until the calls have come so far that they stand by.
OTHERS = 3
START_SECONDS = 0.7


def suspend(cell: Cell) -> None:
    """Freeze what runs in the stack, but for its first process, and sanlock, whose leases are short there.

    Stand-bys are among it.
    """
    cell.call_for_others(OTHERS)
    time.sleep(START_SECONDS)
    GROUP.path.mkdir()
    for pid in processes_inside(cell.stack).values():
        with contextlib.suppress(OSError):  # it has just ended
            is_init = pid == cell.stack.init_pid
            if not is_init and Path(f"/proc/{pid}/comm").read_text() != "sanlock\n":
                (GROUP.path / "cgroup.procs").write_text(str(pid))
    (GROUP.path / "freezer.state").write_text("FROZEN")


def resume(_cell: Cell) -> None:
    if not GROUP.path.is_dir():
        return
    (GROUP.path / "freezer.state").write_text("THAWED")
    while pids := (GROUP.path / "cgroup.procs").read_text().split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (GROUP.top / "cgroup.procs").write_text(pid)
    GROUP.path.rmdir()


SUSPEND_FAULTS = (
    Fault(
        *("all processes stopped for 6 s, as in a suspend", CALL, suspend, resume, SECONDS),
        kinds=BOTH,
        # Before, a process would begin while all others are stopped.
        stages=(LOGIN, FOUND, RECORD, SLOT, CALL, DONE),
        missing=GROUP.missing,
        is_quick_beside_it=True,
        action="pause",
        others=True,
        unwanted="no sign of life",
    ),
)
