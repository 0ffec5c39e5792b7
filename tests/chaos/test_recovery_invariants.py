# SPDX-License-Identifier: LGPL-2.1-or-later
"""The invariants of recovery over samples made by hand: red for what each is there for, else silent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from .invariants import violations
from .observations import (
    AGENT,
    DISK,
    ERRORS,
    JOB,
    LIBVIRTD,
    OURS,
    QEMU,
    RECOVERY,
    SPACE,
    STORAGE,
    TOUCH,
    Call,
    Disturbance,
    Host,
    Run,
    Sample,
)
from .recovery_invariants import BACK, UNDER_WAY, owed, stops
from .series import EVERY, LEASE, PAUSED, RUNS, UUID, after_one_another, host, series, vm

OTHER = "00000000-e32f-4f10-bc97-79298a77fac2"
STOPPED = vm("io-error", 0)
NOWHERE = host(series((None, 200.0)))
FAILS = Disturbance(19.0, 24.0, DISK, UUID)


def run(first: Host, second: Host = NOWHERE, priorities: dict[str, int] | None = None) -> Run:
    uuids = frozenset({UUID, OTHER})
    return Run({1: first, 2: second}, dict.fromkeys(uuids, 1), uuids, True, priorities or {})


def found(seen: Run) -> list[str]:
    return [violation.invariant for violation in violations(seen)]


# A guest that an I/O error stops


def stopped(
    *disturbances: Disturbance,
    samples: list[Sample] | None = None,
    stands: bool = True,
    seconds: float = 60.0,
) -> Host:
    """It runs for 20 s, and its disk fails then."""
    return host(
        samples or series((RUNS, 20.0), (STOPPED, seconds), record=True),
        disturbances=[FAILS, *disturbances],
        stands=stands,
    )


def test_a_guest_that_stays_stopped() -> None:
    seen = run(stopped())
    (violation,) = violations(seen)
    assert (violation.invariant, violation.uuid) == ("stays stopped", UUID)
    # From when its disk is back.
    assert BACK - 1 < violation.at - FAILS.end < 2 * BACK + 1
    assert owed(seen) == [] or all(stop.calm > BACK for stop in owed(seen))


def test_a_guest_that_has_no_record_stays_stopped_as_well() -> None:
    assert found(run(stopped(samples=series((RUNS, 20.0), (STOPPED, 60.0))))) == ["stays stopped"]


def test_a_guest_that_the_killpath_came_for_too_stays_stopped() -> None:
    samples = series((RUNS, 20.0), (STOPPED, 5.0), (PAUSED, 60.0), record=True)
    assert found(run(stopped(samples=samples))) == ["stays stopped"]


def test_a_guest_that_comes_back() -> None:
    seen = run(stopped(samples=series((RUNS, 20.0), (STOPPED, 10.0), (RUNS, 60.0))))
    assert found(seen) == []
    (stop,) = stops(seen)
    assert (stop.is_back, stop.is_over) == (True, True)
    assert 2 < stop.calm < 7


def test_a_guest_that_is_not_back_yet_is_owed() -> None:
    seen = run(stopped(seconds=20.0))
    assert found(seen) == []
    assert [stop.uuid for stop in owed(seen)] == [UUID]


def test_a_guest_that_stops_again_and_stays() -> None:
    samples = series((RUNS, 20.0), (STOPPED, 10.0), (RUNS, 1.0), (STOPPED, 60.0))
    assert found(run(stopped(samples=samples))) == ["stays stopped"]


@pytest.mark.parametrize("thing", [LIBVIRTD, OURS, STORAGE, RECOVERY, QEMU, JOB])
def test_a_disturbed_time_does_not_count(thing: str) -> None:
    other = OTHER if thing in (QEMU, JOB) else ""
    every = [Disturbance(at, at, thing, other) for at in range(30, 110, 20)]
    assert found(run(stopped(*every, seconds=80.0))) == []
    assert found(run(stopped(*every, Disturbance(20.0, 45.0, DISK, OTHER), seconds=120.0))) == [
        "stays stopped"
    ]


def test_while_recovery_is_held_nothing_is_due() -> None:
    held = after_one_another(
        series((RUNS, 20.0)), series((STOPPED, 60.0), held=True), series((STOPPED, 20.0))
    )
    assert found(run(stopped(samples=held))) == []
    assert found(run(stopped(samples=after_one_another(held, series((STOPPED, 20.0)))))) == ["stays stopped"]


@pytest.mark.parametrize(
    "disturbances",
    [
        [Disturbance(15.0, 15.0, AGENT)],
        [Disturbance(21.0, 21.0, AGENT)],
        # It had not listened long when libvirtd went away.
        [Disturbance(6.0, 6.0, AGENT), Disturbance(10.0, 19.0, LIBVIRTD)],
        # What happens while libvirtd is away is noted later.
        [Disturbance(19.0, 28.0, LIBVIRTD), Disturbance(30.0, 30.0, AGENT)],
        [Disturbance(30.0, 31.0, TOUCH, UUID)],
        [Disturbance(30.0, 31.0, JOB, UUID)],
        [Disturbance(30.0, 31.0, TOUCH)],
        [Disturbance(19.0, 25.0, SPACE, UUID)],
        [Disturbance(30.0, 35.0, SPACE, UUID)],
        [Disturbance(5.0, 12.0, ERRORS, UUID), Disturbance(19.0, 25.0, ERRORS, UUID)],
    ],
)
def test_a_guest_that_may_stay_stopped(disturbances: list[Disturbance]) -> None:
    assert found(run(stopped(*disturbances))) == []


@pytest.mark.parametrize(
    "disturbances",
    [
        [Disturbance(6.0, 6.0, AGENT)],
        [Disturbance(30.0, 30.0, AGENT)],
        # A helper alone.
        [Disturbance(15.0, 15.0, OURS)],
        [Disturbance(19.0, 28.0, LIBVIRTD)],
        [Disturbance(30.0, 31.0, TOUCH, OTHER)],
        [Disturbance(19.0, 25.0, SPACE, OTHER)],
        [Disturbance(19.0, 25.0, ERRORS, UUID)],
    ],
)
def test_a_guest_that_may_not(disturbances: list[Disturbance]) -> None:
    assert found(run(stopped(*disturbances))) == ["stays stopped"]


def test_without_an_agent_or_a_policy_it_may_stay_stopped() -> None:
    assert found(run(stopped(stands=False))) == []
    assert found(run(stopped())._replace(recover=frozenset())) == []


def test_a_guest_that_another_host_has_run_may_stay_stopped() -> None:
    there = host(series((None, 30.0), (vm(pid=9), 5.0), (None, 60.0)))
    assert found(run(stopped(), there)) == []
    held = [
        sample._replace(others=(LEASE,)) if 30 < sample.begin < 35 else sample
        for sample in series((None, 90.0))
    ]
    assert found(run(stopped(), host(held))) == []
    # And may not go on.
    samples = series((RUNS, 20.0), (STOPPED, 30.0), (RUNS, 10.0))
    assert found(run(stopped(samples=samples), there)) == ["moved lease"]


def test_a_pause_is_no_io_error() -> None:
    assert found(run(stopped(samples=series((RUNS, 20.0), (PAUSED, 60.0))))) == []


# While recovery is held


def held(
    *disturbances: Disturbance,
    before: float = 2.0,
    seconds: float = UNDER_WAY + 2,
    first: object = PAUSED,
    calls: Sequence[Call] = (),
) -> Run:
    """Paused for 2 s more, held for 10 s, and it runs."""
    stood = first if first is None else PAUSED
    samples = after_one_another(
        series((RUNS, 1.0)),
        series((stood, before), record=True),
        series((stood, seconds), record=True, held=True),
        series((RUNS, 5.0), held=True),
    )
    return run(host(samples, calls, disturbances=disturbances))


@pytest.mark.parametrize("first", [PAUSED, None])
def test_running_again_while_held(first: object) -> None:
    assert found(held(first=first)) == ["held"]


def test_running_again_once_released() -> None:
    samples = after_one_another(
        series((RUNS, 1.0)), series((PAUSED, 20.0), record=True, held=True), series((RUNS, 5.0))
    )
    assert found(run(host(samples))) == []


@pytest.mark.parametrize(
    "seen",
    [
        # What was under way.
        held(seconds=UNDER_WAY - 2),
        held(Disturbance(9.0, 9.5, LIBVIRTD)),
        held(Disturbance(9.0, 9.5, RECOVERY)),
        held(Disturbance(9.0, 9.5, QEMU, UUID)),
        # What is an administrator's, or a job's.
        held(Disturbance(12.0, 14.0, TOUCH, UUID)),
        held(Disturbance(1.0, 14.0, JOB, UUID)),
        held(calls=[Call(3.0, UUID, "restart", True)]),
    ],
)
def test_what_is_not_recoverys_while_held(seen: Run) -> None:
    assert "held" not in found(seen)


def test_a_hold_that_was_not_seen_throughout_is_not_judged() -> None:
    samples = [sample for sample in held().hosts[1].samples if not 8.0 < sample.begin < 9.0]
    assert found(run(host(samples))) == []


def test_another_machines_administrator_is_no_excuse() -> None:
    assert found(held(Disturbance(12.0, 14.0, TOUCH, OTHER))) == ["held"]


# The order


def both(first: list[Sample], second: list[Sample]) -> list[Sample]:
    """The samples of two machines as those of one host."""
    other = [
        sample._replace(
            vms=tuple(one._replace(uuid=OTHER, pid=8) for one in sample.vms),
            records=frozenset({OTHER} if sample.records else ()),
        )
        for sample in second
    ]
    return [
        one._replace(vms=one.vms + two.vms, records=one.records | two.records)
        for one, two in zip(first, other)
    ]


def outage(seconds: float) -> list[Sample]:
    """It runs for 10 s, stands for so many, and runs again."""
    return after_one_another(
        series((RUNS, 10.0)),
        series((PAUSED, seconds), record=True),
        series((RUNS, 30.0 - seconds)),
    )


def order(
    *disturbances: Disturbance,
    mine: float = 12.0,
    others: float = 14.0,
    priority: int = 10,
    failures: Sequence[tuple[float, str]] = (),
    calls: Sequence[Call] = (),
) -> list[str]:
    """What is found of a machine that comes back after MINE, and a higher one after OTHERS seconds."""
    samples = both(outage(mine), outage(others))
    seen = host(samples, calls, disturbances=disturbances, failures=failures)
    return [
        name
        for name in found(run(seen, priorities={OTHER: priority}))
        if name not in ("one outcome", "record")
    ]


def test_a_higher_one_that_comes_later() -> None:
    assert order() == ["order"]
    assert order(priority=1) == ["order"]
    # It does not come at all.
    assert order(others=25.0) == ["order"]


@pytest.mark.parametrize("others", [8.0, 12.0, 12.0 + EVERY])
def test_a_higher_one_that_comes_before_or_at_the_same_time(others: float) -> None:
    assert order(others=others) == []


@pytest.mark.parametrize("priority", [0, -1])
def test_one_that_is_not_higher(priority: int) -> None:
    assert order(priority=priority) == []


def test_what_was_tried_in_vain_since_it_ran_keeps_no_other_out() -> None:
    assert order(failures=[(15.0, OTHER)]) == []
    assert order(failures=[(15.0, UUID)]) == ["order"]
    assert order(failures=[(5.0, OTHER)]) == ["order"]


def test_a_record_that_is_just_made() -> None:
    assert order(mine=UNDER_WAY - 1) == []


@pytest.mark.parametrize(
    "disturbance",
    [
        Disturbance(20.0, 21.0, LIBVIRTD),
        Disturbance(20.0, 21.0, RECOVERY),
        Disturbance(20.0, 21.0, QEMU, "another"),
        Disturbance(20.0, 21.0, TOUCH, OTHER),
        Disturbance(20.0, 21.0, DISK, OTHER),
        Disturbance(21.0, 23.0, TOUCH, UUID),
    ],
)
def test_a_disturbed_order_is_not_judged(disturbance: Disturbance) -> None:
    assert order(disturbance) == []


def test_a_poweroff_that_is_not_done_yet() -> None:
    assert order(calls=[Call(10.0, OTHER, "poweroff", True)]) == []
    assert order(calls=[Call(10.0, OTHER, "pause", True)]) == ["order"]


def test_the_storage_of_all_is_no_excuse() -> None:
    assert order(Disturbance(9.0, 17.0, STORAGE)) == ["order"]


def test_a_lower_one_that_an_administrator_or_nothing_recorded_brings_back() -> None:
    without = [
        sample._replace(records=sample.records - {UUID}) for sample in both(outage(12.0), outage(14.0))
    ]
    assert found(run(host(without), priorities={OTHER: 10})) == []
