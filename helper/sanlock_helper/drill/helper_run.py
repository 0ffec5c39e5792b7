# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be observed of the helper that sanlock runs for the drill's lease.

Three independent signs, since a host need not have a journal: the kernel reports that the executable at
sanlock's path was opened; this program's helper puts a request with the UUID into its spool, and its agent
appends the outcome to that file; and it logs.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Callable

from .. import inotify
from ..invocation import ACTIONS
from ..spool import DONE, LOGGING, Spool

# The lines of a request's file before what its agent appends (Spool.write()).
_HEAD = 5
# Notes of the agent that are no outcome.
_NOTES = ("run", "died", "")

_MAX_SIZE = 64 * 1024


@dataclass(frozen=True)
class LoggedLine:
    """A line that this program logged of the drill's domain: its kind in events.KINDS, and its text."""

    kind: str
    text: str


@dataclass(frozen=True)
class Signs:
    """The signs of a helper's run.

    opened: the executable at sanlock's path was opened.  request: the process id of the helper that wrote
    the request, 0 when none came.  started: when that was, in seconds of CLOCK_MONOTONIC.
    """

    opened: bool = False
    request: int = 0
    started: float = 0.0
    lines: tuple[LoggedLine, ...] = ()


class HelperRun:
    """Observes the executable and the spool from its making on."""

    def __init__(self, uuid: str, executable: str, logged: Callable[[], list[LoggedLine]]) -> None:
        """EXECUTABLE is the file at the killpath, by a path that leads to what sanlock sees there.

        LOGGED reads what this program has logged of domain UUID; nothing where the host has no journal.
        Raises OSError, SpoolError.
        """
        self._uuid = uuid
        self._logged = logged
        self._spool = Spool.open()
        self._events = inotify.Inotify()
        self._requests = self._events.watch(f"/proc/self/fd/{self._spool.directory}", inotify.MOVED_TO)
        self._executable = 0
        with contextlib.suppress(OSError):  # it is not there
            self._executable = self._events.watch(executable, inotify.OPEN)
        self._request = -1
        self.signs = Signs()

    def update(self) -> Signs:
        """Take in what has happened since; returns all signs so far, without what was logged."""
        for number, _, name in self._events.read():
            signs = self.signs
            if number == self._executable:
                self.signs = Signs(True, signs.request, signs.started)
            elif number == self._requests and not signs.request and self._is_request(name):
                start, _, pid = name.rpartition(".")[2].partition("-")
                self.signs = Signs(signs.opened, int(pid), int(start) / 1e6)
                self._open(name)
        return self.signs

    def _is_request(self, name: str) -> bool:
        uuid, _, rest = name.partition(".")
        action, _, step = rest.partition(".")
        return uuid == self._uuid and action in ACTIONS and step.replace("-", "").isdecimal()

    def _open(self, name: str) -> None:
        """Keep the request's file open: it is removed when it was served."""
        for suffix in ("", LOGGING, DONE):
            with contextlib.suppress(OSError):
                self._request = os.open(
                    f"{name}{suffix}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._spool.directory
                )
                return

    def complete(self) -> Signs:
        """The signs, with what was logged; where nothing was read back, the outcome in the request's file."""
        signs = self.update()
        lines = self._logged() or self._outcome()
        return Signs(signs.opened, signs.request, signs.started, tuple(lines))

    def _outcome(self) -> list[LoggedLine]:
        if self._request < 0:
            return []
        text = os.pread(self._request, _MAX_SIZE, 0).decode("utf-8", "backslashreplace")
        notes = [line.partition("\t") for line in text.split("\n")[_HEAD:]]
        return [LoggedLine("", line.partition(": ")[2]) for level, _, line in notes if level not in _NOTES]

    def close(self) -> None:
        """Observe nothing any more."""
        self._events.close()
        for descriptor in (self._request, self._spool.directory):
            if descriptor >= 0:
                os.close(descriptor)
