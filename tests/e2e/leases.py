# SPDX-License-Identifier: LGPL-2.1-or-later
"""What sanlock holds, and what it did, as its own status and log have it."""

from __future__ import annotations

import re
import time
from collections.abc import Container
from typing import NamedTuple

from .namespace import Namespace

# The name libvirt gives to the lockspace of its automatic disk leases.
LOCKSPACE = "__LIBVIRT__DISKS__"

# sanlock's word in its log for "run the killpath"; SIGRUNPATH in its src/main.c.
SIGRUNPATH = 100

# The number in brackets is the thread's; kills come from the main thread, whose number is the daemon's pid.
_KILL = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?P<monotonic>\d+) \[(?P<daemon>\d+)\]: s\d+ "
    r"kill (?P<pid>\d+) sig (?P<signal>\d+) count (?P<count>\d+)$",
    re.ASCII,
)

# Paths are escaped (sanlock_path_export() in sanlock src/client.c), names are not.
_PATH = r"(?:[^:\\]|\\.)*"
_SPACE = re.compile(rf"s (.*):(\d+):({_PATH}):(\d+)(?: (\w+))?")
_LEASE = re.compile(rf"r ([^:]*):(.*):({_PATH}):(\d+):(\d+|SH) p (\d+)(?: (\w+))?")


class Lockspace(NamedTuple):
    """A lockspace that a sanlock has joined; state is "" or ADD, REM, ORPHAN."""

    name: str
    host_id: int
    path: str
    offset: int
    state: str


class Lease(NamedTuple):
    """A lease on a resource and its holder; version is -1 for a shared one; state as above."""

    lockspace: str
    resource: str
    path: str
    offset: int
    version: int
    pid: int
    state: str

    @property
    def where(self) -> str:
        """LOCKSPACE:RESOURCE:PATH:OFFSET, as sanlock's commands take it."""
        path = re.sub(r"([ :])", r"\\\1", self.path)
        return f"{self.lockspace}:{self.resource}:{path}:{self.offset}"


class Kill(NamedTuple):
    """One try of sanlock to be rid of a process: SIGRUNPATH is the killpath, 9 is SIGKILL.

    tries counts them for one process; monotonic is sanlock's own clock.
    """

    pid: int
    signal: int
    tries: int
    time: float
    monotonic: int


def client_status(space: Namespace, env: dict[str, str]) -> list[str]:
    """The lines of `sanlock client status`."""
    return space.run("sanlock", "client", "status", env=env).stdout.splitlines()


def parse_lockspaces(lines: list[str]) -> list[Lockspace]:
    """The joined lockspaces: `s NAME:HOST_ID:PATH:OFFSET [STATE]`."""
    found = []
    for line in lines:
        if match := _SPACE.fullmatch(line):
            name, host_id, path, offset, state = match.groups("")
            found.append(Lockspace(name, int(host_id), _plain(path), int(offset), state))
    return found


def parse_leases(lines: list[str]) -> list[Lease]:
    """The leases held: `r LOCKSPACE:RESOURCE:PATH:OFFSET:VERSION p PID [STATE]`."""
    found = []
    for line in lines:
        if match := _LEASE.fullmatch(line):
            lockspace, resource, path, offset, version, pid, state = match.groups("")
            number = -1 if version == "SH" else int(version)
            found.append(Lease(lockspace, resource, _plain(path), int(offset), number, int(pid), state))
    return found


def _plain(path: str) -> str:
    return re.sub(r"\\([ :])", r"\1", path)


def parse_kills(log: str, daemons: Container[int] | None = None) -> list[Kill]:
    """All kills in sanlock's log, oldest first; of these daemons (their pids), if any are given.

    Times are whole seconds.  Whatever else is in the log is passed over.
    """
    matches = (_KILL.match(line) for line in log.split("\n"))
    own = (match for match in matches if match and (daemons is None or int(match["daemon"]) in daemons))
    return [kill for kill in map(_kill, own) if kill is not None]


def _kill(match: re.Match[str]) -> Kill | None:
    try:
        when = time.mktime(time.strptime(match["time"], "%Y-%m-%d %H:%M:%S"))
    except (ValueError, OverflowError):
        # No time that there is: not sanlock's line.
        return None
    return Kill(int(match["pid"]), int(match["signal"]), int(match["count"]), when, int(match["monotonic"]))
