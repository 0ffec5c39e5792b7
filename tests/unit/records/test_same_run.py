# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two records of one run: what each knows is in the one that stays."""

from __future__ import annotations

from typing import Any

import pytest

from sanlock_helper.leases.held import Lease, Lockspace
from sanlock_helper.records.record import IO_ERROR, Record
from sanlock_helper.records.same_run import combined

pytestmark = pytest.mark.pure

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
LEASES = (Lease("LS", "disk", 3, "/disk"),)
SPACES = (Lockspace("LS", 1, "/LS"),)


def make(action: str = "pause", **changes: Any) -> Record:
    record = Record(UUID, "vm1", "qemu:///system", action, run=7, pid=4711, pid_start=99, boot="boot")
    for key, value in changes.items():
        setattr(record, key, value)
    return record


def stopped(**changes: Any) -> Record:
    return make(**{"cause": IO_ERROR, "leases": LEASES, "lockspaces": SPACES, **changes})


def versions(record: Record) -> list[int]:
    return [lease.version for lease in record.leases]


@pytest.mark.parametrize("unknown", ["", "sanlock: no answer"])
def test_the_killpath_comes_after_the_stop(unknown: str) -> None:
    new = make("pause", unknown=unknown, time=9.0)
    found = combined(stopped(tries=2, time=5.0), new)
    assert found is new
    assert (versions(found), found.unknown, found.lockspaces) == ([3], "", SPACES)
    assert (found.cause, found.tries, found.time) == (IO_ERROR, 2, 9.0)


def test_the_killpath_powers_off_after_the_stop() -> None:
    found = combined(stopped(), make("poweroff"))
    assert (found.action, found.cause, versions(found)) == ("poweroff", "", [3])


def test_the_stop_comes_after_the_killpath() -> None:
    found = combined(make("restart", leases=LEASES, xml="<domain/>"), stopped())
    assert (found.action, found.cause, found.xml) == ("restart", "", "<domain/>")


def test_a_loss_after_an_administrators_resume_is_its_own() -> None:
    new = make("pause", leases=(Lease("LS", "disk", 4, "/disk"),))
    found = combined(stopped(), new)
    assert (versions(found), found.cause) == ([4], "")


def test_an_agent_that_has_not_seen_the_stop_adds_nothing() -> None:
    old = stopped(mark="refused")
    assert combined(old, stopped(unknown="unseen")) is old
    # Nor does the second such agent know more than the first.
    assert combined(stopped(unknown="unseen"), stopped(unknown="unseen")).unknown == "unseen"


def test_a_further_stop_has_its_own_versions() -> None:
    found = combined(stopped(tries=5), stopped(leases=(Lease("LS", "disk", 4, "/disk"),)))
    assert (versions(found), found.tries) == ([4], 5)


@pytest.mark.parametrize(
    "other", [{"run": 8}, {"pid": 1}, {"pid_start": 1}, {"boot": "next"}, {"pid_start": 0}, {"boot": ""}]
)
def test_another_run_is_another_record(other: dict[str, Any]) -> None:
    found = combined(stopped(**other), make("pause"))
    assert (found.leases, found.cause) == ((), "")
    unproven = make("pause", **{key: value for key, value in other.items() if not value})
    assert combined(stopped(**other), unproven).leases == ()
