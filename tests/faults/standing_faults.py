# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults of the agent that stands, which another one has not; see process_faults.py for those of both."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from tests.e2e.calls import SPOOL
from tests.e2e.lease_loss import RUNTIME_DIR
from tests.e2e.namespace import CommandError

from .fault import BEFORE, STANDING, Fault
from .process_faults import OTHERS

if TYPE_CHECKING:
    from .cell import Cell

# More renames than the kernel keeps events of: fs.inotify.max_queued_events.
_EVENTS = 20000


def restart(cell: Cell) -> None:
    """As `systemctl restart` does: it gets SIGTERM, and another one is started."""
    with contextlib.suppress(CommandError):
        cell.stack.signal(cell.helper_pid, signal.SIGTERM)
    cell.start_agent()


def remove_lock(cell: Cell) -> None:
    cell.stack.path(f"{RUNTIME_DIR}/agent.lock").unlink()
    cell.call_for_others(OTHERS)


def overflow(cell: Cell) -> None:
    """While it is stopped more happens in the spool than its queue holds; the last of it is the request."""
    cell.stack.signal(cell.helper_pid, signal.SIGSTOP)
    spool = os.open(cell.stack.path(SPOOL), os.O_RDONLY)
    try:
        os.close(os.open(".0", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=spool))
        for number in range(_EVENTS):
            os.rename(f".{number}", f".{number + 1}", src_dir_fd=spool, dst_dir_fd=spool)
        os.unlink(f".{_EVENTS}", dir_fd=spool)
    finally:
        os.close(spool)


def go_on(cell: Cell) -> None:
    with contextlib.suppress(CommandError):
        cell.stack.signal(cell.helper_pid, signal.SIGCONT)


STANDING_FAULTS = (
    Fault(
        *("agent restarted", BEFORE, restart),
        is_ours=True,
        agents=(STANDING,),
        is_quick_beside_it=True,
    ),
    Fault(
        *("agent's lock removed", BEFORE, remove_lock),
        is_ours=True,
        others=True,
        # Over requests another process serves them as well, and may log some a second time.
        stages=(BEFORE,),
        agents=(STANDING,),
        is_quick_beside_it=True,
    ),
    Fault(
        # Stopped for less than the silence that ends it.
        *("agent's queue of events overflows", BEFORE, overflow, go_on, 1.5),
        is_ours=True,
        stages=(BEFORE,),
        agents=(STANDING,),
        is_quick_beside_it=True,
        action="pause",
    ),
)
