# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journal is read back: lines, outages, times."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from sanlock_helper.errors import FinalError, UsageError
from sanlock_helper.journal_entries import Entry, parse_entries, parse_since, read_file, read_journal
from sanlock_helper.outages import Event, events_of, last_events, make_outages, parse_line

pytestmark = pytest.mark.pure

UUID = "defc17ee-2773-427c-8210-136921a454d3"
OTHER = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"
OURS = "virt-sanlock-helper"


def line(message: str, time: float = 1000.0) -> Event | None:
    return parse_line(Entry(time, OURS, message))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            f"pause vm1 {UUID}: done after 0.07 s: found running, suspended, verified paused, no lease held",
            Event(
                1000.0, "done", "pause", "vm1", UUID,
                "done after 0.07 s: found running, suspended, verified paused, no lease held",
                "running", "suspended", "paused, no lease held", "", 0.07,
            ),
        ),
        (
            f"restart a name {UUID}: NOT DONE after 1.00 s: found running, destroyed, verified off; why",
            Event(
                1000.0, "not done", "restart", "a name", UUID,
                "NOT DONE after 1.00 s: found running, destroyed, verified off; why",
                "running", "destroyed", "off", "why", 1.0,
            ),
        ),
        (
            f"poweroff - {UUID}: FAILED after 35.00 s at try 9: no answer; sanlock sends SIGKILL at 10:00:00",
            Event(
                1000.0, "failed", "poweroff", "", UUID,
                "FAILED after 35.00 s at try 9: no answer; sanlock sends SIGKILL at 10:00:00",
                note="no answer; sanlock sends SIGKILL at 10:00:00", seconds=35.0, tries=9,
            ),
        ),
        (
            f"pause vm1 {UUID}: try 2 failed: Connection refused; trying again, 3.1 s left",
            Event(
                1000.0, "try", "pause", "vm1", UUID,
                "try 2 failed: Connection refused; trying again, 3.1 s left", tries=2,
            ),
        ),
        (
            f"ignore {UUID}: nothing is done, as asked; sanlock sends SIGKILL at 10:00:00",
            Event(
                1000.0, "ignored", "ignore", "", UUID,
                "nothing is done, as asked; sanlock sends SIGKILL at 10:00:00",
            ),
        ),
        (
            f"recover vm1 {UUID}: done after 3.00 s: resumed",
            Event(
                1000.0, "done", "recover", "vm1", UUID, "done after 3.00 s: resumed",
                note="resumed", seconds=3.0,
            ),
        ),
        ("usage error: UUID: 'x' is malformed", None),
    ],
)  # fmt: skip
def test_a_line_is_an_event(message: str, expected: Event | None) -> None:
    assert line(message) == expected


def test_an_outage_begins_with_the_loss_and_ends_with_what_came_back() -> None:
    entries = [
        Entry(1000.0, "sanlock", "2912 [5]: s1 check_our_lease warning 7 last_success 2904"),
        Entry(1001.0, "sanlock", "2026-11-22 20:30:23 2912 [5]: s1 check_our_lease failed 8"),
        Entry(1001.1, "sanlock", "2026-11-22 20:30:23 2912 [5]: s1 kill 79 sig 100 count 1"),
        Entry(1001.5, OURS, f"pause vm1 {UUID}: try 1 failed: busy; trying again, 3.1 s left"),
        Entry(
            1002.0, OURS, f"pause vm1 {UUID}: done after 1.00 s: found running, suspended, verified paused"
        ),
        Entry(1041.0, "sanlock", "s1 kill 80 sig 9 count 1"),
        Entry(1042.0, "sanlock", "s1 kill 80 sig 9 count 2"),
        # Hours later.
        Entry(9000.0, OURS, f"recover vm1 {UUID}: done after 3.00 s: resumed"),
        Entry(
            9001.0, OURS, f"poweroff vm2 {OTHER}: done after 0.10 s: found running, destroyed, verified off"
        ),
    ]
    first, second = make_outages(events_of(entries))
    assert (first.began, first.ended, first.lost) == (1001.0, 1041.0, [1001.0])
    assert [event.pid for event in first.sigkills] == [80]
    story = first.stories[UUID]
    assert story.name == "vm1"
    assert story.outcome is not None
    assert (story.outcome.kind, story.outcome.seconds) == ("done", 1.0)
    assert [event.note for event in story.came_back] == ["resumed"]
    assert (second.lost, list(second.stories)) == ([], [OTHER])
    last = last_events(events_of(entries))
    assert (last[UUID].action, last[OTHER].action) == ("recover", "poweroff")


def test_what_was_done_by_hand_before_a_loss_is_no_part_of_it() -> None:
    entries = [
        Entry(990.0, OURS, f"pause vm1 {UUID}: done after 1.00 s: found running, suspended, verified paused"),
        Entry(1001.0, "sanlock", "s1 check_our_lease failed 8"),
        Entry(1001.0, "sanlock", "s2 check_our_lease failed 8"),
        Entry(
            1002.0, OURS, f"poweroff vm2 {OTHER}: done after 0.10 s: found running, destroyed, verified off"
        ),
    ]
    first, second = make_outages(events_of(entries))
    assert (first.lost, list(first.stories)) == ([], [UUID])
    assert (second.lost, list(second.stories)) == ([1001.0, 1001.0], [OTHER])


def test_a_story_without_an_end_shows_its_last_try() -> None:
    entry = Entry(1.0, OURS, f"pause vm1 {UUID}: try 1 failed: busy; trying again, 3.1 s left")
    (outage,) = make_outages(events_of([entry]))
    outcome = outage.stories[UUID].outcome
    assert outcome is not None
    assert outcome.kind == "try"
    assert last_events(events_of([entry])) == {}


def test_one_outcome_for_several_requests() -> None:
    entries = [
        Entry(
            1.0, OURS, f"pause vm1 {UUID}: done after 0.07 s: found off, nothing, verified off (2 requests)"
        ),
        Entry(1.1, OURS, f"pause {UUID}: served together with an earlier request"),
    ]
    (outage,) = make_outages(events_of(entries))
    outcome = outage.stories[UUID].outcome
    assert outcome is not None
    assert (outcome.kind, outcome.verified) == ("done", "off")
    assert last_events(events_of(entries))[UUID].kind == "done"


def exported(time: float, message: object, identifier: str = OURS) -> bytes:
    fields = {
        "__REALTIME_TIMESTAMP": str(int(time * 1e6)),
        "SYSLOG_IDENTIFIER": identifier,
        "MESSAGE": message,
    }
    return json.dumps(fields).encode()


def test_journalctls_json_is_read() -> None:
    lines = [
        exported(2.5, "later"),
        exported(1.5, list(b"bytes \xff")),
        exported(1.6, "somebody else's", "sshd"),
        b"no json",
        b'{"MESSAGE": "no time"}',
        exported(1.7, None),
    ]
    assert parse_entries(lines) == [
        Entry(1.5, OURS, "bytes \\xff"),
        Entry(1.7, OURS, "None"),
        Entry(2.5, OURS, "later"),
    ]
    assert [entry.time for entry in parse_entries(lines, since=2.0)] == [2.5]


def journalctl(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_journal_is_asked_for_our_lines_and_sanlocks(tmp_path: Path) -> None:
    (tmp_path / "answer").write_bytes(exported(5.0, "x"))
    program = journalctl(tmp_path / "journalctl", f'echo "$@" > {tmp_path}/asked; cat {tmp_path}/answer')
    assert read_journal(4.0, program=program) == [Entry(5.0, OURS, "x")]
    asked = (tmp_path / "asked").read_text()
    assert "-t virt-sanlock-helper -t sanlock --since=@4" in asked


def test_a_journal_without_a_message_for_us(tmp_path: Path) -> None:
    text = 'case $* in *--header*) echo "File path: /run/log/journal/x";; esac'
    assert read_journal(0.0, program=journalctl(tmp_path / "journalctl", text)) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # systemd 252 without files: it says so, but not with -o json.
        ('case $* in *--header*) echo "No journal files were found." >&2;; esac', "this host keeps none"),
        ("exit 4", "status 4"),
        # As journalctl tells a user who is not root, with status 0 and no messages.
        ("echo 'Hint: You are currently not seeing messages from other users.' >&2", "no permission"),
        ("echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1", "as root"),
        ("sleep 5", "not done within 0.2 s"),
    ],
)
def test_a_journal_that_cannot_be_read(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FinalError, match=words):
        read_journal(0.0, 0.2, journalctl(tmp_path / "journalctl", text))
    with pytest.raises(FinalError, match="missing"):
        read_journal(0.0, program=str(tmp_path / "missing"))
    with pytest.raises(FinalError, match="No such file"):
        read_file(str(tmp_path / "missing"), 0.0)


NOW = datetime(2026, 11, 22, 20, 30)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("now", NOW),
        ("today", datetime(2026, 11, 22)),
        ("yesterday", datetime(2026, 11, 21)),
        ("2h", datetime(2026, 11, 22, 18, 30)),
        ("30 m ago", datetime(2026, 11, 22, 20, 0)),
        ("1w", datetime(2026, 11, 15, 20, 30)),
        ("2026-11-01", datetime(2026, 11, 1)),
        ("2026-11-01 08:15", datetime(2026, 11, 1, 8, 15)),
    ],
)
def test_since(text: str, when: datetime) -> None:
    assert parse_since(text, NOW) == when.timestamp()


@pytest.mark.parametrize("text", ["", "soon", "5", "99999999999w", "2026-13-01"])
def test_since_that_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        parse_since(text, NOW)
