# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests, the agent, stand-bys, signs of life and take-over: every interleaving of a few processes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Callable, NamedTuple

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.agent.in_hand import InHand
from sanlock_helper.agent.requests import Requests
from sanlock_helper.agent.stand_by import DEATH_SECONDS, POLL_SECONDS, SILENT_SECONDS, StandBy
from sanlock_helper.agent.standing import StandingAgent
from sanlock_helper.handover import Handover
from sanlock_helper.spool import Spool

from . import helpers
from .depth import DEEPER
from .kernel import FOREVER, TICK, Kernel, Limits, Task
from .replay import EXIT, Program
from .search import WrongState, search

START = 1000.0

# From a fault to the outcome of what is left: the silence, the death, and the polls around them.
# A request over which so many agents died goes apart.
DEATHS = 2

# The processes that an agent starts have ids from here on.
FIRST_CHILD = 100

# Stand-bys of an agent that stands check so often whether anything is left to serve: twice the clock's tick.
DISMISSAL_SECONDS = 2 * TICK

TAKE_OVER_SECONDS = SILENT_SECONDS + DEATH_SECONDS + 4 * TICK + POLL_SECONDS


class Host(Kernel):
    """The processes of a host on which leases were lost, and what was seen of them from outside."""

    def __init__(
        self, programs: list[Program], limits: Limits, late: int = 0, deadly: frozenset[str] = frozenset()
    ) -> None:
        """The last LATE programs come when nothing else happens any more.

        DEADLY: the domains at which the process that calls libvirt for them dies.
        """
        super().__init__(programs, limits, START)
        self.standing = {pid for pid, run in enumerate(programs, 1) if run is helpers.standing}
        self.late = late
        self.deadly = deadly
        # By domain: the processes inside a call for it; how many calls have returned; what was logged.
        self.acting: dict[str, frozenset[int]] = {}
        self.acted: dict[str, int] = {}
        self.acted_by: dict[str, int] = {}
        self.logged: dict[str, tuple[tuple[str, bool], ...]] = {}
        self.deaths: dict[str, int] = {}
        self.written: frozenset[str] = frozenset()
        # What runs in the processes that an agent has started.
        self.runs: dict[int, str] = {}
        self.wrong = ""
        # The processes that were stopped at some time.
        self.slept: frozenset[int] = frozenset()
        self.removals = 0
        # The domains whose request was removed before anything was done for it, or after.
        self.removed: frozenset[str] = frozenset()
        # Since when nothing is to be served.
        self.empty_at = START
        # When the last fault was; whether a process was there to serve what it left.
        self.fault_at = START
        self.has_successor = True

    def copy(self) -> Any:
        new = super().copy()
        for name in ("acting", "acted", "acted_by", "logged", "deaths", "runs"):
            setattr(new, name, getattr(self, name).copy())
        return new

    def key(self) -> Hashable:
        return (
            super().key(),
            frozenset(self.acting.items()),
            frozenset(self.acted.items()),
            frozenset(self.acted_by.items()),
            frozenset(self.logged.items()),
            frozenset(self.deaths.items()),
            self.fault_at,
            self.empty_at,
            self.has_successor,
            self.slept,
            self.removals,
            self.removed,
            self.written,
            self.wrong,
        )

    # Events

    def moves(self) -> Iterator[tuple[str, Callable[[Any], None]]]:
        yield from super().moves()
        if self.removals < self.limits.removals:
            # While a call is made for it: the outcome is logged all the same.
            for uuid, inside in self.acting.items():
                if inside:
                    yield f"the request for {uuid} is removed by hand", lambda state: state.remove_by_hand()

    def remove_by_hand(self) -> None:
        """An administrator empties the spool."""
        self.removals += 1
        for name in [name for name in self.names if name[0] != "."]:
            self._unlinked(self.names.pop(name))
            uuid = name.partition(".")[0]
            if not self.acting.get(uuid):
                self.removed |= {uuid}

    def may_come(self, pid: int) -> bool:
        if pid <= len(self.programs) - self.late:
            return super().may_come(pid)
        others = [task for other, task in self.tasks.items() if other != pid and task.step is not None]
        # An agent that rests does nothing by itself.
        rest = [task for task in others if task.lives and not task.stopped and task.sleeps_until < FOREVER]
        return super().may_come(pid) and not rest

    def may_fail(self, pid: int) -> bool:
        return not len(self.programs) - self.late < pid < FIRST_CHILD

    def is_own(self, path: str) -> bool:
        # Where no agent is stopped none serves beside another: the lock's holder alone uses these; if two
        # had it, both would act at a time, which check() finds.
        is_agents = path.endswith((".in-hand", ".pid")) or path[0] != "."
        return super().is_own(path) or (is_agents and not self.limits.stops)

    def may_be_unkillable(self, pid: int) -> bool:
        # Where two hang that cannot be killed, each process serves its own request, and the others are left.
        # So too where one is stopped between its two system calls that check the second lock.
        names = ("../agent.lock", "../agent-beside.lock")
        held = [self.inodes[self.names[name]].holder for name in names if name in self.names]
        has_both = sum(holder is not None and holder[0] == pid for holder in held) > 1
        return not has_both and all(task.killable for task in self.tasks.values())

    def end(self, pid: int, status: int) -> None:
        for uuid, inside in self.acting.items():
            self.acting[uuid] = inside - {pid}
        super().end(pid, status)

    def come(self, pid: int) -> None:
        super().come(pid)
        if pid in self.standing and self._is_agent_stopped():
            return  # it waits for the lock: the next call ends what does not answer
        if not self.has_successor or pid > len(self.programs) - self.late:
            # It serves what is left.
            self.fault_at, self.has_successor = self.now, True

    def _is_agent_stopped(self) -> bool:
        """Whether a process that is stopped has the agent's lock."""
        holder = self.holder_of("../agent.lock")
        return holder is not None and self.tasks[holder].stopped

    def holder_of(self, name: str) -> int | None:
        """The process that has the lock on the file NAME."""
        holder = self.inodes[self.names[name]].holder if name in self.names else None
        return None if holder is None else holder[0]

    def crash(self, pid: int) -> None:
        super().crash(pid)
        self._fault()

    def stop(self, pid: int, killable: bool) -> None:
        super().stop(pid, killable)
        self.slept |= {pid}
        self._fault()

    def _fault(self) -> None:
        self.fault_at = self.now
        self.find_successor()

    def find_successor(self) -> None:
        """Whether a process that can go on has the lock or a place, or will try to take one."""
        holders = {
            inode.holder[0]
            for name, number in self.names.items()
            if name.endswith(".lock") and (inode := self.inodes[number]).holder is not None
        }
        self.has_successor = any(self.tasks[pid].lives and not self.tasks[pid].stopped for pid in holders)

    def change(self, pid: int, **changes: Any) -> None:
        super().change(pid, **changes)
        if changes == {"stopped": False}:
            self.fault_at = self.now

    # Calls

    def do_rename(self, pid: int, old: str, new: str) -> Any:
        if old == f".{new}":
            self.written |= {new.partition(".")[0]}
        return super().do_rename(pid, old, new)

    def do_unlink(self, pid: int, path: str) -> Any:
        result = super().do_unlink(pid, path)
        if path[0] != "." and not self.requests():
            self.empty_at = self.now
        return result

    def requests(self) -> list[str]:
        """The names in the spool, whatever their step."""
        return [name for name in self.names if name[0] != "."]

    def do_spawn(self, pid: int, program: str, argument: str) -> int:
        """posix_spawn(3) of a process that serves a request apart."""
        child = next(number for number in range(FIRST_CHILD, 200) if number not in self.tasks)
        make = helpers.stock_of if program == helpers.STOCK else helpers.apart_of
        self.tasks[child] = Task(self.first((child, program, argument), child, make(argument)))
        self.runs[child] = program
        return child

    def do_waitpid(self, pid: int, child: int) -> tuple[int, int]:
        """waitpid(2), without waiting."""
        ended = self.tasks[child].ended
        return (0, 0) if ended is None else (child, ended)

    def do_act(self, pid: int, uuid: str) -> None:
        """A call into libvirt for domain UUID begins."""
        inside = self.acting.get(uuid, frozenset())
        # A call that was under way when its process was stopped cannot be taken back.
        others = [other for other in inside if other not in self.slept]
        if others:
            self.wrong = f"{pid} acts on {uuid} beside {others}"
        done_by = self.acted_by.get(uuid, pid)
        done = self.tasks[done_by]
        # An agent in whose place another one serves may have acted, and not noted that: it is done again.
        is_known = uuid in self.logged or pid in self.slept or not self.crashes + self.stops
        if done_by != pid and is_known and not done.stopped and done.ended in (None, 0):
            self.wrong = f"{pid} acts on {uuid} again, which {done_by} has done"
        self.acting[uuid] = inside | {pid}
        if self.deaths.get(uuid, 0) >= DEATHS and pid < FIRST_CHILD:
            self.wrong = f"agent {pid} acts on {uuid}, over which two have died"

    def do_acted(self, pid: int, uuid: str) -> None:
        """The call returns."""
        if uuid in self.deadly and self.runs.get(pid) != helpers.STOCK:
            self.deaths[uuid] = self.deaths.get(uuid, 0) + 1
            self.end(pid, 11)
            self._fault()
            return
        self.acting[uuid] -= {pid}
        self.acted[uuid] = self.acted.get(uuid, 0) + 1
        self.acted_by[uuid] = pid

    def do_log(self, pid: int, uuid: str, kind: str, repeated: bool) -> None:
        """An outcome is logged."""
        if kind == "done" and not self.acted.get(uuid):
            self.wrong = f"{uuid} is called done, and nothing was done"
        self.logged[uuid] = (*self.logged.get(uuid, ()), (kind, repeated))

    LOCAL = Kernel.LOCAL | {"act", "log"}
    # A process that is stopped after its last reading of the clock is inside its call: no check comes later.
    READS = Kernel.READS | {"act"}

    # Properties

    def check(self, is_last: bool) -> None:
        assert not self.wrong, self.wrong
        for uuid, outcomes in self.logged.items():
            first = [kind for kind, repeated in outcomes if not repeated]
            assert len(first) <= 1, f"{uuid} has {outcomes}"
            assert len(outcomes) == 1 or self.crashes + self.stops + self.errors + sum(
                self.deaths.values()
            ), outcomes
        for pid, task in self.tasks.items():
            if task.lives and task.step is not None and task.step.call[0] == EXIT:
                (status,) = task.step.call[1]
                assert isinstance(status, int), f"{pid} ends by {status!r}"
        self.check_stand_bys()
        if is_last:
            self.check_last()
        elif self.has_successor and self.now > self.fault_at + TAKE_OVER_SECONDS:
            # Whatever process is stopped.
            late = [uuid for uuid in self.written if not self.acted.get(uuid)]
            assert not late, f"not served {TAKE_OVER_SECONDS} s after a fault: {late}"

    def check_stand_bys(self) -> None:
        """Beside an agent that stands they go when nothing is to be served."""
        agent = self.holder_of("../agent.lock")
        if agent is None or agent not in self.standing or self.requests() or self.tasks[agent].stopped:
            return
        # It rests, since it has shown life last.
        since = max(self.empty_at, self.fault_at, self.inodes[self.names["../agent.lock"]].mtime_ns / 1e9)
        if not self.tasks[agent].polls or self.now <= since + DISMISSAL_SECONDS:
            return
        places = [self.holder_of(name) for name in self.names if "stand-by" in name]
        stay = [pid for pid in places if pid is not None and not self.tasks[pid].stopped]
        assert not stay, f"{stay} stand by, and nothing is to be served"

    def check_last(self) -> None:
        """Nothing is left to happen."""
        if not self.has_successor:
            return  # the next call serves what is left: see the models in which one comes late
        # One that could not write its request serves it itself.
        called = {
            helpers.uuid_of(pid)
            for pid, task in self.tasks.items()
            if pid < FIRST_CHILD and pid not in self.standing and task.ended == 0
        }
        silent = (self.written | called) - set(self.logged) - self.removed
        assert not silent, f"no outcome: {silent}"
        left = self.requests()
        assert not left, f"left in the spool: {left}"


class Scenario(NamedTuple):
    """How many processes, of which the LATE ones come last; places for stand-bys; what may go wrong.

    deadly: the helpers at whose domain the process dies that calls libvirt.  holders: programs that come
    first and have no request of their own, such as an agent that waits for one.  followers: the same, after
    the helpers that are not late.
    """

    helpers: int
    late: int
    stand_bys: int
    limits: Limits
    deadly: tuple[int, ...] = ()
    holders: tuple[Program, ...] = ()
    followers: tuple[Program, ...] = ()

    def host(self) -> Host:
        """The host before anything has happened."""
        deadly = frozenset(map(helpers.uuid_of, self.deadly))
        calls: list[Program] = [helpers.helper] * self.helpers
        first = len(calls) - self.late
        programs = [*self.holders, *calls[:first], *self.followers, *calls[first:]]
        return Host(programs, self.limits, self.late, deadly)


def _more(switches: int) -> int:
    return switches + DEEPER


SCENARIOS = {
    "three calls": Scenario(3, 0, 1, Limits(switches=_more(1))),
    "three calls, no place for a stand-by": Scenario(3, 0, 0, Limits(switches=_more(1))),
    "a process is killed": Scenario(3, 0, 1, Limits(crashes=1, switches=_more(0))),
    "a process is killed, and one more call comes": Scenario(3, 1, 1, Limits(crashes=1, switches=_more(0))),
    "requests are removed by hand": Scenario(2, 0, 1, Limits(removals=1, switches=_more(1))),
    "there is no room once": Scenario(3, 0, 1, Limits(errors=1, switches=_more(0))),
    "there is no room twice": Scenario(2, 0, 1, Limits(errors=2, switches=_more(0))),
    "two processes are killed": Scenario(3, 1, 1, Limits(crashes=2, switches=0)),
    "a process is stopped, and goes on at any time": Scenario(2, 0, 1, Limits(stops=1, switches=_more(0))),
    "a process is stopped, and one more call comes": Scenario(2, 1, 1, Limits(stops=1, switches=_more(0))),
    "a process is stopped, and cannot be killed": Scenario(
        *(2, 0, 1, Limits(stops=1, unkillable=True, switches=_more(0))),
    ),
    "one request ends each process that serves it": Scenario(4, 1, 3, Limits(switches=_more(0)), deadly=(1,)),
}

_STANDS: tuple[Program, ...] = (helpers.standing,)

# The same with an agent that stands before the first call; where it is begun anew, at any moment after the
# calls that are not late.
STANDING = {
    "an agent stands": Scenario(2, 0, 1, Limits(switches=_more(1)), holders=_STANDS),
    "three calls, and an agent stands": Scenario(3, 0, 1, Limits(switches=_more(0)), holders=_STANDS),
    "one stands, and a process is killed": Scenario(
        *(2, 0, 1, Limits(crashes=1, switches=_more(0))),
        holders=_STANDS,
    ),
    "one stands, a process is killed, another one stands, and a call comes": Scenario(
        *(2, 1, 1, Limits(crashes=1, switches=_more(0))),
        holders=_STANDS,
        followers=_STANDS,
    ),
    "one stands, two processes are killed, and a call comes": Scenario(
        *(2, 1, 1, Limits(crashes=2, switches=0)),
        holders=_STANDS,
    ),
    "one stands, and is ended": Scenario(
        *(2, 0, 1, Limits(ends=1, switches=_more(1))),
        holders=_STANDS,
    ),
    "one stands and is ended, and no place for a stand-by": Scenario(
        *(2, 0, 0, Limits(ends=1, switches=_more(0))),
        holders=_STANDS,
    ),
    # It rests whenever a late call comes; the second that is not late may come while it waits for more.
    "one stands, and calls come while it rests": Scenario(
        2, 2, 1, Limits(switches=_more(1)), holders=_STANDS
    ),
    "one stands, and is ended as a call comes while it rests": Scenario(
        *(1, 1, 0, Limits(ends=1, switches=_more(0))),
        holders=_STANDS,
    ),
    "one stands, is ended, and another one stands": Scenario(
        *(2, 0, 1, Limits(ends=1, switches=_more(0))),
        holders=_STANDS,
        followers=_STANDS,
    ),
    "one stands, a process is stopped, and a call comes": Scenario(
        *(1, 1, 1, Limits(stops=1, switches=_more(0))),
        holders=_STANDS,
    ),
    "one stands, a process is stopped and cannot be killed, and a call comes": Scenario(
        *(1, 1, 1, Limits(stops=1, unkillable=True, switches=_more(0))),
        holders=_STANDS,
    ),
    "one stands, and there is no room once": Scenario(
        *(2, 0, 1, Limits(errors=1, switches=_more(0))),
        holders=_STANDS,
    ),
    "one stands, and requests are removed by hand": Scenario(
        *(2, 0, 1, Limits(removals=1, switches=_more(0))),
        holders=_STANDS,
    ),
}
SCENARIOS |= STANDING


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_interleavings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    scenario = SCENARIOS[name]
    helpers.install(monkeypatch, scenario.stand_bys)
    found = search(scenario.host())
    print(f"{name}: {found.states} states, {found.moves} moves, {found.last} ends")


def _stopped_while_it_serves() -> Iterator[tuple[str, Host]]:
    """An agent that is stopped for good before each of its calls from the first act on, and a stand-by.

    It may go on just as that begins to serve beside it, and each may have to wait for the other once.
    """
    host = Scenario(2, 0, 1, Limits(stops=1, unkillable=True, switches=1)).host()
    host.come(1)
    has_acted = False
    while host.tasks[1].lives:
        step = host.tasks[1].step
        assert step is not None
        has_acted = has_acted or step.call[0] in ("act", "acted")
        if has_acted and step.call[0] != EXIT:
            stopped: Host = host.copy()
            stopped.stop(1, False)
            stopped.come(2)
            yield step.call[0], stopped
        host.go(1)


def _search_all() -> None:
    for call, host in _stopped_while_it_serves():
        found = search(host)
        print(f"stopped before {call}: {found.states} states")


def test_one_that_goes_on_just_as_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.install(monkeypatch, 1)
    _search_all()


def test_a_planted_fault_is_found_when_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.install(monkeypatch, 1)
    monkeypatch.setattr(Requests, "is_done_by_another", lambda requests, name: False)
    with pytest.raises(WrongState, match=r"no outcome|again|has"):
        _search_all()


# Each property is seen to fail: a fault is planted in the code, and the search finds it.


def _give_up(agent: StandingAgent) -> None:
    agent._spool.unlock()


def _no_second_check(requests: Requests, serve: Callable[[], None]) -> None:
    serve()
    requests._spool.unlock()


PLANTED: dict[str, tuple[str, object, str, object, str]] = {
    "a request is lost": (
        "three calls, no place for a stand-by",
        Requests,
        "_work",
        _no_second_check,
        "no outcome",
    ),
    "a request is served by two at a time": (
        *("three calls", Handover, "lock", lambda spool, descriptor: True, "acts on"),
    ),
    "a process relies on an agent that is not there": (
        *("three calls, no place for a stand-by", Handover, "is_served", lambda handover: True, "no outcome"),
    ),
    "a request has two outcomes": (
        *("a process is killed", Requests, "finish", lambda requests, name, level, line: None, "has"),
    ),
    "what two agents have died over is not served apart": (
        *("one request ends each process that serves it", InHand, "begin", lambda in_hand, name: -1),
        "over which two have died",
    ),
    "a stopped agent is waited for": (
        *("a process is stopped, and one more call comes", StandBy, "_is_hopeless"),
        *(lambda stand_by, which: False, "not served"),
    ),
    "an agent that slept acts beside another": (
        *("a process is stopped, and cannot be killed", Spool, "may_act", lambda spool: True, "again"),
    ),
    "an agent that stands ends over a request": (
        *("one stands, and is ended as a call comes while it rests", StandingAgent, "_leave", _give_up),
        "no outcome",
    ),
    "beside an agent that stands a request is served by two at a time": (
        *("an agent stands", Handover, "lock", lambda spool, descriptor: True, "acts on"),
    ),
    "a request has two outcomes, and an agent stands": (
        *("one stands, and a process is killed", Requests, "finish"),
        *(lambda requests, name, level, line: None, "has"),
    ),
    "an agent that stands and is stopped is waited for": (
        *("one stands, a process is stopped, and a call comes", Spool, "silent_since"),
        *(lambda spool, which: spool._clock(), "not served"),
    ),
    "stand-bys of an agent that stands do not go": (
        *("an agent stands", Spool, "is_dismissed", lambda spool: False, "stand by"),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    scenario, owner, attribute, fault, words = PLANTED[name]
    helpers.install(monkeypatch, SCENARIOS[scenario].stand_bys)
    monkeypatch.setattr(owner, attribute, fault)
    with pytest.raises(WrongState) as found:
        search(SCENARIOS[scenario].host())
    print(found.value)
    assert words in str(found.value)
