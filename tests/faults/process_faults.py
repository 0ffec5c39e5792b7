# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults of this program's own processes; as in every storm, further calls come."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from tests.e2e.namespace import CommandError
from tests.e2e.recovery import recover
from tests.e2e.waiting import wait_for

from .control_group import ControlGroup
from .fault import AWAY, CALL, DONE, FOUND, LOGIN, RECORD, RECOVERY, Fault

if TYPE_CHECKING:
    from .cell import Cell

OTHERS = 3
_ALL = ("poweroff", "pause")
# At these an agent is at work, and others may stand by.
_AT_WORK = (LOGIN, FOUND, RECORD, CALL, DONE)


def _signal_agent(cell: Cell, number: int) -> None:
    if cell.helper_pid:
        with contextlib.suppress(CommandError):
            cell.stack.signal(cell.helper_pid, number)


def stop_agent(cell: Cell) -> None:
    _signal_agent(cell, signal.SIGSTOP)
    cell.call_for_others(OTHERS)


def continue_agent(cell: Cell) -> None:
    _signal_agent(cell, signal.SIGCONT)


def kill_agent(cell: Cell) -> None:
    _signal_agent(cell, signal.SIGKILL)
    cell.call_for_others(OTHERS)


def _stand_bys(cell: Cell) -> list[int]:
    return [p.pid for p in cell.stack.processes("libvirt_sanlock") if p.pid != cell.helper_pid]


def kill_stand_bys(cell: Cell) -> None:
    cell.call_for_others(OTHERS)
    wait_for(lambda: _stand_bys(cell), 10, "stand-bys")
    for pid in _stand_bys(cell):
        with contextlib.suppress(CommandError):
            cell.stack.signal(pid, signal.SIGKILL)


def stop_stand_bys(cell: Cell) -> None:
    cell.call_for_others(OTHERS)
    wait_for(lambda: _stand_bys(cell), 10, "stand-bys")
    for pid in _stand_bys(cell):
        with contextlib.suppress(CommandError):
            cell.stack.signal(pid, signal.SIGSTOP)


MEMORY = ControlGroup("memory")


def no_memory(cell: Cell) -> None:
    """No further page than it has: the kernel kills it for the next one.  Later calls have memory."""
    cell.prefix = ""
    # EBUSY: it has more by now.
    with contextlib.suppress(OSError):
        used = (MEMORY.path / "memory.usage_in_bytes").read_text()
        (MEMORY.path / "memory.limit_in_bytes").write_text(used)
    cell.call_for_others(OTHERS)


def drop_memory(cell: Cell) -> None:
    MEMORY.drop(cell, "memory.limit_in_bytes", "-1")


def _signal_recovery(cell: Cell, number: int) -> None:
    assert cell.recovery is not None
    cell.stack.signal(cell.stack.pid_inside(cell.recovery), number)


def kill_recovery(cell: Cell) -> None:
    """And start it again, as systemd does."""
    _signal_recovery(cell, signal.SIGKILL)
    assert cell.recovery is not None
    cell.recovery.communicate()
    cell.recovery = recover(cell.stack)


def stop_recovery(cell: Cell) -> None:
    _signal_recovery(cell, signal.SIGSTOP)


def continue_recovery(cell: Cell) -> None:
    _signal_recovery(cell, signal.SIGCONT)


PROCESS_FAULTS = (
    Fault("recovery killed", RECOVERY, kill_recovery, is_ours=True, stages=(RECOVERY,), recovery=_ALL),
    Fault(
        *("recovery stopped for 4 s", RECOVERY, stop_recovery, continue_recovery, AWAY),
        is_ours=True,
        stages=(RECOVERY,),
        recovery=_ALL,
        action="pause",
    ),
    Fault(
        *("agent stopped for good", CALL, stop_agent),
        is_ours=True,
        action="pause",
        others=True,
        is_quick_beside_it=True,
    ),
    Fault("agent stopped for 4 s", DONE, stop_agent, continue_agent, AWAY, is_ours=True, others=True),
    Fault(
        *("agent killed", CALL, kill_agent),
        is_ours=True,
        action="pause",
        others=True,
        stages=_AT_WORK,
        at_rest=True,
        is_quick_beside_it=True,
    ),
    Fault("stand-bys killed", CALL, kill_stand_bys, is_ours=True, others=True, stages=_AT_WORK),
    Fault("stand-bys stopped", CALL, stop_stand_bys, is_ours=True, others=True, stages=_AT_WORK),
    Fault(
        *("agent out of memory", FOUND, no_memory, drop_memory),
        prepare=MEMORY.hold_helpers,
        is_ours=True,
        others=True,
        stages=_AT_WORK,
        at_rest=True,
        missing=MEMORY.missing,
        is_quick_beside_it=True,
    ),
)
