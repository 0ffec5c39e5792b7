# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent's loop, without threads and without time."""

from __future__ import annotations

import threading
from _queue import Empty
from collections import deque
from typing import Any, Callable

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.agent import agent as agent_module
from sanlock_helper.agent.agent import Agent
from sanlock_helper.agent.attempt import Attempt
from sanlock_helper.agent.jobs import Execution
from sanlock_helper.agent.outcomes import Outcome
from sanlock_helper.agent.requests import Request
from sanlock_helper.errors import AuthenticationError, PermanentError, TransientError
from sanlock_helper.invocation import Invocation
from sanlock_helper.leases.grace import Deadline, Grace

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
START = 1000.0

Answer = Callable[[Attempt], Outcome]


class Clock:
    """Time that passes only while the agent waits."""

    def __init__(self) -> None:
        self.now = START
        self.answers: deque[Callable[[], None]] = deque()
        # What brings an answer, and when.
        self.at: list[tuple[float, Callable[[], object]]] = []
        # Tries in threads of their own, which wait for their turn; and whether one of them has said so.
        self.prepared: list[tuple[Execution, threading.Thread]] = []
        # Those that have come to that point, and whether the one that started last has reported it.
        self.preparing: set[threading.Thread] = set()
        self.came = threading.Event()

    def __call__(self) -> float:
        return self.now

    def put(self, answer: Callable[[], None]) -> None:
        self.answers.append(answer)
        if threading.current_thread() in self.preparing:
            self.came.set()

    def get(self, timeout: float | None) -> Any:
        for execution, thread in self.prepared:
            if execution.has_slot or execution.given_up:
                thread.join(10)
        if self.answers:
            return self.answers.popleft()
        assert timeout is not None, "the agent waits for ever"
        if self.at and self.at[0][0] <= self.now + timeout:
            self.now, call = self.at.pop(0)
            call()
            return self.answers.popleft()
        self.now += timeout
        raise Empty


class Story:
    """A journal that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def log(self, level: str, line: str, receipt: Any = None) -> None:
        if receipt is None or receipt.logging():
            self.lines.append((level, line))
            if receipt is not None:
                receipt.logged()

    def warning(self, line: str) -> None:
        self.log("warning", line)

    def flush(self) -> bool:
        return True

    def levels(self) -> list[str]:
        return [level for level, _ in self.lines]


class Connected:
    """A virConnect as far as the agent itself looks at it."""

    alive = 1

    def isAlive(self) -> int:
        return self.alive

    def close(self) -> None:
        pass


class World:
    """An agent whose tries answer what the test says, at once or never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *script: Any) -> None:
        self.clock = Clock()
        self.story = Story()
        self.script = deque(script)
        self.connections: list[Connected] = []
        self.hanging: list[Callable[[], object]] = []
        self.order: list[str] = []
        # The threads of tries that wait for a slot before they act.
        self.waiting: set[threading.Thread] = set()
        self.agent = Agent(
            self.connect_now,  # type: ignore[arg-type]
            self.story,  # type: ignore[arg-type]
            clock=self.clock,
            wall=lambda: 0.0,
            start_thread=self.start_now,
            answers=self.clock,  # type: ignore[arg-type]
        )
        monkeypatch.setattr(agent_module, "ACTIONS", {"pause": self.act, "poweroff": self.act})

    # A test may replace connect and start.

    def connect_now(self, uri: str) -> Connected:
        return self.connect(uri)

    def start_now(self, run: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.start(run, arguments)

    def connect(self, uri: str) -> Connected:
        self.connections.append(Connected())
        return self.connections[-1]

    def start(self, run: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        is_try = isinstance(arguments[0], Execution)
        word = self.script[0] if is_try and self.script else ""
        if word == "hang":
            self.script.popleft()
            self.hanging.append(lambda: run(*arguments))
        elif word in ("prepare", "prepare, then hang"):
            self.script.popleft()
            self.clock.came.clear()
            thread = threading.Thread(target=run, args=arguments, daemon=True)
            self.waiting.add(thread)
            if word == "prepare":
                self.clock.prepared.append((arguments[0], thread))
            thread.start()
            assert self.clock.came.wait(10)
        else:
            run(*arguments)

    def act(self, this: Attempt) -> Outcome:
        thread = threading.current_thread()
        if thread in self.waiting:
            self.clock.preparing.add(thread)
            this.await_slot()
            if all(thread is not other for _, other in self.clock.prepared):
                threading.Event().wait()
        self.order.append(this.request.uuid)
        answer = self.script.popleft() if self.script else None
        if isinstance(answer, Exception):
            raise answer
        return answer or Outcome("running", "destroyed", "off")

    def answer(self, number: int) -> None:
        """Let a try return that hangs."""
        self.hanging[number]()

    def serve(self, action: str = "poweroff", grace: int = 40) -> bool:
        return self.agent.serve(request(action, grace))

    @property
    def waited(self) -> float:
        return self.clock.now - START


def request(action: str = "poweroff", grace: int = 40, uuid: str = UUID) -> Request:
    return Request.of(Invocation("qemu:///system", uuid, action), Deadline(START, grace))


def test_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert world.serve()
    assert world.waited == 0
    assert world.story.levels() == ["notice"]
    assert "done" in world.story.lines[0][1]


def test_a_passing_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, TransientError("connect", "refused"), TransientError("connect", "refused"))
    assert world.serve()
    # The same reason is told once.
    assert world.story.levels() == ["warning", "notice"]
    assert world.waited == 0.25 + 0.5


def test_a_final_failure_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, PermanentError("connect", "wrong password"))
    assert not world.serve()
    assert world.waited == 0
    assert world.story.levels() == ["crit"]


def test_the_end_of_the_budget_says_when_sigkill_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, *[TransientError("connect", "refused")] * 100)
    assert not world.serve()
    assert world.waited == 35
    level, line = world.story.lines[-1]
    assert level == "crit"
    assert "refused" in line
    assert "SIGKILL at" in line


def test_a_repeated_reason_is_told_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, *[TransientError("connect", "refused")] * 100)
    world.serve()
    assert world.story.levels() == ["warning"] * 4 + ["crit"]


def test_a_try_that_hangs_is_given_up_for_a_fresh_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, "hang")
    assert world.serve()
    assert world.waited == 10
    assert len(world.connections) == 1  # the one that hung never got as far


def test_a_hung_call_retires_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

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
    world = World(monkeypatch, *["hang"] * 10)
    assert not world.serve()
    assert world.waited == 35
    assert len(world.hanging) == 4
    assert "no answer" in world.story.lines[-1][1]


@pytest.mark.parametrize(("seconds", "waited"), [(20, 15), (40, 35), (60, 55), (0, 35)])
def test_the_grace_may_be_learned_after_the_first_try_began(
    monkeypatch: pytest.MonkeyPatch, seconds: int, waited: float
) -> None:
    world = World(monkeypatch, *["hang"] * 20)
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
    world = World(monkeypatch, "hang")
    world.serve()
    world.hanging[0]()
    assert world.order == [UUID]  # the late try did not act
    assert world.agent.under_way == 0


def test_a_short_budget_has_room_for_three_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, "hang", "hang")
    assert world.serve(grace=12)
    assert world.waited < 7


def test_a_broken_connection_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connected, "alive", 0)
    world = World(monkeypatch, TransientError("destroy", "the connection broke"))
    assert world.serve()
    assert len(world.connections) == 2


def test_a_connection_that_lives_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, TransientError("destroy", "a job holds the domain"))
    assert world.serve()
    assert len(world.connections) == 1


def test_a_defect_of_ours_fails_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, ValueError("oops"))
    assert world.serve()
    assert "oops" in world.story.lines[0][1]


def test_safe_but_not_done_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, Outcome("running", "destroyed", "off", "not started", reached=False))
    assert not world.serve()
    assert world.story.levels() == ["error"]


def test_a_libvirtd_that_refused_for_good_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    tried: list[str] = []

    def refuse(uri: str) -> Connected:
        tried.append(uri)
        raise PermanentError("connect", "wrong password")

    world.connect = refuse  # type: ignore[method-assign]
    assert not world.serve()
    assert not world.serve()
    assert len(tried) == 1


def oversleep(world: World, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
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
    world = World(monkeypatch, "hang")
    # Its 10 s are over when the process goes on, and the answer comes a second later.
    oversleep(world, 12.0)
    world.clock.at = [(START + 10 + 12 + 1, lambda: world.answer(0))]
    assert world.serve()
    assert world.story.levels() == ["notice"]


def test_a_budget_that_ended_while_this_process_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, "hang")
    oversleep(world, 60.0)
    assert not world.serve()
    ((level, line),) = world.story.lines
    assert level == "crit"
    assert "this process was stopped, or had no processor, for 60.0 s of that time" in line


def test_an_answer_that_came_when_the_budget_had_ended_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, "hang")
    # The first wait is for the 10 s of a try; the answer comes while the process is stopped.
    oversleep(world, 60.0, lambda: world.answer(0))
    assert world.serve()
    assert world.story.levels() == ["notice"]


def test_a_refused_login_is_logged_once_and_tried_every_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    logins: list[float] = []

    def connect(uri: str) -> Connected:
        logins.append(world.waited)
        if len(logins) < 3:
            raise AuthenticationError("connect", "authentication failed")
        return Connected()

    world.connect = connect  # type: ignore[method-assign]
    assert world.serve()
    assert logins == [0, 5, 10]
    assert world.story.levels() == ["warning", "notice"]


def test_the_end_of_the_budget_names_the_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

    def connect(uri: str) -> Connected:
        raise AuthenticationError("connect", "authentication failed")

    world.connect = connect  # type: ignore[method-assign]
    assert not world.serve()
    assert world.waited == 35
    level, line = world.story.lines[-1]
    assert (level, "authentication failed" in line) == ("crit", True)
