# SPDX-License-Identifier: LGPL-2.1-or-later
"""The order of recovery: a total one, in which each domain begins once, and nothing waits without end."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("libvirt")

from hypothesis import given
from hypothesis import strategies as st

from sanlock_helper.numbers import DELAYS, PRIORITIES
from sanlock_helper.records.record import Record
from sanlock_helper.recovery.order import RecoveryOrder, rank
from sanlock_helper.recovery.pending_domain import DomainPhase, PendingDomain
from sanlock_helper.recovery.verdict import Verdict, VisitResult
from sanlock_helper.virt.host_conf import PRIORITY, TIME

records = st.builds(
    Record,
    uuid=st.uuids().map(str),
    name=st.text("ab", max_size=1),
    uri=st.just("qemu:///system"),
    action=st.just("poweroff"),
    time=st.floats(0, 3),
    priority=st.integers(*PRIORITIES) | st.integers(-1, 1),
    delay=st.integers(*DELAYS) | st.integers(0, 3),
)
orders = st.sampled_from([PRIORITY, TIME])
VERDICTS = [Verdict.DONE, Verdict.AGAIN, Verdict.LEFT_ALONE, Verdict.REFUSED, Verdict.EARLY]


def unique(found: list[Record]) -> list[Record]:
    return list({record.uuid: record for record in found}.values())


many = st.lists(records, max_size=12).map(unique)


@given(records, records, records, orders)
def test_the_order_is_total(one: Record, two: Record, three: Record, order: str) -> None:
    first, second, third = (rank(record, order) for record in (one, two, three))
    assert (first == second) == (one.uuid == two.uuid and first[:4] == second[:4])
    assert (first < second) + (first == second) + (first > second) == 1
    if first <= second <= third:
        assert first <= third


@given(many, orders)
def test_higher_comes_first_then_the_shorter_delay_then_the_earlier_loss(
    found: list[Record], order: str
) -> None:
    ranked = sorted(found, key=lambda record: rank(record, order))
    for one, two in itertools.pairwise(ranked):
        if order == PRIORITY:
            assert (-one.priority, one.delay, one.time) <= (-two.priority, two.delay, two.time)
        else:
            assert one.time <= two.time


class Run:
    """Recovery's loop without its visits: what begins when, with SLOTS at a time."""

    def __init__(self, found: list[Record], order: str, slots: int) -> None:
        self.pending = [PendingDomain(record, 0.0) for record in found]
        self.order, self.slots = order, slots
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.now = 0.0

    def go(self, seconds: dict[str, float], verdicts: dict[str, Verdict], away: set[str]) -> None:
        order = RecoveryOrder()
        for one in self.pending:
            one.ready = one.record.uuid not in away
        ticks = 0
        while any(one.ready and one.record.uuid not in self.ended for one in self.pending):
            ticks += 1
            assert ticks < 2000, "a domain waits without end"
            visited = [one for one in self.pending if one.is_visited]
            for one in visited:
                uuid = one.record.uuid
                if self.now >= self.began[uuid] + seconds[uuid]:
                    one.end_visit(VisitResult(verdicts[uuid], ""))
                    order.ended(one, verdicts[uuid])
                    self.ended[uuid] = self.now
            here = [one for one in self.pending if one.record.uuid not in self.ended]
            for one in order.begin_pass(here, self.order, lambda one: one.ready):
                if sum(other.is_visited for other in here) >= self.slots:
                    break
                if one.phase is DomainPhase.IDLE and one.ready and order.may_begin(one, self.now):
                    order.begun(one, self.now)
                    one.begin_visit(self.now)
                    self.began[one.record.uuid] = self.now
            waits = [
                left
                for one in here
                if one.ready and not one.is_visited and (left := order.seconds_left(one, self.now))
            ]
            busy = any(one.is_visited for one in here)
            self.now += 0.5 if busy or not waits else min(waits)


@given(many, orders, st.integers(1, 8), st.data())
def test_each_begins_once_and_in_its_turn(
    found: list[Record], order: str, slots: int, data: st.DataObject
) -> None:
    seconds = {record.uuid: data.draw(st.sampled_from([0.0, 1.0, 7.0])) for record in found}
    verdicts = {record.uuid: data.draw(st.sampled_from(VERDICTS)) for record in found}
    away = {record.uuid for record in found if data.draw(st.integers(0, 4)) == 0}
    run = Run(found, order, slots)
    run.go(seconds, verdicts, away)
    # What is away costs none but itself.
    assert run.began.keys() == run.ended.keys() == {record.uuid for record in found} - away
    here = [record for record in found if record.uuid not in away]
    if order == TIME:
        began = sorted(here, key=lambda record: (run.began[record.uuid], rank(record, order)))
        assert began == sorted(here, key=lambda record: rank(record, order))
        return
    for one, two in itertools.permutations(here, 2):
        if one.priority > two.priority:
            assert run.ended[one.uuid] <= run.began[two.uuid]
    for record in here:
        others = [
            run.began[other.uuid]
            for other in here
            if other.priority == record.priority
            and other is not record
            and verdicts[other.uuid] in (Verdict.DONE, Verdict.AGAIN)
            and run.began[other.uuid] <= run.began[record.uuid]
            and rank(other, order) < rank(record, order)
        ]
        if others:
            assert run.began[record.uuid] >= min(others) + record.delay


def pending(name: str, priority: int = 0, delay: int = 0) -> PendingDomain:
    record = Record(name, name, "qemu:///system", "poweroff", priority=priority, delay=delay)
    found = PendingDomain(record, 0.0)
    found.ready = True
    return found


def test_the_first_of_a_priority_does_not_wait_and_one_that_is_left_alone_is_none() -> None:
    order = RecoveryOrder()
    left, first, second = pending("left", 1), pending("first", 1, 10), pending("second", 1, 30)
    everything = [second, first, left]
    order.begin_pass(everything, PRIORITY, lambda one: True)
    assert [order.seconds_left(one, 0.0) for one in (left, first, second)] == [0, None, None]
    order.begun(left, 0.0)
    assert [order.seconds_left(one, 4.0) for one in (first, second)] == [6, 26]
    left.tried = True
    order.ended(left, Verdict.LEFT_ALONE)
    order.begin_pass([second, first], PRIORITY, lambda one: True)
    assert [order.seconds_left(one, 5.0) for one in (first, second)] == [0, None]
    order.begun(first, 5.0)
    assert order.seconds_left(second, 5.0) == 30
    assert order.seconds_left(second, 35.0) == 0


def test_what_hangs_or_is_refused_keeps_none_back() -> None:
    order = RecoveryOrder()
    high, low = pending("high", 9), pending("low")

    def left() -> float | None:
        order.begin_pass([low, high], PRIORITY, lambda one: one.ready)
        return order.seconds_left(low, 0.0)

    assert left() is None
    high.begin_visit(0.0)
    assert left() is None
    high.enter(DomainPhase.HANGING)
    assert left() == 0
    high.end_visit(VisitResult(Verdict.WAIT, ""))
    assert left() is None
    high.record.mark = "refused"
    assert left() == 0
    high.record.mark, high.ready = "", False
    assert left() == 0
    # One that was tried is tried again beside the others.
    high.ready, high.tried = True, True
    assert left() == 0
