# SPDX-License-Identifier: LGPL-2.1-or-later
"""A control group of the tests' own, version 1, in which a limit is a fault."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.waiting import wait_for

if TYPE_CHECKING:
    from .cell import Cell


class ControlGroup:
    """The group of one controller: pids, memory, freezer."""

    def __init__(self, controller: str) -> None:
        self.controller = controller
        self.top = Path("/sys/fs/cgroup") / controller

    @property
    def path(self) -> Path:
        return self.top / f"helper-faults-{os.getpid()}"

    def missing(self) -> str:
        """Why there can be none on this machine, "" if there can."""
        return "" if os.access(self.top, os.W_OK) else f"no {self.controller} controller of cgroup v1 here"

    def hold_helpers(self, cell: Cell) -> None:
        """Make it, for the helpers that CELL starts from now on."""
        self.path.mkdir()
        cell.prefix = f"echo 0 >{self.path}/cgroup.procs || exit 1;"

    def drop(self, cell: Cell, limit: str, unlimited: str) -> None:
        """Write UNLIMITED to its file LIMIT, end the helpers of CELL, and remove it."""
        (self.path / limit).write_text(unlimited)
        cell.end_helpers()
        self.remove()

    def remove(self) -> None:
        """Remove it, and leave the processes that are in there to the group above it."""
        wait_for(self._is_removed, 10, f"{self.path} to be empty")

    def _is_removed(self) -> bool:
        try:
            for pid in (self.path / "cgroup.procs").read_text().split():
                (self.top / "cgroup.procs").write_text(pid)
            self.path.rmdir()
        except OSError as error:
            # A process in there has just ended, or is about to: until then the group is busy.
            if error.errno not in (errno.ESRCH, errno.EBUSY):
                raise
            return False
        return True
