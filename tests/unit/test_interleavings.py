# SPDX-License-Identifier: LGPL-2.1-or-later
"""No interleaving of writing, locking, serving, telling, releasing and dying loses a request.

The spool's own code runs here, in threads of which one moves at a time, against a kernel that is a few
dictionaries: at each system call hypothesis chooses who goes on, or who dies.
"""

from __future__ import annotations

import fcntl
import posix
import threading
from typing import Any, Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sanlock_helper import spool as spool_module
from sanlock_helper.invocation import Invocation
from sanlock_helper.requests import Receipt, Requests
from sanlock_helper.spool import DONE, TELLING, Spool

pytestmark = pytest.mark.pure

LOCK = "../agent.lock"
MOST_PROCESSES = 7
MOST_ROUNDS = 5000


class Death(BaseException):
    """SIGKILL: no handler catches it, and no call that is made while it unwinds has an effect."""


class File:
    """An inode."""

    def __init__(self) -> None:
        self.data = b""
        self.holder: tuple[int, int] | None = None


class World:
    """The files of a host, and what its processes did."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.serving: dict[str, int] = {}
        self.served_twice_at_once: list[str] = []
        self.told: dict[str, list[bool]] = {}
        self.written: list[str] = []


class Process:
    """One helper: a thread that waits for its turn before each system call, and the calls themselves."""

    def __init__(self, pid: int, world: World) -> None:
        self.pid = pid
        self.world = world
        self.descriptors: dict[int, File] = {}
        self.next_descriptor = 3
        self.waits_for: File | None = None
        self.dead = False
        self.ended = False
        self._turn = threading.Semaphore(0)
        self._moved = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._moved.acquire()

    # Scheduling

    def step(self) -> None:
        """Let it make one system call."""
        self._turn.release()
        self._moved.acquire()

    def die(self) -> None:
        """Kill it: the kernel closes its descriptors, and with them its locks."""
        self.dead = True
        for descriptor in list(self.descriptors):
            self._drop(descriptor)
        for name, pid in list(self.world.serving.items()):
            if pid == self.pid:
                del self.world.serving[name]
        self.step()
        self._thread.join()

    def can_move(self) -> bool:
        return not self.ended and (self.waits_for is None or self.waits_for.holder is None)

    def _pause(self) -> None:
        self._moved.release()
        self._turn.acquire()
        if self.dead:
            raise Death

    def _run(self) -> None:
        try:
            self._pause()
            self._live()
        except Death:
            pass
        self.ended = True
        if not self.dead:
            for descriptor in list(self.descriptors):
                self._drop(descriptor)
        self._moved.release()

    # The program: killpath.main() without libvirt

    def _live(self) -> None:
        spool = Spool(0, self.pid, kernel=self, flock=self.flock)
        uuid = f"00000000-0000-0000-0000-{self.pid:012d}"
        spool.write(Invocation("qemu:///system", uuid, "pause"), float(self.pid))
        if spool.enlist():
            requests = Requests(spool, grace=40)
            requests.attend(lambda: self._serve(requests))

    def _serve(self, requests: Requests) -> None:
        while True:
            names = requests.names()
            if not names:
                return
            for name in names:
                self._serve_one(requests, name)

    def _serve_one(self, requests: Requests, name: str) -> None:
        request = requests.read(name)
        if request is None:
            return
        base = name.replace(DONE, "").replace(TELLING, "")
        done = name
        if name == base:
            if name in self.world.serving:
                self.world.served_twice_at_once.append(name)
            self.world.serving[name] = self.pid
            self._pause()  # the call into libvirt
            del self.world.serving[name]
            done = requests.finish(name, "notice", "done")
        receipt = Receipt(requests, done)
        if receipt.telling():
            self._pause()
            self.world.told.setdefault(base, []).append(name.endswith(TELLING))
            receipt.told()

    # The kernel

    def open(self, name: str, flags: int, mode: int = 0, *, dir_fd: int) -> int:
        self._pause()
        if flags & posix.O_EXCL and name in self.world.files:
            raise FileExistsError(name)
        if flags & posix.O_CREAT:
            self.world.files.setdefault(name, File())
        if name not in self.world.files:
            raise FileNotFoundError(name)
        self.next_descriptor += 1
        self.descriptors[self.next_descriptor] = self.world.files[name]
        return self.next_descriptor

    def close(self, descriptor: int) -> None:
        if self.dead:
            raise Death
        self._pause()
        self._drop(descriptor)

    def read(self, descriptor: int, _size: int) -> bytes:
        self._pause()
        return self.descriptors[descriptor].data

    def write(self, descriptor: int, data: bytes) -> int:
        self._pause()
        self.descriptors[descriptor].data += data
        return len(data)

    def rename(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._pause()
        if old not in self.world.files:
            raise FileNotFoundError(old)
        self.world.files[new] = self.world.files.pop(old)
        if old == f".{new}":
            self.world.written.append(new)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        self._pause()
        if name not in self.world.files:
            raise FileNotFoundError(name)
        del self.world.files[name]

    def listdir(self, _directory: int) -> list[str]:
        self._pause()
        return [name for name in self.world.files if not name.startswith("../")]

    def flock(self, descriptor: int, operation: int) -> None:
        self._pause()
        file = self.descriptors[descriptor]
        if file.holder is not None:
            if operation & fcntl.LOCK_NB:
                raise BlockingIOError
            self.waits_for = file
            while file.holder is not None:
                self._pause()
            self.waits_for = None
        file.holder = (self.pid, descriptor)

    def _drop(self, descriptor: int) -> None:
        file = self.descriptors.pop(descriptor)
        if file.holder == (self.pid, descriptor):
            file.holder = None


class Helpers(RuleBasedStateMachine):
    """Processes that come, move and die in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.processes: list[Process] = []
        self.deaths = 0
        self.places = pytest.MonkeyPatch()
        # Whether somebody held or awaited the lock when the last process died.
        self.successor = True

    def living(self) -> list[Process]:
        return [process for process in self.processes if not process.ended]

    def movable(self) -> list[Process]:
        return [process for process in self.processes if process.can_move()]

    @initialize(stand_bys=st.sampled_from([0, 0, 1, 3]))
    def choose_stand_bys(self, stand_bys: int) -> None:
        """With fewer places for stand-bys, more rests on the agent's last look."""
        self.places.setattr(spool_module, "STAND_BYS", stand_bys)

    @precondition(lambda self: len(self.living()) < MOST_PROCESSES)
    @rule()
    def come(self) -> None:
        self.processes.append(Process(len(self.processes) + 1, self.world))

    @precondition(lambda self: self.movable())
    @rule(which=st.integers(0, MOST_PROCESSES), steps=st.integers(1, 12))
    def move(self, which: int, steps: int) -> None:
        movable = self.movable()
        process = movable[which % len(movable)]
        for _ in range(steps):
            if process.can_move():
                process.step()

    @precondition(lambda self: self.living())
    @rule(which=st.integers(0, MOST_PROCESSES))
    def die(self, which: int) -> None:
        living = self.living()
        living[which % len(living)].die()
        self.deaths += 1
        lock = self.world.files.get(LOCK)
        self.successor = lock is not None and (
            lock.holder is not None or any(process.waits_for is lock for process in self.living())
        )

    @invariant()
    def nothing_is_served_twice_at_the_same_time(self) -> None:
        assert not self.world.served_twice_at_once

    def teardown(self) -> None:
        try:
            self.check()
        finally:
            self.places.undo()

    def check(self) -> None:
        self.run_to_the_end()
        if not self.deaths or self.successor:
            self.check_all_told()
        # The next process finishes what dead ones left.
        self.come()
        self.run_to_the_end()
        self.check_all_told()
        assert not self.world.served_twice_at_once
        for tellings in self.world.told.values():
            # Told again only where somebody died over it, and then it is said.
            assert tellings.count(False) <= 1
            assert len(tellings) == 1 or self.deaths

    def run_to_the_end(self) -> None:
        for _ in range(MOST_ROUNDS):
            for process in self.movable():
                process.step()
            if not self.movable():
                break
        else:
            raise AssertionError("the processes never come to an end")
        stuck = [process.pid for process in self.living()]
        assert not stuck, f"processes {stuck} wait for each other"

    def check_all_told(self) -> None:
        assert set(self.world.written) == set(self.world.told)
        assert [name for name in self.world.files if name[:1] != "."] == []


Helpers.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestHelpers: Callable[..., Any] = Helpers.TestCase


class Pair(Helpers):
    """Two processes: the first moves, then the second, then both come to their end."""

    def __init__(self, first_steps: int, second_steps: int) -> None:
        super().__init__()
        self.come()
        self.come()
        self.first, self.second = self.processes
        for process, steps in ((self.first, first_steps), (self.second, second_steps)):
            for _ in range(steps):
                if process.can_move():
                    process.step()


# More than the system calls of a process that serves two requests.
FIRST_STEPS = 40
SECOND_STEPS = 12


@pytest.mark.parametrize("stand_bys", [0, 1])
def test_two_processes_that_change_places_anywhere(monkeypatch: pytest.MonkeyPatch, stand_bys: int) -> None:
    monkeypatch.setattr(spool_module, "STAND_BYS", stand_bys)
    for first in range(FIRST_STEPS):
        for second in range(SECOND_STEPS):
            Pair(first, second).check()


def test_an_agent_that_dies_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "STAND_BYS", 1)
    for first in range(FIRST_STEPS):
        for second in range(SECOND_STEPS):
            pair = Pair(first, second)
            if not pair.first.ended:
                pair.die(0)
            pair.check()
