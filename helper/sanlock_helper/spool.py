# SPDX-License-Identifier: LGPL-2.1-or-later
"""The spool of requests, the agent's lock and the stand-bys.

sanlock starts one process per virtual machine, all within seconds.  Each writes its request into a directory
on tmpfs and tries to take one lock.  The one that gets it is the agent and serves all requests; a few others
stand by and take over if the agent dies or shows no sign of life (see stand_by.py); all others exit.

A request is a file; its name gives its step:

    UUID.ACTION.START-PID         to be served: the clock, process id and URI inside, START in microseconds
    UUID.ACTION.START-PID.done    served: the outcome's line is appended, no process serves it again
    UUID.ACTION.START-PID.telling the line is being logged

Each step is one rename, so a process that dies at any instruction leaves one of the three.  The kernel drops
a dead process's lock.

The modification time of the lock's file is the CLOCK_MONOTONIC at which the process that has the lock last
showed that it lives; a file beside it names that process.  An agent that stands (see agent/standing.py) keeps
its lock while nothing is to be served, and shows no life then: the access time of the file is STANDS, and its
silence counts from the oldest request on.  An agent that neither shows life nor can be killed keeps its lock;
another one then serves beside it, with the second lock.  A process that takes a lock,
or wakes up after a long silence, first shows life and then checks the other lock; one that serves beside an
agent takes the second lock and then checks that the first one's file has shown no life since.  So at least
one of two such processes detects the other, and withdraws.

Most processes need handover.py alone, on which this stands.  This module is for those that may have to
serve, and imports nothing but C modules of the standard library, too; what happens to a request after it was
written is in agent/requests.py.
"""

import fcntl
import posix
import time

from . import RUNTIME_DIR as RUNTIME_DIR  # noqa: PLC0414  the agent's modules have it from here
from .handover import (
    FIRST,
    FORMAT,
    LATE_SECONDS,
    LOCKS,
    MOST_BYTES,
    S_IFDIR,
    S_IFMT,
    SECOND,
    SPOOL,
    Handover,
    is_private,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any

    from typing_extensions import Self

    from .invocation import Invocation

DONE = ".done"
LOGGING = ".telling"

# What an attempt to take the first lock finds: it is taken now; another process has it; it was free, but an
# agent serves beside it.
TAKEN, HELD, BESIDE = 0, 1, 2

# An agent shows life so often, while it has anything to do.
LIFE_SECONDS = 0.25

# The access time of the lock's file, in nanoseconds, while the agent that has the lock stands.
STANDS = 0

# How often a stand-by of an agent that stands checks on it, before it loads anything.
STAND_BY_SECONDS = 0.05

# An agent that has shown no life for so long does not act before it has checked that it still serves.  Less
# than what another process waits for (stand_by.SILENT_SECONDS).
ACT_SECONDS = 2.0

_PID_FILES = ("agent.pid", "agent-beside.pid")
_PID_SIZE = 128

_S_IFREG = 0o100000

# How long a request waits for a process that can be started for it, in steps: see leave_to_stock().
_FORK_SECONDS = 2.0
_FORK_STEP = 0.05


class SpoolError(Exception):
    """The spool cannot be used; the text is the reason and the remedy."""


class Spool(Handover):
    """The directory of requests, as a process uses it that may have to serve them."""

    def __init__(
        self,
        directory: int,
        pid: int,
        kernel: "Any" = posix,
        flock: "Callable[[int, int], None]" = fcntl.flock,
        clock: "Callable[[], float]" = time.monotonic,
        identify: "Callable[[], str] | None" = None,
        owner: int = 0,
        sleep: "Callable[[float], None]" = time.sleep,
    ) -> None:
        """As a Handover; IDENTIFY gives what identity() does, SLEEP waits."""
        super().__init__(directory, pid, kernel, flock, clock, owner)
        self._sleep = sleep
        self._identify = identify or identity
        # Whether this process waits for the outcome of its own request.
        self.waits_for_outcome = False
        # Which of the two locks this process has, -1 for none.
        self._held = -1
        self._pid_file = -1
        # Whether this process stood by until an agent that stands had served all there was.
        self.was_dismissed = False
        # Whether another process serves in this one's place, which was silent for long.
        self._replaced = False
        # When this process showed life last, as the agent.
        self.shown_at = 0.0
        # Whether this process, once it is the agent, stays when nothing is left to serve.
        self.stays = False
        # Whether this process has given up what is in here, its own request as well.
        self.is_given_up = False

    @classmethod
    def open(cls, path: str = RUNTIME_DIR, owner: int = 0) -> "Self":
        """The spool below PATH, made if it is not there.

        Raises SpoolError where Handover.open() refuses it, or where it cannot be made.
        """
        spool = f"{path}/{SPOOL}"
        _make(path)
        _check(path, owner)
        _make(spool)
        try:
            return super().open(path, owner)
        except OSError as error:
            _check(path, owner)
            _check(spool, owner)
            raise _unusable(spool, error) from error

    @classmethod
    def of(cls, handover: Handover) -> "Spool":
        """The spool of a HANDOVER, which this process may have to serve: with its request, lock and place."""
        spool = cls(handover.directory, handover.pid, owner=handover.owner)
        spool.take_over(handover)
        return spool

    def take_over(self, handover: Handover) -> None:
        """Have what HANDOVER holds open."""
        self.name, self.own_request_fd = handover.name, handover.own_request_fd
        self.locks, self.place = handover.locks, handover.place

    def descriptors(self) -> "tuple[int, ...]":
        """As Handover.descriptors(), with the file that names the agent."""
        return *super().descriptors(), self._pid_file

    # Requests

    def write(self, invocation: "Invocation", start: float, keep: bool = False) -> str:
        """Put the request of an INVOCATION that came at START into the spool: see write_request().

        With KEEP this process waits for its outcome.  Raises SpoolError when it cannot be written.
        """
        budget, pid = invocation.budget or "", invocation.pid or ""
        self.waits_for_outcome = keep
        try:
            return self.write_request(invocation.uri, invocation.uuid, invocation.action, start, budget, pid)
        except OSError as error:
            raise _unusable(f"{RUNTIME_DIR}/{SPOOL}", error) from error

    def has_failed(self) -> bool:
        """Whether this process's own request is over and logged, and its goal was not reached.

        False where that is not known: while it is not over, and where libvirt's helper, which notes no
        outcome, has taken it over.  A stand-by has its exit status from here.
        """
        descriptor = self.own_request_fd
        if self.kernel.fstat(descriptor).st_nlink:
            return False
        data: bytes = self.kernel.pread(descriptor, MOST_BYTES, 0)
        # The last line has the outcome and its level: see Requests.finish().
        return data.rstrip(b"\n").rpartition(b"\n")[2].startswith((b"error\t", b"crit\t"))

    def names(self, known: "Container[str]" = ()) -> "list[str]":
        """The files of all requests, whatever their step, oldest first; but for those that are KNOWN."""
        names = self.kernel.listdir(self.directory)
        names = [name for name in names if name[:1] != "." and name not in known]
        names.sort(key=started)
        return names

    def unserved(self) -> "list[str]":
        """The files of the requests that no process has served yet, oldest first."""
        return [name for name in self.names() if not name.endswith((DONE, LOGGING))]

    def can_be_changed(self) -> bool:
        """Whether a file can be made in the spool, and removed."""
        draft = f".{self.pid}"
        try:
            self.kernel.close(
                self.kernel.open(draft, posix.O_WRONLY | posix.O_CREAT, 0o600, dir_fd=self.directory)
            )
            self.kernel.unlink(draft, dir_fd=self.directory)
        except OSError:
            return False
        return True

    def is_in_place(self) -> bool:
        """Whether the spool, and the lock that this process has, are those that other processes find."""
        try:
            pairs = (
                (posix.stat(f"{RUNTIME_DIR}/{SPOOL}"), posix.fstat(self.directory)),
                (posix.stat(f"{RUNTIME_DIR}/{LOCKS[self.held]}"), posix.fstat(self.lock_file(self.held))),
            )
        except OSError:
            return False
        return all(there.st_ino == ours.st_ino and there.st_dev == ours.st_dev for there, ours in pairs)

    def text(self, name: str) -> str:
        """What is in the file NAME.

        Raises OSError when it cannot be read now, or does not exist; SpoolError when it is no request: not a
        regular file (opening a device, or waiting for a FIFO's other end, may do anything), too large, or one
        that a user other than the owner may have written.
        """
        status = self.kernel.stat(name, dir_fd=self.directory, follow_symlinks=False)
        if status.st_mode & S_IFMT != _S_IFREG:
            raise SpoolError("it is not a regular file")
        if status.st_size > MOST_BYTES:
            raise SpoolError(f"it has {status.st_size} bytes")
        if status.st_uid != self.owner or status.st_mode & 0o022:
            raise SpoolError(
                f"it belongs to user {status.st_uid}, mode {status.st_mode & 0o777:o}: not ours alone"
            )
        flags = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
        descriptor = self.kernel.open(name, flags, dir_fd=self.directory)
        try:
            return self.text_of(descriptor)
        finally:
            self.kernel.close(descriptor)

    def text_of(self, descriptor: int) -> str:
        """What is in the file that DESCRIPTOR has open, from where it stands."""
        data: bytes = self.kernel.read(descriptor, MOST_BYTES)
        return data.decode("utf-8", "backslashreplace")

    # The agent's lock

    def enlist(self) -> bool:
        """Whether this process is needed: it is the agent, or stands by, or the agent is late.

        If not, another process serves what is in the spool by now.  A stand-by of an agent that stands waits
        in here, with nothing loaded, until it is dismissed or needed.  Raises SpoolError when the locks
        cannot be used.
        """
        try:
            found = self.take_first()
            if found == TAKEN or self.is_late(SECOND if found == BESIDE else FIRST):
                return True
            return self.take_place() and not (found == HELD and self._await_dismissal())
        except OSError as error:
            raise _unusable(f"{RUNTIME_DIR}/{LOCKS[FIRST]}", error) from error

    def _await_dismissal(self) -> bool:
        """As a stand-by: wait while the agent stands and is not late; whether it has served all there was."""
        while self.stands() and not self.is_late(FIRST):
            if self.is_dismissed():
                return True
            self._sleep(STAND_BY_SECONDS)
            if self.take_first() != HELD:
                break
        return False

    def is_dismissed(self) -> bool:
        """Whether an agent stands, and nothing is in the spool: then this process's place is given up.

        The caller has found the first lock held.
        """
        if not self.stands() or self._starts():
            return False
        self.leave_place()
        # A process that found no place has exited.  It wrote its request before, so it is there now.
        if not self._starts():
            self.was_dismissed = True
            return True
        self.take_place()
        return False

    def stands(self) -> bool:
        """Whether the agent that has the first lock stays when nothing is left to serve."""
        nanoseconds: int = self.kernel.fstat(self.lock_file(FIRST)).st_atime_ns
        return nanoseconds == STANDS

    def is_empty(self) -> bool:
        """Whether no request is there, whatever its step."""
        return not self._starts()

    def _starts(self) -> "list[float]":
        """When the requests in the spool came, whatever their step; only those whose names have it."""
        starts = []
        for name in self.kernel.listdir(self.directory):
            if name[:1] != "." and is_request(name):
                digits = started(name).partition("-")[0]
                if digits.isascii() and digits:
                    starts.append(int(digits) / 1e6)
        return starts

    def is_agent(self) -> bool:
        """Whether this process has an agent's lock, which it takes if the first is free."""
        return self._held >= 0 or self.take_first() == TAKEN

    @property
    def held(self) -> int:
        """Which lock this process has: FIRST, unless it serves beside another agent."""
        return max(self._held, FIRST)

    @property
    def has_lock(self) -> bool:
        """Whether this process has an agent's lock."""
        return self._held >= 0

    def take_first(self) -> int:
        """Try to take the first lock: TAKEN, HELD by another process, or free BESIDE another agent."""
        if not self._take(FIRST):
            return HELD
        try:
            if not self.is_held(SECOND):
                return TAKEN
        except OSError:
            self.unlock()
            raise
        self.unlock()
        return BESIDE

    def take_second(self) -> bool:
        """Take the second lock, unless another process has it."""
        return self._take(SECOND)

    def unlock(self) -> None:
        """Give the agent's lock up."""
        descriptor = self.locks[self._held]
        # From here on this process is not the one to be killed for its silence.  An agent that it served
        # beside learns of that by the time of this last sign of life.
        self._write_holder("")
        self.shown_at = self._stamp(descriptor, self._clock())
        if self._pid_file >= 0:
            self.kernel.close(self._pid_file)
            self._pid_file = -1
        self.kernel.close(descriptor)
        self.locks[self._held] = -1
        self._held = -1

    def is_held(self, which: int) -> bool:
        """Whether another process has that lock."""
        try:
            descriptor = self.open_lock(LOCKS[which], 0)
        except FileNotFoundError:
            return False
        try:
            return not self.lock(descriptor)
        finally:
            self.kernel.close(descriptor)

    # Signs of life

    def show_life(self) -> bool:
        """As the agent, show that this process lives; False when another one serves in its place by now.

        That can be only after a silence, as when this process was stopped.
        """
        if self._held < 0:
            return True  # nothing to be taken over
        now, before = self._clock(), self.shown_at
        is_due = now - before >= LIFE_SECONDS
        if is_due:
            self._stamp(self.locks[self._held], now)
        self._replaced = self._replaced or not self._serves(now, before)
        if is_due and not self._replaced:
            # Not before the check: a thread that asks may_act() meanwhile would act beside another process.
            self.shown_at = now
        return not self._replaced

    def serves(self) -> bool:
        """Whether no other process serves, or has served, in this one's place.

        It may have when this one has given the lock up, or was silent for long.
        """
        if self._held < 0:
            return self.shown_at == 0.0
        return not self._replaced and self._serves(self._clock(), self.shown_at)

    def is_served_beside(self) -> bool:
        """Whether another process serves, or has served, beside this one, which has the first lock."""
        return self._held == FIRST and not self.serves()

    def _serves(self, now: float, shown_at: float) -> bool:
        return now - shown_at < LATE_SECONDS or self._held == SECOND or not self._was_served_beside(shown_at)

    def _was_served_beside(self, since: float) -> bool:
        """Whether another agent has, or had, the second lock SINCE then."""
        return self.is_held(SECOND) or since < self.life(SECOND) <= self._clock()

    def may_act(self) -> bool:
        """Whether the agent showed life so lately that no other process can serve in its place."""
        return self._held < 0 or self._clock() - self.shown_at < ACT_SECONDS

    def life(self, which: int) -> float:
        """When that lock's holder showed life last, in seconds of CLOCK_MONOTONIC.

        A time of day, and so far in the future, while the holder has not shown any.
        """
        nanoseconds: int = self.kernel.fstat(self.lock_file(which)).st_mtime_ns
        return nanoseconds / 1e9

    def silent_since(self, which: int) -> float:
        """Since when the silence of that lock's holder counts: since it showed life last.

        An agent that stands has nothing to show while the spool is empty: then since the oldest request came,
        and not at all where there is none.
        """
        status = self.kernel.fstat(self.lock_file(which))
        life: float = status.st_mtime_ns / 1e9
        now = self._clock()
        if status.st_atime_ns != STANDS or now - life < LATE_SECONDS:
            return life
        return max(life, min(self._starts(), default=now))

    def is_late(self, which: int) -> bool:
        """Whether that lock's holder, another process, has shown no life lately."""
        since = self.silent_since(which)
        return not 0 <= self._clock() - since < LATE_SECONDS

    def holder(self, which: int) -> str:
        """The process that has that lock, as identity() gives it; "" when it has not written that."""
        try:
            descriptor = self.open_lock(_PID_FILES[which], 0)
        except FileNotFoundError:
            return ""
        try:
            data: bytes = self.kernel.pread(descriptor, _PID_SIZE, 0)
        finally:
            self.kernel.close(descriptor)
        return data.partition(b"\n")[0].decode("ascii", "replace")

    def _stamp(self, descriptor: int, now: float) -> float:
        nanoseconds = int(now * 1e9)
        stands = self.stays and self._held == FIRST
        try:
            self.kernel.utime(descriptor, ns=(STANDS if stands else nanoseconds, nanoseconds))
        except OSError:
            pass  # immutable (chattr -R +i), or a read-only file system by now: it serves all the same
        return now

    def _write_holder(self, text: str) -> None:
        # Not into the lock's file: that would change its time.
        try:
            if self._pid_file < 0:
                self._pid_file = self.open_lock(_PID_FILES[self._held])
            self.kernel.pwrite(self._pid_file, f"{text}\n".encode(), 0)
        except OSError:
            pass  # no room, no descriptor: an unknown holder cannot be killed, but can be served beside

    # The files

    @property
    def has_place(self) -> bool:
        """Whether this process has the place of a stand-by."""
        return self.place >= 0

    def leave_place(self) -> None:
        """Give the place of a stand-by up, if this process has one."""
        if self.place >= 0:
            self.kernel.close(self.place)
            self.place = -1

    def _take(self, which: int) -> bool:
        """Take that lock, name this process as its holder, and show life."""
        descriptor = self.lock_file(which)
        if not self.lock(descriptor):
            return False
        self._held = which
        self._replaced = False
        self._write_holder(self._identify())
        self.shown_at = self._stamp(descriptor, self._clock())
        return True

    # No way to serve

    def leave_to_stock(self, mine: str, oldest: float, why: BaseException) -> bool:
        """Have libvirt's own helper serve what is not served yet, each request in a process of its own.

        MINE is the file of this process's own request, which the caller serves: returns whether it was still
        there.  What came before OLDEST (seconds of CLOCK_MONOTONIC) is over.  WHY is logged.  The processes
        that wrote the others have exited, relying on this one.  In their processes this raises, out of
        killpath.main(), and the executable becomes libvirt's helper for the arguments that the exception
        holds.  A request goes only once it has its process: one that gets none stays for the next agent.
        """
        self.is_given_up = True
        try:
            if self._held >= 0:
                # Those who exited, relying on this process, have written their requests before the listing.
                self.show_late(self.locks[self._held])
            names = [name for name in self._unserved_at_last() if is_request(name)]
            for name in names:
                arguments = self._arguments_of(name)
                if arguments is None or name == mine:
                    continue
                if started(name) >= f"{int(oldest * 1e6):016d}":
                    child = _fork(self._clock)
                    if child == 0:
                        raise _cannot_serve(arguments, why)
                    if child < 0:
                        continue
                self.remove(name)
            self.remove(mine)
        finally:
            if self._held >= 0:
                # As libvirt's helper this process keeps its id, and gives the lock up.
                self._write_holder("")
        self.is_given_up = mine in names
        return self.is_given_up

    def _unserved_at_last(self) -> "list[str]":
        """The files of the requests that no process has served, whatever it takes to list them."""
        try:
            return self.unserved()
        except OSError:
            # What this process has opened may be all that it is allowed.
            from .inherited_descriptors import close_inherited_descriptors

            close_inherited_descriptors(self.descriptors())
            return self.unserved()

    def _arguments_of(self, name: str) -> "list[str] | None":
        """What libvirt's helper is run with for request NAME; None when it cannot be read, or is none."""
        try:
            uuid, action, _ = name.split(".")
            form, _, _, _, uri, *_ = self.text(name).split("\n")
        except (OSError, ValueError, SpoolError):
            return None
        return [uri, uuid, action] if form == FORMAT and uri else None


def _fork(clock: "Callable[[], float]") -> int:
    """fork(2): 0 in the child, -1 when there is still no room for a process after a while.

    The processes that only write their requests exit meanwhile, and make room.
    """
    end = clock() + _FORK_SECONDS
    while True:
        try:
            return posix.fork()
        except OSError:
            if clock() >= end:
                return -1
            time.sleep(_FORK_STEP)


def _cannot_serve(arguments: "list[str]", why: BaseException) -> Exception:
    error = Exception(f"{type(why).__name__}: {why}")
    # This name is read by the executable, which never changes.
    error.killpath_arguments = arguments  # type: ignore[attr-defined]
    return error


def identity() -> str:
    """What names this process and no other, also after its end: its id, its start (proc(5), field 22), and
    the namespace in which the id counts."""
    return f"{posix.getpid()} {process_start(posix.getpid())} {pid_namespace()}"


def process_start(pid: int) -> int:
    """When process PID started, in clock ticks since boot; 0 when that cannot be read (proc(5), field 22)."""
    try:
        descriptor = posix.open(f"/proc/{pid}/stat", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return int(posix.read(descriptor, 4096).rpartition(b")")[2].split()[19])
        finally:
            posix.close(descriptor)
    except (OSError, ValueError, IndexError):
        return 0


def pid_namespace() -> int:
    """The inode number that names this process's pid namespace; 0 when it cannot be read."""
    try:
        return posix.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def is_request(name: str) -> bool:
    """Whether the file NAME may be a request, whatever its step."""
    parts = name.split(".")
    form = len(parts) == 3 or (len(parts) == 4 and f".{parts[3]}" in (DONE, LOGGING))
    return form and len(parts[0]) == 36 and parts[2].replace("-", "").isdigit()


def started(name: str) -> str:
    """The part START-PID of a file's NAME, by which requests sort: START has a fixed width."""
    parts = name.lstrip(".").split(".")
    return parts[2] if len(parts) > 2 else ""


def _make(path: str) -> None:
    """Make the directory PATH unless something is there."""
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise _unusable(path, error) from error


def _check(path: str, owner: int) -> None:
    """Raise SpoolError unless PATH is a directory of OWNER's alone."""
    try:
        status = posix.lstat(path)
    except OSError as error:
        raise _unusable(path, error) from error
    if is_private(status, owner):
        return
    if status.st_mode & S_IFMT != S_IFDIR:
        raise SpoolError(f"{path} is not a directory: remove it")
    if status.st_uid != owner:
        raise SpoolError(f"{path} belongs to user {status.st_uid}: remove it, or chown it to {owner}")
    raise SpoolError(f"{path} is open to others (mode {status.st_mode & 0o777:o}): chmod it to 700")


def _unusable(path: str, error: OSError) -> SpoolError:
    return SpoolError(f"{path} cannot be used: {error.strerror}")
