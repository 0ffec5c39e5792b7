# SPDX-License-Identifier: LGPL-2.1-or-later
"""An agent that stands: it is ready before the leases are lost, with all that it needs in memory.

It has the agent's lock while nothing is to be served, sleeps until a request comes into the spool, and serves
as any other agent does.  Nothing rests on it: a killpath process that finds no agent becomes it, and one that
finds a silent one ends that (see spool.py and stand_by.py).
"""

from __future__ import annotations

import gc
import posix
import select
import signal
import time
from errno import EMFILE, ENOSPC
from typing import Callable, Iterable

from .. import inotify
from ..errors import PermanentError
from ..events import Event
from ..invocation import EXIT_DONE, EXIT_FAILED
from ..journal import Journal
from ..leases.grace import Grace
from ..leases.sanlock_daemon import daemon_run, join_sanlock_group, run_dir
from ..memory_limits import allocate_from_one_arena
from ..spool import HELD, LIFE_SECONDS, RUNTIME_DIR, TAKEN, Spool, SpoolError
from ..threads import WORKERS
from ..virt import AHEAD, IN_FLIGHT, event_loop
from ..virt.connection import connect, is_local
from .agent import LINGER_SECONDS, Agent
from .connection_pool import Connections
from .descriptors import Descriptors
from .domain_events import DomainEvents
from .io_errors import IOErrors
from .kept_connections import KeptConnections
from .kept_files import KeptFiles, Memory, MemoryLockError, Renewal, own_executable
from .renewal_watch import watch_host
from .requests import Requests
from .service import make_host, preload, prepare_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect

# How often the lock is tried while another agent serves: seconds, as a rule.
LOCK_SECONDS = 0.25

# After a spool could not be changed, whether it can be is tried so often.
SPOOL_SECONDS = 5.0

# A request is renamed into place; what is removed beside the spool may be the spool, or a lock.  A directory
# that a process has open reports no end of its own.
_SPOOL_EVENTS = inotify.MOVED_TO | inotify.MOVE_SELF
_FOLDER_EVENTS = inotify.DELETE | inotify.MOVED_FROM | inotify.MOVE_SELF


# The service that runs this.
UNIT = "virt-sanlock-helper-agent.service"

# Open files that an agent has at the least, before its first connection.
_LEAST_DESCRIPTORS = 64


def stand(uri: str) -> int:
    """Stand, with connections to URI, until SIGTERM or SIGINT; returns the exit status.

    Raises PermanentError where it cannot: the spool cannot be used, another agent stands, or the limits of
    this process leave too little.
    """
    limit = posix.sysconf("SC_OPEN_MAX")
    if limit < _LEAST_DESCRIPTORS:
        why = f"open files are limited to {limit}, and {_LEAST_DESCRIPTORS} are needed"
        raise PermanentError("stand", why, f"set LimitNOFILE= of {UNIT} to more")
    allocate_from_one_arena()
    wakes = Wakes()
    journal = Journal()
    join_sanlock_group(run_dir())
    try:
        prepare_process(journal, UNIT)
    except MemoryError as error:
        raise PermanentError("stand", str(error)) from error
    preload()
    try:
        spool = Spool.open()
        wakes.watch(spool.directory)
    except SpoolError as error:
        raise PermanentError("stand", str(error)) from error
    except OSError as error:
        setting = {EMFILE: "fs.inotify.max_user_instances", ENOSPC: "fs.inotify.max_user_watches"}
        name = setting.get(error.errno or 0)
        hint = f"see sysctl {name}, and set it to more" if name else ""
        raise PermanentError("stand", f"the spool cannot be watched: {error.strerror}", hint) from error
    try:
        return StandingAgent(uri, spool, journal, wakes).run()
    except OSError as error:
        raise _unusable(error) from error
    except RuntimeError as error:
        # RLIMIT_NPROC, or pids.max of the control group; any other one is a defect.
        if "thread" not in str(error):
            raise
        raise PermanentError("stand", str(error), f"set TasksMax= of {UNIT} to more") from error
    finally:
        journal.flush()


def _unusable(error: OSError) -> PermanentError:
    """ERROR, met with a lock beside the spool or with the spool itself, and how to find its cause."""
    # As the spool's directory is given to the call: see Spool.
    name = error.filename if isinstance(error.filename, str) else ""
    path = f"{RUNTIME_DIR}/{name.removeprefix('../')}" if name.startswith("../") else RUNTIME_DIR
    why = f"{path} cannot be used: {error.strerror or error}"
    return PermanentError("stand", why, f"ls -ld {path}; findmnt -T {RUNTIME_DIR}")


class Wakes:
    """What wakes the agent: a request, a signal that ends it, a thread of its own."""

    def __init__(self) -> None:
        """Take SIGTERM and SIGINT over.  Raises OSError when no descriptor is free."""
        # Whether a file has changed that is kept in memory; see watch_changes().
        self.has_changes = False
        # Whether SIGTERM or SIGINT came; whether something was removed that may be the spool.
        self.ends = False
        self.is_something_gone = False
        self._inotify: inotify.Inotify | None = None
        self._read_end, self._write_end = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._read_end, select.POLLIN)
        self._changes = -1
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)

    def _end(self, _number: int, _frame: object) -> None:
        self.ends = True

    def watch(self, directory: int) -> None:
        """Wake when a file is renamed into DIRECTORY, a descriptor, or removed beside it.  Raises OSError."""
        self._inotify = inotify.Inotify()
        self._inotify.watch(f"/proc/self/fd/{directory}", _SPOOL_EVENTS)
        self._inotify.watch(f"/proc/self/fd/{directory}/..", _FOLDER_EVENTS)
        self._poll.register(self._inotify.descriptor, select.POLLIN)

    def watch_changes(self, descriptor: int) -> None:
        """Wake when DESCRIPTOR can be read, until the next call; -1 is none."""
        if descriptor != self._changes:
            if self._changes >= 0:
                self._poll.unregister(self._changes)
            if descriptor >= 0:
                self._poll.register(descriptor, select.POLLIN)
            self._changes = descriptor

    def wake(self) -> None:
        """Wake the agent, from any thread."""
        try:
            posix.write(self._write_end, b"\0")
        except BlockingIOError:
            pass  # full: it wakes all the same

    def wait(self, seconds: float | None) -> bool:
        """Sleep until something wakes the agent, SECONDS at most; whether the spool has to be read."""
        found = self._poll.poll(None if seconds is None else seconds * 1000)
        is_spool = False
        for descriptor, _ in found:
            if descriptor == self._read_end:
                posix.read(self._read_end, 4096)
            elif descriptor == self._changes:
                self.has_changes = True
            elif self._inotify is not None:
                is_spool = True
                masks = {mask for _, mask, _ in self._inotify.read()}
                self.is_something_gone |= any(not mask & inotify.MOVED_TO for mask in masks)
        return is_spool


class StandingAgent:
    """The agent of one spool, from one storm to the next."""

    def __init__(
        self,
        uri: str,
        spool: Spool,
        journal: Journal,
        wakes: Wakes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """CLOCK is monotonic, in seconds."""
        self._spool = spool
        self._journal = journal
        self._wakes = wakes
        self._descriptors = Descriptors()
        self._connections = Connections(
            self._descriptors.guard(self._connect), IN_FLIGHT + AHEAD, clock, event_loop.close
        )
        opened = self._listen(uri, clock) if is_local(uri) else lambda: None
        self._kept = KeptConnections(
            uri, self._connections, clock, WORKERS.start, journal.report, wakes.wake, opened
        )
        # The run of sanlock whose grace is known.
        self._sanlock = daemon_run(run_dir())
        self._requests = Requests(spool, Grace())
        self._watch = watch_host(journal.report)
        spool.stays = True
        self._memory = Memory()
        self._files = KeptFiles(self._memory, own_executable())
        self._renewal = Renewal(self._files, clock, WORKERS.start, wakes.wake)

    def run(self) -> int:
        """Serve whatever comes until SIGTERM or SIGINT; returns the exit status.

        It is EXIT_FAILED where another process serves in this one's place by now, or the spool is gone: then
        a process that begins anew can stand.
        """
        event_loop.start()
        self._keep_in_memory()
        WORKERS.start(self._watch.run, ())
        # Garbage is collected at rest, by wait(); what is there now stays, and need not be passed over then.
        gc.disable()
        gc.freeze()
        while self._take_lock():
            self._requests.forget_obstacle()
            kept = f"{self._files.mebibytes} MiB of files kept in memory"
            self._journal.report(Event("agent-stands", note=kept, pid=posix.getpid()))
            if not self._serve():
                return EXIT_FAILED
            if self._wakes.ends:
                break
            self._stand_aside()
        return EXIT_DONE

    def _keep_in_memory(self) -> None:
        """Lock this process's memory, and what a killpath process reads; where that is refused, log it."""
        try:
            self._memory.lock_all()
        except (MemoryLockError, OSError) as error:
            self._journal.report(Event("memory-not-locked", note=error))
            return
        try:
            self._files.renew()
        except (MemoryLockError, OSError) as error:
            self._journal.report(Event("memory-not-locked", note=error))
            self._renewal.failed()
            return
        if self._files.left_out:
            what = f"{self._files.left_out} files do not fit, or cannot be locked"
            self._journal.report(Event("memory-not-locked", note=what))

    def _connect(self, uri: str) -> VirConnect:
        connection = connect(uri)
        event_loop.keep(connection, self._closed)
        return connection

    def _listen(self, uri: str, clock: Callable[[], float]) -> Callable[[], None]:
        """Note guests of URI that stop by an I/O error; what is returned is called when libvirtd answers."""
        report = self._journal.report
        _, recorder = make_host(self._journal, self._descriptors)
        io_errors = IOErrors(uri, recorder, report, clock)
        connect_guarded = self._descriptors.guard(connect)
        events = DomainEvents(uri, connect_guarded, io_errors, report, clock, WORKERS.start, self._closed)
        return events.libvirtd_answers

    def _closed(self) -> None:
        """libvirtd has ended a connection."""
        self._kept.settle()
        self._wakes.wake()

    def _take_lock(self) -> bool:
        """Take the agent's lock, once no other agent serves; False when this process is to end before.

        Raises OSError where it cannot be used.
        """
        spool = self._spool
        while not self._wakes.ends:
            found = spool.take_first()
            if found == TAKEN:
                return True
            if found == HELD and spool.stands():
                pid = spool.holder(0).partition(" ")[0]
                raise PermanentError("stand", f"another agent stands already (process {pid})")
            self._wakes.wait(LOCK_SECONDS)
        return False

    def _serve(self) -> bool:
        """Serve from one storm to the next; returns when this process is to end or to stand aside.

        False when it must not go on.
        """
        agent = self._begin()
        while True:
            known = self._work(agent)
            if not self._requests.serves():
                return False
            if not self._wakes.is_something_gone:
                self._rest()
                # What can be done before a request comes is done now.
                agent = self._begin(known)
                self._learn_grace()
                self.wait()
            if self._wakes.is_something_gone and not self._spool.is_in_place():
                self._journal.report(Event("agent-without-spool"))
                return False
            self._wakes.is_something_gone = False
            if self._wakes.ends or self._is_obstructed():
                self._leave()
                return True
            # sanlock may have been started since.
            join_sanlock_group(run_dir())
            if daemon_run(run_dir()) != self._sanlock:
                self._learn_grace()

    def _learn_grace(self) -> None:
        """Learn the grace of the sanlock that runs now, which keeps it for as long as it runs."""
        self._sanlock = daemon_run(run_dir())
        self._requests.use_grace(Grace())

    def wait(self) -> None:
        """Sleep until the spool has to be read, or this process is to end; see to what it keeps meanwhile.

        Before each sleep garbage is collected: a try to connect that fails leaves some, and libvirtd may be
        away for a week.
        """
        wakes, renewal = self._wakes, self._renewal
        while not wakes.ends and not self._is_obstructed():
            wakes.watch_changes(renewal.descriptor if renewal.waits else -1)
            left = [seconds for seconds in (self._kept.update(), renewal.update()) if seconds is not None]
            if not self._spool.is_empty():
                # Outcomes that no log has taken yet, or what can be moved by no process: the silence of an
                # agent counts from the oldest on.
                if not self._requests.show_life():
                    return
                left.append(LIFE_SECONDS)
            gc.collect()
            if wakes.wait(min(left, default=None)):
                return
            if wakes.has_changes:
                wakes.has_changes = False
                renewal.changed()

    def _make_agent(self) -> Agent:
        """The agent of one storm: nothing that it has noted is kept beyond that."""
        return Agent(
            self._connect,
            self._journal,
            make_host=lambda: make_host(self._journal, self._descriptors),
            descriptors=self._descriptors,
            connections=self._connections,
            stands=True,
        )

    def _begin(self, known: Iterable[str] = ()) -> Agent:
        """The agent that serves what is in the spool, or will be, but for what is KNOWN."""
        agent = self._make_agent()
        agent.begin(self._requests, known)
        return agent

    def _work(self, agent: Agent) -> set[str]:
        """Have AGENT serve what is in the spool, until no more comes; returns what is left to be logged."""
        has_served = False
        with event_loop.THROTTLE:
            while agent.tick() or (has_served and self._more_comes(agent)):
                has_served = True
        return agent.left()

    def _more_comes(self, agent: Agent) -> bool:
        """Whether something comes into the spool of AGENT within LINGER_SECONDS.

        The requests of a storm come one by one, milliseconds apart.  Connections that are closed and opened
        again between two of them cost more than to serve one.
        """
        wakes = self._wakes
        if wakes.ends or wakes.is_something_gone or self._is_obstructed() or not self._requests.serves():
            return False
        is_spool = wakes.wait(LINGER_SECONDS)
        if is_spool:
            agent.expect_more()
        return is_spool

    def _rest(self) -> None:
        """Nothing is to be served: put in order what the last storm has used."""
        self._descriptors.keep_reserve()
        self._connections.grow_again()
        self._kept.settle()

    def _is_obstructed(self) -> bool:
        """Whether the spool has requests that were served and cannot be taken out of it."""
        return bool(self._requests.obstacle)

    def _leave(self) -> None:
        """Give the lock up, with nothing left unserved."""
        requests, spool = self._requests, self._spool
        while True:
            # The next agent takes an outcome that is not logged yet for one that it has to log.
            self._journal.flush()
            spool.unlock()
            left = [name for name in spool.unserved() if name not in requests.ignored]
            if not left or spool.take_first() != TAKEN:
                return
            self._work(self._begin())

    def _stand_aside(self) -> None:
        """Until the spool can be changed again, have each killpath process serve as if no agent stood."""
        while not self._wakes.ends:
            self._wakes.wait(SPOOL_SECONDS)
            if self._spool.can_be_changed():
                break
