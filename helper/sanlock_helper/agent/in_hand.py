# SPDX-License-Identifier: LGPL-2.1-or-later
"""The requests that an agent has in hand, written down before each try: one of them may end the agent.

A fault in a C library (SIGSEGV in libvirt, in sanlock's client) ends the whole process, and the next agent
would serve the same request.  So the next agent first reads which requests the dead one had in hand,
and notes that in each of them.  One that was in hand when two agents ended is served apart (see apart.py).
"""

from __future__ import annotations

import posix

from ..handover import FIRST, SECOND
from ..spool import Spool

# Beside the locks: one file for each, and so for each agent that may serve at a time.
FILES = ("agent.in-hand", "agent-beside.in-hand")

# An entry is the agent's and the request's name.  More tries than these are never under way (jobs.Slots).
_ENTRY_SIZE = 128
_ENTRIES = 48


class InHand:
    """What the agents of one spool have in hand."""

    def __init__(self, spool: Spool, agent: str) -> None:
        """AGENT names this process among all others, in one word."""
        self._spool = spool
        self._agent = agent
        self._descriptor = -1
        self._free = list(range(_ENTRIES))

    def inherit(self) -> list[tuple[str, str]]:
        """What other agents had in hand when they ended, or hung: the agent's name and the request's.

        It is forgotten by clear(), once it has been noted.
        """
        found = []
        for which in (FIRST, SECOND):
            # Nearly all of it is padding: six thousand empty pieces, each agent's first work.
            for entry in filter(None, self._read(FILES[which]).split(b"\0")):
                agent, _, name = entry.decode("utf-8", "replace").partition(" ")
                if name and agent != self._agent:
                    found.append((agent, name))
        return found

    def clear(self, which: int) -> None:
        """Begin anew, as the agent that has that lock."""
        self._free = list(range(_ENTRIES))
        try:
            if self._descriptor < 0:
                self._descriptor = self._open(FILES[which], posix.O_RDWR | posix.O_CREAT)
            for other in FILES:
                descriptor = self._open(other, posix.O_RDWR | posix.O_CREAT)
                try:
                    self._spool.kernel.pwrite(descriptor, b"\0" * _ENTRY_SIZE * _ENTRIES, 0)
                finally:
                    self._spool.kernel.close(descriptor)
        except OSError:
            pass  # no room, no descriptor: the next agent will not know, which costs it a death

    def begin(self, name: str) -> int:
        """Note that request NAME is in hand; returns a number for end()."""
        entry = f"{self._agent} {name}".encode()
        if not self._free or self._descriptor < 0 or len(entry) >= _ENTRY_SIZE:
            return -1
        number = self._free.pop()
        self._write(number, entry)
        return number

    def end(self, number: int) -> None:
        """It is in hand no more."""
        if number >= 0:
            self._free.append(number)
            self._write(number, b"")

    def _write(self, number: int, entry: bytes) -> None:
        try:
            self._spool.kernel.pwrite(self._descriptor, entry.ljust(_ENTRY_SIZE, b"\0"), number * _ENTRY_SIZE)
        except OSError:
            pass

    def _read(self, name: str) -> bytes:
        try:
            descriptor = self._open(name, posix.O_RDONLY)
        except OSError:
            return b""
        try:
            data: bytes = self._spool.kernel.pread(descriptor, _ENTRY_SIZE * _ENTRIES, 0)
        except OSError:
            return b""
        finally:
            self._spool.kernel.close(descriptor)
        return data

    def _open(self, name: str, flags: int) -> int:
        flags |= posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
        descriptor: int = self._spool.kernel.open(f"../{name}", flags, 0o600, dir_fd=self._spool.directory)
        return descriptor
