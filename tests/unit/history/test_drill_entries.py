# SPDX-License-Identifier: LGPL-2.1-or-later
"""What drills have left in a journal is no outage, and what an outage has left beside it still is one."""

from __future__ import annotations

from sanlock_helper import DRILL_UUIDS, IDENTIFIER
from sanlock_helper.events import Event
from sanlock_helper.history.drill_entries import DRILL_SECONDS, without_drills
from sanlock_helper.history.journal_entries import SANLOCK, Entry
from sanlock_helper.history.outages import events_of, make_outages

SCRATCH = f"{DRILL_UUIDS}0123456789ab"
UUID = "ae573ddd-0d23-47ea-9e77-b4f953d63fbb"
DONE = "done after 0.07 s: found running, suspended, verified paused"


def ours(time: float, event: Event, fields: bool = True) -> Entry:
    return Entry(time, IDENTIFIER, event.render(), event.fields() if fields else {})


def sanlocks(time: float, text: str, prefix: str = "2026-11-22 20:30:23 2912 [5]: ") -> Entry:
    return Entry(time, SANLOCK, f"{prefix}{text}")


def drill(space: str = "5", end: str = "drill-passed", fields: bool = True) -> list[Entry]:
    return [
        ours(100.0, Event("drill-began", lockspace="virt-sanlock-helper-drill-x", space=space), fields),
        sanlocks(102.0, "s5 check_our_lease corrupt -5"),
        Entry(102.1, IDENTIFIER, f"pause virt-sanlock-helper-drill-x {SCRATCH}: {DONE}"),
        sanlocks(103.0, "s5 kill 79 sig 9 count 41"),
        ours(104.0, Event(end, note="x"), fields),
        # It comes to the journal by another way.
        sanlocks(105.0, "s5 kill 79 sig 9 count 42"),
    ]


def outages(entries: list[Entry]) -> list[tuple[list[float], list[str]]]:
    found = make_outages(events_of(without_drills(sorted(entries, key=lambda entry: entry.time))))
    return [
        (outage.lost, [*outage.domains, *(str(kill.pid) for kill in outage.sigkills)]) for outage in found
    ]


def test_a_drill_is_no_outage() -> None:
    for fields in (True, False):
        for end in ("drill-passed", "drill-failed"):
            assert outages(drill(end=end, fields=fields)) == []
    # Without what history knows of it, it would be one.
    assert len(make_outages(events_of(drill()))) == 1


def test_sanlock_without_its_time_of_day_is_read_as_well() -> None:
    entries = [
        *drill()[:1],
        sanlocks(102.0, "s5 check_our_lease failed 8", ""),
        sanlocks(103.0, "s5:r2 x", ""),
    ]
    assert outages(entries) == []


def test_an_outage_beside_a_drill_is_one() -> None:
    real = [
        sanlocks(102.0, "s1 check_our_lease failed 8"),
        Entry(102.5, IDENTIFIER, f"pause vm1 {UUID}: {DONE}"),
        sanlocks(103.0, "s1 kill 80 sig 9 count 41"),
    ]
    assert outages([*drill(), *real]) == [([102.0], [UUID, "80"])]


def test_the_number_is_the_drills_until_its_end_alone() -> None:
    later = [sanlocks(107.0, "s5 check_our_lease failed 8")]
    assert outages([*drill(), *later]) == [([107.0], [])]
    # A drill that was killed logs no end.
    killed = drill()[:2]
    assert outages([*killed, sanlocks(100.0 + DRILL_SECONDS - 1, "s5 kill 79 sig 9 count 42")]) == []
    assert len(outages([*killed, sanlocks(100.0 + DRILL_SECONDS + 1, "s5 check_our_lease failed 8")])) == 1


def test_a_drill_whose_number_is_not_known_hides_nothing_of_sanlocks() -> None:
    for space in ("", "x", "-1", "9" * 30):
        lost, domains = outages(drill(space=space))[0]
        assert (lost, domains) == ([102.0], ["79"])
