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
from typing import Callable

from ..command import NO_END, NOT_RUN, run
from ..distribution import Distribution
from ..errors import RUN_AS_ROOT, HelperError
from ..numbers import whole_number
from .sanlock_daemon import DEFAULT_IO_TIMEOUT

# A daemon that answers does so in milliseconds.
SECONDS = 5.0

COMMAND = ("sanlock", "client", "status", "-D")

START = "systemctl start sanlock"

# What sanlock_path_export() in sanlock src/client.c does to a path.
_ESCAPED = re.compile(r"\\([: ])")

# status_lockspace() and status_resource() in sanlock src/client_cmd.c: what is behind the path, in so many
# characters at most.  Numbers are bounded: int() takes no text of any length.
_NUMBER = r"[0-9]{1,20}"
_STATE = r"(?: (?P<state>ADD|REM|ORPHAN))?"
_OWNER = rf" p (?P<pid>[0-9]{{1,10}}){_STATE}\Z"
_SPACE_END = re.compile(rf":(?P<offset>{_NUMBER}){_STATE}\Z")
_LEASE_END = re.compile(rf":(?P<offset>{_NUMBER}):(?:{_NUMBER}|SH){_OWNER}")
_UNREAD_END = re.compile(_OWNER)
_DISK_END = re.compile(rf":(?P<offset>{_NUMBER})\Z")
_HOST_ID_END = re.compile(rf":(?P<host_id>{_NUMBER})\Z")
_END_LENGTH = 80

# Each line of an answer begins with one of these, unless it is the rest of a name with a line break.
_BEGINNINGS = ("daemon ", "p ", "s ", "r ", "    ")

# SANLK_NAME_LEN in sanlock src/sanlock.h.
NAME_LEN = 48

# SANLK_MAX_DISKS there.
MAX_DISKS = 4

# Two names, and four paths of SANLK_PATH_LEN in which each character is escaped, with their numbers: no line
# of sanlock's is longer.
_MOST_LINE = 9 * 1024

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
        found = whole_number(self.values.get("io_timeout", ""))
        return DEFAULT_IO_TIMEOUT if found is None else found

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
        found = whole_number(value.removeprefix("-"))
        return -found if found is not None and value.startswith("-") else found

    @property
    def version(self) -> tuple[int, ...]:
        """The version of the running daemon, () when it does not report it."""
        numbers = [whole_number(word) for word in self.daemon.get("version_str", "").split(".")]
        found = tuple(number for number in numbers if number is not None)
        return found if len(found) == len(numbers) else ()

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
        raise SanlockUnknownError("ask sanlock", answer.problem, Distribution.read().install("sanlock"))
    if answer.status == NO_END:
        raise SanlockUnknownError("ask sanlock", f"no answer within {seconds:g} s")
    if answer.status != 0:
        # sanlock prints nothing about a socket that only root and its own group may use.
        hint = START if os.geteuid() == 0 else RUN_AS_ROOT
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
    names: set[str] = set()
    for line in _lines(text):
        kind, _, rest = line.partition(" ")
        if not kind:
            name, _, value = line.strip().partition("=")
            values[name] = value
            continue
        values = daemon if kind == "daemon" else {}
        if kind == "s" and (space := _lockspace(rest, values)):
            lockspaces.append(space)
            names.add(space.name)
        elif kind == "r" and (lease := _lease(rest, names)):
            leases.append(lease)
    return SanlockStatus(daemon, tuple(lockspaces), tuple(leases))


def _lines(text: str) -> Iterator[str]:
    """The lines of an answer.  A name may have line breaks: such a line is put together again."""
    parts: list[str] = []
    length = 0
    for line in text.split("\n"):
        if parts and (line.startswith(_BEGINNINGS) or length + len(line) > _MOST_LINE):
            yield "\n".join(parts)
            parts, length = [], 0
        parts.append(line)
        length += len(line) + 1
        if not _is_part(parts):
            yield "\n".join(parts)
            parts, length = [], 0
    if parts:
        yield "\n".join(parts)


def _is_part(lines: list[str]) -> bool:
    """Whether LINES are the beginning of a lockspace's or a lease's line, which has more."""
    kind = lines[0].partition(" ")[0]
    ends = {"s": _SPACE_END, "r": _LEASE_END}.get(kind)
    if ends is None:
        return False
    if not _at_end(ends, lines[-1] if len(lines) == 1 else f"\n{lines[-1]}"):
        return True
    text = "\n".join(lines).partition(" ")[2]
    return (_split_space(text) if kind == "s" else _split_lease(text)) is None


def _at_end(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return pattern.search(text, max(0, len(text) - _END_LENGTH))


def _split_path(text: str, begins: Callable[[int], bool]) -> int:
    """The ":" in TEXT behind which all is a path, as it is escaped; -1 where there is none.

    The first one for which BEGINS is true.  Each character is gone over once, from the end: whether what
    follows it is a path is known then.
    """
    found = -1
    is_path, was_path = True, False  # from the next character on, and from the one after that
    for index in range(len(text) - 1, -1, -1):
        letter = text[index]
        if letter == ":" and is_path and begins(index):
            found = index
        here = was_path if letter == "\\" else is_path and letter != ":"
        is_path, was_path = here, is_path
        if not (is_path or was_path):
            break
    return found


def _split_space(text: str) -> tuple[str, str, re.Match[str], re.Match[str]] | None:
    """The name and the path in a lockspace's line, and what has the host_id and the rest."""
    end = _at_end(_SPACE_END, text)
    if end is None or len(text) > _MOST_LINE:
        return None
    before = text[: end.start()]
    colon = _split_path(before, lambda index: bool(_at_end(_HOST_ID_END, before[max(0, index - 21) : index])))
    host_id = _at_end(_HOST_ID_END, before[:colon]) if colon >= 0 else None
    return (before[: host_id.start()], before[colon + 1 :], host_id, end) if host_id else None


def _split_lease(text: str) -> tuple[str, str, re.Match[str]] | None:
    """The names and the path in a lease's line, and what has the rest."""
    end = _at_end(_LEASE_END, text)
    if end is None or len(text) > _MOST_LINE:
        return None
    names = text[: end.start()]
    first = names.find(":")
    colon = _split_path(names, lambda index: index > first)
    return (names[:colon], names[colon + 1 :], end) if colon >= 0 else None


def _split_disk(names: str) -> tuple[str, str, str] | None:
    """What is before the last disk in NAMES, its path and its offset."""
    end = _at_end(_DISK_END, names)
    if end is None:
        return None
    before = names[: end.start()]
    first = before.find(":")
    colon = _split_path(before, lambda index: index > first and before[index + 1 : index + 2] == "/")
    return (before[:colon], before[colon + 1 :], end["offset"]) if colon >= 0 else None


def _lockspace(text: str, values: dict[str, str]) -> JoinedLockspace | None:
    found = _split_space(text)
    if found is None:
        return None
    name, path, host_id, end = found
    return JoinedLockspace(
        name, int(host_id["host_id"]), _path(path), int(end["offset"]), values, end["state"] or ""
    )


def _lease(text: str, lockspaces: set[str]) -> HeldLease | None:
    """The lease of a line, in one of LOCKSPACES; None only where not even its process can be read."""
    found = _split_lease(text)
    if found is None:
        unread = _at_end(_UNREAD_END, text)
        return unread and HeldLease(UNKNOWN, UNKNOWN, "", 0, int(unread["pid"]), unread["state"] or "")
    names, path, end = found
    offset = end["offset"]
    # The longest of those that it can be in.
    ends = [place for place, letter in enumerate(names[: NAME_LEN + 1]) if letter == ":"]
    known = (names[:place] for place in reversed(ends) if names[:place] in lockspaces)
    lockspace = next(known, names.partition(":")[0])
    # libvirt's leases have one disk each, so what may be a name is one.
    for _ in range(MAX_DISKS - 1):
        disk = _split_disk(names) if len(names) - len(lockspace) > NAME_LEN + 1 else None
        if disk is None:
            break
        names, path, offset = disk
    resource = names[len(lockspace) + 1 :]
    return HeldLease(lockspace, resource, _path(path), int(offset), int(end["pid"]), end["state"] or "")


def _path(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
