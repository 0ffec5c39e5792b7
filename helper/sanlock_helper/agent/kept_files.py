# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is kept in memory while an agent stands, so that nothing has to be read from a disk that is gone.

Its own memory (mlockall(2)), and the files that a killpath process opens until it has handed its request
over: the interpreter, its libraries, a few modules, this program's own, the executable.  Each is mapped and
locked, which keeps its pages and its name in the kernel's caches; directories, symbolic links and files that
are only looked up are held open.  What stays out of reach: a name that is looked up and is not there, as
pyvenv.cfg, and the content of a directory, which the kernel may have to read again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from _queue import SimpleQueue
from pathlib import Path
from typing import Any, Callable

from .. import inotify
from ..command import run
from ..errors import SanlockHelperError
from ..numbers import whole_number

# Resident, the agent itself and all files together; and what the agent may grow by in a storm.
MOST_MEBIBYTES = 64
_GROWTH = 8

# sys/mman.h.  On fault: only what was touched is locked, not a whole thread's stack.
_CURRENT, _FUTURE, _ON_FAULT = 1, 2, 4
_PROT_READ, _MAP_SHARED = 1, 1
_FAILED = ctypes.c_void_p(-1).value

LISTING_SECONDS = 20.0
# Read by the loader and the C library before the first line of Python; in the agent by libvirt's client, and
# where sanlock is silent.  As far as they are there.
_SYSTEM = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/locale/locale.alias",
    "/etc/libvirt/libvirt.conf",
    "/etc/libvirt/auth.conf",
    "/root/.config/libvirt/auth.conf",
    "/etc/sanlock/sanlock.conf",
    "/etc/passwd",
    "/etc/nsswitch.conf",
    # A login by SASL has the host's name resolved.
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/gai.conf",
)
# Names are looked up there that need not be there.
_SYSTEM_FOLDERS = ("/etc", "/etc/libvirt", "/root", "/root/.config", "/usr/lib/locale")
# Of the descriptors that this process may have, so many are left to connections, and to what serves requests:
# GLib ends a process in which a connection finds none (see descriptors.py).
_DESCRIPTORS_OF_OTHERS = 128
# No file that such a process reads is larger, and an archive of locales may be.
_MOST_BYTES = 24 << 20

# An update of a package has come to its end so long after its last change.
SETTLE_SECONDS = 5.0
# A renewal that failed is tried again after so long: what is needed may have been out of reach for a moment.
RETRY_SECONDS = 60.0

_CHANGES = inotify.CREATE | inotify.MOVED_TO | inotify.CLOSE_WRITE | inotify.DELETE | inotify.MOVED_FROM


class MemoryLockError(SanlockHelperError):
    """Memory cannot be locked; the text has the reason."""


class _Mapping:
    """One file, mapped and locked."""

    __slots__ = ("address", "signature", "size")

    def __init__(self, address: int, size: int, signature: tuple[int, ...]) -> None:
        self.address = address
        self.size = size
        self.signature = signature


class Memory:
    """mlockall(2), mmap(2) and mlock(2); the standard library has the second alone, and not its address."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = (
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
        )  # fmt: skip
        for call in (self._libc.mlock, self._libc.munmap):
            call.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

    def lock_all(self) -> None:
        """Lock what this process has and will have in memory, as soon as it has touched it.

        Raises MemoryLockError.  With a limit (RLIMIT_MEMLOCK) nothing is locked: all address space would
        count, and no further thread could be started.
        """
        from resource import RLIM_INFINITY, RLIMIT_MEMLOCK, getrlimit

        limit = getrlimit(RLIMIT_MEMLOCK)[0]
        if limit != RLIM_INFINITY and not _may_lock():
            raise MemoryLockError(f"the limit of locked memory is {limit >> 10} KiB")
        if self._libc.mlockall(_CURRENT | _FUTURE | _ON_FAULT):
            raise MemoryLockError(os.strerror(ctypes.get_errno()))

    def keep(self, descriptor: int, size: int) -> int:
        """Map and lock the file of DESCRIPTOR; returns the address.  Raises OSError."""
        address = self._libc.mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if self._libc.mlock(address, size):
            number = ctypes.get_errno()
            self._libc.munmap(address, size)
            raise OSError(number, os.strerror(number))
        return int(address)

    def drop(self, mapping: _Mapping) -> None:
        """Unmap it."""
        self._libc.munmap(mapping.address, mapping.size)


class KeptFiles:
    """The files that are kept, renewed when they have changed."""

    def __init__(self, memory: Memory, executable: str) -> None:
        """EXECUTABLE is the one that sanlock runs."""
        self._memory = memory
        self._executable = executable
        self._mappings: dict[str, _Mapping] = {}
        self._lookups: set[str] = set()
        # The descriptors of what is held open, by path.
        self.held: dict[str, int] = {}
        self._inotify: inotify.Inotify | None = None
        # How many do not fit, or cannot be locked.
        self.left_out = 0

    @property
    def descriptor(self) -> int:
        """Can be read when something has changed in the directories of the files; -1 without inotify."""
        return -1 if self._inotify is None else self._inotify.descriptor

    @property
    def mebibytes(self) -> int:
        """What the files take."""
        return sum(mapping.size for mapping in self._mappings.values()) >> 20

    def paths(self) -> set[str]:
        """The files that are mapped."""
        return set(self._mappings)

    def renew(self) -> None:
        """Keep what a killpath process needs now; what is kept already and has not changed stays as it is.

        Reads disks, and may wait for them.  Raises MemoryLockError where what is needed cannot be learned,
        as in the middle of an update, or while a disk hangs: then all that is kept stays so.
        """
        if self._inotify is None:
            try:
                self._inotify = inotify.Inotify()
            except OSError:
                pass  # an update of a package is not noticed: its own restarts this process
        else:
            self._inotify.read()
        wanted = self._wanted()
        self.left_out = 0
        for path in [path for path in self._mappings if path not in wanted]:
            self._memory.drop(self._mappings.pop(path))
        room = (MOST_MEBIBYTES - _GROWTH << 20) - _resident() + sum(m.size for m in self._mappings.values())
        for path in wanted:
            self._keep(path, room)
            room -= self._mappings[path].size if path in self._mappings else 0
        folders = {os.path.dirname(path) for path in (*wanted, *self._lookups)}
        self._hold(folders | (self._lookups - set(self._mappings)))

    def _wanted(self) -> list[str]:
        """The real paths of the files that a killpath process opens; `_lookups` has what it looks up.

        Raises MemoryLockError.
        """
        answer = run([self._executable, "--list-files"], LISTING_SECONDS)
        if answer.status != 0:
            raise MemoryLockError(f"list the files of the killpath: {answer.why}")
        lines = [line.partition(" ")[::2] for line in answer.stdout.split("\n")]
        opened = [self._executable, *(path for word, path in lines if word == "open"), *_SYSTEM]
        found = {os.path.realpath(path): None for path in opened}
        self._lookups = {
            _interpreter(self._executable),
            *opened,
            *_SYSTEM_FOLDERS,
            *(path for word, path in lines if word == "stat"),
        }
        return [path for path in found if os.path.isfile(path)]

    def _keep(self, path: str, room: int) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            status = os.fstat(descriptor)
            signature = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            before = self._mappings.get(path)
            if before is not None and before.signature == signature:
                return
            if before is not None:
                self._memory.drop(self._mappings.pop(path))
            if not status.st_size:
                return
            if status.st_size > min(room, _MOST_BYTES):
                self.left_out += 1
                return
            address = self._memory.keep(descriptor, status.st_size)
            self._mappings[path] = _Mapping(address, status.st_size, signature)
        except OSError:
            self.left_out += 1
        finally:
            os.close(descriptor)

    def _hold(self, paths: set[str]) -> None:
        """Hold what is at PATHS open, and watch the directories among them."""
        before, self.held = self.held, {}
        # A renewal has those of before and its own for a moment.
        room = (os.sysconf("SC_OPEN_MAX") - _DESCRIPTORS_OF_OTHERS) // 2
        self.left_out += max(0, len(paths) - max(0, room))
        try:
            for path in sorted(paths)[: max(0, room)]:
                self._hold_one(path)
        finally:
            for descriptor in before.values():
                os.close(descriptor)

    def _hold_one(self, path: str) -> None:
        try:
            self.held[path] = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        if self._inotify is not None and os.path.isdir(path):
            try:
                self._inotify.watch(path, _CHANGES)
            except OSError as error:
                # No watch is free, it has gone, it is closed to us: what changes there is not noticed.
                if error.errno not in (errno.ENOSPC, errno.ENOENT, errno.EACCES):
                    raise


class Renewal:
    """Renews the files in a thread of its own, a while after something has changed in their directories."""

    def __init__(
        self,
        files: KeptFiles,
        clock: Callable[[], float],
        start_thread: Callable[[Callable[..., object], tuple[Any, ...]], object],
        wake: Callable[[], None],
    ) -> None:
        """CLOCK is monotonic, in seconds; WAKE is called, in another thread, when the files are renewed.

        START_THREAD starts the thread.  Raises RuntimeError where it cannot be started.
        """
        self._files = files
        self._clock = clock
        self._wake = wake
        self._due = float("inf")
        # Whether changes are waited for: not from one until the files are renewed.
        self.waits = True
        self._work: SimpleQueue[None] = SimpleQueue()
        start_thread(self._run, ())

    @property
    def descriptor(self) -> int:
        """See KeptFiles."""
        return self._files.descriptor

    def changed(self) -> None:
        """Something has changed: an update of a package changes hundreds of files, within seconds."""
        self.waits = False
        self._due = self._clock() + SETTLE_SECONDS

    def failed(self) -> None:
        """The files could not be renewed, and are as they were."""
        self._due = self._clock() + RETRY_SECONDS

    def update(self) -> float | None:
        """Have the files renewed if that is due; else after how many seconds it is, None where it is not."""
        left = self._due - self._clock()
        if left <= 0:
            self._due = float("inf")
            self._work.put(None)
        return left if 0 < left < float("inf") else None

    def _run(self) -> None:
        while True:
            self._work.get()
            try:
                self._files.renew()
            except Exception:
                # No descriptor is free, an update has not come to its end, a disk hangs; or a defect of ours,
                # which must not end this thread.
                self.failed()
            self.waits = True
            self._wake()


def own_executable() -> str:
    """The executable that sanlock runs: beside the packages in a checkout, else as it is installed."""
    folder = Path(__file__).resolve().parents[2]
    installed = folder.parents[1] / "libexec/virt-sanlock-helper/libvirt_sanlock_helper"
    beside = folder / "libvirt_sanlock_helper"
    return str(beside if beside.exists() else installed)


def _interpreter(executable: str) -> str:
    """The interpreter in the first line of EXECUTABLE; this process's own where that cannot be read."""
    try:
        with open(executable, "rb") as file:
            first = file.readline(256).decode("utf-8", "replace")
    except OSError:
        return sys.executable
    words = first[2:].split()
    return words[0] if first.startswith("#!") and words else sys.executable


def _resident() -> int:
    """What this process has in memory, in bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = whole_number(file.read(256).split()[1].decode())
    except (OSError, IndexError):
        pages = None
    return (pages or 0) * os.sysconf("SC_PAGE_SIZE")


def _may_lock() -> bool:
    """Whether this process has CAP_IPC_LOCK, for which no limit counts (capabilities(7))."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 14 & 1)
    return False
