# SPDX-License-Identifier: LGPL-2.1-or-later
"""The spool of requests, the agent's lock and the stand-bys.

sanlock starts one process per virtual machine, all within seconds.  Each writes its request into a directory
on tmpfs and tries to take one lock.  Who gets it is the agent and serves all requests; a few others sleep on
the lock and take over if the agent dies; the rest is done.

A request is a file whose name says how far it has come:

    UUID.ACTION.START-PID         to be served: the clock, process id and URI inside, START in microseconds
    UUID.ACTION.START-PID.done    served: the outcome's line is appended, nobody serves it again
    UUID.ACTION.START-PID.telling the line is on its way to syslog

Each step is one rename, so a process that dies at any instruction leaves one of the three.  The kernel drops
a dead process's lock.  What is here is what every process needs, and needs nothing but C modules of the
standard library; what is done with a request after it was written is in requests.py.
"""

import fcntl
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any

    from .invocation import Invocation

RUNTIME_DIR = "/run/virt-sanlock-helper"

STAND_BYS = 3

DONE = ".done"
TELLING = ".telling"

# Of the content of a request's file.
FORMAT = "2"

_SPOOL = "requests"
_LOCK = "agent.lock"
_MAX_SIZE = 64 * 1024

# The file type in st_mode (inode(7)): the module that names them is one more to load.
_S_IFMT, _S_IFDIR = 0o170000, 0o040000


class SpoolError(Exception):
    """The spool cannot be used; the text says why and what to do."""


class Spool:
    """The directory of requests, as one process sees it."""

    def __init__(
        self,
        directory: int,
        pid: int,
        kernel: "Any" = posix,
        flock: "Callable[[int, int], None]" = fcntl.flock,
    ) -> None:
        """DIRECTORY is a descriptor of it, PID the process's own id; see open().

        KERNEL has the system calls, FLOCK is one more: a test of all interleavings puts its own there.
        """
        self.directory = directory
        self.kernel = kernel
        self._flock = flock
        # The file of this process's own request, held open by who waits for the outcome.
        self.kept = -1
        self._pid = pid
        self._lock = -1
        self._place = -1

    @classmethod
    def open(cls, path: str = RUNTIME_DIR, owner: int = 0) -> "Spool":
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

    def descriptors(self) -> "tuple[int, ...]":
        """What this process holds open here."""
        return self.directory, self.kept, self._lock, self._place

    # Requests

    def write(self, invocation: "Invocation", start: float, keep: bool = False) -> str:
        """Put the request of an INVOCATION that came at START into the spool; returns the file's name.

        START is in seconds of CLOCK_MONOTONIC.  With KEEP the file stays open, so that its outcome can be
        read.  Raises SpoolError when that does not work; then nothing is left there.
        """
        name = f"{invocation.uuid}.{invocation.action}.{int(start * 1e6):016d}-{self._pid}"
        draft = f".{name}"
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        text = f"{FORMAT}\n{start}\n{invocation.budget or ''}\n{invocation.pid or ''}\n{invocation.uri}\n"
        try:
            descriptor = self.kernel.open(draft, flags, 0o600, dir_fd=self.directory)
            try:
                data = text.encode()
                if self.kernel.write(descriptor, data) != len(data):
                    import errno

                    raise OSError(errno.ENOSPC, "No space left on device")
                self.rename(draft, name)
            finally:
                if not keep:
                    self.kernel.close(descriptor)
        except OSError as error:
            self.remove(draft)
            raise _unusable(f"{RUNTIME_DIR}/{_SPOOL}", error) from error
        if keep:
            self.kept = descriptor
        return name

    def names(self, known: "Container[str]" = ()) -> "list[str]":
        """The files of all requests, whatever their step, oldest first; but for those that are KNOWN."""
        names = self.kernel.listdir(self.directory)
        names = [name for name in names if name[:1] != "." and name not in known]
        names.sort(key=started)
        return names

    def unserved(self) -> "list[str]":
        """The files of the requests that nobody has served yet, oldest first."""
        return [name for name in self.names() if not name.endswith((DONE, TELLING))]

    def rename(self, name: str, new: str) -> None:
        """Give the file NAME its NEW one."""
        self.kernel.rename(name, new, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def remove(self, name: str) -> None:
        """Remove a request that is over, or a file that is none."""
        try:
            self.kernel.unlink(name, dir_fd=self.directory)
        except OSError:
            pass

    def text(self, name: str) -> str:
        """What is in the file NAME.  Raises OSError when it is gone, or a symbolic link."""
        descriptor = self.kernel.open(name, posix.O_RDONLY | posix.O_NOFOLLOW, dir_fd=self.directory)
        try:
            return self.text_of(descriptor)
        finally:
            self.kernel.close(descriptor)

    def text_of(self, descriptor: int) -> str:
        """What is in the file that DESCRIPTOR has open, from where it stands."""
        data: bytes = self.kernel.read(descriptor, _MAX_SIZE)
        return data.decode("utf-8", "backslashreplace")

    # The agent's lock

    def enlist(self) -> bool:
        """Whether this process is needed: it got the agent's lock, or one of the places of the stand-bys.

        If not, others see to what is in the spool by now.  Raises SpoolError when that cannot be found out.
        """
        try:
            return self.try_lock() or self._take_place()
        except OSError as error:
            raise _unusable(f"{RUNTIME_DIR}/{_LOCK}", error) from error

    def await_lock(self) -> None:
        """Sleep in the place of a stand-by until the agent's lock is free, and take it."""
        if self._lock < 0:
            self._lock = self._open_lock(_LOCK)
            self._flock(self._lock, fcntl.LOCK_EX)
            self.kernel.close(self._place)
            self._place = -1

    def try_lock(self) -> bool:
        """Take the agent's lock, unless another process has it."""
        self._lock = self._try(_LOCK)
        return self._lock >= 0

    def is_agent(self) -> bool:
        """Whether this process has the agent's lock, which it takes if that is free."""
        return self._lock >= 0 or self.try_lock()

    def unlock(self) -> None:
        """Give the agent's lock up."""
        self.kernel.close(self._lock)
        self._lock = -1

    def _take_place(self) -> bool:
        for number in range(STAND_BYS):
            self._place = self._try(f"stand-by-{number}.lock")
            if self._place >= 0:
                return True
        return False

    def _try(self, name: str) -> int:
        """A descriptor of the file NAME, locked; -1 when another process has locked it."""
        descriptor = self._open_lock(name)
        try:
            self._flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.kernel.close(descriptor)
            return -1
        return descriptor

    def _open_lock(self, name: str) -> int:
        # Beside the spool, so that no lock is taken for a request.
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC
        descriptor: int = self.kernel.open(f"../{name}", flags, 0o600, dir_fd=self.directory)
        return descriptor

    # No way to serve

    def leave_to_stock(self, mine: str, oldest: float, why: BaseException) -> bool:
        """Have libvirt's own helper serve what nobody has served yet, each request in a process of its own.

        MINE is the file of this process's request, which is its own business: returns whether that was still
        there.  What came before OLDEST (seconds of CLOCK_MONOTONIC) is over.  WHY is logged.  Who wrote the
        others has gone, relying on this process.  In their processes this raises, out of killpath.main(), and
        the executable becomes libvirt's helper for the arguments that the exception holds.
        """
        names = self.unserved()
        for name in names:
            try:
                uri = self.text(name).split("\n")[4]
                uuid, action, _ = name.split(".", 2)
            except (OSError, ValueError, IndexError):
                uri = ""
            self.remove(name)
            if not uri or name == mine or started(name) < f"{int(oldest * 1e6):016d}":
                continue
            try:
                child = posix.fork()
            except OSError:
                continue  # no more processes: there is nothing left to do this with
            if child == 0:
                raise _cannot_serve([uri, uuid, action], why)
        return mine in names


def _cannot_serve(arguments: "list[str]", why: BaseException) -> Exception:
    error = Exception(f"{type(why).__name__}: {why}")
    # This name is read by the executable, which never changes.
    error.killpath_arguments = arguments  # type: ignore[attr-defined]
    return error


def started(name: str) -> str:
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
    if status.st_mode & _S_IFMT != _S_IFDIR:
        raise SpoolError(f"{path} is not a directory: remove it")
    if status.st_uid != owner:
        raise SpoolError(f"{path} belongs to user {status.st_uid}: remove it, or chown it to {owner}")
    if status.st_mode & 0o077:
        raise SpoolError(f"{path} is open to others (mode {status.st_mode & 0o777:o}): chmod it to 700")


def _unusable(path: str, error: OSError) -> SpoolError:
    return SpoolError(f"{path} cannot be used: {error.strerror}")
