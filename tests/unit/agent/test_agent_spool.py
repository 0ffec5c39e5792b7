# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent and the spool: order, duplicates, leftovers of agents that died."""

from __future__ import annotations

import errno
import os
import posix
from collections.abc import Container
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.agent import agent as agent_module
from sanlock_helper.agent import connection_pool as connections
from sanlock_helper.agent import jobs as jobs_module
from sanlock_helper.agent.attempt import Attempt
from sanlock_helper.agent.outcomes import Outcome
from sanlock_helper.agent.requests import Receipt, Request, Requests
from sanlock_helper.errors import TransientError
from sanlock_helper.invocation import Invocation
from sanlock_helper.spool import LIFE_SECONDS, TAKEN, Spool

from ..agent_world import START, UUID, AgentWorld


class Spooled(Requests):
    """The requests of a spool, which other processes write to."""

    def __init__(self, path: Path) -> None:
        self.spool = Spool.open(str(path), owner=os.geteuid())
        super().__init__(self.spool, grace=40)


@pytest.fixture
def requests(tmp_path: Path) -> Spooled:
    return Spooled(tmp_path / "run")


def put(
    requests: Spooled, action: str = "poweroff", uuid: str = UUID, start: float = START, pid: int = 1
) -> Request:
    """A request that process PID wrote at START."""
    writer = Spool(requests.spool.directory, pid)
    request = requests.read(writer.write(Invocation("qemu:///system", uuid, action), start))
    assert request is not None
    return request


def take(world: AgentWorld, requests: Spooled) -> None:
    """Have the agent read its spool once, and start what can start."""
    world.agent.begin(requests)
    world.agent.tick(0.0)


def finish(world: AgentWorld) -> None:
    """Have the agent go on until nothing is left."""
    while world.agent.tick():
        pass


def uuid_of(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012d}"


def test_all_that_is_there_is_served_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    world = AgentWorld(monkeypatch)
    written = [put(requests, uuid=uuid_of(n), start=START + n / 10) for n in range(60)]
    world.agent.work(requests)
    assert requests.names() == []
    assert world.order == [request.uuid for request in written]
    assert world.journal.levels() == ["notice"] * 60
    assert all(world.agent.reached(request) for request in written)


def test_pauses_go_first_and_each_in_the_order_they_came(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    world = AgentWorld(monkeypatch)
    for number, action in enumerate(["poweroff", "pause", "poweroff", "pause"]):
        put(requests, action, uuid_of(number), START + number)
    world.agent.work(requests)
    assert world.order == [uuid_of(number) for number in (1, 3, 0, 2)]


def test_at_most_so_many_tries_are_in_flight(monkeypatch: pytest.MonkeyPatch, requests: Spooled) -> None:
    monkeypatch.setattr(jobs_module, "IN_FLIGHT", 3)
    world = AgentWorld(monkeypatch, *["hang"] * 3)
    for number in range(5):
        put(requests, uuid=uuid_of(number))
    most = 0
    world.agent.begin(requests)
    while world.agent.tick():
        most = max(most, world.agent.calling)
    assert most == 3
    # Those that hung were given up, and tried again behind the others.
    assert world.journal.levels().count("notice") == 5


def test_a_pause_that_comes_late_finds_a_place(monkeypatch: pytest.MonkeyPatch, requests: Spooled) -> None:
    monkeypatch.setattr(jobs_module, "IN_FLIGHT", 3)
    monkeypatch.setattr(jobs_module, "OTHERS_IN_FLIGHT", 2)
    monkeypatch.setattr(jobs_module, "AHEAD", 0)
    monkeypatch.setattr(connections, "OPENED_AT_ONCE", 3)
    world = AgentWorld(monkeypatch, *["hang"] * 2)
    for number in range(4):
        put(requests, uuid=uuid_of(number), start=START + number)
    take(world, requests)
    assert world.order == []  # both places for poweroffs are taken by calls that hang
    put(requests, "pause", uuid_of(9), START + 9)
    world.clock.now += 1
    world.agent.tick(0.0)
    assert world.order == [uuid_of(9)]


def test_a_poweroff_that_is_prepared_waits_for_another_to_end(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    monkeypatch.setattr(jobs_module, "OTHERS_IN_FLIGHT", 1)
    world = AgentWorld(monkeypatch, "hang", "prepare")
    for number in range(2):
        put(requests, uuid=uuid_of(number), start=START + number)
    take(world, requests)
    assert (len(world.hanging), len(world.clock.prepared), world.order) == (1, 1, [])
    world.hanging[0]()
    finish(world)
    assert world.order == [uuid_of(0), uuid_of(1)]
    assert world.journal.levels() == ["notice"] * 2
    assert world.waited < 1


def test_the_wait_for_a_slot_is_not_taken_for_a_hang(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    monkeypatch.setattr(jobs_module, "OTHERS_IN_FLIGHT", 1)
    world = AgentWorld(monkeypatch, "hang", "prepare")
    for number in range(2):
        put(requests, uuid=uuid_of(number), start=START + 0.1 * number)
    world.agent.work(requests)
    # The first is given up after 10 s; the other has its slot then, and its own 10 s from then on.
    assert sorted(world.order) == [uuid_of(0), uuid_of(1)]
    assert world.journal.levels() == ["warning", "notice", "notice"]
    assert uuid_of(0) in world.journal.lines[0][1]
    assert agent_module.PATIENCE <= world.waited < agent_module.PATIENCE + 1


def test_one_that_hangs_once_it_has_its_slot_is_given_up(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    monkeypatch.setattr(jobs_module, "OTHERS_IN_FLIGHT", 1)
    world = AgentWorld(monkeypatch, "hang", "prepare, then hang")
    for number in range(2):
        put(requests, uuid=uuid_of(number), start=START + 0.1 * number)
    world.agent.work(requests)
    assert world.journal.levels() == ["warning", "notice"] * 2
    assert [uuid_of(0) in line for _, line in world.journal.lines] == [True, True, False, False]
    assert 2 * agent_module.PATIENCE <= world.waited < 2 * agent_module.PATIENCE + 1


def test_a_try_whose_time_is_up_while_it_waits_does_nothing(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    monkeypatch.setattr(jobs_module, "OTHERS_IN_FLIGHT", 1)
    world = AgentWorld(monkeypatch, "hang", "prepare")
    put(requests, uuid=uuid_of(0), start=START)
    take(world, requests)
    put(requests, uuid=uuid_of(1), start=START - 30)
    finish(world)
    ((_, waiting),) = world.clock.prepared
    assert not waiting.is_alive()
    assert world.order == [uuid_of(0)]
    assert world.journal.levels() == ["crit", "warning", "notice"]
    assert world.agent.under_way == 0


def test_few_poweroffs_start_beside_a_pause_until_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    monkeypatch.setattr(jobs_module, "OTHERS_BESIDE_PAUSES", 2)
    monkeypatch.setattr(connections, "OPENED_AT_ONCE", 6)
    world = AgentWorld(monkeypatch, *["hang"] * 6)
    put(requests, "pause", uuid_of(9), START)
    for number in range(5):
        put(requests, uuid=uuid_of(number), start=START + number)
    take(world, requests)
    assert len(world.hanging) == 1 + 2
    world.clock.now += jobs_module.PAUSE_SECONDS
    world.agent.tick(0.0)
    assert len(world.hanging) == 1 + 5


def test_the_same_action_twice_is_one_case(monkeypatch: pytest.MonkeyPatch, requests: Spooled) -> None:
    world = AgentWorld(monkeypatch)
    for number in range(3):
        put(requests, pid=number)
    world.agent.work(requests)
    assert world.order == [UUID]
    ((level, line),) = world.journal.lines
    assert level == "notice"
    assert line.endswith("(3 requests)")
    assert requests.names() == []


def test_another_action_waits_for_the_first(monkeypatch: pytest.MonkeyPatch, requests: Spooled) -> None:
    world = AgentWorld(monkeypatch, TransientError("suspend", "busy"))
    put(requests, "poweroff", start=START)
    put(requests, "pause", start=START + 1)
    world.agent.work(requests)
    # The pause does not go first, not even while the poweroff waits for its second try.
    actions = [line.split()[0] for _, line in world.journal.lines]
    assert actions == ["poweroff", "poweroff", "pause"]


def test_one_that_was_asked_for_before_it_was_done_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    world = AgentWorld(monkeypatch)

    def act(this: Attempt) -> Outcome:
        # Written while the first is being served, seen when that is over.
        put(requests, "restart", start=START, pid=2)
        world.clock.now += 1
        return world.act(this)

    monkeypatch.setattr(agent_module, "ACTIONS", {"restart": act})
    put(requests, "restart")
    put(requests, "restart", uuid_of(1))
    names = requests.names

    def after_the_answers(known: Container[str] = ()) -> list[str]:
        return [] if world.clock.answers else names(known)

    monkeypatch.setattr(requests, "names", after_the_answers)
    world.agent.work(requests)
    assert world.order.count(UUID) == 1
    lines = [line for _, line in world.journal.lines if "served together with an earlier request" in line]
    assert len(lines) == 1
    assert requests.names() == []


def test_a_request_whose_time_is_up_is_not_executed(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    world = AgentWorld(monkeypatch)
    put(requests, start=START - 3600)
    world.agent.work(requests)
    assert world.order == []
    ((level, line),) = world.journal.lines
    assert level == "crit"
    assert "time was up" in line
    assert requests.names() == []


def test_the_next_agent_knows_the_run(monkeypatch: pytest.MonkeyPatch, requests: Spooled) -> None:
    world = AgentWorld(monkeypatch)
    request = put(requests, "restart")
    requests.save_run(request.name, 7)
    runs: list[int | None] = []

    def act(this: Attempt) -> Outcome:
        runs.append(this.progress.run)
        return Outcome("running", "nothing to do", "running again")

    monkeypatch.setattr(agent_module, "ACTIONS", {"restart": act})
    world.agent.work(requests)
    assert runs == [7]


def test_what_a_dead_agent_had_served_is_logged_and_not_served(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled
) -> None:
    world = AgentWorld(monkeypatch)
    requests.finish(put(requests, uuid=uuid_of(1)).name, "notice", "poweroff vm1: done")
    done = requests.finish(put(requests, uuid=uuid_of(2)).name, "crit", "poweroff vm2: FAILED")
    assert done is not None
    Receipt(requests, done).logging()
    world.agent.work(requests)
    assert world.order == []
    logged = dict(world.journal.lines)
    assert logged["notice"] == "poweroff vm1: done"
    assert logged["crit"].startswith("poweroff vm2: FAILED (repeated: ")
    assert requests.names() == []


def test_a_file_that_is_no_request_is_moved_and_logged(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled, tmp_path: Path
) -> None:
    world = AgentWorld(monkeypatch)
    (tmp_path / "run" / "requests" / "junk").write_text("junk")
    put(requests)
    world.agent.work(requests)
    # Last, since no virtual machine is behind it; the outcome is logged when its answer has come.
    assert sorted(world.journal.levels()) == ["notice", "warning"]
    assert any("junk" in line for _, line in world.journal.lines)
    assert requests.names() == []
    (moved,) = (tmp_path / "run" / "not-requests").iterdir()
    assert moved.read_text() == "junk"


def test_it_lingers_for_more_after_several(monkeypatch: pytest.MonkeyPatch, requests: Spooled) -> None:
    world = AgentWorld(monkeypatch)
    put(requests)
    world.agent.work(requests)
    assert world.waited == 0
    world = AgentWorld(monkeypatch)
    put(requests, uuid=uuid_of(1))
    put(requests, uuid=uuid_of(2))
    world.agent.work(requests)
    assert world.waited == pytest.approx(agent_module.LINGER_SECONDS, abs=0.05)


def test_an_outcome_whose_request_cannot_be_renamed_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled, tmp_path: Path
) -> None:
    def no_room(name: str, new: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as once:
        world = AgentWorld(monkeypatch)
        put(requests)
        put(requests, pid=2)
        once.setattr(requests.spool, "rename", no_room)
        world.agent.work(requests)
    # There is room again: the next agent has nothing to log.
    following = AgentWorld(monkeypatch)
    put(requests, uuid=uuid_of(1), pid=3)
    following.agent.work(Spooled(tmp_path / "run"))
    outcomes = [line for _, line in (*world.journal.lines, *following.journal.lines) if UUID in line]
    assert len(outcomes) == 1, outcomes
    assert requests.names() == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("before", [True, False])
def test_an_agent_whose_lock_takes_no_sign_of_life_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch, requests: Spooled, tmp_path: Path, number: int, before: bool
) -> None:
    """chattr -R +i, or a file system that is read-only by now; BEFORE the lock is taken, or after."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    spool, kernel = requests.spool, SimpleNamespace(**{**vars(posix), "utime": fail})
    if before:
        spool.kernel = kernel
    assert spool.take_first() == TAKEN
    spool.kernel = kernel
    # The next sign of life is due.
    spool.shown_at -= LIFE_SECONDS
    world = AgentWorld(monkeypatch)
    put(requests)
    world.agent.work(requests)
    assert world.journal.levels() == ["notice"]
    spool.unlock()
    assert not spool.has_lock
    assert Spool.open(str(tmp_path / "run"), owner=os.geteuid()).take_first() == TAKEN
