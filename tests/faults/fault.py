# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fault of the host, and the stages of a call at which it may strike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple

from . import proxy

if TYPE_CHECKING:
    from .cell import Cell

BEFORE, LOGIN, FOUND = "before connect", "during authentication", "after lookup"
CALL, DONE, RECORD, SLOT = "during the call", "after the call", "while the record is written", "at a slot"

# The machine is safe, the storage is back, and recovery joins the lockspace.
RECOVERY = "during recovery"

# Whether an agent stands before the helper is called.
NO_AGENT, STANDING = "none", "standing"

# The drivers of libvirt's of a fault that has nothing to do with QEMU.
BOTH = ("qemu", "test")

# How long libvirtd, or what stands for it, is away: the rest of the budget must be enough.
AWAY = 4.0

Change = Callable[["Cell"], None]


def nothing(_cell: Cell) -> None:
    """Nothing is to be done."""


class Fault(NamedTuple):
    """inject: make it, at the stage.  clear: undo it, after `lasts` seconds, or at the end where that is 0.

    prepare: what has to be there before the helper starts.  then: what becomes of the message at which the
    stage was reached.  worst: the stage of the quick run.  kinds: of daemon.  stages: none for all.
    is_ours: it is in what libvirt's own helper does not have.  reads_stderr: the journal is in the fault.
    others: further calls belong to it.  emulator: what libvirt runs for QEMU, "" for its own choice.
    recovery: the actions after which it is tried during recovery as well.
    agents: the kinds of agent that it may strike.  at_rest: it has a stage before connect where one stands.
    is_quick: the quick run tries it.  is_quick_beside_it: with one that stands as well.
    unwanted: what must not be in the journal.  hosts: how many there are; with two the domain migrates.
    login: libvirtd asks for one.  outcome: what stands for one in the journal as well, as a pattern.
    """

    name: str
    worst: str
    inject: Change
    clear: Change = nothing
    lasts: float = 0.0
    prepare: Change = nothing
    then: str = proxy.PASS
    kinds: tuple[str, ...] = ("qemu",)
    stages: tuple[str, ...] = ()
    is_ours: bool = False
    reads_stderr: bool = False
    missing: Callable[[], str] = lambda: ""
    action: str = "poweroff"
    others: bool = False
    emulator: str = ""
    recovery: tuple[str, ...] = ()
    agents: tuple[str, ...] = (NO_AGENT, STANDING)
    at_rest: bool = False
    is_quick: bool = True
    is_quick_beside_it: bool = False
    unwanted: str = ""
    hosts: int = 1
    login: bool = False
    outcome: str = ""
