# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which try gets the next slot, with tries that make no calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("libvirt")

from sanlock_helper.agent import jobs
from sanlock_helper.agent.attempt import Progress
from sanlock_helper.agent.connection_pool import Connection
from sanlock_helper.agent.jobs import (
    ENDED,
    GIVEN_UP,
    OTHERS_BESIDE_PAUSES,
    OTHERS_IN_FLIGHT,
    PAUSE_SECONDS,
    Execution,
    Job,
    Slots,
    Stateful,
)
from sanlock_helper.agent.requests import Request
from sanlock_helper.invocation import Invocation
from sanlock_helper.leases.grace import Deadline
from sanlock_helper.virt import AHEAD, IN_FLIGHT

from ..fakes import Clock
from ..transitions import allowed, rows

URI = "qemu:///system"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slots(clock: Clock) -> Slots:
    return Slots(clock)


def make_try(action: str = "poweroff") -> Execution:
    job = Job(Request.of(Invocation(URI, UUID, action), Deadline(0.0, 40)), Progress())
    job.tries = 1
    return Execution(job, Connection(URI))


def begin(slots: Slots, number: int = 1, action: str = "poweroff") -> list[Execution]:
    tries = [make_try(action) for _ in range(number)]
    for execution in tries:
        slots.begin(execution)
    return tries


def test_poweroffs_get_a_slot_while_one_is_free(slots: Slots) -> None:
    assert all(execution.has_slot for execution in begin(slots, OTHERS_IN_FLIGHT))
    assert not slots.is_full
    assert not begin(slots)[0].has_slot
    assert slots.is_full


def test_one_that_is_prepared_makes_room_for_the_next(slots: Slots) -> None:
    begin(slots, OTHERS_IN_FLIGHT)
    for _ in range(AHEAD):
        assert not slots.is_saturated
        (execution,) = begin(slots)
        assert slots.is_full
        assert slots.park(execution)
        assert not slots.is_full
    assert slots.is_saturated


def test_a_slot_goes_to_the_one_that_was_prepared_first(slots: Slots) -> None:
    destroying = begin(slots, OTHERS_IN_FLIGHT)
    prepared = []
    for _ in range(3):
        prepared += begin(slots)
        slots.park(prepared[-1])
    assert slots.release_next() is None
    slots.end(destroying[0])
    assert slots.release_next() is prepared[0]
    assert prepared[0].has_slot
    assert slots.release_next() is None


def test_a_slot_that_comes_before_all_is_prepared_need_not_be_waited_for(slots: Slots) -> None:
    destroying = begin(slots, OTHERS_IN_FLIGHT)
    (execution,) = begin(slots)
    slots.end(destroying[0])
    assert slots.release_next() is execution
    assert not slots.park(execution)
    assert slots.under_way == OTHERS_IN_FLIGHT


def test_one_that_is_given_up_while_it_waits_leaves_its_place(slots: Slots) -> None:
    destroying = begin(slots, OTHERS_IN_FLIGHT)
    (execution,) = begin(slots)
    slots.park(execution)
    execution.give_up()
    slots.end(execution)
    slots.end(destroying[0])
    assert slots.release_next() is None
    assert slots.under_way == OTHERS_IN_FLIGHT - 1


def test_nothing_is_prepared_while_pauses_come(slots: Slots, clock: Clock) -> None:
    begin(slots, action="pause")
    assert begin(slots)[0].has_slot
    assert slots.is_saturated
    clock.now += PAUSE_SECONDS
    assert not slots.is_saturated


def test_a_pause_that_is_tried_again_holds_up_no_other(slots: Slots) -> None:
    execution = make_try("pause")
    execution.job.tries = 2
    slots.begin(execution)
    begin(slots)
    assert not slots.is_saturated


@given(
    st.lists(st.tuples(st.sampled_from(("pause", "poweroff", "arrive", "end", "time")), st.integers(0, 40)))
)
def test_never_more_calls_or_destroys_than_there_are_workers(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    slots = Slots(clock)
    under_way: list[Execution] = []
    parked: list[Execution] = []
    paused_at = float("-inf")
    for step, number in steps:
        if step == "time":
            clock.now += number / 200
        elif step in ("pause", "poweroff"):
            for _ in range(number):
                if not slots.is_full and (step == "pause" or not slots.is_saturated):
                    under_way += begin(slots, action=step)
                    paused_at = clock.now if step == "pause" else paused_at
        elif under_way:
            execution = under_way[number % len(under_way)]
            if step == "end":
                execution.enter(GIVEN_UP if execution in parked else ENDED)
                slots.end(execution)
                under_way.remove(execution)
                parked = [one for one in parked if one is not execution]
            elif execution not in parked:
                parked += [execution] * slots.park(execution)
        while not slots.is_full and (released := slots.release_next()) is not None:
            parked = [one for one in parked if one is not released]
        assert slots.calling == len(under_way) - len(parked) <= IN_FLIGHT
        assert slots.under_way == len(under_way) <= IN_FLIGHT + AHEAD
        destroying = [one for one in under_way if one.has_slot and one.job.request.action == "poweroff"]
        assert len(destroying) <= OTHERS_IN_FLIGHT
        # No try waits while a slot is free.
        if parked and not slots.is_full:
            pauses_come = clock.now - paused_at < PAUSE_SECONDS
            assert len(destroying) >= (OTHERS_BESIDE_PAUSES if pauses_come else OTHERS_IN_FLIGHT)


JOB_STATES = [jobs.OPEN, jobs.PREPARING, jobs.READY, jobs.TRIED, jobs.BACKOFF, jobs.DONE]
TRY_STATES = [jobs.STARTED, jobs.PARKED, jobs.ACTING, jobs.ENDED, jobs.GIVEN_UP]


def can(thing: Stateful, before: str, after: str) -> bool:
    thing.state = before
    try:
        thing.enter(after)
    except ValueError as error:
        assert str(error) == f"{thing}: {before} cannot become {after}"
        assert thing.state == before
        return False
    return thing.state == after


@pytest.mark.parametrize(
    ("thing", "states"), [(make_try().job, JOB_STATES), (make_try(), TRY_STATES)], ids=["job", "try"]
)
def test_the_table_is_what_it_allows(thing: Stateful, states: list[str]) -> None:
    found = allowed(states, lambda before, after: can(thing, before, after))
    assert {(before.upper(), after.upper()) for before, after in found} == rows(thing.__doc__ or "")


def test_one_that_is_given_up_is_parked_and_answered_no_more(slots: Slots) -> None:
    begin(slots, OTHERS_IN_FLIGHT)
    (execution,) = begin(slots)
    execution.give_up()
    # Its thread, which may wait for a slot, is sent on.
    assert execution.slot_given.get(block=False) is None
    for state in TRY_STATES:
        with pytest.raises(ValueError, match="given_up cannot become"):
            execution.enter(state)
