# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent's loop, without threads and without time."""

from __future__ import annotations

from typing import Any, Callable

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.agent import agent as agent_module
from sanlock_helper.agent.attempt import Attempt
from sanlock_helper.agent.outcomes import Outcome
from sanlock_helper.agent.requests import Request
from sanlock_helper.errors import AuthenticationError, PermanentError, TransientError
from sanlock_helper.invocation import Invocation
from sanlock_helper.leases.grace import Deadline, Grace

from ..agent_world import START, UUID, AgentWorld, Connected


def test_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch)
    assert world.serve()
    assert world.waited == 0
    assert world.journal.levels() == ["notice"]
    assert "done" in world.journal.lines[0][1]


def test_a_passing_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(
        monkeypatch, TransientError("connect", "refused"), TransientError("connect", "refused")
    )
    assert world.serve()
    # The same reason is logged once.
    assert world.journal.levels() == ["warning", "notice"]
    assert world.waited == 0.25 + 0.5


def test_a_final_failure_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, PermanentError("connect", "wrong password"))
    assert not world.serve()
    assert world.waited == 0
    assert world.journal.levels() == ["crit"]


def test_the_end_of_the_budget_logs_when_sigkill_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, *[TransientError("connect", "refused")] * 100)
    assert not world.serve()
    assert world.waited == 35
    level, line = world.journal.lines[-1]
    assert level == "crit"
    assert "refused" in line
    assert "SIGKILL at" in line


def test_a_repeated_reason_is_logged_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, *[TransientError("connect", "refused")] * 100)
    world.serve()
    assert world.journal.levels() == ["warning"] * 4 + ["crit"]


def test_a_try_that_hangs_is_given_up_for_a_fresh_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, "hang")
    assert world.serve()
    assert world.waited == 10
    assert len(world.connections) == 1  # the one that hung never got as far


def test_a_hung_call_retires_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch)

    def hang_in_the_call(this: Attempt) -> Outcome:
        if len(world.connections) == 1:
            raise HangError
        return Outcome("running", "destroyed", "off")

    class HangError(BaseException):
        pass

    def start(run: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            run(*arguments)
        except HangError:
            pass

    world.start = start  # type: ignore[method-assign]
    monkeypatch.setattr(agent_module, "ACTIONS", {"poweroff": hang_in_the_call})
    assert world.serve()
    assert len(world.connections) == 2
    assert world.waited == 10


def test_all_tries_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, *["hang"] * 10)
    assert not world.serve()
    assert world.waited == 35
    assert len(world.hanging) == 4
    assert "no answer" in world.journal.lines[-1][1]


@pytest.mark.parametrize(("seconds", "waited"), [(20, 15), (40, 35), (60, 55), (0, 35)])
def test_the_grace_may_be_learned_after_the_first_try_began(
    monkeypatch: pytest.MonkeyPatch, seconds: int, waited: float
) -> None:
    world = AgentWorld(monkeypatch, *["hang"] * 20)
    grace = Grace.known(40)
    grace.settled_at = START + 0.2
    asked: list[float] = []

    def learn() -> int:
        asked.append(world.clock.now)
        return seconds if world.clock.now >= START + 0.2 else 40

    monkeypatch.setattr(Grace, "seconds", lambda _self: learn())
    job = Request.of(Invocation("qemu:///system", UUID, "poweroff"), Deadline(START, grace))
    assert not world.agent.serve(job)
    assert asked[0] == START
    assert len(world.hanging) >= 3
    assert world.waited == pytest.approx(waited)


def test_an_answer_after_the_end_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, "hang")
    world.serve()
    world.hanging[0]()
    assert world.order == [UUID]  # the late try did not act
    assert world.agent.under_way == 0


def test_a_short_budget_has_room_for_three_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, "hang", "hang")
    assert world.serve(grace=12)
    assert world.waited < 7


def test_a_broken_connection_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connected, "alive", 0)
    world = AgentWorld(monkeypatch, TransientError("destroy", "the connection broke"))
    assert world.serve()
    assert len(world.connections) == 2


def test_a_connection_that_lives_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, TransientError("destroy", "a job holds the domain"))
    assert world.serve()
    assert len(world.connections) == 1


def test_a_defect_of_ours_fails_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, ValueError("oops"))
    assert world.serve()
    assert "oops" in world.journal.lines[0][1]


def test_safe_but_not_done_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, Outcome("running", "destroyed", "off", "not started", reached=False))
    assert not world.serve()
    assert world.journal.levels() == ["error"]


def test_a_libvirtd_that_refused_for_good_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch)
    tried: list[str] = []

    def refuse(uri: str) -> Connected:
        tried.append(uri)
        raise PermanentError("connect", "wrong password")

    world.connect = refuse  # type: ignore[method-assign]
    assert not world.serve()
    assert not world.serve()
    assert len(tried) == 1


def oversleep(world: AgentWorld, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Have the next wait of the agent take so much longer, as if the process was stopped."""
    get = world.clock.get

    def late(timeout: float | None) -> Any:
        world.clock.get = get  # type: ignore[method-assign]
        try:
            return get(timeout)
        finally:
            world.clock.now += seconds
            meanwhile()

    world.clock.get = late  # type: ignore[method-assign]


def test_a_try_gets_its_time_again_when_this_process_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, "hang")
    # Its 10 s are over when the process goes on, and the answer comes a second later.
    oversleep(world, 12.0)
    world.clock.at = [(START + 10 + 12 + 1, lambda: world.answer(0))]
    assert world.serve()
    assert world.journal.levels() == ["notice"]


def test_a_budget_that_ended_while_this_process_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, "hang")
    oversleep(world, 60.0)
    assert not world.serve()
    ((level, line),) = world.journal.lines
    assert level == "crit"
    assert "this process was stopped, or had no processor, for 60.0 s of that time" in line


def test_an_answer_that_came_when_the_budget_had_ended_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, "hang")
    # The first wait is for the 10 s of a try; the answer comes while the process is stopped.
    oversleep(world, 60.0, lambda: world.answer(0))
    assert world.serve()
    assert world.journal.levels() == ["notice"]


def test_a_refused_login_is_logged_once_and_tried_every_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch)
    logins: list[float] = []

    def connect(uri: str) -> Connected:
        logins.append(world.waited)
        if len(logins) < 3:
            raise AuthenticationError("connect", "authentication failed")
        return Connected()

    world.connect = connect  # type: ignore[method-assign]
    assert world.serve()
    assert logins == [0, 5, 10]
    assert world.journal.levels() == ["warning", "notice"]


def test_the_end_of_the_budget_names_the_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch)

    def connect(uri: str) -> Connected:
        raise AuthenticationError("connect", "authentication failed")

    world.connect = connect  # type: ignore[method-assign]
    assert not world.serve()
    assert world.waited == 35
    level, line = world.journal.lines[-1]
    assert (level, "authentication failed" in line) == ("crit", True)
