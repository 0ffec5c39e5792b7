# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that observes the agent, and serves in its place when that has died or shows no sign of life.

An agent may be stopped (SIGSTOP, a debugger, a frozen cgroup), or hang in a call that does not return.  It
keeps its lock then, and with it all virtual machines.  One that is silent for SILENT_SECONDS is killed: the
kernel frees its lock when it has ended.  One that cannot be killed (a thread of it waits for a disk
uninterruptibly, or its process id counts in another namespace) is served beside, with the second lock.
"""

from __future__ import annotations

import posix

from ..events import Event
from ..handover import FIRST, LATE_SECONDS, SECOND
from ..spool import HELD, TAKEN, Spool, SpoolError, pid_namespace, process_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# An agent that shows no life for so long is taken for one that never will again.  It shows life every quarter
# of a second, and runs before all other processes of this program.
SILENT_SECONDS = 3.0

# So much of that this process observes itself.  All processes may have been stopped together, or the host
# suspended, and then the agent's life is old although it is about to go on.
OBSERVED_SECONDS = 0.5

# How long the end of a killed process may take; longer means that SIGKILL does not take effect.
DEATH_SECONDS = 0.5

# How often a stand-by tries the lock, and how much of the time since the last attempt counts as observed: a
# stand-by that was stopped itself has observed nothing.
POLL_SECONDS = 0.05
_COUNTED_SECONDS = 4 * POLL_SECONDS

_SIGKILL = 9


class StandBy:
    """The observation of the agent by one process."""

    def __init__(
        self,
        spool: Spool,
        clock: Callable[[], float],
        report: Callable[[Event], None],
        kill: Callable[[str, Callable[[], bool]], bool] | None = None,
    ) -> None:
        """CLOCK is monotonic, in seconds; REPORT logs an event; KILL is as kill_holder()."""
        self._spool = spool
        self._report = report
        self._kill = kill or kill_holder
        # The agent that is about to be killed, by this process or another stand-by.
        self._silent = ""
        self._observed = (_Observation(spool, FIRST, clock), _Observation(spool, SECOND, clock))

    def try_serve(self) -> bool:
        """Whether this process is the agent now; to be called every POLL_SECONDS until it is.

        Raises SpoolError when two agents hang and neither can be killed; OSError when the locks cannot be
        used.
        """
        spool = self._spool
        lock = spool.take_first()
        if lock == TAKEN:
            if self._silent:
                self._report(Event("agent-replaced", note=self._silent))
                self._silent = ""
            return True
        if lock == HELD and not self._is_hopeless(FIRST):
            return False
        # The agent hangs, or another one serves beside it already.
        if spool.take_second():
            if lock == HELD and self._observed[FIRST].is_unchanged():
                self._report(Event("agent-beside", note=_named(spool.holder(FIRST))))
                return True
            spool.unlock()
            return False
        if self._is_hopeless(SECOND):
            raise SpoolError(
                "two agents show no sign of life and cannot be killed: see ps -eo pid,stat,wchan"
            )
        return False

    def is_relieved(self) -> bool:
        """Whether an agent that shows life serves, so that only the stand-bys have to stay."""
        return any(observation.is_lively() for observation in self._observed)

    def _is_hopeless(self, which: int) -> bool:
        """Whether the holder of that lock will not serve any more.  Kills it once it was silent for long."""
        observation = self._observed[which]
        silence = observation.update()
        if which == FIRST and silence >= LATE_SECONDS and self._observed[SECOND].is_lively():
            return True  # another process has found that already
        self._silent = ""
        if silence >= SILENT_SECONDS - OBSERVED_SECONDS:
            self._silent = _named(self._spool.holder(which))
        if silence < SILENT_SECONDS:
            return False
        if not observation.killed:
            observation.killed = True
            self._kill(self._spool.holder(which), observation.is_unchanged)
        return silence >= SILENT_SECONDS + DEATH_SECONDS


class _Observation:
    """What was observed of the holder of one lock."""

    def __init__(self, spool: Spool, which: int, clock: Callable[[], float]) -> None:
        self._spool = spool
        self._which = which
        self._clock = clock
        self._life = -1.0
        self._silence = 0.0
        self._last = 0.0
        # Whether SIGKILL was sent, or tried, since the last sign of life.
        self.killed = False

    def update(self) -> float:
        """For how many seconds the holder has shown no life, as far as this process has observed it."""
        life = self._spool.silent_since(self._which)
        now = self._clock()
        if life != self._life:
            self._life = life
            self._silence = max(0.0, min(now - life, SILENT_SECONDS - OBSERVED_SECONDS))
            self.killed = False
        else:
            self._silence += min(now - self._last, _COUNTED_SECONDS)
        self._last = now
        return self._silence

    def is_unchanged(self) -> bool:
        """Whether the holder has shown no life since the last update()."""
        return self._spool.silent_since(self._which) == self._life

    def is_lively(self) -> bool:
        """Whether the holder has shown life lately."""
        return not self._spool.is_late(self._which)


def _named(holder: str) -> str:
    pid = holder.partition(" ")[0]
    return f"process {pid}" if pid else "a process that has not given its id"


def kill_holder(holder: str, is_unchanged: Callable[[], bool]) -> bool:
    """Send SIGKILL to the process that HOLDER names (see spool.identity()); False when that is not possible.

    IS_UNCHANGED returns whether the lock still has this holder.  The descriptor of the process is opened
    before its start is compared and the lock is checked again, so no later process of its id is hit.
    """
    try:
        pid, start, namespace = (int(word) for word in holder.split())
        if namespace != pid_namespace() or namespace == 0:
            return False
        descriptor = posix.pidfd_open(pid)
    except (AttributeError, OSError, ValueError):  # also a kernel or a Python without pidfd_open(2)
        return False
    try:
        if start == 0 or process_start(pid) != start or not is_unchanged():
            return False
        # The C module under the standard one, which is more to load from a disk that may not answer.
        from _signal import pidfd_send_signal  # type: ignore[import-not-found]

        pidfd_send_signal(descriptor, _SIGKILL)
    except OSError:
        return False
    finally:
        posix.close(descriptor)
    return True
