# SPDX-License-Identifier: LGPL-2.1-or-later
"""An agent without time and without libvirtd: its tries answer what the test sets, at once or never."""

from __future__ import annotations

import threading
from _queue import Empty
from collections import deque
from typing import Any, Callable

import pytest

from sanlock_helper.agent import agent as agent_module
from sanlock_helper.agent.agent import Agent
from sanlock_helper.agent.attempt import Attempt
from sanlock_helper.agent.jobs import Execution
from sanlock_helper.agent.outcomes import Outcome
from sanlock_helper.agent.requests import Request
from sanlock_helper.invocation import Invocation
from sanlock_helper.leases.grace import Deadline

from .fakes import RecordedJournal

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
START = 1000.0


class Waits:
    """Time that passes only while the agent waits."""

    def __init__(self) -> None:
        self.now = START
        self.answers: deque[Callable[[], None]] = deque()
        # What brings an answer, and when.
        self.at: list[tuple[float, Callable[[], object]]] = []
        # Tries in threads of their own, which wait for a slot; and whether one of them has reported that.
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


class Connected:
    """A virConnect as far as the agent itself uses it."""

    alive = 1

    def isAlive(self) -> int:
        return self.alive

    def close(self) -> None:
        pass


class AgentWorld:
    """An agent whose tries answer what the test sets, at once or never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *script: Any) -> None:
        self.clock = Waits()
        self.journal = RecordedJournal()
        self.script = deque(script)
        self.connections: list[Connected] = []
        self.hanging: list[Callable[[], object]] = []
        self.order: list[str] = []
        # The threads of tries that wait for a slot before they act.
        self.waiting: set[threading.Thread] = set()
        self.agent = Agent(
            self.connect_now,  # type: ignore[arg-type]
            self.journal,  # type: ignore[arg-type]
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
