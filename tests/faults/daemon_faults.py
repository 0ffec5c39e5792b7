# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults of daemons other than libvirtd: sanlock, and libvirt's log daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .fault import AWAY, BEFORE, CALL, DONE, RECORD, Fault

if TYPE_CHECKING:
    from .cell import Cell

ACTIONS = ("poweroff", "pause")


def freeze_virtlogd(cell: Cell) -> None:
    cell.stack.virtlogd.freeze()


def thaw_virtlogd(cell: Cell) -> None:
    cell.stack.virtlogd.thaw()


def freeze_sanlock(cell: Cell) -> None:
    cell.stack.sanlock.freeze()


def thaw_sanlock(cell: Cell) -> None:
    cell.stack.sanlock.thaw()


def _away(cell: Cell) -> Path:
    return cell.stack.path(cell.stack.sanlock.socket + ".away")


def take_socket_away(cell: Cell) -> None:
    cell.stack.path(cell.stack.sanlock.socket).rename(_away(cell))


def put_socket_back(cell: Cell) -> None:
    _away(cell).rename(cell.stack.path(cell.stack.sanlock.socket))


def restart_sanlock(cell: Cell) -> None:
    """It is killed: what it knew of leases and lockspaces is gone."""
    cell.stack.sanlock.kill()
    cell.stack.sanlock.start(wait=False)


def join_again(cell: Cell) -> None:
    cell.stack.sanlock.wait_ready()
    if not cell.stack.lockspaces():
        cell.stack.join_lockspace()


DAEMON_FAULTS = (
    # libvirtd starts no QEMU without it.
    Fault(
        *("virtlogd stopped by a signal for 4 s", CALL, freeze_virtlogd, thaw_virtlogd, AWAY),
        action="restart",
        stages=(BEFORE, CALL, DONE),
        is_quick=False,
    ),
    Fault(
        *("sanlock stopped by a signal for 4 s", RECORD, freeze_sanlock, thaw_sanlock, AWAY),
        action="pause",
        recovery=ACTIONS,
    ),
    Fault(
        *("no sanlock socket for 4 s", BEFORE, take_socket_away, put_socket_back, AWAY),
        action="pause",
        recovery=ACTIONS,
    ),
    Fault(
        *("sanlock killed and started again", CALL, restart_sanlock, join_again),
        action="pause",
        # A machine that is paused is not known to the new one, and stays so.
        recovery=("poweroff",),
    ),
)
