# SPDX-License-Identifier: LGPL-2.1-or-later
"""The status of the running sanlock daemon: its settings, lockspaces and leases, in one answer.

`sanlock client status -D` answers from the daemon's memory: no storage is read, and the number of domains
costs nothing.  Its settings are the ones in force, whatever the configuration files have by now.

The names of lockspaces and leases are not escaped in it, paths are; so a line is read from its end.  Which
part of "a:b:c" is the lockspace is known from the lockspaces that are listed.  What decides over a virtual
machine is not this, but leases.held_by(), which has the names as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..command import NO_END, NOT_RUN, run
from ..errors import RUN_AS_ROOT, HelperError
from .sanlock_daemon import DEFAULT_IO_TIMEOUT

# A daemon that answers does so in milliseconds.
SECONDS = 5.0

COMMAND = ("sanlock", "client", "status", "-D")

# What sanlock_path_export() in sanlock src/client.c makes of a path, and what it does to one.
_PATH = r"(?:[^:\\]|\\.)*"
_ESCAPED = re.compile(r"\\([: ])")

# status_lockspace() and status_resource() in sanlock src/client_cmd.c.
_STATE = r"(?: (?P<state>ADD|REM|ORPHAN))?"
_SPACE = re.compile(rf"(?P<name>.*?):(?P<host_id>\d+):(?P<path>{_PATH}):(?P<offset>\d+){_STATE}", re.S)
_OWNER = rf" p (?P<pid>\d+){_STATE}"
_LEASE = re.compile(rf"(?P<names>.*?:.*?):(?P<path>{_PATH}):(?P<offset>\d+):(?:\d+|SH){_OWNER}", re.S)
_UNREAD = re.compile(rf".*{_OWNER}", re.S)
# A disk before the last one.
_DISK = re.compile(rf"(?P<names>.*?:.*?):(?P<path>/{_PATH}):(?P<offset>\d+)", re.S)

# Each line of an answer begins with one of these, unless it is the rest of a name with a line break.
_BEGINNINGS = ("daemon ", "p ", "s ", "r ", "    ")

# SANLK_NAME_LEN in sanlock src/sanlock.h.
NAME_LEN = 48

# How a lease is called whose line cannot be read.
UNKNOWN = "?"


class SanlockUnknownError(HelperError):
    """sanlock could not be asked."""


@dataclass(frozen=True)
class JoinedLockspace:
    """A lockspace that sanlock has; `values` are sanlock's own names and numbers for it.

    state: ADD while it is being joined, as for as long as another live host has our host_id; REM while it is
    being left; else empty.
    """

    name: str
    host_id: int
    path: str
    offset: int
    values: dict[str, str] = field(default_factory=dict)
    state: str = ""

    @property
    def joined(self) -> bool:
        """Whether leases can be had in it, as far as joining goes."""
        return not self.state and self.values.get("list", "spaces") == "spaces"

    @property
    def io_timeout(self) -> int:
        """Seconds."""
        return int(self.values.get("io_timeout", DEFAULT_IO_TIMEOUT))

    @property
    def lost(self) -> bool:
        """Whether sanlock gave it up, and is getting rid of the processes that use it."""
        return any(self.values.get(key, "0") != "0" for key in ("space_dead", "killing_pids"))


@dataclass(frozen=True)
class HeldLease:
    """A lease that a process of this host holds; its names are UNKNOWN where they could not be read.

    state: ADD while it is being acquired; REM when the process has given it up and sanlock still has to write
    that; ORPHAN when the process has ended without that; else empty.
    """

    lockspace: str
    resource: str
    path: str
    offset: int
    pid: int
    state: str = ""


@dataclass(frozen=True)
class SanlockStatus:
    """The daemon's settings by name, the lockspaces, the leases."""

    daemon: dict[str, str]
    lockspaces: tuple[JoinedLockspace, ...]
    leases: tuple[HeldLease, ...]

    def number(self, name: str) -> int | None:
        """A setting of the daemon, None when this version of sanlock does not report it."""
        value = self.daemon.get(name, "")
        return int(value) if re.fullmatch(r"-?\d+", value) else None

    def lockspace(self, name: str) -> JoinedLockspace | None:
        """The lockspace NAME, joined or not."""
        return next((space for space in self.lockspaces if space.name == name), None)

    def held_by(self, pid: int | None) -> list[HeldLease]:
        """The leases of one process, as sanlock's inquire() has them: not those that it has given up."""
        return [lease for lease in self.leases if lease.pid == pid and lease.state in ("", "ADD")]


def ask_sanlock(command: tuple[str, ...] = COMMAND, seconds: float = SECONDS) -> SanlockStatus:
    """Ask the daemon.  Raises SanlockUnknownError when it does not answer, or is not there."""
    answer = run(command, seconds)
    if answer.status == NOT_RUN:
        raise SanlockUnknownError("ask sanlock", answer.problem, "install sanlock")
    if answer.status == NO_END:
        raise SanlockUnknownError("ask sanlock", f"no answer within {seconds:g} s")
    if answer.status != 0:
        # sanlock prints nothing about a socket that only root and its own group may use.
        hint = "systemctl start sanlock" if os.geteuid() == 0 else RUN_AS_ROOT
        raise SanlockUnknownError("ask sanlock", f"it does not answer: {answer.why}", hint)
    return parse_status(answer.stdout)


def parse_status(text: str) -> SanlockStatus:
    """Read the answer to COMMAND; what a newer sanlock may add is skipped.

    Source: status_daemon(), status_lockspace() and status_resource() in sanlock ``src/client_cmd.c``.
    """
    daemon: dict[str, str] = {}
    lockspaces: list[JoinedLockspace] = []
    leases: list[HeldLease] = []
    values: dict[str, str] = {}
    for line in _lines(text):
        kind, _, rest = line.partition(" ")
        if not kind:
            name, _, value = line.strip().partition("=")
            values[name] = value
            continue
        values = daemon if kind == "daemon" else {}
        if kind == "s" and (space := _lockspace(rest, values)):
            lockspaces.append(space)
        elif kind == "r" and (lease := _lease(rest, lockspaces)):
            leases.append(lease)
    return SanlockStatus(daemon, tuple(lockspaces), tuple(leases))


def _lines(text: str) -> Iterator[str]:
    """The lines of an answer.  A name may have line breaks: such a line is put together again."""
    whole = ""
    for line in text.split("\n"):
        if whole and line.startswith(_BEGINNINGS):
            yield whole
            whole = ""
        whole = f"{whole}\n{line}" if whole else line
        if not _is_part(whole):
            yield whole
            whole = ""
    if whole:
        yield whole


def _is_part(line: str) -> bool:
    kind, _, rest = line.partition(" ")
    return (kind == "s" and not _SPACE.fullmatch(rest)) or (kind == "r" and not _LEASE.fullmatch(rest))


def _lockspace(text: str, values: dict[str, str]) -> JoinedLockspace | None:
    match = _SPACE.fullmatch(text)
    if match is None:
        return None
    name, host_id, path, offset, state = match.groups("")
    return JoinedLockspace(name, int(host_id), _path(path), int(offset), values, state)


def _lease(text: str, lockspaces: list[JoinedLockspace]) -> HeldLease | None:
    """The lease of a line; None only where not even its process can be read."""
    match = _LEASE.fullmatch(text)
    if match is None:
        unread = _UNREAD.fullmatch(text)
        return unread and HeldLease(UNKNOWN, UNKNOWN, "", 0, int(unread["pid"]), unread["state"] or "")
    names, path, offset, pid, state = match.groups("")
    # The longest of those that it can be in.
    spaces = sorted((space.name for space in lockspaces), key=len, reverse=True)
    found = next((space for space in spaces if names.startswith(f"{space}:")), None)
    lockspace = names.partition(":")[0] if found is None else found
    # libvirt's leases have one disk each, so what may be a name is one.
    while len(names) - len(lockspace) > NAME_LEN + 1 and (disk := _DISK.fullmatch(names)):
        names, path, offset = disk.groups()
    return HeldLease(lockspace, names[len(lockspace) + 1 :], _path(path), int(offset), int(pid), state)


def _path(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
