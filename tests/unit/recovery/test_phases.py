# SPDX-License-Identifier: LGPL-2.1-or-later
"""The phases of a pending domain and of a lockspace that is waited for: which may follow which."""

from __future__ import annotations

import pytest

pytest.importorskip("libvirt")

from hypothesis import given
from hypothesis import strategies as st

from sanlock_helper.leases.lockspaces import ABSENT, FAILING, JOINED, JOINING, LEAVING
from sanlock_helper.records.record import Record
from sanlock_helper.recovery.lockspace_waits import LockspacePhase, LockspaceWait
from sanlock_helper.recovery.pending_domain import DomainPhase, PendingDomain
from sanlock_helper.recovery.verdict import Verdict, VisitResult

from ..transitions import allowed, rows

pytestmark = pytest.mark.pure


def pending_domain() -> PendingDomain:
    return PendingDomain(Record("u", "vm1", "qemu:///system", "poweroff"), 0.0)


def can_domain(before: str, after: str) -> bool:
    pending = pending_domain()
    pending.phase = DomainPhase[before]
    try:
        pending.enter(DomainPhase[after])
    except ValueError as error:
        assert str(error) == f"{pending.record}: {before.lower()} cannot become {after.lower()}"
        assert pending.phase is DomainPhase[before]
        return False
    return pending.phase is DomainPhase[after]


def can_lockspace(before: str, after: str) -> bool:
    wait = LockspaceWait(0.0)
    wait.phase = LockspacePhase[before]
    try:
        wait.enter(LockspacePhase[after])
    except ValueError:
        assert wait.phase is LockspacePhase[before]
        return False
    return wait.phase is LockspacePhase[after]


def test_the_table_of_a_pending_domain_is_what_it_allows() -> None:
    names = [phase.name for phase in DomainPhase]
    assert allowed(names, can_domain) == rows(PendingDomain.__doc__ or "")


def test_the_table_of_a_lockspace_is_what_it_allows() -> None:
    names = [phase.name for phase in LockspacePhase]
    assert allowed(names, can_lockspace) == rows(LockspaceWait.__doc__ or "")


@pytest.mark.parametrize(("ready", "phase"), [(False, DomainPhase.READING), (True, DomainPhase.RECOVERING)])
def test_one_visit_at_a_time(ready: bool, phase: DomainPhase) -> None:
    pending = pending_domain()
    pending.ready = ready
    pending.begin_visit(3.0)
    assert (pending.phase, pending.visit_began, pending.is_visited) == (phase, 3.0, True)
    with pytest.raises(ValueError, match="cannot become"):
        pending.begin_visit(4.0)
    pending.enter(DomainPhase.HANGING)
    with pytest.raises(ValueError, match="hanging cannot become"):
        pending.begin_visit(5.0)
    pending.end_visit(VisitResult(Verdict.WAIT, "to be started", frozenset({"LS"})))
    assert (pending.phase, pending.lockspaces, pending.wants_lockspaces) == (
        DomainPhase.IDLE, frozenset({"LS"}), True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="idle cannot become idle"):
        pending.end_visit(VisitResult(Verdict.DONE, "it runs"))


def test_an_ended_one_is_visited_no_more() -> None:
    pending = pending_domain()
    pending.enter(DomainPhase.ENDED)
    with pytest.raises(ValueError, match="ended cannot become reading"):
        pending.begin_visit(1.0)


@given(
    st.lists(
        st.one_of(
            st.sampled_from([ABSENT, JOINING, JOINED, FAILING, LEAVING]), st.sampled_from(["ask", "answer"])
        ),
        max_size=30,
    )
)
def test_whatever_sanlock_reports_there_is_one_request_at_a_time(events: list[str]) -> None:
    wait = LockspaceWait(0.0)
    asked = 0
    for now, event in enumerate(events):
        if event == "answer" and asked:
            asked -= 1
            wait.end_join()
        elif event == "ask" and wait.phase is LockspacePhase.WAITING:
            asked += 1
            wait.begin_join(now)
        elif event not in ("ask", "answer"):
            wait.set_state(event, now)
            assert wait.is_joined == (event == JOINED)
        assert asked == int(wait.is_asked_for) <= 1
