# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the running sanlock daemon says of itself: its settings, lockspaces and leases, in one answer.

`sanlock client status -D` answers from the daemon's memory: no storage is read, and the number of domains
costs nothing.  Its settings are the ones in force, whatever the configuration files say by now.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field

from .errors import HelperError

# A daemon that answers does so in milliseconds.
SECONDS = 5.0

COMMAND = ("sanlock", "client", "status", "-D")

_PARTS = re.compile(r"(?<!\\):")


class SanlockUnknownError(HelperError):
    """sanlock could not be asked."""


@dataclass(frozen=True)
class Lockspace:
    """A lockspace that this host has joined; `values` are sanlock's own names and numbers for it."""

    name: str
    host_id: int
    path: str
    offset: int
    values: dict[str, str] = field(default_factory=dict)

    @property
    def io_timeout(self) -> int:
        """Seconds."""
        return int(self.values.get("io_timeout", 10))

    @property
    def lost(self) -> bool:
        """Whether sanlock gave it up, and is getting rid of the processes that use it."""
        return any(self.values.get(key, "0") != "0" for key in ("space_dead", "killing_pids"))


@dataclass(frozen=True)
class HeldLease:
    """A lease that a process of this host holds."""

    lockspace: str
    resource: str
    path: str
    offset: int
    pid: int


@dataclass(frozen=True)
class SanlockStatus:
    """The daemon's settings by name, the lockspaces, the leases."""

    daemon: dict[str, str]
    lockspaces: tuple[Lockspace, ...]
    leases: tuple[HeldLease, ...]

    def number(self, name: str) -> int | None:
        """A setting of the daemon, None when this version of sanlock does not tell it."""
        value = self.daemon.get(name, "")
        return int(value) if re.fullmatch(r"-?\d+", value) else None

    def lockspace(self, name: str) -> Lockspace | None:
        """The joined lockspace NAME."""
        return next((space for space in self.lockspaces if space.name == name), None)

    def held_by(self, pid: int | None) -> list[HeldLease]:
        """The leases of one process."""
        return [lease for lease in self.leases if lease.pid == pid]


def ask_sanlock(command: tuple[str, ...] = COMMAND, seconds: float = SECONDS) -> SanlockStatus:
    """Ask the daemon.  Raises SanlockUnknownError when it does not answer, or is not there."""
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="backslashreplace", timeout=seconds, check=False
        )
    except OSError as error:
        raise SanlockUnknownError(
            "ask sanlock", f"{command[0]}: {error.strerror}", "install sanlock"
        ) from error
    except subprocess.TimeoutExpired:
        raise SanlockUnknownError("ask sanlock", f"no answer within {seconds:g} s") from None
    if answer.returncode != 0:
        why = (answer.stderr or answer.stdout).strip().split("\n")[0] or f"status {answer.returncode}"
        # sanlock says nothing of a socket that only root and its own group may use.
        hint = "systemctl start sanlock" if os.geteuid() == 0 else "run this as root"
        raise SanlockUnknownError("ask sanlock", f"it does not answer: {why}", hint)
    return parse_status(answer.stdout)


def parse_status(text: str) -> SanlockStatus:
    """Read the answer to COMMAND; what a newer sanlock may add is skipped.

    Source: status_daemon(), status_lockspace() and status_resource() in sanlock ``src/client_cmd.c``.
    """
    daemon: dict[str, str] = {}
    lockspaces: list[Lockspace] = []
    leases: list[HeldLease] = []
    values: dict[str, str] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if not kind:
            name, _, value = line.strip().partition("=")
            values[name] = value
        elif kind == "daemon":
            values = daemon
        elif kind == "s":
            values = {}
            lockspaces.append(_lockspace(rest, values))
        else:
            values = {}
            if kind == "r":
                leases.append(_lease(rest))
    return SanlockStatus(daemon, tuple(lockspaces), tuple(leases))


def _lockspace(text: str, values: dict[str, str]) -> Lockspace:
    name, host_id, path, rest = _PARTS.split(text, maxsplit=3)
    return Lockspace(name, int(host_id), _path(path), int(rest.split()[0]), values)


def _lease(text: str) -> HeldLease:
    where, _, owner = text.partition(" p ")
    lockspace, resource, path, offset, *_version = _PARTS.split(where)
    return HeldLease(lockspace, resource, _path(path), int(offset), int(owner.split()[0]))


def _path(text: str) -> str:
    # sanlock_path_export() in sanlock src/sanlock_sock.c escapes colons and backslashes.
    return re.sub(r"\\([:\\])", r"\1", text)
