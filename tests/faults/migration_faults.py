# SPDX-License-Identifier: LGPL-2.1-or-later
"""The domain is on its way to another host when the loss comes; what becomes of that in mid-call.

The migration was begun before, and is in its first phase, in which the guest runs here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .fault import AWAY, CALL, DONE, FOUND, Fault
from .victims import MigratingVm

if TYPE_CHECKING:
    from .cell import Cell


def _vm(cell: Cell) -> MigratingVm:
    assert isinstance(cell.victim, MigratingVm)
    return cell.victim


def arrive(cell: Cell) -> None:
    _vm(cell).hurry()


def give_up(cell: Cell) -> None:
    _vm(cell).give_up()


def stop_target(cell: Cell) -> None:
    """The migration comes to its last phase, in which the guest runs nowhere, and not to its end."""
    _vm(cell).target.libvirtd.freeze()
    _vm(cell).hurry()


def thaw_target(cell: Cell) -> None:
    _vm(cell).target.libvirtd.thaw()


MIGRATION_FAULTS = (
    Fault("domain migrated", FOUND, arrive, hosts=2, action="restart"),
    Fault("migration given up", CALL, give_up, hosts=2, action="pause", is_quick=False),
    Fault(
        *("migration held up by the other host for 4 s", DONE, stop_target, thaw_target, AWAY),
        hosts=2,
        action="pause",
    ),
)
