# SPDX-License-Identifier: LGPL-2.1-or-later
"""The requests in the spool, for the process that serves them or waits for one of them: see spool.py."""

from __future__ import annotations

import errno
import posix
import time

from ..escapes import printable, shown
from ..events import Event
from ..handover import FORMAT, SECOND
from ..invocation import ACTIONS, Invocation
from ..leases.grace import Deadline, Grace
from ..numbers import whole_number
from ..spool import DONE, LOGGING, RUNTIME_DIR, Spool, SpoolError, started
from .in_hand import InHand
from .stand_by import POLL_SECONDS, StandBy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

_RUN = "run"
_DIED = "died"

# The folder beside the spool for what is in there and is no request.
ASIDE = "not-requests"
# The errors of open(2) for files that are no request's: a symbolic link, a socket, a device without a
# driver.
_NO_REQUEST = (errno.ELOOP, errno.ENXIO, errno.ENODEV)

# libvirt's ids are C ints; no host is up for so many seconds, some thirty years.
_MAX_RUN, _MAX_START = 2**31 - 1, 1e9

# Leftovers of a process that died while writing are removed after so many seconds.
_STALE = 60.0


class Request:
    """What has to be done to which domain, and until when."""

    __slots__ = ("action", "deadline", "died", "name", "outcome", "pid", "run", "uri", "uuid")

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
        # The agents that died, or hung, while they had this request in hand.
        self.died: set[str] = set()
        # The level and the line of the outcome, once there is one.
        self.outcome: tuple[str, str] | None = None

    @classmethod
    def of(cls, invocation: Invocation, deadline: Deadline, name: str = "") -> Request:
        """The request of a caller whose clock is DEADLINE; NAME is its file, if it is in the spool."""
        return cls(invocation.uri, invocation.uuid, invocation.action, deadline, invocation.pid, name)

    def __str__(self) -> str:
        return f"{self.action} {self.uuid}"

    def event(self, kind: str, **parts: object) -> Event:
        """An event of KIND with PARTS, of this request's domain, whose name is not known here."""
        return Event(kind, self.action, self.uuid, None, uri=self.uri, **parts)

    @classmethod
    def parse(cls, name: str, text: str, grace: int | Grace) -> Request:
        """The request in file NAME with content TEXT, as Spool.write() and Requests leave it.

        GRACE is sanlock's kill_grace_seconds.  Raises SpoolError when it is no request.
        """
        try:
            uuid, action, _ = name.split(".", 2)
            form, start, budget, pid, uri, *recorder = text.split("\n")
            if form != FORMAT or action not in ACTIONS or action == "ignore":
                raise ValueError(f"format {shown(form)}, action {shown(action)}")
            # As strict as with sanlock's own arguments: no budget or process id that they may not have.
            options = [f"--budget={budget}"] if budget else []
            wanted = Invocation.parse([*options, "--", uri, uuid, action, *([pid] if pid else [])])
            if wanted.uuid != uuid:
                raise ValueError(f"UUID {shown(uuid)}")
            deadline = Deadline(_start(start), grace, wanted.budget)
            request = cls.of(wanted, deadline, name)
            for note in recorder:
                request._read_note(*note.partition("\t")[::2])
        except ValueError as error:
            raise SpoolError(f"it is not one of this program's: {error}") from error
        return request

    def _read_note(self, key: str, value: str) -> None:
        if key == _RUN:
            run = -1 if value == "-1" else whole_number(value)
            if run is None or run > _MAX_RUN:
                raise ValueError(f"run {shown(value)}")
            self.run = run
        elif key == _DIED:
            self.died.add(value)
        elif key:
            self.outcome = (key, value)


def _start(text: str) -> float:
    try:
        start = float(text)
    except ValueError:
        start = float("nan")
    if not -_MAX_START < start < _MAX_START:  # also false for nan
        raise ValueError(f"START is {shown(text)}")
    return start


class Requests:
    """All requests of a spool."""

    def __init__(
        self,
        spool: Spool,
        grace: int | Grace,
        stand_by: StandBy | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """GRACE, sanlock's kill_grace_seconds, is every request's.

        STAND_BY observes the agent, for a process that attends; PAUSE sleeps for so many seconds.
        """
        self._spool = spool
        self._grace = grace
        self._stand_by = stand_by or StandBy(spool, time.monotonic, lambda line: None)
        self._pause = pause
        self._in_hand = InHand(spool, f"{posix.getpid()}-{time.monotonic_ns()}")
        # What is in the spool and is not to be served by this process: it is no request and cannot be moved,
        # or it was served and cannot be renamed.
        self.ignored: set[str] = set()
        # Of these, what was served.
        self._unmoved: set[str] = set()
        # Why the spool cannot be changed, once that was met.
        self.obstacle = ""
        self._aside = 0

    def attend(self, serve: Callable[[], None]) -> None:
        """After Spool.enlist(): have the spool served, by calling SERVE, or by another process.

        Returns when that is done, or when an agent that stands has served all there was.

        SERVE returns when nothing is left to serve.  What was in the spool before enlist() is served even if
        the process that does so dies or hangs, as long as one of the others lives.  Raises SpoolError when
        neither is possible.
        """
        spool = self._spool
        while not spool.has_lock and not self._try_serve():
            if self._is_spare():
                return
            self._pause(POLL_SECONDS)
        spool.leave_place()
        self._work(serve)

    def attend_until(
        self, over: Callable[[], bool], serve: Callable[[], None], pause: Callable[[], None]
    ) -> None:
        """The same, without enlist(), for a process that waits until something is OVER.

        PAUSE waits a moment.
        """
        while not over():
            if self._try_serve():
                self._work(serve)
            else:
                pause()

    def _work(self, serve: Callable[[], None]) -> None:
        """Serve, holding the lock, until nothing is left."""
        if self.names(self.ignored):
            serve()
        while True:
            self._spool.unlock()
            # A process that wrote a request while we held the lock has exited: it relies on this second
            # check.
            unserved = [name for name in self._spool.unserved() if name not in self.ignored]
            if not unserved or not self._try_serve():
                return
            serve()

    def _try_serve(self) -> bool:
        try:
            return self._stand_by.try_serve()
        except OSError as error:
            raise _unusable_lock(error) from error

    def _is_spare(self) -> bool:
        """Whether an agent stands and has served all there was, or shows life and enough others stand by."""
        spool = self._spool
        try:
            if spool.is_dismissed():
                return True
            return not spool.has_place and self._stand_by.is_relieved() and not spool.take_place()
        except OSError as error:
            raise _unusable_lock(error) from error

    def names(self, known: Container[str] = ()) -> list[str]:
        """The files of all requests, whatever their step, oldest first; but for those that are KNOWN."""
        return self._spool.names(known)

    # The agent

    def use_grace(self, grace: int | Grace) -> None:
        """GRACE is that of the requests which are read from now on."""
        self._grace = grace

    def forget_obstacle(self) -> None:
        """The spool can be changed again: remove what was served and logged, and could not be renamed."""
        self.obstacle = ""
        for name in self._unmoved:
            self.remove(name)
        self.ignored -= self._unmoved
        self._unmoved.clear()

    def inherit(self) -> None:
        """Note in each request that was in hand when an agent died, or hung, that it was."""
        for agent, name in self._in_hand.inherit():
            if self.is_unserved(name):
                self._append(name, f"{_DIED}\t{agent}\n")
        self._in_hand.clear(self._spool.held)

    def begin(self, name: str) -> int:
        """Before something is done for request NAME that may end this process; returns a number for end()."""
        return self._in_hand.begin(name)

    def end(self, number: int) -> None:
        """It is done."""
        self._in_hand.end(number)

    def is_unserved(self, name: str) -> bool:
        """Whether request NAME is there still, and served by no process yet."""
        return self._is_there(name)

    def is_done_by_another(self, name: str) -> bool:
        """Whether request NAME was served by the agent that this process serves beside.

        That was stopped after its last check, and went on.
        """
        is_beside = self._spool.held == SECOND
        return is_beside and (self._is_there(name + DONE) or self._is_there(name + LOGGING))

    def life_of(self, name: str) -> int:
        """What the process of its own that serves request NAME changes to show life; 0 when it has none."""
        try:
            status = self._spool.kernel.stat(name, dir_fd=self._spool.directory, follow_symlinks=False)
        except OSError:
            return 0
        return int(status.st_mtime_ns)

    def show_life(self) -> bool:
        """Show that the agent lives; False when another one serves in its place: see Spool.show_life()."""
        return self._spool.show_life()

    def may_act(self) -> bool:
        """Whether no other agent can serve in this one's place: see Spool.may_act()."""
        return self._spool.may_act()

    def serves(self) -> bool:
        """Whether this process is the agent still: see Spool.serves()."""
        return self._spool.serves()

    def sweep(self, now: float) -> None:
        """Remove what processes left that died while they wrote; NOW is on the requests' clock."""
        for name in self._spool.kernel.listdir(self._spool.directory):
            start = started(name).partition("-")[0]
            micros = whole_number(start)
            if name[:1] == "." and micros is not None and micros / 1e6 < now - _STALE:
                self.remove(name)

    def read(self, name: str) -> Request | None:
        """The request in file NAME; None when there is no such file.

        Raises SpoolError for a file that this program did not write, OSError when it cannot be read now.
        """
        try:
            return Request.parse(name, self._spool.text(name), self._grace)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NO_REQUEST:
                raise SpoolError(f"it cannot be opened: {error.strerror}") from error
            raise

    def put_aside(self, name: str) -> str:
        """Move NAME, which is no request, out of the spool; returns where it is now.

        Raises OSError when it cannot be moved: then it is ignored.
        """
        spool = self._spool
        self._aside += 1
        new = f"../{ASIDE}/{time.monotonic_ns()}-{self._aside}"
        try:
            try:
                spool.kernel.mkdir(f"../{ASIDE}", 0o700, dir_fd=spool.directory)
            except FileExistsError:
                pass
            spool.rename(name, new)
        except OSError:
            self.ignored.add(name)
            raise
        return f"{RUNTIME_DIR}/{new[3:]}"

    def save_run(self, name: str, run: int) -> None:
        """Note in request NAME the id that its domain has before anything is done to it."""
        self._append(name, f"{_RUN}\t{run}\n")

    def finish(self, name: str, level: str, line: str) -> str | None:
        """Note the outcome of request NAME: no process serves it again.  Returns the file's new name.

        None when there is no file to be renamed: it was removed by hand, or the spool cannot be changed.
        """
        # A line of the file each: nothing in it may end it, or be taken for a note of its own.
        self._append(name, f"{level}\t{printable(line)}\n")
        return self.mark_done(name)

    def mark_done(self, name: str) -> str | None:
        """Give request NAME, whose outcome is noted, the name of that step; returns as finish() does."""
        try:
            self._spool.rename(name, name + DONE)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._meet_obstacle(name, error)
            return None
        return name + DONE

    def _meet_obstacle(self, name: str, error: OSError) -> None:
        self.obstacle = error.strerror or repr(error)
        self.ignored.add(name)
        self._unmoved.add(name)

    def logging(self, name: str, is_own: bool = True) -> str | None:
        """Claim the logging of a finished request's outcome; IS_OWN: of this agent's own.

        Returns the file's new name, None when it was claimed by another, or is left to the one that serves
        beside this one: that may have read the request before it was finished, and must not find it gone.
        """
        new = name[: -len(DONE)] + LOGGING
        if self._spool.is_served_beside():
            return None
        try:
            self._spool.rename(name, new)
        except FileNotFoundError:
            # Removed by hand, unless another agent claimed it: one that was stopped logs what it did.
            return None if not is_own or self.may_be_logged_by_another(new) else name
        except OSError as error:
            self._meet_obstacle(name, error)
            return name
        return new

    def may_be_logged_by_another(self, name: str) -> bool:
        """Whether another agent may have claimed, under NAME, the logging of what this process has served."""
        return not self._spool.serves() or self._is_there(name)

    def _is_there(self, name: str) -> bool:
        try:
            self._spool.kernel.stat(name, dir_fd=self._spool.directory, follow_symlinks=False)
        except OSError:
            return False
        return True

    def remove(self, name: str) -> bool:
        """Remove a request whose outcome was logged, or a file that is none; False when it was not there."""
        return self._spool.remove(name)

    def outcome_of(self, request: Request) -> tuple[str, str] | None:
        """The level and the line of the outcome of this process's own REQUEST, once it was logged.

        The file was written with keep: see Spool.write().
        """
        kernel, descriptor = self._spool.kernel, self._spool.own_request_fd
        if kernel.fstat(descriptor).st_nlink:
            return None
        kernel.lseek(descriptor, 0, 0)
        outcome = Request.parse(request.name, self._spool.text_of(descriptor), self._grace).outcome
        return outcome or (
            "error",
            f"{request}: its request was removed; what became of it is in the journal",
        )

    def _append(self, name: str, text: str) -> None:
        spool = self._spool
        try:
            flags = posix.O_WRONLY | posix.O_APPEND | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
            descriptor = spool.kernel.open(name, flags, dir_fd=spool.directory)
        except OSError:
            return
        try:
            spool.kernel.write(descriptor, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # no room for the note: what it is about was done all the same
        finally:
            spool.kernel.close(descriptor)


def _unusable_lock(error: OSError) -> SpoolError:
    return SpoolError(f"the agent's lock cannot be used: {error.strerror}")


class Receipt:
    """The receipt of a finished request's outcome: see journal.Journal.log()."""

    def __init__(self, requests: Requests, name: str, is_own: bool = True) -> None:
        """NAME is the request's file, at its step DONE or LOGGING; IS_OWN: this agent has served it."""
        self._requests = requests
        self._is_own = is_own
        self._name: str | None = name

    def logging(self) -> bool:
        """Claim the logging; False when another process has."""
        if self._name is not None and self._name.endswith(DONE):
            self._name = self._requests.logging(self._name, self._is_own)
        return self._name is not None

    def logged(self) -> None:
        """The request is over."""
        if self._name is not None:
            self._requests.remove(self._name)
