# SPDX-License-Identifier: LGPL-2.1-or-later
"""The spool of requests, the agent's lock and the stand-bys.

sanlock starts one process per virtual machine, all within seconds.  Each writes its request into a directory
on tmpfs and tries to take one lock.  Who gets it is the agent and serves all requests; a few others sleep on
the lock and take over if the agent dies; the rest is done.

A request is a file whose name says how far it has come:

    UUID.ACTION.START-PID         to be served: URI, process id and clock inside, START in microseconds
    UUID.ACTION.START-PID.done    served: the outcome's line is appended, nobody serves it again
    UUID.ACTION.START-PID.telling the line is on its way to syslog

Each step is one rename, so a process that dies at any instruction leaves one of the three.  The kernel drops
a dead process's lock.  Only C modules of the standard library are imported here.
"""

from __future__ import annotations

import errno
import fcntl
import posix
from _stat import S_ISDIR

from .grace import Deadline
from .invocation import ACTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .invocation import Invocation

RUNTIME_DIR = "/run/virt-sanlock-helper"

STAND_BYS = 3

DONE = ".done"
TELLING = ".telling"

_SPOOL = "requests"
_LOCK = "agent.lock"
_FORMAT = "1"
_RUN = "run"
# Leftovers of a process that died while writing are removed after so many seconds.
_STALE = 60.0
_MAX_SIZE = 64 * 1024


class SpoolError(Exception):
    """The spool cannot be used; the text says why and what to do."""


class Request:
    """What has to be done to which domain, and until when."""

    __slots__ = ("action", "deadline", "descriptor", "name", "outcome", "pid", "run", "uri", "uuid")

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
        # The file, held open by who waits for the outcome.
        self.descriptor = -1

    @classmethod
    def of(cls, invocation: Invocation, deadline: Deadline) -> Request:
        """The request of a caller whose clock is DEADLINE."""
        return cls(invocation.uri, invocation.uuid, invocation.action, deadline, invocation.pid)

    def __str__(self) -> str:
        return f"{self.action} {self.uuid}"

    def text(self) -> str:
        """The content of its file."""
        clock = self.deadline
        fields = (_FORMAT, clock.start, clock.kill, clock.end, self.pid or "", self.uri)
        return "".join(f"{field}\n" for field in fields)

    @classmethod
    def parse(cls, name: str, text: str) -> Request:
        """The request in file NAME with content TEXT; raises SpoolError when it is none."""
        try:
            uuid, action, _ = name.split(".", 2)
            form, start, kill, end, pid, uri, *notes = text.split("\n")
            if form != _FORMAT or action not in ACTIONS or not uri:
                raise ValueError(f"format {form!r}")
            deadline = Deadline.at(float(start), float(kill), float(end))
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


class Kernel:
    """The system calls that the spool makes; a test of all interleavings puts its own in their place."""

    open = staticmethod(posix.open)
    close = staticmethod(posix.close)
    read = staticmethod(posix.read)
    write = staticmethod(posix.write)
    rename = staticmethod(posix.rename)
    unlink = staticmethod(posix.unlink)
    listdir = staticmethod(posix.listdir)
    fstat = staticmethod(posix.fstat)
    lseek = staticmethod(posix.lseek)
    flock = staticmethod(fcntl.flock)


class Spool:
    """The directory of requests, as one process sees it."""

    def __init__(self, directory: int, pid: int, kernel: Any = Kernel) -> None:
        """DIRECTORY is a descriptor of it, PID the process's own id; see open()."""
        self._directory = directory
        self._pid = pid
        self._kernel = kernel
        self._lock = -1

    @classmethod
    def open(cls, path: str = RUNTIME_DIR, owner: int = 0) -> Spool:
        """The spool below PATH, made if it is not there.

        Raises SpoolError unless PATH and the spool are directories of OWNER, closed to everybody else: what
        is asked for in there is done to virtual machines.
        """
        _directory(path, owner)
        spool = f"{path}/{_SPOOL}"
        _directory(spool, owner)
        try:
            descriptor = posix.open(spool, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW)
        except OSError as error:
            raise _unusable(spool, error) from error
        return cls(descriptor, posix.getpid())

    # Requests

    def write(self, request: Request, keep: bool = False) -> None:
        """Put REQUEST into the spool, and its file's name into REQUEST.

        With KEEP the file stays open, so that outcome_of() can be asked.  Raises SpoolError when that does
        not work; then nothing is left there.
        """
        name = f"{request.uuid}.{request.action}.{int(request.deadline.start * 1e6):016d}-{self._pid}"
        draft = f".{name}"
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        try:
            descriptor = self._kernel.open(draft, flags, 0o600, dir_fd=self._directory)
            try:
                data = request.text().encode()
                if self._kernel.write(descriptor, data) != len(data):
                    raise OSError(errno.ENOSPC, "No space left on device")
                self._rename(draft, name)
            finally:
                if not keep:
                    self._kernel.close(descriptor)
        except OSError as error:
            self.remove(draft)
            raise _unusable(f"{RUNTIME_DIR}/{_SPOOL}", error) from error
        request.name = name
        if keep:
            request.descriptor = descriptor

    def names(self) -> list[str]:
        """The files of all requests, whatever their step, oldest first."""
        names = [name for name in self._kernel.listdir(self._directory) if name[:1] != "."]
        names.sort(key=_started)
        return names

    def unserved(self) -> list[str]:
        """The files of the requests that nobody has served yet, oldest first."""
        return [name for name in self.names() if not name.endswith((DONE, TELLING))]

    def sweep(self, now: float) -> None:
        """Remove what processes left that died while they wrote; NOW is on the requests' clock."""
        for name in self._kernel.listdir(self._directory):
            start = _started(name).partition("-")[0]
            if name[:1] == "." and start.isdigit() and int(start) / 1e6 < now - _STALE:
                self.remove(name)

    def read(self, name: str) -> Request | None:
        """The request in file NAME; None when the file is gone.

        Raises SpoolError for a file that this program did not write.
        """
        try:
            descriptor = self._kernel.open(name, posix.O_RDONLY | posix.O_NOFOLLOW, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SpoolError(f"request {name!r}: {error.strerror}") from error
        try:
            return Request.parse(name, self._text(descriptor))
        finally:
            self._kernel.close(descriptor)

    def note_run(self, name: str, run: int) -> None:
        """Note in request NAME the id that its domain has before anything is done to it."""
        self._append(name, f"{_RUN}\t{run}\n")

    def finish(self, name: str, level: str, line: str) -> str:
        """Note the outcome of request NAME: nobody serves it again.  Returns the file's new name."""
        self._append(name, f"{level}\t{line}\n")
        try:
            self._rename(name, name + DONE)
        except OSError:
            pass  # somebody removed it by hand
        return name + DONE

    def telling(self, name: str) -> str | None:
        """Claim the telling of a finished request's outcome.

        Returns the file's new name, None when it was claimed by another.
        """
        new = name[: -len(DONE)] + TELLING
        try:
            self._rename(name, new)
        except FileNotFoundError:
            return None
        return new

    def remove(self, name: str) -> None:
        """Remove a request whose outcome was told, or a file that is none."""
        try:
            self._kernel.unlink(name, dir_fd=self._directory)
        except OSError:
            pass

    def outcome_of(self, request: Request) -> tuple[str, str] | None:
        """The level and the line of the outcome of a REQUEST that was written with keep, once it was told."""
        if self._kernel.fstat(request.descriptor).st_nlink:
            return None
        self._kernel.lseek(request.descriptor, 0, 0)
        outcome = Request.parse(request.name, self._text(request.descriptor)).outcome
        return outcome or ("error", f"{request}: served, but its outcome was not noted")

    def _text(self, descriptor: int) -> str:
        data: bytes = self._kernel.read(descriptor, _MAX_SIZE)
        return data.decode("utf-8", "backslashreplace")

    def _append(self, name: str, text: str) -> None:
        try:
            descriptor = self._kernel.open(name, posix.O_WRONLY | posix.O_APPEND, dir_fd=self._directory)
        except OSError:
            return
        try:
            self._kernel.write(descriptor, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # no room for the note: what it is about was done all the same
        finally:
            self._kernel.close(descriptor)

    def _rename(self, name: str, new: str) -> None:
        self._kernel.rename(name, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    # The agent's lock

    def attend(self, serve: Callable[[], None]) -> None:
        """See to it that somebody serves the spool: this process, by calling SERVE, or another.

        SERVE returns when nothing is left to serve.  What was in the spool before this call is served even if
        the process that does so dies, as long as one of the others lives.
        """
        if self._try_lock() or self._stand_by():
            self._work(serve)

    def attend_until(self, request: Request, serve: Callable[[], None], pause: Callable[[], None]) -> None:
        """The same for somebody who waits for the outcome of REQUEST, which was written with keep.

        PAUSE waits a moment.
        """
        while self.outcome_of(request) is None:
            if self._try_lock():
                self._work(serve)
            else:
                pause()

    def _work(self, serve: Callable[[], None]) -> None:
        """Serve, holding the lock, until nothing is left."""
        if self.names():
            serve()
        while True:
            self._unlock()
            # Who wrote a request while the lock was held has gone away, relying on this look.
            if not self.unserved() or not self._try_lock():
                return
            serve()

    def _try_lock(self) -> bool:
        lock = self._open_lock(_LOCK)
        if self._flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._lock = lock
            return True
        self._kernel.close(lock)
        return False

    def _stand_by(self) -> bool:
        """Sleep in one of a few places until the lock is free, and take it; False when all are taken."""
        for number in range(STAND_BYS):
            slot = self._open_lock(f"stand-by-{number}.lock")
            if self._flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._lock = self._open_lock(_LOCK)
                self._flock(self._lock, fcntl.LOCK_EX)
                self._kernel.close(slot)
                return True
            self._kernel.close(slot)
        return False

    def _unlock(self) -> None:
        self._kernel.close(self._lock)
        self._lock = -1

    def _open_lock(self, name: str) -> int:
        # Beside the spool, so that no lock is taken for a request.
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC
        descriptor: int = self._kernel.open(f"../{name}", flags, 0o600, dir_fd=self._directory)
        return descriptor

    def _flock(self, descriptor: int, operation: int) -> bool:
        try:
            self._kernel.flock(descriptor, operation)
        except BlockingIOError:
            return False
        return True


class Receipt:
    """Sees a finished request's outcome told: see journal.Journal.tell()."""

    def __init__(self, spool: Spool, name: str) -> None:
        """NAME is the request's file, at its step DONE or TELLING."""
        self._spool = spool
        self._name: str | None = name

    def telling(self) -> bool:
        """Claim the telling; False when it is another's."""
        if self._name is not None and self._name.endswith(DONE):
            self._name = self._spool.telling(self._name)
        return self._name is not None

    def told(self) -> None:
        """The request is over."""
        if self._name is not None:
            self._spool.remove(self._name)


def _started(name: str) -> str:
    """The part START-PID of a file's NAME, by which requests sort: START has a fixed width."""
    parts = name.lstrip(".").split(".")
    return parts[2] if len(parts) > 2 else ""


def _directory(path: str, owner: int) -> None:
    """Make the directory PATH unless it is there; raise SpoolError unless it is OWNER's alone."""
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        status = posix.lstat(path)
    except OSError as error:
        raise _unusable(path, error) from error
    if not S_ISDIR(status.st_mode):
        raise SpoolError(f"{path} is not a directory: remove it")
    if status.st_uid != owner:
        raise SpoolError(f"{path} belongs to user {status.st_uid}: remove it, or chown it to {owner}")
    if status.st_mode & 0o077:
        raise SpoolError(f"{path} is open to others (mode {status.st_mode & 0o777:o}): chmod it to 700")


def _unusable(path: str, error: OSError) -> SpoolError:
    return SpoolError(f"{path} cannot be used: {error.strerror}")
