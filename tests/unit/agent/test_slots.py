# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose turn it is, for tries that make no calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("libvirt")

from sanlock_helper.agent import slots as turns_module
from sanlock_helper.agent.actions import Progress
from sanlock_helper.agent.jobs import Case, Running
from sanlock_helper.agent.pool import Connection
from sanlock_helper.agent.requests import Request
from sanlock_helper.agent.slots import AHEAD, IN_FLIGHT, OTHERS_IN_FLIGHT, PAUSE_SECONDS, Turns
from sanlock_helper.invocation import Invocation
from sanlock_helper.leases.grace import Deadline

from .test_agent import tries

URI = "qemu:///system"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> Turns:
    return Turns(clock)


def make_try(action: str = "poweroff") -> Running:
    case = Case(Request.of(Invocation(URI, UUID, action), Deadline(0.0, 40)), Progress())
    case.tries = 1
    return Running(case, Connection(URI))


def begin(turns: Turns, number: int = 1, action: str = "poweroff") -> list[Running]:
    tries = [make_try(action) for _ in range(number)]
    for running in tries:
        turns.begin(running)
    return tries


def test_poweroffs_have_their_turn_while_one_is_free(turns: Turns) -> None:
    assert all(running.has_turn for running in begin(turns, OTHERS_IN_FLIGHT))
    assert not turns.is_full
    assert not begin(turns)[0].has_turn
    assert turns.is_full


def test_one_that_is_prepared_makes_room_for_the_next(turns: Turns) -> None:
    begin(turns, OTHERS_IN_FLIGHT)
    for _ in range(AHEAD):
        assert not turns.is_enough
        (running,) = begin(turns)
        assert turns.is_full
        assert turns.arrive(running)
        assert not turns.is_full
    assert turns.is_enough


def test_a_turn_goes_to_the_one_that_was_prepared_first(turns: Turns) -> None:
    destroying = begin(turns, OTHERS_IN_FLIGHT)
    prepared = []
    for _ in range(3):
        prepared += begin(turns)
        turns.arrive(prepared[-1])
    assert turns.grant() is None
    turns.end(destroying[0])
    assert turns.grant() is prepared[0]
    assert prepared[0].has_turn
    assert turns.grant() is None


def test_a_turn_that_comes_before_all_is_prepared_need_not_be_waited_for(turns: Turns) -> None:
    destroying = begin(turns, OTHERS_IN_FLIGHT)
    (running,) = begin(turns)
    turns.end(destroying[0])
    assert turns.grant() is running
    assert not turns.arrive(running)
    assert tries(turns) == OTHERS_IN_FLIGHT


def test_one_that_is_given_up_while_it_waits_leaves_its_place(turns: Turns) -> None:
    destroying = begin(turns, OTHERS_IN_FLIGHT)
    (running,) = begin(turns)
    turns.arrive(running)
    running.given_up = True
    turns.end(running)
    turns.end(destroying[0])
    assert turns.grant() is None
    assert tries(turns) == OTHERS_IN_FLIGHT - 1


def test_nothing_is_prepared_while_pauses_come(turns: Turns, clock: Clock) -> None:
    begin(turns, action="pause")
    assert begin(turns)[0].has_turn
    assert turns.is_enough
    clock.now += PAUSE_SECONDS
    assert not turns.is_enough


def test_a_pause_that_is_tried_again_holds_up_nobody(turns: Turns) -> None:
    running = make_try("pause")
    running.case.tries = 2
    turns.begin(running)
    begin(turns)
    assert not turns.is_enough


@given(
    st.lists(st.tuples(st.sampled_from(("pause", "poweroff", "arrive", "end", "time")), st.integers(0, 40)))
)
def test_never_more_calls_or_destroys_than_there_are_workers(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    turns = Turns(clock)
    under_way: list[Running] = []
    for step, number in steps:
        if step == "time":
            clock.now += number / 200
        elif step in ("pause", "poweroff"):
            for _ in range(number):
                if not turns.is_full and (step == "pause" or not turns.is_enough):
                    under_way += begin(turns, action=step)
        elif under_way:
            running = under_way[number % len(under_way)]
            if step == "end":
                turns.end(running)
                under_way.remove(running)
            elif running in turns._calling:
                turns.arrive(running)
        while not turns.is_full and turns.grant() is not None:
            pass
        assert len(turns._calling) <= IN_FLIGHT
        assert tries(turns) == len(under_way) <= IN_FLIGHT + AHEAD
        destroying = [one for one in under_way if one.has_turn and one.case.request.action == "poweroff"]
        assert len(destroying) <= OTHERS_IN_FLIGHT
        # Nobody waits while a turn is free.
        if turns._waiting and not turns.is_full:
            most = OTHERS_IN_FLIGHT if not turns._pauses_come() else turns_module.OTHERS_BESIDE_PAUSES
            assert len(destroying) >= most
