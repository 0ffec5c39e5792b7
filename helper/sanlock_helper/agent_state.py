# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether an agent stands on this host, for `status` and `check`: read, and nothing is locked or changed.

It names itself in agent.pid as spool.identity() does, and marks the file of its lock: see spool.py.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from .numbers import whole_number

# spool.STANDS; the fast path's modules are no base of others.
_STANDS = 0

# Of proc(5), behind the name: the state, and the start in clock ticks since boot.
_STATE, _START = 0, 19


@dataclass(frozen=True)
class AgentState:
    """An agent that stands: its process, since when (seconds since the epoch), and what it has in memory.

    resident, locked: MiB.  is_stopped: by a signal, a debugger or a frozen cgroup.
    """

    pid: int
    since: float
    resident: int
    locked: int
    is_stopped: bool


def agent_state(runtime_dir: Path, proc: Path = Path("/proc")) -> AgentState | None:
    """The agent that stands; None where none does.  Raises OSError where that cannot be read."""
    try:
        is_marked = (runtime_dir / "agent.lock").stat().st_atime_ns == _STANDS
        words = _words(runtime_dir / "agent.pid")
    except FileNotFoundError:
        return None
    pid = whole_number(words[0]) if words else None
    if not is_marked or pid is None:
        return None
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        status = (proc / str(pid) / "status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    if len(words) < 2 or stat[_START] != words[1] or stat[_STATE] in "ZX":
        return None  # it has ended, and another process has its id
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[_START]) / os.sysconf("SC_CLK_TCK")
    resident, locked = (_mebibytes(status, name) for name in ("VmRSS", "VmLck"))
    return AgentState(pid, time.time() - uptime, resident, locked, stat[_STATE] in "Tt")


def described_state(agent: AgentState) -> str:
    """What there is to be known of AGENT, in a few words."""
    stopped = "; it is STOPPED" * agent.is_stopped
    locked = f", {agent.locked} of address space locked" if agent.locked else ""
    return f"process {agent.pid}, {agent.resident} MiB in memory{locked}{stopped}"


def _words(path: Path) -> list[str]:
    """What is in the file at PATH; of what is no regular file nothing is waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode("utf-8", "replace").split()
    finally:
        os.close(descriptor)


def _mebibytes(status: str, name: str) -> int:
    """A size of /proc/PID/STATUS, which has KiB."""
    words = status.partition(f"\n{name}:")[2].split(maxsplit=1)
    return round((whole_number(words[0]) or 0) / 1024) if words else 0
