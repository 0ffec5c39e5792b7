# SPDX-License-Identifier: LGPL-2.1-or-later
"""What history counts to a loss, how often a domain was tried, and by what name it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanlock_helper.cli.verbs import history
from sanlock_helper.history.journal_entries import Entry
from sanlock_helper.history.outages import (
    LOSS_SECONDS,
    OutageEvent,
    events_of,
    make_outages,
    name_domains,
)
from sanlock_helper.records.record import Record
from sanlock_helper.virt.domain_names import names_by_uuid
from sanlock_helper.virt.status_files import StatusFiles

pytestmark = pytest.mark.pure

UUID = "defc17ee-2773-427c-8210-136921a454d3"
OTHER = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"
LOST = Entry(1000.0, "sanlock", "2026-11-22 20:30:23 2912 [5]: s1 check_our_lease failed 8")
DONE = "done after {} s: found running, suspended, verified paused, no lease held"


def ours(time: float, text: str, uuid: str = UUID, name: str = "vm1") -> Entry:
    return Entry(time, "virt-sanlock-helper", f"pause {name} {uuid}: {text}")


def shape(*entries: Entry) -> list[tuple[int, list[str]]]:
    """For each outage the number of losses, and the domains."""
    outages = make_outages(events_of(entries))
    return [(len(outage.lost), sorted(outage.domains)) for outage in outages]


@pytest.mark.parametrize("after", [0.1, 39.0, LOSS_SECONDS - 1])
def test_what_was_asked_for_at_the_loss_belongs_to_it(after: float) -> None:
    assert shape(LOST, ours(1000.0 + after, DONE.format(0.05))) == [(1, [UUID])]


@pytest.mark.parametrize("after", [LOSS_SECONDS + 1, 300.0, 599.0])
def test_what_was_asked_for_later_was_asked_for_by_hand(after: float) -> None:
    by_hand = ours(1000.0 + after, DONE.format(0.05), OTHER)
    assert shape(LOST, ours(1001.0, DONE.format(0.05)), by_hand) == [(1, [UUID]), (0, [OTHER])]


def test_what_took_its_time_was_asked_for_when_it_began() -> None:
    assert shape(LOST, ours(1200.0, DONE.format("199.50"))) == [(1, [UUID])]
    tried = ours(1002.0, "try 1 failed: busy; trying again, 198.0 s left")
    assert shape(LOST, tried, ours(1200.0, DONE.format(1.0))) == [(1, [UUID])]


def test_a_kill_belongs_to_the_loss_whatever_was_done_by_hand_meanwhile() -> None:
    by_hand = ours(1100.0, DONE.format(0.05), OTHER)
    kill = Entry(1101.0, "sanlock", "2026-11-22 20:30:23 2912 [5]: s1 kill 77 sig 9 count 41")
    first, second = make_outages(events_of([LOST, ours(1001.0, DONE.format(1.0)), by_hand, kill]))
    assert (len(first.sigkills), len(second.sigkills)) == (1, 0)


def test_a_run_by_hand_is_headed_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    (outage,) = make_outages(events_of([ours(1000.0, DONE.format(0.05))]))
    history._print(outage, False)
    head = capsys.readouterr().out.splitlines()[0]
    assert "lease lost" not in head
    assert head.endswith("no loss on record, as when it is done by hand: 1 domain")


@pytest.mark.parametrize(
    ("lines", "tries"),
    [
        ([DONE.format(0.1)], 0),
        (["try 1 failed: busy; trying again, 9.0 s left", DONE.format(0.1)], 1),
        # The agent logs a reason that recurs once.
        (["try 1 failed: busy; trying again, 9.0 s left", "done after 8.00 s at try 9: resumed"], 8),
        (["try 1 failed: a; trying again, 9.0 s left", "try 6 failed: b; trying again, 4.0 s left"], 6),
        (["FAILED after 35.00 s at try 12: busy"], 11),
        (["try 1 failed: busy", "try 2 failed: busy", DONE.format(0.1)], 2),
    ],
)  # fmt: skip
def test_tries_are_counted_as_they_were_made(
    lines: list[str], tries: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (outage,) = make_outages(events_of([ours(1000.0 + number, line) for number, line in enumerate(lines)]))
    assert outage.domains[UUID].failed_tries == tries
    assert history._domain_json(outage.domains[UUID])["failed_tries"] == tries
    history._print(outage, False)
    out = capsys.readouterr().out
    if not lines[-1].startswith("try"):
        assert (f"(failed before: {tries})" in out) is (tries > 0)


def named(events: list[OutageEvent]) -> list[str]:
    return [event.name for event in events]


def test_a_name_comes_from_whatever_knows_it() -> None:
    events = events_of([ours(1.0, DONE.format(1), name="-"), ours(9000.0, DONE.format(1)), LOST])
    assert named(name_domains(events, ())) == ["vm1", "vm1", ""]
    unknown = events[:1]
    record = Record(UUID, "by record", "qemu:///system", "pause")
    assert named(name_domains(unknown, [record])) == ["by record"]
    assert named(name_domains(unknown, [], lambda: {UUID: "by file"})) == ["by file"]
    assert named(name_domains(unknown, [record], lambda: 1 // 0)) == ["by record"]  # type: ignore[arg-type, return-value]
    assert named(name_domains(unknown, [])) == [""]


def test_the_names_that_libvirts_files_have(tmp_path: Path) -> None:
    domain = "<domain type='kvm'>\n  <name>x</name>\n  <uuid>{}</uuid>\n</domain>\n"
    (tmp_path / "a name & more.xml").write_text(domain.format(UUID.upper()))
    (tmp_path / "broken.xml").write_text("<domain><uuid>none</uuid>")
    (tmp_path / "autostart").mkdir()
    (tmp_path / "folder.xml").mkdir()
    (tmp_path / "other.txt").write_text(domain.format(OTHER))
    files = StatusFiles(str(tmp_path / "none"))
    assert names_by_uuid(files, str(tmp_path)) == {UUID: "a name & more"}
    assert names_by_uuid(files, str(tmp_path / "missing")) == {}


def test_an_outage_without_a_name_shows_the_uuid(capsys: pytest.CaptureFixture[str]) -> None:
    (outage,) = make_outages(events_of([ours(1.0, DONE.format(1), name="-")]))
    history._print(outage, False)
    assert f"{UUID}: pause done" in capsys.readouterr().out
