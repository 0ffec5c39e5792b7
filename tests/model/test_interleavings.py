# SPDX-License-Identifier: LGPL-2.1-or-later
"""No interleaving of writing, locking, serving, logging, releasing, stopping and dying loses a request.

The spool's own code runs here, in threads of which one moves at a time, against a kernel that is a few
dictionaries: at each system call hypothesis chooses which process goes on, dies, or is stopped (SIGSTOP), and
whether SIGKILL takes effect on it.
"""

from __future__ import annotations

import errno
import fcntl
import posix
import threading
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sanlock_helper import handover as handover_module
from sanlock_helper.agent.requests import Receipt, Requests
from sanlock_helper.agent.stand_by import StandBy
from sanlock_helper.handover import LATE_SECONDS, Handover
from sanlock_helper.spool import DONE, LOGGING, TAKEN, Spool, SpoolError
from tests.unit.examples import pairs, part_of

pytestmark = [pytest.mark.pure, pytest.mark.usefixtures("untraced")]

LOCK = "../agent.lock"
MOST_PROCESSES = 7
MOST_ROUNDS = 20000
CALL_SECONDS = 0.001


class Death(BaseException):
    """SIGKILL: no handler catches it, and no call that is made while it unwinds has an effect."""


class File:
    """An inode."""

    def __init__(self) -> None:
        self.data = b""
        self.holder: tuple[int, int] | None = None
        # A time of day, until it is set to the monotonic clock.
        self.mtime_ns = self.atime_ns = 1_700_000_000 * 10**9


class SimulatedHost:
    """The files of a host, and what its processes did."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.serving: dict[str, int] = {}
        self.served_twice_at_once: list[str] = []
        self.logged: dict[str, list[bool]] = {}
        self.written: list[str] = []
        self.processes: dict[int, Process] = {}
        self.now = 1000.0
        self.kills = 0
        self.errors: list[Exception] = []

    def requests(self) -> list[str]:
        return [name for name in self.files if name[:1] != "."]


class Process:
    """One helper: a thread that waits for its turn before each system call, and the calls themselves."""

    def __init__(self, pid: int, world: SimulatedHost, stands: bool = False) -> None:
        """STANDS: it is an agent that stands, and has no request of its own."""
        self.pid = pid
        self.world = world
        self.stands = stands
        # Whether it sleeps until something is in the spool.
        self.rests = False
        # Whether it stands, and polls for the first lock, which another process has.
        self.awaits_lock = False
        self.descriptors: dict[int, File] = {}
        self.next_descriptor = 3
        self.sleeps_until = 0.0
        self.dead = False
        self.stopped = False
        self.killable = True
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
        if self.rests and not self.world.requests():
            return False
        return not self.ended and not self.stopped and self.sleeps_until <= self.world.now

    def has_come_to_rest(self) -> bool:
        return (self.rests and not self.can_move()) or self.awaits_stopped_process()

    def awaits_stopped_process(self) -> bool:
        """Whether it stands and polls for a lock that it cannot get before a stopped process goes on."""
        first = self.world.files.get(LOCK)
        if not self.awaits_lock or first is None or first.holder is None:
            return False
        return self.world.processes[first.holder[0]].stopped

    def has_both(self) -> bool:
        """Whether it has both locks at the moment."""
        files = self.world.files
        locks = [file for name, file in files.items() if name.startswith("../agent")]
        return sum(file.holder is not None and file.holder[0] == self.pid for file in locks) > 1

    def _pause(self) -> None:
        self._moved.release()
        self._turn.acquire()
        if self.dead:
            raise Death
        self.world.now += CALL_SECONDS

    def _sleep(self, seconds: float) -> None:
        self.sleeps_until = self.world.now + seconds
        self._pause()

    def _kill(self, holder: str, is_unchanged: Callable[[], bool]) -> bool:
        """kill_holder() of stand_by.py."""
        if not holder:
            return False
        victim = self.world.processes[int(holder.split(maxsplit=1)[0])]
        if not is_unchanged() or victim.ended or not victim.killable:
            return False
        victim.die()
        self.world.kills += 1
        return True

    def _run(self) -> None:
        try:
            self._pause()
            self._stand() if self.stands else self._live()
        except Death:
            pass
        except Exception as error:
            self.world.errors.append(error)
        self.ended = True
        if not self.dead:
            for descriptor in list(self.descriptors):
                self._drop(descriptor)
        self._moved.release()

    # The program: killpath.main() without libvirt

    def _live(self) -> None:
        handover = Handover(0, self.pid, self, self.flock, lambda: self.world.now)
        uuid = f"00000000-0000-0000-0000-{self.pid:012d}"
        # As in a real one, the start is a time of the clock, and no two have the same.
        start = self.world.now + self.pid / 1e5
        name = handover.write_request("qemu:///system", uuid, "pause", start)
        if handover.is_served():
            return
        spool = self._spool()
        spool.take_over(handover)
        if spool.enlist():
            stand_by = StandBy(spool, lambda: self.world.now, lambda line: None, self._kill)
            requests = Requests(spool, 40, stand_by, self._sleep)
            try:
                requests.attend(lambda: self._serve(requests))
            except SpoolError:
                # Two agents hang: each process serves its own.
                requests.remove(name)
                self._tell(name, False)

    def _spool(self) -> Spool:
        return Spool(
            0,
            self.pid,
            self,
            self.flock,
            lambda: self.world.now,
            lambda: f"{self.pid} {self.pid} 1",
            sleep=self._sleep,
        )

    def _stand(self) -> None:
        """StandingAgent.run() without libvirt, which is begun anew when it ends."""
        while True:
            spool = self._spool()
            spool.stays = True
            requests = Requests(spool, 40, None, self._sleep)
            self.awaits_lock = True
            while spool.take_first() != TAKEN:
                self._sleep(0.25)
            self.awaits_lock = False
            while True:
                self._serve(requests)
                if not requests.serves():
                    break
                self.rests = True
                self._pause()
                self.rests = False
            for descriptor in list(self.descriptors):
                self._drop(descriptor)

    def _serve(self, requests: Requests) -> None:
        requests.inherit()
        while requests.show_life():
            names = requests.names()
            if not names:
                return
            for name in names:
                if not requests.show_life():
                    return
                self._serve_one(requests, name)

    def _tell(self, name: str, again: bool) -> None:
        self.world.logged.setdefault(name, []).append(again)

    def _serve_one(self, requests: Requests, name: str) -> None:
        request = requests.read(name)
        if request is None:
            return
        base = name.replace(DONE, "").replace(LOGGING, "")
        done = name
        if name == base and request.outcome is None:
            if not requests.may_act():
                return  # the next round finds whether another one serves
            # A process that is stopped inside its call cannot be asked to wait.
            other = self.world.processes.get(self.world.serving.get(name, 0))
            if other is not None and not other.stopped:
                self.world.served_twice_at_once.append(name)
            self.world.serving[name] = self.pid
            number = requests.begin(name)
            self._pause()  # the call into libvirt
            requests.end(number)
            if self.world.serving.get(name) == self.pid:
                del self.world.serving[name]
            if not requests.show_life():
                return
            finished = requests.finish(name, "notice", "done")
            if finished is None:
                if requests.serves():
                    self._tell(base, False)
                return
            done = finished
        elif name == base:
            marked = requests.mark_done(name)
            if marked is None:
                return
            done = marked
        receipt = Receipt(requests, done)
        if receipt.logging():
            self._pause()
            self._tell(base, name.endswith(LOGGING))
            receipt.logged()

    # The kernel

    def open(self, name: str, flags: int, mode: int = 0, *, dir_fd: int) -> int:
        self._pause()
        if flags & posix.O_EXCL and name in self.world.files:
            raise FileExistsError(errno.EEXIST, name)
        if flags & posix.O_CREAT:
            self.world.files.setdefault(name, File())
        if name not in self.world.files:
            raise FileNotFoundError(errno.ENOENT, name)
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

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        self._pause()
        return self.descriptors[descriptor].data[offset : offset + size]

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        self._pause()
        file = self.descriptors[descriptor]
        before = file.data.ljust(offset, b"\0")
        file.data = before[:offset] + data + before[offset + len(data) :]
        file.mtime_ns = 1_700_000_001 * 10**9
        return len(data)

    def utime(self, descriptor: int, *, ns: tuple[int, int]) -> None:
        self._pause()
        self.descriptors[descriptor].atime_ns, self.descriptors[descriptor].mtime_ns = ns

    def fstat(self, descriptor: int) -> SimpleNamespace:
        self._pause()
        return self._status(self.descriptors[descriptor])

    def stat(self, name: str, *, dir_fd: int, follow_symlinks: bool) -> SimpleNamespace:
        self._pause()
        if name not in self.world.files:
            raise FileNotFoundError(errno.ENOENT, name)
        return self._status(self.world.files[name])

    def _status(self, file: File) -> SimpleNamespace:
        return SimpleNamespace(
            st_mode=0o100600,
            st_uid=0,
            st_size=len(file.data),
            st_atime_ns=file.atime_ns,
            st_mtime_ns=file.mtime_ns,
        )

    def rename(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._pause()
        if old not in self.world.files:
            raise FileNotFoundError(errno.ENOENT, old)
        self.world.files[new] = self.world.files.pop(old)
        if old == f".{new}":
            self.world.written.append(new)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        self._pause()
        if name not in self.world.files:
            raise FileNotFoundError(errno.ENOENT, name)
        del self.world.files[name]

    def listdir(self, _directory: int) -> list[str]:
        self._pause()
        return [name for name in self.world.files if not name.startswith("../")]

    def flock(self, descriptor: int, operation: int) -> None:
        self._pause()
        file = self.descriptors[descriptor]
        assert operation & fcntl.LOCK_NB
        if file.holder not in (None, (self.pid, descriptor)):
            raise BlockingIOError
        file.holder = (self.pid, descriptor)

    def _drop(self, descriptor: int) -> None:
        file = self.descriptors.pop(descriptor)
        if file.holder == (self.pid, descriptor):
            file.holder = None


class Helpers(RuleBasedStateMachine):
    """Processes that come, move and die in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = SimulatedHost()
        self.processes: list[Process] = []
        self.deaths = 0
        self.stops = 0
        self.places = pytest.MonkeyPatch()
        # Whether a process held or awaited the lock when the last process died.
        self.successor = True

    def living(self) -> list[Process]:
        return [process for process in self.processes if not process.ended]

    def stopped(self) -> list[Process]:
        return [process for process in self.living() if process.stopped]

    def movable(self) -> list[Process]:
        return [process for process in self.processes if process.can_move()]

    @initialize(stand_bys=st.sampled_from([0, 0, 1, 3]))
    def choose_stand_bys(self, stand_bys: int) -> None:
        """With fewer places for stand-bys, more rests on the agent's last check."""
        self.places.setattr(handover_module, "STAND_BYS", stand_bys)

    @precondition(lambda self: len(self.living()) < MOST_PROCESSES)
    @rule()
    def come(self) -> None:
        pid = len(self.processes) + 1
        self.processes.append(Process(pid, self.world))
        self.world.processes[pid] = self.processes[-1]

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
        self.look_for_a_successor()

    def look_for_a_successor(self) -> None:
        """Whether a process that can go on has the lock, or stands by, or has not come that far."""
        spared = {process.pid for process in self.living() if not process.stopped}
        files = [file for name, file in self.world.files.items() if name.endswith(".lock")]
        self.successor = any(file.holder is not None and file.holder[0] in spared for file in files)

    @precondition(lambda self: any(not process.stopped for process in self.living()))
    @rule(which=st.integers(0, MOST_PROCESSES), killable=st.booleans())
    def stop(self, which: int, killable: bool) -> None:
        going = [process for process in self.living() if not process.stopped]
        process = going[which % len(going)]
        # Where two hang that cannot be killed, each process serves its own request, and the others are left.
        # So too where one is stopped between its two system calls that check the second lock.
        killable = killable or any(not process.killable for process in self.living()) or process.has_both()
        process.stopped, process.killable = True, killable
        self.stops += 1
        self.look_for_a_successor()

    @precondition(lambda self: self.stopped())
    @rule(which=st.integers(0, MOST_PROCESSES))
    def go_on(self, which: int) -> None:
        stopped = self.stopped()
        stopped[which % len(stopped)].stopped = False

    @rule(seconds=st.sampled_from([0.1, 1.5, 4.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.now += seconds

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
        if not self.deaths + self.stops or self.successor:
            self.check_all_told()
        # The next process finishes what dead ones left, and stopped ones once their silence shows.
        self.world.now += LATE_SECONDS
        self.come()
        self.run_to_the_end()
        self.check_all_told()
        # Those that go on then have nothing left to do.
        for process in self.stopped():
            process.stopped = False
        self.run_to_the_end()
        self.check_all_told()
        assert not self.world.served_twice_at_once
        for tellings in self.world.logged.values():
            # Logged again only where a process died over it, and then it is marked as a repeat.
            assert tellings.count(False) <= 1
            assert len(tellings) == 1 or self.deaths + self.world.kills + self.stops

    def run_to_the_end(self) -> None:
        for _ in range(MOST_ROUNDS):
            for process in self.movable():
                if process.can_move():  # not killed by another one in this round
                    process.step()
            going = [process for process in self.living() if not process.stopped]
            sleeping = [process.sleeps_until for process in going if not process.has_come_to_rest()]
            if not sleeping:
                break
            if not self.movable():
                self.world.now = min(sleeping)
        else:
            raise AssertionError("the processes never come to an end")
        assert not self.world.errors
        going = [process for process in self.living() if not process.stopped]
        stuck = [process.pid for process in going if not process.has_come_to_rest()]
        assert not stuck, f"processes {stuck} wait for each other"

    def check_all_told(self) -> None:
        # What a stopped process was about to log is its own until it goes on.
        assert set(self.world.written) == set(self.world.logged)
        assert self.world.requests() == []


Helpers.TestCase.settings = settings(max_examples=part_of(100), stateful_step_count=60)
TestHelpers: Callable[..., Any] = Helpers.TestCase


class HelpersBesideAnAgentThatStands(Helpers):
    """The same, where the first process stands as the agent; it may die, and be stopped, as any other."""

    @initialize(stand_bys=st.sampled_from([1, 3]))
    def choose_stand_bys(self, stand_bys: int) -> None:
        """At least one: whether an agent that is at rest is silent shows only after a while."""
        self.places.setattr(handover_module, "STAND_BYS", stand_bys)
        self.stand()

    def stand(self) -> None:
        pid = len(self.processes) + 1
        self.processes.append(Process(pid, self.world, stands=True))
        self.world.processes[pid] = self.processes[-1]

    @precondition(lambda self: not any(process.stands for process in self.living()))
    @rule()
    def begin_anew(self) -> None:
        self.stand()


HelpersBesideAnAgentThatStands.TestCase.settings = Helpers.TestCase.settings
TestHelpersBesideAnAgentThatStands: Callable[..., Any] = HelpersBesideAnAgentThatStands.TestCase


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
FIRST_STEPS = 60
SECOND_STEPS = 12


@pytest.mark.parametrize("stand_bys", [0, 1])
def test_two_processes_that_change_places_anywhere(monkeypatch: pytest.MonkeyPatch, stand_bys: int) -> None:
    monkeypatch.setattr(handover_module, "STAND_BYS", stand_bys)
    for first, second in pairs(FIRST_STEPS, SECOND_STEPS):
        Pair(first, second).check()


def test_an_agent_that_dies_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover_module, "STAND_BYS", 1)
    for first, second in pairs(FIRST_STEPS, SECOND_STEPS):
        pair = Pair(first, second)
        if not pair.first.ended:
            pair.die(0)
        pair.check()


@pytest.mark.parametrize("killable", [True, False])
def test_an_agent_that_is_stopped_anywhere(monkeypatch: pytest.MonkeyPatch, killable: bool) -> None:
    monkeypatch.setattr(handover_module, "STAND_BYS", 1)
    for first, second in pairs(FIRST_STEPS, SECOND_STEPS):
        pair = Pair(first, second)
        pair.first.stopped = not pair.first.ended
        pair.first.killable = killable or pair.first.has_both()
        pair.stops += 1
        pair.look_for_a_successor()
        pair.check()


class StandByThatLeaves(HelpersBesideAnAgentThatStands):
    """An agent that stands dies anywhere in the life of its one stand-by, and another process comes then."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stand()
        (agent,) = self.processes
        self.go(agent, MOST_ROUNDS)
        self.come()
        stand_by = self.processes[1]
        self.go(stand_by, before)
        self.go(agent, MOST_ROUNDS)
        self.world.now = max(self.world.now, stand_by.sleeps_until)
        self.go(stand_by, after)
        # That the stand-by has a place is what the next process relies on.
        self.come()
        self.go(self.processes[2], MOST_ROUNDS)
        agent.die()
        self.deaths += 1

    @staticmethod
    def go(process: Process, steps: int) -> None:
        for _ in range(steps):
            if not process.can_move():
                return
            process.step()

    def check(self) -> None:
        self.run_to_the_end()
        self.check_all_told()


def test_a_stand_by_leaves_no_request_that_relies_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover_module, "STAND_BYS", 1)
    for before, after in pairs(FIRST_STEPS, 2 * SECOND_STEPS):
        StandByThatLeaves(before, after).check()
