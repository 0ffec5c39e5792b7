# SPDX-License-Identifier: LGPL-2.1-or-later
"""The requests in the spool, as those see them who serve them or wait for them: see spool.py."""

from __future__ import annotations

import posix

from .escapes import printable
from .grace import Deadline
from .invocation import ACTIONS, Invocation
from .spool import DONE, FORMAT, TELLING, Spool, SpoolError, started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

_RUN = "run"
# Leftovers of a process that died while writing are removed after so many seconds.
_STALE = 60.0


class Request:
    """What has to be done to which domain, and until when."""

    __slots__ = ("action", "deadline", "name", "outcome", "pid", "run", "uri", "uuid")

    def __init__(
        self, uri: str, uuid: str, action: str, deadline: Deadline, pid: int | None = None, name: str = ""
    ) -> None:
        """PID held the leases, when it is known; NAME is the request's file in the spool, if it is there."""
        self.uri = uri
        self.uuid = uuid
        self.action = action
        self.deadline = deadline
        self.pid = pid
        self.name = name
        # The domain's id when an agent that died since saw it first.
        self.run: int | None = None
        # The level and the line of the outcome, once there is one.
        self.outcome: tuple[str, str] | None = None

    @classmethod
    def of(cls, invocation: Invocation, deadline: Deadline, name: str = "") -> Request:
        """The request of a caller whose clock is DEADLINE; NAME is its file, if it is in the spool."""
        return cls(invocation.uri, invocation.uuid, invocation.action, deadline, invocation.pid, name)

    def __str__(self) -> str:
        return f"{self.action} {self.uuid}"

    @classmethod
    def parse(cls, name: str, text: str, grace: int) -> Request:
        """The request in file NAME with content TEXT, as Spool.write() and Requests leave it.

        GRACE is sanlock's kill_grace_seconds.  Raises SpoolError when it is no request.
        """
        try:
            uuid, action, _ = name.split(".", 2)
            form, start, budget, pid, uri, *notes = text.split("\n")
            if form != FORMAT or action not in ACTIONS or not uri:
                raise ValueError(f"format {form!r}")
            deadline = Deadline(float(start), grace, float(budget) if budget else None)
            request = cls(uri, uuid, action, deadline, int(pid) if pid else None, name)
            for note in notes:
                key, _, value = note.partition("\t")
                if key == _RUN:
                    request.run = int(value)
                elif key:
                    request.outcome = (key, value)
        except ValueError as error:
            raise SpoolError(f"request {name!r} is not one of this program's: {error}") from error
        return request


class Requests:
    """All requests of a spool."""

    def __init__(self, spool: Spool, grace: int) -> None:
        """GRACE, sanlock's kill_grace_seconds, is every request's."""
        self._spool = spool
        self._grace = grace

    def attend(self, serve: Callable[[], None]) -> None:
        """After Spool.enlist(): see to it that somebody serves, this process by calling SERVE, or another.

        SERVE returns when nothing is left to serve.  What was in the spool before enlist() is served even if
        the process that does so dies, as long as one of the others lives.
        """
        self._spool.await_lock()
        self._work(serve)

    def attend_until(
        self, over: Callable[[], bool], serve: Callable[[], None], pause: Callable[[], None]
    ) -> None:
        """The same, without enlist(), for somebody who waits until something is OVER.

        PAUSE waits a moment.
        """
        while not over():
            if self._spool.try_lock():
                self._work(serve)
            else:
                pause()

    def _work(self, serve: Callable[[], None]) -> None:
        """Serve, holding the lock, until nothing is left."""
        if self.names():
            serve()
        while True:
            self._spool.unlock()
            # Who wrote a request while the lock was held has gone away, relying on this look.
            if not self._spool.unserved() or not self._spool.try_lock():
                return
            serve()

    def names(self, known: Container[str] = ()) -> list[str]:
        """The files of all requests, whatever their step, oldest first; but for those that are KNOWN."""
        return self._spool.names(known)

    def sweep(self, now: float) -> None:
        """Remove what processes left that died while they wrote; NOW is on the requests' clock."""
        for name in self._spool.kernel.listdir(self._spool.directory):
            start = started(name).partition("-")[0]
            if name[:1] == "." and start.isdigit() and int(start) / 1e6 < now - _STALE:
                self.remove(name)

    def read(self, name: str) -> Request | None:
        """The request in file NAME; None when the file is gone.

        Raises SpoolError for a file that this program did not write.
        """
        try:
            text = self._spool.text(name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SpoolError(f"request {name!r}: {error.strerror}") from error
        return Request.parse(name, text, self._grace)

    def note_run(self, name: str, run: int) -> None:
        """Note in request NAME the id that its domain has before anything is done to it."""
        self._append(name, f"{_RUN}\t{run}\n")

    def finish(self, name: str, level: str, line: str) -> str:
        """Note the outcome of request NAME: nobody serves it again.  Returns the file's new name."""
        # A line of the file each: nothing in it may end it, or be taken for a note of its own.
        self._append(name, f"{level}\t{printable(line)}\n")
        try:
            self._spool.rename(name, name + DONE)
        except OSError:
            pass  # somebody removed it by hand
        return name + DONE

    def telling(self, name: str) -> str | None:
        """Claim the telling of a finished request's outcome.

        Returns the file's new name, None when it was claimed by another.
        """
        new = name[: -len(DONE)] + TELLING
        try:
            self._spool.rename(name, new)
        except FileNotFoundError:
            return None
        return new

    def remove(self, name: str) -> None:
        """Remove a request whose outcome was told, or a file that is none."""
        self._spool.remove(name)

    def outcome_of(self, request: Request) -> tuple[str, str] | None:
        """The level and the line of the outcome of this process's own REQUEST, once it was told.

        It was written with keep.
        """
        kernel, kept = self._spool.kernel, self._spool.kept
        if kernel.fstat(kept).st_nlink:
            return None
        kernel.lseek(kept, 0, 0)
        outcome = Request.parse(request.name, self._spool.text_of(kept), self._grace).outcome
        return outcome or ("error", f"{request}: served, but its outcome was not noted")

    def _append(self, name: str, text: str) -> None:
        spool = self._spool
        try:
            descriptor = spool.kernel.open(name, posix.O_WRONLY | posix.O_APPEND, dir_fd=spool.directory)
        except OSError:
            return
        try:
            spool.kernel.write(descriptor, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # no room for the note: what it is about was done all the same
        finally:
            spool.kernel.close(descriptor)


class Receipt:
    """Sees a finished request's outcome told: see journal.Journal.tell()."""

    def __init__(self, requests: Requests, name: str) -> None:
        """NAME is the request's file, at its step DONE or TELLING."""
        self._requests = requests
        self._name: str | None = name

    def telling(self) -> bool:
        """Claim the telling; False when it is another's."""
        if self._name is not None and self._name.endswith(DONE):
            self._name = self._requests.telling(self._name)
        return self._name is not None

    def told(self) -> None:
        """The request is over."""
        if self._name is not None:
            self._requests.remove(self._name)
