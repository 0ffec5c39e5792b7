# SPDX-License-Identifier: LGPL-2.1-or-later
"""The connections that are kept: opened again, and not faster than an account bears."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from sanlock_helper.agent.connection_pool import Connections
from sanlock_helper.agent.kept_connections import (
    FIRST_RETRY,
    KEPT,
    KEPT_TO_OTHERS,
    LAST_RETRY,
    REFUSED_RETRY,
    KeptConnections,
)
from sanlock_helper.errors import AuthenticationError, TransientError
from sanlock_helper.events import Event

pytestmark = pytest.mark.pure

URI, OTHER = "qemu:///system", "qemu+unix:///session"


class Done(Exception):
    """The thread has nothing to do."""


class Handle:
    closed, alive = False, 1

    def isAlive(self) -> int:
        return self.alive

    def close(self) -> None:
        self.closed = True


class World:
    """A libvirtd that refuses where there is an error, a clock that stands still, and no thread."""

    def __init__(self) -> None:
        self.now = 100.0
        self.error: Exception | None = None
        self.opened: list[Handle] = []
        self.logins = 0
        self.events: list[Event] = []
        self.wakes = 0
        # How often all were found to be open.
        self.answered = 0
        self.connections = Connections(self.connect, 33, lambda: self.now)  # type: ignore[arg-type]
        self.kept = KeptConnections(
            URI, self.connections, lambda: self.now, self.start, self.events.append, self.wake, self.answers
        )

    def connect(self, _uri: str) -> Handle:
        self.logins += 1
        if self.error is not None:
            raise self.error
        self.opened.append(Handle())
        return self.opened[-1]

    def start(self, run: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.run, (self.work,) = run, arguments

    def run_thread(self) -> None:
        """What the thread does once."""
        with pytest.raises(Done):
            self.run(self.work)

    def answers(self) -> None:
        assert self.alive() >= KEPT
        self.answered += 1

    def wake(self) -> None:
        self.wakes += 1
        raise Done

    def update(self) -> float | None:
        """One update(), and what its thread does then."""
        wait = self.kept.update()
        if not self.work.empty():
            self.run_thread()
            wait = self.kept.update()
        return wait

    def alive(self) -> int:
        return sum(handle.alive and not handle.closed for handle in self.opened)


@pytest.fixture
def world() -> World:
    return World()


def test_a_few_are_opened_and_then_nothing_wakes(world: World) -> None:
    assert world.update() is None
    assert (world.alive(), world.logins) == (KEPT, KEPT)
    world.now += 1000
    assert world.update() is None
    assert world.logins == KEPT


def test_only_a_libvirtd_that_answers_is_reported_as_such(world: World) -> None:
    world.error = TransientError("connect", "no")
    world.update()
    assert world.answered == 0
    world.error = None
    world.now += 1000
    world.update()
    assert world.answered == 1


def test_libvirtd_that_ends_is_connected_to_again(world: World) -> None:
    world.update()
    for handle in world.opened:
        handle.alive = 0
    world.kept.settle()
    assert world.update() is None
    assert world.alive() == KEPT
    assert all(handle.closed for handle in world.opened[:KEPT])


def test_libvirtd_that_is_away_is_tried_less_and_less(world: World) -> None:
    world.error = TransientError("connect", "away")
    waits = []
    for _ in range(8):
        wait = world.update()
        assert wait is not None
        waits.append(wait)
        world.kept.settle()
        assert world.kept.update() is None or world.logins == len(waits)
        while not world.work.empty():
            world.run_thread()
            assert world.logins == len(waits), "a try before its time"
        world.now += wait
    assert waits[0] == FIRST_RETRY
    assert waits == sorted(waits)
    assert waits[-1] == LAST_RETRY
    assert world.logins == 8
    assert [event.kind for event in world.events] == ["agent-not-connected"]


def test_a_login_that_is_refused_is_tried_seldom_and_logged_once(world: World) -> None:
    world.error = AuthenticationError("connect", "wrong password")
    for _ in range(3):
        assert world.update() == REFUSED_RETRY
        world.now += REFUSED_RETRY
    assert world.logins == 3
    (event,) = world.events
    assert "trying again every 300 s, and with each request" in event.render()
    world.error = None
    assert world.update() is None
    assert world.alive() == KEPT


def test_what_a_storm_has_opened_is_closed(world: World) -> None:
    world.update()
    for uri, number in ((URI, 9), (OTHER, 5)):
        world.connections.open_more(uri, number)
    assert world.alive() == 14
    world.kept.settle()
    world.update()
    assert world.alive() == KEPT + KEPT_TO_OTHERS


def test_one_that_is_in_use_is_closed_later(world: World) -> None:
    world.update()
    busy = [world.connections.borrow(URI, "poweroff") for _ in range(KEPT)]
    for connection in busy:
        assert connection is not None
        world.connections.retire(connection)
    world.kept.settle()
    wait = world.update()
    assert wait is not None
    assert not world.opened[0].closed
    for connection in busy:
        assert connection is not None
        world.connections.give_back(connection)
    world.now += wait
    world.update()
    assert all(handle.closed for handle in world.opened[:KEPT])


@pytest.mark.parametrize("error", [ValueError("a defect"), MemoryError(), OSError(24, "Too many open files")])
def test_an_error_of_any_kind_does_not_end_the_thread(world: World, error: Exception) -> None:
    world.error = error
    waits = [world.update()]
    for _ in range(5):
        world.now += waits[-1] or 0.0
        waits.append(world.update())
    assert waits[0] == FIRST_RETRY
    (event,) = world.events
    assert f"internal error: {type(error).__name__}" in event.render()
    world.error = None
    world.now += waits[-1] or 0.0
    assert world.update() is None
    assert world.alive() == KEPT


def test_a_connection_that_cannot_be_asked_does_not_end_the_thread(world: World) -> None:
    world.update()

    def unsupported() -> int:
        raise RuntimeError("virConnectIsAlive() failed")

    for handle in world.opened:
        handle.isAlive = unsupported  # type: ignore[method-assign]
    world.kept.settle()
    assert world.update() == FIRST_RETRY
    for handle in world.opened:
        del handle.isAlive
    world.now += FIRST_RETRY
    assert world.update() is None
    assert world.alive() == KEPT
