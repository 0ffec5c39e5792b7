# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each invariant over samples made by hand: red for what it is there for, silent for what resembles it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from . import invariants, sampler
from .invariants import violations
from .observations import (
    DISK,
    JOB,
    LIBVIRTD,
    OURS,
    SANLOCK,
    STORAGE,
    TOUCH,
    Call,
    Disturbance,
    Host,
    Outcome,
    Run,
    Sample,
    Vm,
    read_sample,
)
from .series import BARE, EVERY, HELD, LEASE, PAUSED, RUNS, UNSEEN, UUID, host, series, vm


def found(first: Host, second: Host | None = None, is_over: bool = True) -> list[str]:
    run = Run({1: first, 2: second or host(series((None, 60.0)))}, {UUID: 1}, frozenset({UUID}), is_over)
    return [violation.invariant for violation in violations(run)]


def after(at: float, action: str = "pause") -> Call:
    return Call(at, UUID, action)


def done(at: float, action: str = "pause", kind: str = "done", requests: int = 1) -> Outcome:
    return Outcome(at, UUID, action, kind, requests)


# An outage as it should be: lost at 2, safe at 3, back at 8.
GOOD = [
    *series((RUNS, 3.0)),
    *(
        sample._replace(begin=sample.begin + 3, end=sample.end + 3)
        for sample in series((PAUSED, 5.0), record=True)
    ),
    *(sample._replace(begin=sample.begin + 8, end=sample.end + 8) for sample in series((RUNS, 5.0))),
]
FAILS = Disturbance(0.0, 6.0, STORAGE)


def test_a_good_run_violates_nothing() -> None:
    assert found(host(GOOD, [after(2.0)], [done(3.1)], [FAILS])) == []


# A machine without its lease


def test_running_without_a_lease() -> None:
    assert found(host(series((RUNS, 1.0), (BARE, 1.0)))) == ["lease"]


@pytest.mark.parametrize(
    "samples",
    [
        # One sample: the lease may have been given up and the machine paused between two looks.
        series((RUNS, 1.0), (BARE, EVERY), (PAUSED, 1.0)),
        series((PAUSED, 3.0)),
        series((vm("running", 0, after="paused"), 3.0)),
        series((vm(None, 0), 3.0)),
        series((BARE, 3.0), known=False),
    ],
)
def test_no_proof_of_a_missing_lease(samples: list[Sample]) -> None:
    assert found(host(samples)) == []


def test_a_part_of_its_leases_is_not_enough() -> None:
    run = Run({1: host(series((RUNS, 1.0)))}, {UUID: 2}, frozenset())
    assert [violation.invariant for violation in violations(run)] == ["lease"]


def test_a_sanlock_that_was_ended_has_no_leases() -> None:
    gone = Disturbance(0.0, 9.0, SANLOCK)
    assert found(host(series((RUNS, 1.0), (BARE, 1.0)), disturbances=[gone])) == []


# Two hosts


def test_running_on_two_hosts() -> None:
    assert found(host(series((RUNS, 3.0))), host(series((None, 2.0), (vm(pid=9), 2.0)))) == ["two hosts"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # A migration.
        (series((RUNS, 2.0), (None, 2.0)), series((None, 2.0), (vm(pid=9), 2.0))),
        # Paused here, started there.
        (series((RUNS, 2.0), (PAUSED, 3.0)), series((None, 2.0), (vm(pid=9), 2.0))),
        # Not known.
        (series((RUNS, 2.0), (UNSEEN, 3.0)), series((None, 2.0), (vm(pid=9), 2.0))),
    ],
)
def test_one_host_after_the_other(first: list[Sample], second: list[Sample]) -> None:
    assert found(host(first), host(second)) == []


# A lease that moved


RESUMED = series((RUNS, 2.0), (PAUSED, 6.0), (RUNS, 2.0))
THERE = series((None, 3.0), (vm(pid=9), 3.0), (None, 4.0))


def test_resumed_after_it_ran_elsewhere() -> None:
    assert found(host(RESUMED), host(THERE)) == ["moved lease"]


def test_resumed_after_its_lease_was_held_elsewhere() -> None:
    held = [
        sample._replace(others=(LEASE,)) if 3 < sample.begin < 5 else sample
        for sample in series((None, 10.0))
    ]
    assert found(host(RESUMED), host(held)) == ["moved lease"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (RESUMED, series((None, 10.0))),
        # Another process: started again, with the disk as it is now.
        (series((RUNS, 2.0), (PAUSED, 6.0), (vm(pid=8), 2.0)), THERE),
        # It ran there before the pause, or after the resume.
        (RESUMED, series((vm(pid=9, state="paused", leases=0), 10.0))),
        (series((RUNS, 6.4), (PAUSED, 2.0), (RUNS, 2.0)), series((None, 10.0))),
    ],
)
def test_resumed_on_its_own_lease(first: list[Sample], second: list[Sample]) -> None:
    assert found(host(first), host(second)) == []


def test_a_job_of_libvirts_resumes_by_itself() -> None:
    job = Disturbance(1.0, 9.0, JOB, UUID)
    assert found(host(RESUMED, disturbances=[job]), host(THERE)) == []


# The budget


@pytest.mark.parametrize("action", ["pause", "poweroff"])
def test_not_safe_in_time(action: str) -> None:
    samples = series((RUNS, 30.0))
    assert found(host(samples, [after(2.0, action)]), is_over=False) == ["not safe in time"]


@pytest.mark.parametrize("state", [HELD, PAUSED])
def test_a_pause_is_safe_once_the_lease_is_given_up(state: Vm) -> None:
    samples = series((RUNS, 3.0), (state, 30.0), record=True)
    expected = ["not safe in time"] if state is HELD else []
    assert found(host(samples, [after(2.0)], disturbances=[FAILS]), is_over=False) == expected


@pytest.mark.parametrize(
    "disturbances",
    [
        [Disturbance(2.0, 18.0, LIBVIRTD)],
        [Disturbance(2.0, 18.0, SANLOCK)],
        [Disturbance(2.0, 18.0, JOB, UUID)],
        [Disturbance(at, at, LIBVIRTD) for at in (5.0, 12.0, 18.0)],
        [Disturbance(14.0, 14.0, OURS)],
    ],
)
def test_a_disturbed_time_does_not_count(disturbances: list[Disturbance]) -> None:
    samples = series((RUNS, 30.0), (None, 10.0), record=True)
    assert found(host(samples, [after(2.0)], disturbances=disturbances), is_over=False) == []


def test_another_machines_job_is_no_excuse() -> None:
    job = Disturbance(2.0, 30.0, JOB, "another")
    assert found(host(series((RUNS, 30.0)), [after(2.0)], disturbances=[job]), is_over=False) == [
        "not safe in time"
    ]


def test_a_host_that_could_not_sample_does_not_count() -> None:
    """As when the machine that tests has no processor for a while."""
    samples = [sample for sample in series((RUNS, 34.0)) if round(sample.begin * 5) % 20 == 0]
    assert found(host(samples, [after(2.0)]), is_over=False) == []


def test_a_budget_that_is_over_is_not_judged() -> None:
    away = Disturbance(2.0, 30.0, LIBVIRTD)
    assert found(host(series((RUNS, 60.0)), [after(2.0)], disturbances=[away]), is_over=False) == []


# Outcomes


@pytest.mark.parametrize(
    ("calls", "outcomes", "is_right"),
    [
        (1, [1], True),
        (2, [2], True),
        (2, [1, 1], True),
        (1, [], False),
        (1, [1, 1], False),
        (3, [2], False),
        (0, [1], False),
    ],
)
def test_exactly_one_outcome(calls: int, outcomes: list[int], is_right: bool) -> None:
    here = host(
        series((None, 9.0)), [after(2.0)] * calls, [done(3.0, requests=number) for number in outcomes]
    )
    assert found(here) == ([] if is_right else ["one outcome"])
    # While helpers run, more may come.
    assert found(here, is_over=False) == []


@pytest.mark.parametrize(
    ("outcomes", "repeats", "is_right"), [(1, 1, True), (0, 1, True), (0, 0, False), (2, 1, False)]
)
def test_a_repeat_counts_where_there_is_no_other(outcomes: int, repeats: int, is_right: bool) -> None:
    repeat = done(3.1)._replace(is_repeat=True)
    here = host(series((None, 9.0)), [after(2.0)], [repeat] * repeats + [done(3.0)] * outcomes)
    assert found(here) == ([] if is_right else ["one outcome"])


@pytest.mark.parametrize("action", ["pause", "poweroff", "restart"])
@pytest.mark.parametrize("kind", ["done", "NOT DONE"])
def test_reported_as_safe_and_never_was(action: str, kind: str) -> None:
    here = host(series((RUNS, 5.0)), [after(2.0, action)], [done(3.0, action, kind)])
    assert found(here) == ["true outcome"]


def test_what_was_not_sampled_since_is_not_judged() -> None:
    """While the run goes on: the journal is read after the last sample."""
    assert found(host(series((RUNS, 3.4)), [after(2.0)], [done(3.2)])) == []


def test_reported_as_failed_and_was_safe_all_the_time() -> None:
    here = host(series((RUNS, 2.0), (PAUSED, 12.0), record=True), [after(1.0)], [done(10.0, kind="FAILED")])
    assert found(here) == ["true outcome"]


@pytest.mark.parametrize(
    ("samples", "outcome"),
    [
        (series((RUNS, 3.0), (PAUSED, 9.0), record=True), done(2.9)),
        (series((RUNS, 3.0), (None, 9.0), record=True), done(3.4)),
        # It was resumed at once.
        (series((RUNS, 2.4), (PAUSED, 0.2), (RUNS, 9.0)), done(2.6)),
        # Nothing is known.
        (series((RUNS, 1.8), (UNSEEN, 9.0), record=True), done(3.0)),
        # A failure, and it may well have been one.
        (series((RUNS, 8.0), (PAUSED, 9.0), record=True), done(10.0, kind="FAILED")),
        # It was not there.
        (series((None, 12.0)), done(3.0, kind="FAILED")),
    ],
)
def test_a_true_outcome(samples: list[Sample], outcome: Outcome) -> None:
    assert found(host(samples, [after(2.0)], [outcome])) == []


# Records


def lost(*parts: tuple[Vm | None, float], disturbances: Sequence[Disturbance] = (FAILS,)) -> list[str]:
    return found(host(series(*parts), [after(2.0, "poweroff")], [done(2.9, "poweroff")], disturbances))


@pytest.mark.parametrize("state", [None, PAUSED])
def test_a_record_that_is_lost(state: Vm | None) -> None:
    # An administrator has started it before.
    started = Disturbance(0.5, 1.5, TOUCH, UUID)
    here = host(series((RUNS, 3.0), (state, 5.0)), [after(2.0)], [done(3.2)], [FAILS, started])
    assert found(here) == ["record"]


def test_a_record_that_is_lost_later() -> None:
    samples = [
        sample._replace(records=frozenset()) if sample.begin > 8 else sample
        for sample in series((RUNS, 3.0), (None, 9.0), record=True)
    ]
    assert found(host(samples, [after(2.0)], [done(3.2)], [FAILS])) == ["record"]


@pytest.mark.parametrize(
    "parts",
    [
        # One sample between the end of the record and the run.
        [(RUNS, 3.0), (None, EVERY), (vm(pid=8), 5.0)],
        # Paused before, by an administrator.
        [(PAUSED, 3.0), (None, 5.0)],
        # It may run.
        [(RUNS, 3.0), (None, EVERY), (UNSEEN, 5.0)],
    ],
)
def test_no_record_is_needed(parts: list[tuple[Vm | None, float]]) -> None:
    assert lost(*parts) == []


@pytest.mark.parametrize(
    "disturbances",
    [
        # No lockspace was lost.
        [],
        [FAILS, Disturbance(1.0, 2.5, TOUCH, UUID)],
        [FAILS, Disturbance(3.0, 3.0, TOUCH, UUID)],
        [FAILS, Disturbance(1.0, 4.0, JOB, UUID)],
        [FAILS, Disturbance(3.0, 4.0, DISK, UUID)],
    ],
)
def test_what_an_administrator_or_a_failing_disk_has_to_do_with(disturbances: list[Disturbance]) -> None:
    assert lost((RUNS, 3.0), (None, 5.0), disturbances=disturbances) == []


def test_what_runs_on_the_other_host() -> None:
    here = host(series((RUNS, 3.0), (None, 5.0)), [after(2.0)], [done(3.2)], [FAILS])
    assert found(here, host(series((None, 3.2), (vm(pid=9), 5.0)))) == []


def test_without_a_policy() -> None:
    here = host(series((RUNS, 3.0), (None, 5.0)), [after(2.0)], [done(3.2)], [FAILS])
    run = Run({1: here}, {UUID: 1}, frozenset())
    assert violations(run) == []


# The rest


def test_every_invariant_is_checked() -> None:
    names = {
        name
        for name, value in vars(invariants).items()
        if callable(value)
        and getattr(value, "__annotations__", {}).get("return") == "Iterator[Violation]"
        and not name.startswith("_")
    }
    assert names == {invariant.__name__ for invariant in invariants.INVARIANTS}


def test_the_leases_in_sanlocks_status() -> None:
    status = (
        "daemon 1.host1\np -1 helper\np 7 \ns LS:1:/path:0\n"
        "r LS:key:/path:0:3 p 7\nr LS:a:b p 9:/pa\\ th:0:SH p 8\nr LS:key:/path\\:0:1 p 7\n"
        "r LS:key:/path:512:3 p 7 ADD\nr LS:key:/path:1024:3 p 7 ORPHAN\n"
    )
    assert sampler.held(status) == [
        (7, "LS:key:/path:0"),
        (8, "LS:a:b p 9:/pa\\ th:0"),
        (7, "LS:key:/path\\:0"),
        (7, "LS:key:/path:1024"),
    ]


def test_a_line_of_the_sampler() -> None:
    line = (
        '{"begin": 1.5, "end": 2.5, "vms": [["u", 1, 2, "running", null, ["a", "b"]]], "known": true,'
        ' "others": ["c"], "records": ["r"], "held": true}'
    )
    assert read_sample(line) == Sample(
        1.5, 2.5, (Vm("u", 1, 2, "running", None, ("a", "b")),), True, ("c",), frozenset({"r"}), True
    )
