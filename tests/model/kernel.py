# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel for models: files, locks, processes and time; and what may happen to processes at each call.

Time passes while all processes sleep; a process that is slow is one that is stopped.  A call that no other
process can see the effect of, and that sees nothing of others, is made at once: its order among the calls of
other processes makes no difference.
"""

from __future__ import annotations

import errno
import posix
from collections.abc import Hashable, Iterator
from typing import Any, Callable, NamedTuple

from .replay import EXIT, Program, Raised, Step

# A time of day, as a new file has: far from CLOCK_MONOTONIC.
_WALL_NS = 1_700_000_000 * 10**9

# The shortest sleep: what polls more often sees no more.
TICK = 0.25

SIGKILL = 9


class Inode(NamedTuple):
    """A file: its content, its times, and the lock on it, by process and descriptor."""

    data: bytes = b""
    atime_ns: int = _WALL_NS
    mtime_ns: int = _WALL_NS
    holder: tuple[int, int] | None = None
    links: int = 1


class Task(NamedTuple):
    """A process.  step: None before it has come.  files: inodes by descriptor.

    watches: whether it has an inotify(7) queue for the spool.  polls: whether it sleeps in poll(2) until
    something happens, which is in `events` from then on.
    """

    step: Step | None
    files: tuple[tuple[int, tuple[int, int]], ...] = ()
    made: int = 0
    sleeps_until: float = 0.0
    watches: bool = False
    polls: bool = False
    events: frozenset[str] = frozenset()
    stopped: bool = False
    killable: bool = True
    # Its wait status once it has ended: see wait(2).
    ended: int | None = None

    @property
    def lives(self) -> bool:
        """Whether it has come and has not ended."""
        return self.step is not None and self.ended is None


class Limits(NamedTuple):
    """How much may go wrong: processes that crash, that are stopped, and whether some cannot be killed.

    removals: how many requests an administrator removes.  errors: how many calls fail for want of room.
    ends: how many processes that wait for SIGTERM get it.
    switches: how often a process may have to wait although it could go on, and was not stopped.
    """

    crashes: int = 0
    stops: int = 0
    unkillable: bool = False
    removals: int = 0
    errors: int = 0
    ends: int = 0
    switches: int = 99


def _error(kind: type[OSError], number: int) -> Raised:
    return Raised(kind, number)


def _coming(pid: int) -> Callable[[Any], None]:
    return lambda state: state.come(pid)


NOT_THERE = _error(FileNotFoundError, errno.ENOENT)
THERE = _error(FileExistsError, errno.EEXIST)
NO_ROOM = _error(OSError, errno.ENOSPC)
LOCKED = _error(BlockingIOError, errno.EAGAIN)

# What a process that polls is woken by: a file was renamed into the spool; SIGTERM.
MOVED, TERM = "moved", "term"
FOREVER = float("inf")


def _shown(arguments: tuple[Any, ...]) -> str:
    """The arguments of a call, without the zeros that fill an entry up."""
    shown = [argument.rstrip(b"\0") if isinstance(argument, bytes) else argument for argument in arguments]
    return f"({', '.join(map(repr, shown))})"


class Kernel:
    """The files and processes of one host, at one moment."""

    def __init__(self, programs: list[Program], limits: Limits, now: float) -> None:
        """PROGRAMS come in this order, each at any moment after the one before it."""
        self.programs = programs
        self.limits = limits
        self.now = now
        self.names: dict[str, tuple[int, int]] = {}
        self.inodes: dict[tuple[int, int], Inode] = {}
        self.tasks: dict[int, Task] = {pid: Task(None) for pid in range(1, len(programs) + 1)}
        self.crashes = self.stops = self.switches = self.errors = self.ends = 0
        # The process that made the last call.
        self.running = 0
        # The first step of each process; the same for all copies.
        self._first: dict[Hashable, Step] = {}

    # search.State

    def copy(self) -> Any:
        """The same state, to be changed."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.names, new.inodes, new.tasks = self.names.copy(), self.inodes.copy(), self.tasks.copy()
        return new

    def key(self) -> Hashable:
        """What makes it equal to another state."""
        return (
            self.now,
            frozenset(self.names.items()),
            frozenset(self.inodes.items()),
            tuple(self.tasks.items()),
            self.crashes,
            self.stops,
            self.errors,
            self.ends,
            self.switches,
            self.running,
        )

    def moves(self) -> Iterator[tuple[str, Callable[[Any], None]]]:
        """What may happen next."""
        running = self.tasks.get(self.running)
        if running is not None and self._can_go(running) and self.switches >= self.limits.switches:
            yield from self._moves_of(self.running, running)
            return
        for pid, task in self.tasks.items():
            if self._can_go(task) and self._is_local(pid, task):
                yield from self._moves_of(pid, task)
                return
        can_go = False
        for pid, task in self.tasks.items():
            if task.step is None:
                if self.may_come(pid):
                    can_go = True
                    yield f"{pid} comes", _coming(pid)
            elif task.lives:
                can_go = can_go or self._can_go(task)
                yield from self._moves_of(pid, task)
        if not can_go:
            yield from self._time()

    def _moves_of(self, pid: int, task: Task) -> Iterator[tuple[str, Callable[[Any], None]]]:
        assert task.step is not None
        if task.stopped:
            yield f"{pid} goes on", lambda state: state.change(pid, stopped=False)
            return
        name, arguments = task.step.call
        call = f"{name}{_shown(arguments)}"
        if self._can_go(task):
            yield f"{pid}: {call}", lambda state: state.go(pid)
            if self._may_lack_room(pid, task):
                yield f"{pid}: no room for {call}", lambda state: state.lack_room(pid)
        if self._may_crash(pid, task):
            yield f"{pid} is killed before {call}", lambda state: state.crash(pid)
        if self._may_end(task):
            yield f"{pid} gets SIGTERM before {call}", lambda state: state.terminate(pid)
        if self._may_stop(pid, task):
            yield f"{pid} is stopped before {call}", lambda state: state.stop(pid, True)
            if self.limits.unkillable and self.may_be_unkillable(pid):
                yield f"{pid} is stopped for good before {call}", lambda state: state.stop(pid, False)

    def _may_crash(self, pid: int, task: Task) -> bool:
        return self.crashes < self.limits.crashes and self.may_fail(pid) and self._is_seen(pid, task)

    def _may_end(self, task: Task) -> bool:
        """Whether SIGTERM may come: it takes effect with the next poll, whenever it comes before."""
        may_have_it = task.watches and TERM not in task.events
        return (
            self.ends < self.limits.ends
            and may_have_it
            and task.step is not None
            and (task.polls or task.step.call[0] == "poll")
        )

    def _may_lack_room(self, pid: int, task: Task) -> bool:
        """Whether its call may fail with ENOSPC: a new file, what is written to one, a new name."""
        if self.errors >= self.limits.errors or not self.may_fail(pid) or task.step is None:
            return False
        name, arguments = task.step.call
        is_new = name == "open" and arguments[1] & posix.O_CREAT and arguments[0] not in self.names
        return bool(is_new) or name in ("write", "pwrite", "rename")

    def _may_stop(self, pid: int, task: Task) -> bool:
        if self.stops >= self.limits.stops or not self.may_fail(pid) or task.step is None:
            return False
        # Between two readings of the clock nothing happens.
        return task.step.reads_clock or self._is_seen(pid, task)

    def _can_go(self, task: Task) -> bool:
        return task.lives and not task.stopped and task.sleeps_until <= self.now

    def _time(self) -> Iterator[tuple[str, Callable[[Any], None]]]:
        sleeping = [task.sleeps_until for task in self.tasks.values() if task.lives and not task.stopped]
        until = min(sleeping, default=FOREVER)
        if until < FOREVER:
            yield f"time passes: {until - self.now:.2f} s", lambda state: state.pass_time(until)

    # Events

    def may_come(self, pid: int) -> bool:
        """Whether process PID, which has not come yet, may come now."""
        return all(task.step is not None for other, task in self.tasks.items() if other < pid)

    def may_fail(self, pid: int) -> bool:
        """Whether process PID may crash, or be stopped."""
        return True

    def may_be_unkillable(self, pid: int) -> bool:
        """Whether SIGKILL may be without effect on process PID."""
        return True

    def pass_time(self, until: float) -> None:
        """It is UNTIL now."""
        self.now = until

    def change(self, pid: int, **changes: Any) -> None:
        """Change process PID."""
        self.tasks[pid] = self.tasks[pid]._replace(**changes)

    def come(self, pid: int) -> None:
        """Process PID begins."""
        self.change(pid, step=self.first(pid, pid, self.programs[pid - 1]))

    def first(self, key: Hashable, pid: int, program: Program) -> Step:
        """The first step of PROGRAM as process PID, the same for each KEY."""
        if key not in self._first:
            self._first[key] = Step(program, pid)
        return self._first[key]

    def crash(self, pid: int) -> None:
        """Process PID dies: the kernel frees what it had."""
        self.crashes += 1
        self.end(pid, SIGKILL)

    def stop(self, pid: int, killable: bool) -> None:
        """Process PID is stopped (SIGSTOP), and dies by SIGKILL unless it is not KILLABLE."""
        self.stops += 1
        self.change(pid, stopped=True, killable=killable)

    def terminate(self, pid: int) -> None:
        """Process PID, which handles it, gets SIGTERM."""
        self.ends += 1
        self._wake(pid, TERM)

    def _wake(self, pid: int, event: str) -> None:
        task = self.tasks[pid]
        self.tasks[pid] = task._replace(events=task.events | {event})
        if task.polls:
            self.tasks[pid] = self.tasks[pid]._replace(sleeps_until=self.now)

    def end(self, pid: int, status: int) -> None:
        """Process PID has ended with that wait STATUS."""
        for descriptor, _ in self.tasks[pid].files:
            self._close(pid, descriptor)
        self.change(pid, ended=status, files=(), stopped=False)

    def go(self, pid: int) -> None:
        """Process PID makes its call, and those after it before which nothing can happen."""
        if pid != self.running:
            running = self.tasks.get(self.running)
            self.switches += running is not None and self._can_go(running)
            self.running = pid
        self._call(pid)
        while (
            self._can_go(task := self.tasks[pid])
            and self._is_local(pid, task)
            and not self._may_crash(pid, task)
            and not self._may_lack_room(pid, task)
            and not self._may_end(task)
            and not self._may_stop(pid, task)
        ):
            self._call(pid)

    def lack_room(self, pid: int) -> None:
        """The call of process PID fails."""
        self.errors += 1
        self.running = pid
        task = self.tasks[pid]
        assert task.step is not None
        self.change(pid, step=task.step.after(NO_ROOM))

    def _call(self, pid: int) -> None:
        task = self.tasks[pid]
        assert task.step is not None
        name, arguments = task.step.call
        result = getattr(self, f"do_{name}")(pid, *arguments)
        task = self.tasks[pid]
        assert task.step is not None
        if task.ended is None:
            self.change(pid, step=task.step.after(result))

    # The order of calls

    def _is_seen(self, pid: int, task: Task) -> bool:
        """Whether it makes a difference whether the process ends before its call, or before the next one."""
        assert task.step is not None
        name, arguments = task.step.call
        if name == EXIT:
            return False
        if name == "open":
            path, flags = arguments
            return path not in self.names and bool(flags & posix.O_CREAT)
        if name == "close":
            return self.inodes[self._inode(pid, arguments[0])].holder == (pid, arguments[0])
        return name not in self.READS

    READS: frozenset[str] = frozenset(
        ("clock", "read", "pread", "fstat", "stat", "listdir", "watch", "poll", "events")
    )

    def _is_local(self, pid: int, task: Task) -> bool:
        """Whether other processes neither see the call, nor do they make what it sees."""
        assert task.step is not None
        name, arguments = task.step.call
        if name == "open":
            path, flags = arguments
            return bool(flags & posix.O_EXCL) or (path[:3] == "../" and path in self.names)
        if name == "close":
            return self.inodes[self._inode(pid, arguments[0])].holder != (pid, arguments[0])
        if name in ("write", "pwrite", "pread", "read"):
            inode = self._inode(pid, arguments[0])
            return any(self.is_own(path) for path, found in self.names.items() if found == inode)
        return name in self.LOCAL

    # What happens before a poll wakes it at once, and what happens later wakes it then.
    LOCAL: frozenset[str] = frozenset(("clock", "poll"))

    def is_own(self, path: str) -> bool:
        """Whether no other process reads or writes the file at PATH, while this one does."""
        return path[0] == "." != path[1]

    # System calls

    def do_exit(self, pid: int, end: object) -> None:
        """exit(2)."""
        self.end(pid, end << 8 if isinstance(end, int) else 1 << 8)

    def do_clock(self, pid: int) -> float:
        """CLOCK_MONOTONIC."""
        return self.now

    def do_sleep(self, pid: int, seconds: float) -> None:
        """nanosleep(2)."""
        self.change(pid, sleeps_until=self.now + max(seconds, TICK))

    def do_watch(self, pid: int) -> None:
        """inotify_add_watch(2): whatever is renamed into the spool from now on is an event."""
        self.change(pid, watches=True)

    def do_poll(self, pid: int, seconds: float | None) -> None:
        """poll(2): sleep until there is an event, SECONDS at most."""
        if not self.tasks[pid].events:
            until = FOREVER if seconds is None else self.now + max(seconds, TICK)
            self.change(pid, sleeps_until=until, polls=True)

    def do_events(self, pid: int) -> frozenset[str]:
        """read(2) of the events since the last call."""
        events = self.tasks[pid].events
        self.change(pid, events=frozenset(), polls=False)
        return events

    def do_open(self, pid: int, path: str, flags: int) -> int | Raised:
        """openat(2)."""
        task = self.tasks[pid]
        inode = self.names.get(path)
        if inode is not None and flags & posix.O_EXCL:
            return THERE
        if inode is None:
            if not flags & posix.O_CREAT:
                return NOT_THERE
            inode = (pid, task.made)
            self.names[path], self.inodes[inode] = inode, Inode()
            self.change(pid, made=task.made + 1)
        if flags & posix.O_TRUNC:
            self._set(inode, data=b"")
        descriptor = next(number for number in range(3, 99) if number not in dict(task.files))
        self.change(pid, files=(*task.files, (descriptor, inode)))
        return descriptor

    def do_close(self, pid: int, descriptor: int) -> None:
        """close(2)."""
        self._close(pid, descriptor)

    def _close(self, pid: int, descriptor: int) -> None:
        inode = self._inode(pid, descriptor)
        if self.inodes[inode].holder == (pid, descriptor):
            self._set(inode, holder=None)
        files = tuple(file for file in self.tasks[pid].files if file[0] != descriptor)
        self.change(pid, files=files)
        self._forget(inode)

    def _forget(self, inode: tuple[int, int]) -> None:
        opened = any(inode == found for task in self.tasks.values() for _, found in task.files)
        if not self.inodes[inode].links and not opened:
            del self.inodes[inode]

    def _inode(self, pid: int, descriptor: int) -> tuple[int, int]:
        return dict(self.tasks[pid].files)[descriptor]

    def _set(self, inode: tuple[int, int], **changes: Any) -> None:
        self.inodes[inode] = self.inodes[inode]._replace(**changes)

    def do_read(self, pid: int, descriptor: int) -> bytes:
        """read(2) of a whole file."""
        return self.inodes[self._inode(pid, descriptor)].data

    def do_write(self, pid: int, descriptor: int, data: bytes) -> int:
        """write(2) to the end of a file."""
        inode = self._inode(pid, descriptor)
        self._set(inode, data=self.inodes[inode].data + data)
        return len(data)

    def do_pread(self, pid: int, descriptor: int, size: int, offset: int) -> bytes:
        """pread(2)."""
        return self.do_read(pid, descriptor)[offset : offset + size]

    def do_pwrite(self, pid: int, descriptor: int, data: bytes, offset: int) -> int:
        """pwrite(2)."""
        inode = self._inode(pid, descriptor)
        before = self.inodes[inode].data
        start = before[:offset].ljust(offset, b"\0")
        # What is all zeros is no content: states are then equal that differ by a length only.
        self._set(inode, data=(start + data + before[offset + len(data) :]).rstrip(b"\0"))
        return len(data)

    def do_utime(self, pid: int, descriptor: int, atime_ns: int, mtime_ns: int) -> None:
        """utimensat(2)."""
        self._set(self._inode(pid, descriptor), atime_ns=atime_ns, mtime_ns=mtime_ns)

    def do_fstat(self, pid: int, descriptor: int) -> tuple[int, int, int, int]:
        """fstat(2): size, times and links."""
        inode = self.inodes[self._inode(pid, descriptor)]
        return len(inode.data), inode.atime_ns, inode.mtime_ns, inode.links

    def do_stat(self, pid: int, path: str) -> tuple[int, int, int, int] | Raised:
        """fstatat(2)."""
        found = self.names.get(path)
        if found is None:
            return NOT_THERE
        inode = self.inodes[found]
        return len(inode.data), inode.atime_ns, inode.mtime_ns, inode.links

    def do_rename(self, pid: int, old: str, new: str) -> Raised | None:
        """renameat(2)."""
        if old not in self.names:
            return NOT_THERE
        replaced = self.names.get(new)
        self.names[new] = self.names.pop(old)
        if replaced is not None:
            self._unlinked(replaced)
        if new[:3] != "../":
            for other, task in self.tasks.items():
                if task.lives and task.watches:
                    self._wake(other, MOVED)
        return None

    def do_unlink(self, pid: int, path: str) -> Raised | None:
        """unlinkat(2)."""
        if path not in self.names:
            return NOT_THERE
        self._unlinked(self.names.pop(path))
        return None

    def _unlinked(self, inode: tuple[int, int]) -> None:
        self._set(inode, links=0)
        self._forget(inode)

    def do_listdir(self, pid: int) -> tuple[str, ...]:
        """All names in the spool."""
        return tuple(sorted(name for name in self.names if not name.startswith("../")))

    def do_flock(self, pid: int, descriptor: int) -> Raised | None:
        """flock(2), exclusive, without waiting."""
        inode = self._inode(pid, descriptor)
        if self.inodes[inode].holder not in (None, (pid, descriptor)):
            return LOCKED
        self._set(inode, holder=(pid, descriptor))
        return None

    def do_kill(self, pid: int, victim: int) -> bool:
        """SIGKILL for process VICTIM; whether it is there."""
        task = self.tasks[victim]
        if task.lives and task.killable:
            self.end(victim, SIGKILL)
        return task.lives
