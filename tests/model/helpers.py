# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program's own processes on the model's kernel: killpath.main(), and those of apart.py.

What stands between them and the kernel, and nothing else, is put in the place of the operating system's
modules: each function here makes one call of the process that runs now.
"""

from __future__ import annotations

import posix
import time
from _queue import Empty
from collections import deque
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from sanlock_helper import call, killpath
from sanlock_helper import handover as handover_module
from sanlock_helper.agent import agent as agent_module
from sanlock_helper.agent import apart, in_hand, intake, one_request, requests, service, stand_by
from sanlock_helper.agent import standing as standing_module
from sanlock_helper.agent.agent import Agent
from sanlock_helper.agent.attempt import Attempt
from sanlock_helper.agent.outcomes import Outcome
from sanlock_helper.agent.standing import StandingAgent, Wakes
from sanlock_helper.errors import PermanentError
from sanlock_helper.events import Event
from sanlock_helper.handover import Handover
from sanlock_helper.invocation import EXIT_FAILED
from sanlock_helper.spool import Spool

from .kernel import MOVED, TERM, TICK
from .replay import Process

URI = "qemu:///system"
ACTION = "pause"
STOCK = "/stock"

# The events that are the outcome of a request, as docs/events.md has them.
OUTCOMES = (
    *("done", "not-done", "failed", "stock-helper-done", "stock-helper-powered-off"),
    *("served-together", "outcome-not-noted"),
)

_running: list[Process] = []


def _process() -> Process:
    return _running[-1]


def _now() -> float:
    now: float = _process().call("clock")
    return now


def _sleep(seconds: float) -> None:
    _process().call("sleep", seconds)


class Kernel:
    """What Spool takes for the module posix."""

    def open(self, path: str, flags: int, mode: int = 0, *, dir_fd: int = 0) -> int:
        descriptor: int = _process().call("open", path, flags)
        return descriptor

    def close(self, descriptor: int) -> None:
        _process().call("close", descriptor)

    def read(self, descriptor: int, size: int) -> Any:
        return _process().call("read", descriptor)

    def write(self, descriptor: int, data: bytes) -> Any:
        return _process().call("write", descriptor, data)

    def pread(self, descriptor: int, size: int, offset: int) -> Any:
        return _process().call("pread", descriptor, size, offset)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> Any:
        return _process().call("pwrite", descriptor, data, offset)

    def utime(self, descriptor: int, *, ns: tuple[int, int]) -> None:
        _process().call("utime", descriptor, *ns)

    def fstat(self, descriptor: int) -> Any:
        return _status(_process().call("fstat", descriptor))

    def stat(self, path: str, *, dir_fd: int, follow_symlinks: bool) -> Any:
        return _status(_process().call("stat", path))

    def rename(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        _process().call("rename", old, new)

    def unlink(self, path: str, *, dir_fd: int) -> None:
        _process().call("unlink", path)

    def listdir(self, directory: int) -> list[str]:
        return list(_process().call("listdir"))


def _status(found: tuple[int, int, int, int]) -> SimpleNamespace:
    size, atime_ns, mtime_ns, links = found
    return SimpleNamespace(
        st_mode=0o100600, st_uid=0, st_size=size, st_atime_ns=atime_ns, st_mtime_ns=mtime_ns, st_nlink=links
    )


class Posix(Kernel):
    """What the modules take for posix that make system calls of their own."""

    environ: dict[bytes, bytes] = {}  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        return getattr(posix, name)

    def umask(self, mask: int) -> int:
        return 0

    def isatty(self, descriptor: int) -> bool:
        return False

    def getpid(self) -> int:
        return _process().pid

    def posix_spawn(self, path: str, arguments: list[str], environment: object) -> int:
        program = arguments[0] if arguments[0] == STOCK else "apart"
        # The UUID, or the request's name.
        child: int = _process().call("spawn", program, arguments[2] if program == STOCK else arguments[4])
        return child

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        found: tuple[int, int] = _process().call("waitpid", pid)
        return found

    def kill(self, pid: int, signal: int) -> None:
        _process().call("kill", pid)

    def _exit(self, status: int) -> None:
        raise Exited(status)


class Exited(BaseException):
    """A process ends by _exit(2)."""


class Time:
    """What the modules take for time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return _now()

    def monotonic_ns(self) -> int:
        return int(_now() * 1e9)

    def sleep(self, seconds: float) -> None:
        _sleep(seconds)


class ModelHandover(Handover):
    """A request that is handed over on the model's kernel."""

    @classmethod
    def open(cls, path: str = "", owner: int = 0) -> ModelHandover:
        return cls(0, _process().pid, Kernel(), _flock, _now)


class ModelSpool(Spool):
    """A spool on the model's kernel."""

    @classmethod
    def open(cls, path: str = "", owner: int = 0) -> ModelSpool:
        pid = _process().pid
        return cls(0, pid, Kernel(), _flock, _now, lambda: f"{pid} {pid} 1", sleep=_sleep)

    @classmethod
    def of(cls, handover: Handover) -> ModelSpool:
        spool = cls.open()
        spool.take_over(handover)
        return spool

    def is_in_place(self) -> bool:
        # What is removed here are requests alone.
        return True


def _flock(descriptor: int, operation: int) -> None:
    _process().call("flock", descriptor)


def _kill_holder(holder: str, is_unchanged: Callable[[], bool]) -> bool:
    if not holder or not is_unchanged():
        return False
    return bool(_process().call("kill", int(holder.split(maxsplit=1)[0])))


class ModelJournal:
    """A journal that writes at once; what the observer keeps of it are the outcomes."""

    def prepare(self) -> None:
        pass

    def flush(self) -> bool:
        return True

    def report(self, event: Event, receipt: Any = None) -> None:
        self.log(event.level, event, receipt)

    def log(self, level: str, event: Any, receipt: Any = None) -> None:
        if receipt is None or receipt.logging():
            if event.kind in OUTCOMES:
                _process().call("log", event.uuid, event.kind, event.repeated)
            if receipt is not None:
                receipt.logged()


class Answers:
    """The queue of an agent whose threads run at once."""

    def __init__(self) -> None:
        self._answers: deque[Callable[[], None]] = deque()

    def put(self, answer: Callable[[], None]) -> None:
        self._answers.append(answer)

    def get(self, timeout: float) -> Callable[[], None]:
        if not self._answers:
            _sleep(timeout)
            raise Empty
        return self._answers.popleft()


class Connected:
    """A virConnect as far as the agent itself uses it."""

    def isAlive(self) -> int:
        return 1

    def close(self) -> None:
        pass


def _make_agent(journal: Any, uri: str) -> Agent:
    return Agent(
        lambda uri: Connected(),  # type: ignore[arg-type,return-value]
        journal,
        clock=_now,
        wall=lambda: 0.0,
        start_thread=lambda run, arguments: run(*arguments),
        answers=Answers(),  # type: ignore[arg-type]
    )


class ModelWakes(Wakes):
    """What wakes an agent that stands: a file that is renamed into the spool, SIGTERM."""

    def __init__(self) -> None:
        self.has_changes = self.is_something_gone = self.ends = False

    def watch(self, directory: int) -> None:
        _process().call("watch")

    def watch_changes(self, descriptor: int) -> None:
        pass  # no file of the program's changes

    def wait(self, seconds: float | None) -> bool:
        _process().call("poll", seconds)
        events = _process().call("events")
        self.ends = self.ends or TERM in events
        return MOVED in events


class ModelFiles:
    """What an agent that stands keeps in memory: nothing."""

    descriptor, mebibytes, left_out = -1, 0, 0

    def __init__(self, *_arguments: object) -> None:
        pass

    def lock_all(self) -> None:
        pass

    def renew(self) -> None:
        pass


class ModelDescriptors:
    """As many as are needed."""

    def guard(self, connect: Any) -> Any:
        return connect

    def keep_reserve(self) -> None:
        pass


def _make_standing_agent(
    connect: Any, journal: Any, connections: Any, stands: bool, **_others: object
) -> Agent:
    return Agent(
        connect,
        journal,
        clock=_now,
        wall=lambda: 0.0,
        start_thread=lambda run, arguments: run(*arguments),
        answers=Answers(),  # type: ignore[arg-type]
        connections=connections,
        stands=stands,
    )


def _act(attempt: Attempt) -> Outcome:
    """A call into libvirt: it is sent, and it returns."""
    uuid = attempt.request.uuid

    def call() -> None:
        _process().call("act", uuid)
        _process().call("acted", uuid)

    attempt.change("suspend the domain", "suspended", call)
    return Outcome("running", "suspended", "paused")


# Programs


def _run(process: Process, main: Callable[[], int]) -> int:
    _running.append(process)
    try:
        return main()
    except Exited as end:
        return int(end.args[0])
    finally:
        _running.pop()


def uuid_of(number: int) -> str:
    """The domain for which the helper with that NUMBER is called."""
    return f"00000000-0000-0000-0000-{number:012d}"


def helper(process: Process) -> int:
    """sanlock's call of the killpath, for a domain of its own."""
    return _run(process, lambda: killpath.main([URI, uuid_of(process.pid), ACTION], interactive=False))


def standing(process: Process) -> int:
    """The agent that stands; as its command, it fails where it cannot."""

    def main() -> int:
        spool, wakes = ModelSpool.open(), ModelWakes()
        wakes.watch(spool.directory)
        try:
            return StandingAgent(URI, spool, ModelJournal(), wakes, _now).run()  # type: ignore[arg-type]
        except (PermanentError, OSError):
            return EXIT_FAILED  # see standing.stand()

    return _run(process, main)


def apart_of(name: str) -> Callable[[Process], int]:
    """The process that serves request NAME apart."""

    def program(process: Process) -> int:
        def main() -> int:
            one_request.main(name)
            return 0

        return _run(process, main)

    return program


def stock_of(uuid: str) -> Callable[[Process], int]:
    """libvirt's own helper: one call, no word."""

    def program(process: Process) -> int:
        process.call("act", uuid)
        process.call("acted", uuid)
        return 0

    return program


def install(patch: pytest.MonkeyPatch, stand_bys: int) -> None:
    """Have the modules make the model's system calls, with so many places for STAND_BYS."""
    system, clock = Posix(), Time()
    for module in (killpath, requests, apart, one_request, in_hand, stand_by):
        patch.setattr(module, "posix", system)
    for module in (killpath, requests, service, one_request):
        patch.setattr(module, "time", clock)
    patch.setattr(killpath, "Handover", ModelHandover)
    for module in (call, one_request):
        patch.setattr(module, "Spool", ModelSpool)
        patch.setattr(module, "close_inherited_descriptors", lambda keep=(): None)
    for module in (service, one_request):
        patch.setattr(module, "join_sanlock_group", lambda directory: None)
        patch.setattr(module, "Journal", ModelJournal)
        patch.setattr(module, "Grace", lambda: 40)
        patch.setattr(module, "make_agent", _make_agent)
    _install_standing(patch, system)
    flock = SimpleNamespace(LOCK_EX=2, LOCK_NB=4, flock=_flock)
    patch.setattr(one_request, "fcntl", flock)
    patch.setattr(killpath, "_open_standard_descriptors", lambda: None)
    patch.setattr(stand_by, "kill_holder", _kill_holder)
    patch.setattr(apart, "stock_helper", lambda: STOCK)
    patch.setattr(requests.Requests.__init__, "__defaults__", (None, _sleep))
    patch.setattr(handover_module, "STAND_BYS", stand_bys)
    patch.setattr(agent_module, "ACTIONS", {ACTION: _act})
    # An agent that waits polls no more often than the model's clock ticks.
    patch.setattr(agent_module, "LINGER_SECONDS", 2 * TICK)
    patch.setattr(intake, "POLL_SECONDS", TICK)


def _install_standing(patch: pytest.MonkeyPatch, system: Posix) -> None:
    """The same for the agent that stands: its threads, which connect, listen and renew, do nothing."""
    patch.setattr(standing_module, "posix", system)
    patch.setattr(standing_module, "join_sanlock_group", lambda directory: None)
    patch.setattr(standing_module, "Grace", lambda: 40)
    patch.setattr(standing_module, "Agent", _make_standing_agent)
    patch.setattr(standing_module, "Descriptors", ModelDescriptors)
    patch.setattr(standing_module, "connect", lambda uri: Connected())
    loop = SimpleNamespace(
        start=lambda: None,
        keep=lambda connection, closed: None,
        close=lambda handle: None,
        THROTTLE=nullcontext(),
    )
    patch.setattr(standing_module, "event_loop", loop)
    patch.setattr(standing_module, "WORKERS", SimpleNamespace(start=lambda run, arguments: None))
    for name in ("Memory", "KeptFiles"):
        patch.setattr(standing_module, name, ModelFiles)
    patch.setattr(standing_module, "own_executable", lambda: "")
    patch.setattr(standing_module, "make_host", lambda journal, descriptors: (None, None))
    patch.setattr(standing_module, "IOErrors", lambda *_: None)
    events = SimpleNamespace(libvirtd_answers=lambda: None)
    patch.setattr(standing_module, "DomainEvents", lambda *_: events)
    patch.setattr(standing_module, "daemon_run", lambda directory: None)
    nothing = SimpleNamespace(disable=lambda: None, freeze=lambda: None, collect=lambda: None)
    patch.setattr(standing_module, "gc", nothing)
