# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hand-over of one request: it is written into the spool, and left there where an agent serves it.

All that most of hundreds of processes do is in here; what the others do with the spool is in spool.py, where
its files and locks are described.  Nothing is imported but C modules of the standard library.
"""

import fcntl
import posix
import time

from . import RUNTIME_DIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import Self

STAND_BYS = 3

# Of the content of a request's file.  An agent of another version puts what has another format aside, and the
# process that wrote it has exited by then: what is to be added is a line behind the others.
FORMAT = "2"
# Of one request's file: an agent reads no larger one.
MOST_BYTES = 64 * 1024

# The agent's lock, and that of an agent which serves beside one that does not answer and cannot be killed.
FIRST, SECOND = 0, 1

# After so long without a sign of life the agent is late: a process that would exit stays to observe it.
LATE_SECONDS = 1.0

# In the runtime directory: the spool, and beside it the files of the locks.
SPOOL = "requests"
LOCKS = ("agent.lock", "agent-beside.lock")

# The file type in st_mode (inode(7)): the module that names them is one more to load.
S_IFMT, S_IFDIR = 0o170000, 0o040000
# errno(3): the module that has them is one more, too.
_EPERM, _E2BIG, _ENOSPC = 1, 7, 28


class Handover:
    """The spool, as a process uses it that writes its request and exits."""

    def __init__(
        self,
        directory: int,
        pid: int,
        kernel: "Any" = posix,
        flock: "Callable[[int, int], None]" = fcntl.flock,
        clock: "Callable[[], float]" = time.monotonic,
        owner: int = 0,
    ) -> None:
        """DIRECTORY is a descriptor of the spool, which belongs to OWNER, PID this process's id: see open().

        KERNEL has the system calls, FLOCK is one more, CLOCK is monotonic: a test of all interleavings puts
        its own there.
        """
        self.directory = directory
        self.pid = pid
        self.kernel = kernel
        self.owner = owner
        # This process's own request: its file, and that file's descriptor.
        self.name = ""
        self.own_request_fd = -1
        # The files of the two locks, and of the stand-by's place that this process has; -1 while not open.
        self.locks = [-1, -1]
        self.place = -1
        self._flock = flock
        self._clock = clock

    @classmethod
    def open(cls, path: str = RUNTIME_DIR, owner: int = 0) -> "Self":
        """The spool below PATH.

        Raises OSError unless PATH and the spool are directories of OWNER, closed to all other users: a
        request in there is carried out on a virtual machine.  What was opened is checked, and what that is
        in, whatever is at these paths before or after.
        """
        flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW
        directory = posix.open(f"{path}/{SPOOL}", flags)
        found = posix.fstat(directory), posix.stat("..", dir_fd=directory), posix.lstat(path)
        for status in found:
            if not is_private(status, owner):
                posix.close(directory)
                raise OSError(_EPERM, "Operation not permitted")
        return cls(directory, posix.getpid(), owner=owner)

    def descriptors(self) -> "tuple[int, ...]":
        """What this process holds open here; -1 for what is not open."""
        return self.directory, self.own_request_fd, *self.locks, self.place

    def reopened(self) -> "Self | None":
        """The spool with the same request, once this process has closed all its descriptors.

        None where the request is not there any more: an agent has served it.  It is never written anew: an
        agent may have seen it, and does not serve a second one of its name.  Raises OSError.
        """
        again = type(self).open(owner=self.owner)
        flags = posix.O_RDWR | posix.O_NOFOLLOW | posix.O_CLOEXEC
        try:
            again.own_request_fd = again.kernel.open(self.name, flags, dir_fd=again.directory)
        except FileNotFoundError:
            return None
        again.name = self.name
        return again

    def write_request(
        self,
        uri: str,
        uuid: str,
        action: str,
        start: float,
        budget: "float | str" = "",
        pid: "int | str" = "",
    ) -> str:
        """Put a request that came at START into the spool; returns the file's name.

        START is in seconds of CLOCK_MONOTONIC; BUDGET and PID are "" where none was given.  The file stays
        open, so that its outcome can be read.  Raises OSError when it cannot be written; then nothing is left
        there.
        """
        name = f"{uuid}.{action}.{int(start * 1e6):016d}-{self.pid}"
        draft = f".{name}"
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        data = f"{FORMAT}\n{start}\n{budget}\n{pid}\n{uri}\n".encode()
        if len(data) > MOST_BYTES:
            raise OSError(_E2BIG, "Argument list too long")
        descriptor = self.kernel.open(draft, flags, 0o600, dir_fd=self.directory)
        try:
            if self.kernel.write(descriptor, data) != len(data):
                raise OSError(_ENOSPC, "No space left on device")
            self.rename(draft, name)
        except OSError:
            self.kernel.close(descriptor)
            self.remove(draft)
            raise
        self.name, self.own_request_fd = name, descriptor
        return name

    def is_served(self) -> bool:
        """Whether an agent serves what is in the spool by now, and is observed: then this process may exit.

        False also where more is needed to find that out: Spool.enlist() does, with the lock or the place of a
        stand-by that this process has got here.
        """
        try:
            lock = self.lock_file(FIRST)
            if self.lock(lock):
                # The sign of life there is its last holder's.  Until this process has loaded what it serves
                # with, none may exit that relies on it.
                self.show_late(lock)
                return False
            shown_at = self.kernel.fstat(lock).st_mtime_ns / 1e9
            return 0 <= self._clock() - shown_at < LATE_SECONDS and not self.take_place()
        except OSError:
            return False

    def show_late(self, lock: int) -> None:
        """Have the holder of LOCK, this process, taken for late: none that writes its request then exits.

        Its silence counts from here, as if it had shown life LATE_SECONDS ago.
        """
        late = int((self._clock() - LATE_SECONDS) * 1e9)
        try:
            self.kernel.utime(lock, ns=(late, late))
        except OSError:
            pass  # immutable, or a read-only file system by now: see Spool._stamp()

    def take_place(self) -> bool:
        """Take the place of a stand-by, unless this process has one; False when all are taken."""
        for number in range(STAND_BYS if self.place < 0 else 0):
            descriptor = self.open_lock(f"stand-by-{number}.lock")
            if self.lock(descriptor):
                self.place = descriptor
                break
            self.kernel.close(descriptor)
        return self.place >= 0

    # The files

    def rename(self, name: str, new: str) -> None:
        """Give the file NAME its NEW one."""
        self.kernel.rename(name, new, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def remove(self, name: str) -> bool:
        """Remove a request that is over, or a file that is none; False when it was not there."""
        try:
            self.kernel.unlink(name, dir_fd=self.directory)
        except FileNotFoundError:
            return False
        except OSError:
            pass
        return True

    def lock(self, descriptor: int) -> bool:
        """Take the lock on the file that DESCRIPTOR has open; False when another process has it."""
        try:
            self._flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock_file(self, which: int) -> int:
        """A descriptor of the file of that agent's lock."""
        if self.locks[which] < 0:
            self.locks[which] = self.open_lock(LOCKS[which])
        return self.locks[which]

    def open_lock(self, name: str, create: int = posix.O_CREAT) -> int:
        """A descriptor of the file NAME beside the spool, so that no lock is taken for a request."""
        flags = posix.O_RDWR | create | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
        descriptor: int = self.kernel.open(f"../{name}", flags, 0o600, dir_fd=self.directory)
        return descriptor


def is_private(status: "posix.stat_result", owner: int) -> bool:
    """Whether STATUS is that of a directory of OWNER's alone."""
    return status.st_uid == owner and status.st_mode & (S_IFMT | 0o077) == S_IFDIR
