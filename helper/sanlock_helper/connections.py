# SPDX-License-Identifier: LGPL-2.1-or-later
"""The open connections of this process, shared by the tries.

libvirtd serves five calls of one client at a time (max_client_requests in libvirtd.conf), so a connection is
shared by that many tries and a further one is opened for the next.
"""

from __future__ import annotations

import _thread
from _queue import Empty, SimpleQueue
from typing import Any, Callable

from .errors import FinalError, HelperError

CALLS_EACH = 5

# How long the end of the program waits for libvirtd to say goodbye.
CLOSE_SECONDS = 1.0


class Connection:
    """One connection: opened by the first try that needs it while the others wait."""

    __slots__ = ("calls", "error", "handle", "opening", "retired", "uri")

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.handle: Any = None
        self.error: HelperError | None = None
        self.calls = 0
        self.retired = False
        self.opening = _thread.allocate_lock()

    def open(self, connect: Callable[[str], Any]) -> Any:
        """The virConnect, opened now if nobody did yet.

        Raises what CONNECT raises, to every try that waited for it.
        """
        with self.opening:
            if self.handle is None and self.error is None:
                try:
                    self.handle = connect(self.uri)
                except HelperError as error:
                    self.error = error
            if self.error is not None:
                raise self.error
            return self.handle


class Connections:
    """The pool: borrow and give back from any thread."""

    def __init__(self, connect: Callable[[str], Any], calls_each: int = CALLS_EACH) -> None:
        """CONNECT takes a URI and returns a virConnect, or raises PassingError or FinalError."""
        self._connect = connect
        self._calls_each = calls_each
        self._lock = _thread.allocate_lock()
        self._open: dict[str, list[Connection]] = {}
        # A virConnect says goodbye and waits for the answer when it is garbage collected: one that hangs must
        # never be.
        self._retired: list[Connection] = []
        self.most = 0

    def borrow(self, uri: str) -> Connection:
        """A place on a connection to URI, perhaps not open yet; to be given back."""
        with self._lock:
            pool = self._open.setdefault(uri, [])
            for connection in pool:
                if connection.calls < self._calls_each:
                    break
            else:
                connection = Connection(uri)
                pool.append(connection)
                self.most = max(self.most, sum(map(len, self._open.values())) + len(self._retired))
            connection.calls += 1
            return connection

    def handle(self, connection: Connection) -> Any:
        """The open virConnect of a borrowed CONNECTION; blocks while it is being opened."""
        return connection.open(self._connect)

    def give_back(self, connection: Connection) -> None:
        """End a borrowing after the last call returned."""
        with self._lock:
            connection.calls -= 1

    def retire(self, connection: Connection) -> None:
        """Hand CONNECTION out no more: it is broken, or a call over it hangs.

        One that libvirtd refused for good stays, so that its error answers every further try at once.
        """
        if isinstance(connection.error, FinalError):
            return
        with self._lock:
            if not connection.retired:
                connection.retired = True
                self._open[connection.uri].remove(connection)
                self._retired.append(connection)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Close what is open and idle, for TIMEOUT seconds at most; the exit drops the rest."""
        done: SimpleQueue[None] = SimpleQueue()
        idle = [
            connection.handle
            for pool in self._open.values()
            for connection in pool
            if connection.handle is not None and not connection.calls
        ]

        def close_all() -> None:
            for handle in idle:
                handle.close()
            done.put(None)

        if idle:
            _thread.start_new_thread(close_all, ())
            try:
                done.get(timeout=timeout)
            except Empty:
                pass
