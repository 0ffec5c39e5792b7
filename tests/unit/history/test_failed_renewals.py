# SPDX-License-Identifier: LGPL-2.1-or-later
"""Warnings of the agent that stands, as history puts them together with losses and actions."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.agent.renewal_events import Dependents, back, gone, warning
from sanlock_helper.cli.verbs import history
from sanlock_helper.events import Event
from sanlock_helper.history.current_outage import (
    ABSENT,
    LockspaceRow,
    current_outage,
    is_at_rest,
    lockspace_rows,
    read_again,
)
from sanlock_helper.history.forecast import AtLoss, Row
from sanlock_helper.history.journal_entries import Entry
from sanlock_helper.history.outages import Outage, OutageEvent, events_of, make_outages
from sanlock_helper.leases.held import Lease, Lockspace
from sanlock_helper.leases.renewals import LOST, RENEWED, renewals_of
from sanlock_helper.leases.sanlock_status import JoinedLockspace, SanlockStatus
from sanlock_helper.records.record import Record
from sanlock_helper.virt.inventory import KnownDomain

pytestmark = pytest.mark.pure

UUID = "defc17ee-2773-427c-8210-136921a454d3"
VALUES = {"list": "spaces", "io_timeout": "10", "renewal_last_success": "1000", "renew_fail": "0"}


def warned(time: float, age: int, lockspace: str = "space", **values: str) -> Entry:
    found = renewals_of(lockspace, {**VALUES, **values}, {})
    assert found is not None
    return ours(time, warning(found, Dependents({"pause": ["vm1"]}, []), 1000.0 + age, time))


def ours(time: float, event: Event, fields: bool = True) -> Entry:
    return Entry(time, "virt-sanlock-helper", event.render(), event.fields() if fields else {})


def lost(time: float, more: str = "") -> Entry:
    return Entry(time, "sanlock", f"2026-11-22 20:30:23 2912 [5]: s1 check_our_lease failed 80{more}")


def done(time: float) -> Entry:
    text = "done after 0.07 s: found running, suspended, verified paused, no lease held"
    return Entry(time, "virt-sanlock-helper", f"pause vm1 {UUID}: {text}")


def shape(*entries: Entry) -> list[tuple[int, list[str], int]]:
    """Losses, the kinds of what is about renewals, and domains, of each outage."""
    outages = make_outages(events_of(entries))
    return [(len(one.lost), [event.kind for event in one.renewals], len(one.domains)) for one in outages]


def test_a_short_outage_is_one_of_its_own() -> None:
    assert shape(warned(30.0, 30), ours(42.0, back("space", 42))) == [(0, ["warned", "renewed"], 0)]


def test_a_loss_has_its_warnings() -> None:
    entries = warned(30.0, 30), warned(60.0, 60), lost(80.0), done(81.0)
    assert shape(*entries) == [(1, ["warned", "warned"], 1)]


def test_several_lockspaces_of_one_storage_are_one_outage() -> None:
    entries = (
        warned(30.0, 30, "a"),
        warned(31.0, 30, "b"),
        lost(80.0),
        done(81.0),
        warned(90.0, 30, "c"),
        lost(99.0),
    )
    assert shape(*entries) == [(2, ["warned"] * 3, 1)]


def test_what_is_done_by_hand_after_a_short_outage_is_no_part_of_it() -> None:
    entries = warned(30.0, 30), ours(42.0, back("space", 42)), done(60.0)
    assert shape(*entries) == [(0, ["warned", "renewed"], 0), (0, [], 1)]


def test_what_was_done_by_hand_before_is_no_part_of_the_loss() -> None:
    entries = done(10.0), warned(30.0, 30), lost(80.0), done(81.0)
    assert shape(*entries) == [(0, [], 1), (1, ["warned"], 1)]


def test_a_loss_that_the_journal_lost() -> None:
    """The action follows the warning, as nothing has ended that."""
    assert shape(warned(30.0, 30), done(81.0)) == [(0, ["warned"], 1)]


def test_a_lockspace_that_sanlock_does_not_give_up_is_not_lost() -> None:
    """sanlock 5.1.1 logs that every second."""
    entries = [
        warned(30.0, 30, no_timeout="1"),
        *(lost(time, " (no_timeout)") for time in (80.0, 81.0, 82.0)),
    ]
    assert shape(*entries) == [(0, ["warned"], 0)]
    assert shape(lost(80.0, ", as sanlock 5 appends")) == [(1, [], 0)]


@pytest.mark.parametrize("fields", [True, False])
def test_the_text_is_short_whatever_the_line_has(fields: bool) -> None:
    entries = [
        warned(30.0, 30),
        warned(31.0, 31, "kept", no_timeout="1"),
        warned(60.0, 60),
        ours(62.0, back("space", 62), fields),
        ours(63.0, gone("kept", 63), fields),
    ]
    if not fields:
        entries = [Entry(entry.time, entry.identifier, entry.message) for entry in entries]
    events = events_of(entries)
    assert [(event.lockspace, event.seconds) for event in events] == [
        ("space", 30),
        ("kept", 31),
        ("space", 60),
        ("space", 62),
        ("kept", 63),
    ]
    texts = [event.text for event in events]
    assert texts[0].startswith("no renewal for 30 s, lost at ")
    assert texts[1] == "no renewal for 31 s"
    assert texts[3] == "renewed again, after 62 s without a renewal; nothing is lost"
    assert texts[4] == "not joined any more"


def outage(*entries: Entry) -> Outage:
    (found,) = make_outages(events_of(entries))
    return found


@pytest.mark.parametrize(
    ("entries", "head"),
    [
        ([warned(30.0, 30)], ", how that ended is not in the journal: 0 domains"),
        ([warned(30.0, 30), ours(40.0, back("space", 40))], ", nothing was lost: 0 domains"),
        ([warned(30.0, 30), ours(40.0, gone("space", 40))], ", nothing was lost: 0 domains"),
        ([warned(30.0, 30), lost(80.0)], ": 0 domains"),
    ],
)
def test_what_is_printed(entries: list[Entry], head: str, capsys: pytest.CaptureFixture[str]) -> None:
    history._print(outage(*entries), False)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith(head)
    assert first.startswith("lease lost at " if head == ": 0 domains" else "renewals failed at ")
    assert "lockspace space: no renewal for 30 s, lost at" in lines[0]


# The outage that is not over


def status(*spaces: dict[str, str]) -> SanlockStatus:
    joined = [JoinedLockspace(values["name"], 1, "/x", 0, {**VALUES, **values}) for values in spaces]
    return SanlockStatus({"use_watchdog": "0"}, tuple(joined), ())


def row(**leases: int) -> Row:
    return Row(KnownDomain("vm1", UUID, 1, "running", None), leases, (), AtLoss(""), None)


def record(*spaces: str) -> Record:
    return Record(
        UUID,
        "vm1",
        "qemu:///system",
        "pause",
        time=81.0,
        lockspaces=tuple(Lockspace(name, 1, "/x") for name in spaces[:1]),
        leases=tuple(Lease(name, "r", 1) for name in spaces),
    )


def test_the_lockspaces() -> None:
    found = lockspace_rows(
        status({"name": "a"}, {"name": "b"}, {"name": "new", "list": "add"}),
        [row(a=2, b=1), row(a=1)],
        [record("a", "gone"), record("gone")],
    )
    assert [(each.name, each.domains, each.waiting, each.stage(1010.0)) for each in found] == [
        ("a", 2, 1, RENEWED),
        ("b", 1, 0, RENEWED),
        ("gone", 0, 2, ABSENT),
    ]
    assert is_at_rest(found, 1010.0)
    assert not is_at_rest(found, 1030.0)
    again = read_again(found, {"a": {**VALUES, "renew_fail": "1"}}, {})
    assert [each.stage(1010.0) for each in again] == [LOST, None, ABSENT]
    # One that is joined again meanwhile is seen by the next reading of all.
    assert [each.name for each in again] == ["a", "b", "gone"]


@pytest.mark.parametrize(
    ("changes", "waiting", "is_shown"),
    [
        ({}, False, False),
        ({"renew_fail": "1"}, False, True),
        ({}, True, True),
        ({"renew_fail": "1"}, True, True),
    ],
)
def test_the_outage_that_is_not_over(changes: dict[str, str], waiting: bool, is_shown: bool) -> None:
    events: list[OutageEvent] = events_of([lost(80.0), done(81.0)])
    records = {UUID: record("a")} if waiting else {}
    rows = lockspace_rows(status({"name": "a", **changes}), [], records.values())
    found = current_outage(rows, events, records, 1010.0)
    assert (found is not None) == is_shown
    if found is not None:
        assert (found.began, found.outcomes, found.waiting) == (80.0, {"done": 1}, int(waiting))
        assert current_outage(rows, [], records, 1010.0) is None


def test_a_row_without_renewals_is_at_rest() -> None:
    rows: list[Any] = [LockspaceRow("a", None), LockspaceRow("b", None, is_joined=False)]
    assert is_at_rest(rows, 0.0)
