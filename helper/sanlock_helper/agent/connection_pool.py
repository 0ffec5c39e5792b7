# SPDX-License-Identifier: LGPL-2.1-or-later
"""The open connections of this process: each try has one to itself.

libvirtd would serve five calls of one connection at a time, but calls that share one hold each other up.  In
libvirt's client the thread that waits first writes and reads for the others too, and when it goes back to its
waiting just as another call comes, it is not woken (virNetClientIOEventLoop() in libvirt
src/rpc/virnetclient.c; 9.0 does it within a few calls): that call is sent when the first one has returned,
after the 0.2 s of a destroy, or never beside a call that hangs.
"""

from __future__ import annotations

import _thread
from _queue import Empty, SimpleQueue

from ..errors import AuthenticationError, HelperError, PermanentError
from ..threads import WORKERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from ..virt.api import VirConnect

# So many may be opened at a time in the beginning: a single one might hang.
OPENED_AT_ONCE = 2

# After libvirtd has refused a login the next one waits for so long, and is the only one: an account is locked
# after a few refusals, however many virtual machines wait.  While it is not known whether libvirtd
# accepts the login, each waits for the one before it, but no longer than that may take.
LOGIN_SECONDS = 5.0
ONE_LOGIN_SECONDS = 1.0

# So many will do while tries are quick: one of the same action took less than these seconds, and ended less
# ago.  On a host whose processors are all busy some take longer; a destroy of a QEMU domain takes 0.2 s.
FEW = 4
QUICK_SECONDS = 0.15

# How long the end of the program waits for libvirtd to close its connections.
CLOSE_SECONDS = 1.0


class Connection:
    """One connection: opened by the try that needs it, or ahead while that try waits."""

    __slots__ = ("action", "began_at", "busy", "error", "handle", "opening", "retired", "uri")

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.handle: VirConnect | None = None
        self.error: HelperError | None = None
        self.busy = False
        # The action of the try that borrowed it last, and when that began to make calls.
        self.action = ""
        self.began_at = 0.0
        self.retired = False
        self.opening = _thread.allocate_lock()

    def open(self, connect: Callable[[str], VirConnect]) -> VirConnect:
        """The virConnect, opened now if it was not yet.

        Raises what CONNECT raises, in each thread that waited for it.
        """
        with self.opening:
            if self.error is not None:
                raise self.error
            if self.handle is None:
                try:
                    self.handle = connect(self.uri)
                except HelperError as error:
                    self.error = error
                    raise
            return self.handle

    def is_broken(self) -> bool:
        """Whether no try uses it, and libvirtd has ended it: libvirt's client closes it then by itself."""
        return not self.busy and self.handle is not None and not self.handle.isAlive()


class Connections:
    """The pool.  One thread borrows, any thread gives back."""

    def __init__(
        self,
        connect: Callable[[str], VirConnect],
        most: int,
        clock: Callable[[], float],
        close: Callable[[VirConnect], object] = lambda handle: handle.close(),
    ) -> None:
        """CONNECT takes a URI and returns a virConnect, or raises TransientError or PermanentError.

        MOST bounds what is opened ahead; CLOCK is monotonic, in seconds; CLOSE closes what CONNECT has given.
        """
        self._connect = connect
        self._close = close
        self._most = most
        self._clock = clock
        # By URI and action: when the last quick try ended.
        self._quick_at: dict[tuple[str, str], float] = {}
        self._is_full = False
        self._lock = _thread.allocate_lock()
        # By URI: when libvirtd refused a login last, and with which error.
        self._refused: dict[str, tuple[float, AuthenticationError]] = {}
        # URIs to which the last login was not refused; and a lock that a login to another one holds.
        self._let_in: set[str] = set()
        self._login = _thread.allocate_lock()
        self._open: dict[str, list[Connection]] = {}
        # A virConnect is closed when it is garbage collected, and waits for libvirtd's answer: one that hangs
        # must never be.
        self._retired: list[Connection] = []

    def borrow(self, uri: str, action: str) -> Connection | None:
        """A connection to URI for a try of ACTION, perhaps not open yet; to be given back.

        None when one has to be waited for.  No more are opened at a time than are open already, and few while
        tries are quick: those serve hundreds, and to log in costs more than all calls for one domain.
        """
        with self._lock:
            pool = self._open.setdefault(uri, [])
            connection = self._idle(pool) or self._another(uri, action, pool)
            if connection is not None:
                connection.busy = True
                connection.action, connection.began_at = action, self._clock()
            return connection

    def _idle(self, pool: list[Connection]) -> Connection | None:
        """One of POOL that is open, else one that is being opened ahead, or was refused for good."""
        idle = [connection for connection in pool if not connection.busy]
        for connection in idle:
            if connection.handle is not None:
                if not connection.is_broken():
                    return connection
                self._retire(connection)
        return next((connection for connection in idle if not connection.retired), None)

    def _another(self, uri: str, action: str, pool: list[Connection]) -> Connection | None:
        """One more, to be opened by the try that borrows it; None when one of POOL has to be waited for."""
        opened = sum(connection.handle is not None for connection in pool)
        if self._is_full and opened:
            return None
        if len(pool) >= FEW and self._are_quick(uri, action):
            return None
        if len(pool) - opened >= self._openings(uri, opened):
            return None
        connection = Connection(uri)
        pool.append(connection)
        return connection

    def _are_quick(self, uri: str, action: str) -> bool:
        """Whether tries of ACTION take so little time that the next one ends in a moment."""
        return self._clock() - self._quick_at.get((uri, action), float("-inf")) < QUICK_SECONDS

    def _openings(self, uri: str, opened: int) -> int:
        """How many connections to URI may be opened at a time now."""
        if uri in self._refused:
            return 1 if self._clock() >= self._refused[uri][0] + LOGIN_SECONDS else 0
        return max(OPENED_AT_ONCE, opened)

    def refusal(self, uri: str) -> tuple[float, AuthenticationError] | None:
        """When the next login to URI may be tried, and how the last one was refused; None if it was not."""
        with self._lock:
            refused = self._refused.get(uri)
        return None if refused is None else (refused[0] + LOGIN_SECONDS, refused[1])

    def ahead(self, uri: str) -> Connection | None:
        """A connection to URI that should be opened now, before it is needed; None when there are enough.

        To open one takes an ordinary worker of libvirtd, and in a storm of destroys those are soon all busy.
        """
        with self._lock:
            pool = self._open[uri]
            busy = sum(connection.busy for connection in pool)
            if (
                self._is_full
                or busy <= FEW
                or uri in self._refused
                or len(pool) >= min(self._most, busy + busy // 2)
            ):
                return None
            connection = Connection(uri)
            pool.append(connection)
            return connection

    def stop_growing(self) -> None:
        """This process has no descriptors for more: open none while one is open."""
        self._is_full = True

    def grow_again(self) -> None:
        """Descriptors are free again."""
        self._is_full = False

    def make_room(self, uri: str) -> None:
        """Close the connections to other URIs that no try uses: one to URI needs their descriptors.

        Blocks for as long as libvirtd does.
        """
        self.trim({uri: self._most}, 0)

    def handle(self, connection: Connection) -> VirConnect:
        """The open virConnect of a borrowed CONNECTION; blocks while it is being opened."""
        if connection.handle is not None or connection.uri in self._let_in:
            return self._open_now(connection)
        mine = self._login.acquire(True, ONE_LOGIN_SECONDS)
        try:
            return self._open_now(connection)
        finally:
            if mine:
                self._login.release()

    def _open_now(self, connection: Connection) -> VirConnect:
        uri = connection.uri
        refused = self.refusal(uri)
        if connection.handle is None and refused is not None and self._clock() < refused[0]:
            raise refused[1]
        try:
            handle = connection.open(self._connect)
        except AuthenticationError as error:
            with self._lock:
                self._refused[uri] = self._clock(), error
                self._let_in.discard(uri)
            raise
        if connection.uri not in self._let_in:
            with self._lock:
                self._refused.pop(uri, None)
                self._let_in.add(uri)
        # To log in may take longer than all calls of a quick try.
        connection.began_at = self._clock()
        return handle

    def give_back(self, connection: Connection) -> None:
        """End a borrowing after the last call returned."""
        with self._lock:
            connection.busy = False
            now = self._clock()
            if now - connection.began_at < QUICK_SECONDS:
                self._quick_at[connection.uri, connection.action] = now

    def retire(self, connection: Connection) -> None:
        """Lend CONNECTION no more: it is broken, or a call over it hangs.

        One that libvirtd refused for good stays, so that its error answers every further try at once.
        """
        if isinstance(connection.error, PermanentError) and not isinstance(
            connection.error, AuthenticationError
        ):
            return
        with self._lock:
            self._retire(connection)

    def lost(self, connection: Connection) -> None:
        """The same for one that libvirtd has ended, and for all that are idle: they do not know it yet."""
        self.retire(connection)
        with self._lock:
            for other in list(self._open[connection.uri]):
                if not other.busy and other.handle is not None:
                    self._retire(other)

    def _retire(self, connection: Connection) -> None:
        if not connection.retired:
            connection.retired = True
            self._open[connection.uri].remove(connection)
            self._retired.append(connection)

    # Between two storms

    def uris(self) -> list[str]:
        """The URIs to which a connection is open."""
        with self._lock:
            return [uri for uri, pool in self._open.items() if any(one.handle is not None for one in pool)]

    def open_more(self, uri: str, most: int) -> None:
        """Open connections to URI for tries to come, until there are MOST.

        Blocks for as long as libvirtd does.  Raises what the first one that fails raises.
        """
        while True:
            with self._lock:
                pool = self._open.setdefault(uri, [])
                if sum(not connection.is_broken() for connection in pool) >= most:
                    return
            connection = Connection(uri)
            self.handle(connection)
            with self._lock:
                pool.append(connection)

    def trim(self, most: dict[str, int], others: int) -> bool:
        """Close what libvirtd has ended, and all but MOST connections to a URI; to OTHERS all but so many.

        Blocks for as long as libvirtd does.  Returns whether there are some that cannot be closed yet: they
        are being opened, or a call over them hangs, and to close them would hang as well.
        """
        with self._lock:
            for uri, pool in self._open.items():
                idle = [connection for connection in pool if not connection.busy]
                alive = [one for one in idle if one.handle is not None and not one.is_broken()]
                for connection in [one for one in idle if one not in alive[: most.get(uri, others)]]:
                    self._retire(connection)
                if not alive:
                    # Whether it lets this program in is to be found out anew, by one login.
                    self._let_in.discard(uri)
            over = [one for one in self._retired if not one.busy and (one.handle or one.error)]
            self._retired = [one for one in self._retired if one not in over]
            is_left = bool(self._retired)
        for connection in over:
            if connection.handle is not None:
                try:
                    self._close(connection.handle)
                except Exception:
                    pass  # libvirtd has ended: the object goes, and with it what this end has of it
        return is_left

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Close what is open and idle, for TIMEOUT seconds at most; the exit drops the rest."""
        done: SimpleQueue[None] = SimpleQueue()
        idle = [
            connection.handle
            for pool in self._open.values()
            for connection in pool
            if connection.handle is not None and not connection.busy
        ]

        def close_all() -> None:
            for handle in idle:
                try:
                    handle.close()
                except Exception:
                    pass  # libvirtd has ended; the others are closed all the same
            done.put(None)

        if idle:
            try:
                WORKERS.start(close_all, ())
                done.get(timeout=timeout)
            except (Empty, RuntimeError):
                pass  # it hangs, or there are no more threads
