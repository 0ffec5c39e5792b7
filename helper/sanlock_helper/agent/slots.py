# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose turn it is: how many calls libvirtd gets at a time, and of which kind.

A destroy keeps one of libvirtd's workers for 0.2 s or more, a pause for milliseconds.  Poweroffs and restarts
get the turns that are left beside the pauses.  A few more of them are prepared meanwhile: looked up and taken
down, they wait for their turn inside the try, and make their destroy the moment another one has returned.
"""

from __future__ import annotations

from collections import deque
from typing import Callable

from .jobs import Execution

# Tries that make calls at a time: libvirtd has 20 ordinary workers and 5 for high-priority calls
# (libvirtd.conf).
IN_FLIGHT = 25

# Of these, poweroffs and restarts that may destroy: a destroy takes an ordinary worker when the five for high
# priority are busy.  One is left for a pause that comes later, and for those that are prepared.
OTHERS_IN_FLIGHT = 24

# While new pauses keep coming: the end of a QEMU process is work for the host as well, and the processes that
# bring further pauses would wait for it.  A pause that hangs or is tried again holds up nobody.
OTHERS_BESIDE_PAUSES = 1
PAUSE_SECONDS = 0.1

# Poweroffs and restarts that are prepared while all turns are taken: more than end at one time.
AHEAD = 8


class Slots:
    """The tries under way.  Only the agent's loop calls this."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """CLOCK is monotonic, in seconds."""
        self._clock = clock
        # Those that make calls, and those that are prepared and wait; the oldest first.
        self._calling: list[Execution] = []
        self._waiting: deque[Execution] = deque()
        # When a pause was tried first, the last time.
        self._paused_at = float("-inf")

    @property
    def is_full(self) -> bool:
        """Whether no try may start a call now."""
        return len(self._calling) >= IN_FLIGHT

    @property
    def is_saturated(self) -> bool:
        """Whether no further poweroff or restart should start now, not even to be prepared."""
        prepared = len(self._waiting) + sum(not execution.has_slot for execution in self._calling)
        return not self._is_one_free() and (self._pauses_come() or prepared >= AHEAD)

    def begin(self, execution: Execution) -> None:
        """A try starts: a pause at once, a poweroff or restart with its turn if one is free."""
        if execution.job.request.action == "pause":
            execution.has_slot = True
            if execution.job.tries == 1:
                self._paused_at = self._clock()
        else:
            execution.has_slot = self._is_one_free()
        self._calling.append(execution)

    def park(self, execution: Execution) -> bool:
        """A try is prepared; True when it waits for its turn, False when that has come already."""
        if execution.has_slot:
            return False
        self._calling.remove(execution)
        self._waiting.append(execution)
        return True

    def release_next(self) -> Execution | None:
        """Give a free turn to the try that was prepared first; None when none is free, or nobody needs it."""
        if not self._is_one_free():
            return None
        if self._waiting:
            execution = self._waiting.popleft()
            self._calling.append(execution)
        else:
            found = next((execution for execution in self._calling if not execution.has_slot), None)
            if found is None:
                return None
            execution = found
        execution.has_slot = True
        return execution

    def end(self, execution: Execution) -> None:
        """A try is over, or nobody waits for it any more."""
        if execution in self._calling:
            self._calling.remove(execution)
        else:
            self._waiting.remove(execution)

    def _is_one_free(self) -> bool:
        others = sum(
            execution.has_slot and execution.job.request.action != "pause" for execution in self._calling
        )
        return others < (OTHERS_BESIDE_PAUSES if self._pauses_come() else OTHERS_IN_FLIGHT)

    def _pauses_come(self) -> bool:
        return self._clock() - self._paused_at < PAUSE_SECONDS
