# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journal is read back: lines, outages, times."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

import pytest

from sanlock_helper.cli.verbs import history
from sanlock_helper.errors import PermanentError, UsageError
from sanlock_helper.events import Event as LoggedEvent
from sanlock_helper.history.journal_entries import Entry, parse_entries, parse_since, read_file, read_journal
from sanlock_helper.history.outages import (
    OutageEvent,
    add_records,
    events_of,
    last_events,
    make_outages,
    name_kills,
    parse_line,
)
from sanlock_helper.records.record import Record

pytestmark = pytest.mark.pure

UUID = "defc17ee-2773-427c-8210-136921a454d3"
OTHER = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"
OURS = "virt-sanlock-helper"


def line(message: str, time: float = 1000.0) -> OutageEvent | None:
    return parse_line(Entry(time, OURS, message))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            f"pause vm1 {UUID}: done after 0.07 s: found running, suspended, verified paused, no lease held",
            OutageEvent(
                1000.0, "done", "pause", "vm1", UUID,
                "done after 0.07 s: found running, suspended, verified paused, no lease held",
                "running", "suspended", "paused, no lease held", "", 0.07,
            ),
        ),
        (
            f"restart a name {UUID}: NOT DONE after 1.00 s: found running, destroyed, verified off; why",
            OutageEvent(
                1000.0, "not done", "restart", "a name", UUID,
                "NOT DONE after 1.00 s: found running, destroyed, verified off; why",
                "running", "destroyed", "off", "why", 1.0,
            ),
        ),
        (
            f"poweroff - {UUID}: FAILED after 35.00 s at try 9: no answer; sanlock sends SIGKILL at 10:00:00",
            OutageEvent(
                1000.0, "failed", "poweroff", "", UUID,
                "FAILED after 35.00 s at try 9: no answer; sanlock sends SIGKILL at 10:00:00",
                note="no answer; sanlock sends SIGKILL at 10:00:00", seconds=35.0, tries=9,
            ),
        ),
        (
            f"pause vm1 {UUID}: try 2 failed: Connection refused; trying again, 3.1 s left",
            OutageEvent(
                1000.0, "try", "pause", "vm1", UUID,
                "try 2 failed: Connection refused; trying again, 3.1 s left", tries=2,
            ),
        ),
        (
            f"ignore {UUID}: nothing is done, as asked; sanlock sends SIGKILL at 10:00:00",
            OutageEvent(
                1000.0, "ignored", "ignore", "", UUID,
                "nothing is done, as asked; sanlock sends SIGKILL at 10:00:00",
            ),
        ),
        (
            f"recover vm1 {UUID}: done after 3.00 s: resumed",
            OutageEvent(
                1000.0, "done", "recover", "vm1", UUID, "done after 3.00 s: resumed",
                note="resumed", seconds=3.0,
            ),
        ),
        ("usage error: UUID: 'x' is malformed", None),
    ],
)  # fmt: skip
def test_a_line_is_an_event(message: str, expected: OutageEvent | None) -> None:
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
    domain = first.domains[UUID]
    assert domain.name == "vm1"
    assert domain.outcome is not None
    assert (domain.outcome.kind, domain.outcome.seconds) == ("done", 1.0)
    assert [event.note for event in domain.came_back] == ["resumed"]
    assert (second.lost, list(second.domains)) == ([], [OTHER])
    last = last_events(events_of(entries))
    assert (last[UUID].action, last[OTHER].action) == ("recover", "poweroff")


SANLOCKS = "2026-11-22 20:30:23 2912 [5]: "


def kills(*messages: str) -> list[OutageEvent]:
    """The events of sanlock's MESSAGES, one a second."""
    return events_of(Entry(1000.0 + number, "sanlock", text) for number, text in enumerate(messages))


def test_a_sigkill_after_the_grace_is_counted_once() -> None:
    events = kills(
        f"{SANLOCKS}s1 check_our_lease failed 80",
        # The killpath, once; then SIGKILL every second, under each lockspace that the process has a lease in.
        f"{SANLOCKS}s1 kill 79 sig 100 count 1",
        f"{SANLOCKS}s1 kill 79 sig 9 count 41",
        f"{SANLOCKS}s2 kill 79 sig 9 count 42",
        f"{SANLOCKS}s12 kill 80 sig 9 count 41",
        # sanlock -D logs to stderr as well, and so each line is there twice.
        f"{SANLOCKS}s12 kill 80 sig 9 count 41",
    )
    (outage,) = make_outages(events)
    assert [(event.pid, event.time) for event in outage.sigkills] == [(79, 1002.0), (80, 1004.0)]
    assert outage.sigterms == []


def test_a_process_without_a_killpath_gets_sigterm_first() -> None:
    events = kills(
        "s1 kill 79 sig 15 count 1",
        "s1 kill 79 sig 15 count 2",
        "s1 kill 79 sig 9 count 41",
        "s1 kill 80 sig 15 count 1",
    )
    (outage,) = make_outages(events)
    assert [event.pid for event in outage.sigterms] == [79, 80]
    assert [event.pid for event in outage.sigkills] == [79]
    assert (outage.began, outage.ended) == (1000.0, 1003.0)


@pytest.mark.parametrize("version", ["8", "80", "-5", "12 timeout 80 renewals"])
def test_a_loss_in_any_version_of_sanlock(version: str) -> None:
    # 5.x appends a reason.
    assert [event.kind for event in kills(f"{SANLOCKS}s1 check_our_lease failed {version}")] == ["lost"]


@pytest.mark.parametrize(
    "message",
    [
        "s1 kill 79 sig 100 count 1",
        "s1 kill 79 sig 9",
        "s1 send_helper_kill pid 79 sig 9 full_count 1",
        "s1 check_our_lease warning 7 last_success 2904",
        "s1 check_our_lease good 79 2904",
        # Any user of sanlock may choose the name of a lockspace or a resource.
        f"{SANLOCKS}add_lockspace s1 kill 79 sig 9 count 41:1:/x:0 failed -1",
        f"{SANLOCKS}r2 cmd_acquire x s1 check_our_lease failed 8",
        "kill 79 sig 9 count 41",
        f"{SANLOCKS}s1 kill {'9' * 5000} sig 9 count 1",
    ],
)
def test_what_is_no_kill_and_no_loss(message: str) -> None:
    assert kills(message) == []


def test_a_killed_process_has_its_domains_name() -> None:
    ours = [
        Entry(
            990.0,
            OURS,
            f"pause a\\nb {UUID}: try 1 failed: pause the domain: it is paused, but process 79 still holds "
            "x; trying again, 3.1 s left",
        ),
    ]
    records = [
        Record(OTHER, "vm2", "qemu:///system", "pause", pid=80, time=1000.5),
        # Another process of that id, long ago, and one that was not there yet.
        Record(OTHER, "vm2", "qemu:///system", "pause", pid=81, time=100.0),
        Record(OTHER, "vm2", "qemu:///system", "pause", pid=82, time=1900.0),
    ]
    found = kills(*(f"s1 kill {pid} sig 9 count 41" for pid in (79, 80, 81, 82)))
    named = name_kills([*events_of(ours), *found], records)
    (outage,) = make_outages(named)
    assert [(event.pid, event.name, event.uuid) for event in outage.sigkills] == [
        (79, "a\nb", UUID),
        (80, "vm2", OTHER),
        (81, "", ""),
        (82, "", ""),
    ]
    # What sanlock did to a domain is the last that happened to it.
    assert {uuid: event.kind for uuid, event in last_events(named).items()} == {
        UUID: "sigkill",
        OTHER: "sigkill",
    }


@pytest.mark.parametrize("name", ["b\\xfcro", "a\\", "a\\x0", "a\\U00ffffff", "a\\Nb", "\\x41", "\\x3ab"])
def test_a_name_that_another_program_wrote_stays_as_it_is(name: str) -> None:
    event = line(f"pause {name} {UUID}: done after 1.00 s: x")
    assert event is not None
    assert event.name == name


@pytest.mark.parametrize(
    ("text", "seconds", "tries"),
    [
        ("done after . s: x", None, None),
        ("done after 1.2.3 s: x", None, None),
        (f"done after {'9' * 5000} s: x", None, None),
        (f"FAILED after 1.00 s at try {'9' * 5000}: x", None, None),
        (f"try {'9' * 5000} failed: x", None, None),
        ("done after ٣ s: x", None, None),
        ("done after 1 s: x", 1.0, None),
    ],
)
def test_numbers_that_are_none(text: str, seconds: float | None, tries: int | None) -> None:
    event = line(f"pause vm1 {UUID}: {text}")
    assert event is not None
    assert (event.seconds, event.tries) == (seconds, tries)


# Each for the part of an expression that could go over it again and again.
HOSTILE = [
    ("pause ", "x "),
    ("", f"pause {UUID} "),
    ("pause x", " "),
    (f"pause vm1 {UUID}: ", "done after "),
    (f"pause vm1 {UUID}: done after ", "1"),
    (f"pause vm1 {UUID}: done: ", "found , verified ; "),
    (f"pause vm1 {UUID}: done: found ", ", "),
    (f"pause vm1 {UUID}: done: found x, y, verified ", "; "),
    (f"pause vm1 {UUID}: done: found x, y, verified z", " (1"),
    (f"pause vm1 {UUID}: done: found x, y, verified z (", "1"),
    (f"pause vm1 {UUID}: ", "process 1"),
    (f"pause vm1 {UUID}: process ", "1"),
    ("pause ", "\\x41"),
    ("pause ", "\\"),
    ("", "a"),
    ("", "a-"),
    ("", "2026-11-22 20:30:23 "),
    ("", "2912 [5]: "),
    ("s", "1"),
    ("", "s1 kill "),
    ("s1 kill ", "7"),
    ("", "s1 check_our_lease failed "),
]


@pytest.mark.parametrize("size", [60_000, 1_000_000])
@pytest.mark.parametrize(("head", "unit"), HOSTILE)
def test_a_long_line_costs_milliseconds(head: str, unit: str, size: int) -> None:
    message = head + unit * (size // len(unit))
    messages = [message, f"{message} {UUID}: x"]
    start = time.process_time()
    events_of(Entry(1.0, sender, text) for sender in (OURS, "sanlock") for text in messages)
    assert time.process_time() - start < 0.06 + size * 4e-7


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
    assert (first.lost, list(first.domains)) == ([], [UUID])
    assert (second.lost, list(second.domains)) == ([1001.0, 1001.0], [OTHER])


def test_a_story_without_an_end_shows_its_last_try() -> None:
    entry = Entry(1.0, OURS, f"pause vm1 {UUID}: try 1 failed: busy; trying again, 3.1 s left")
    (outage,) = make_outages(events_of([entry]))
    outcome = outage.domains[UUID].outcome
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
    outcome = outage.domains[UUID].outcome
    assert outcome is not None
    assert (outcome.kind, outcome.verified) == ("done", "off")
    assert last_events(events_of(entries))[UUID].kind == "done"


def exported(time: object, message: object, identifier: object = OURS, **fields: object) -> bytes:
    """As journalctl -o json has it; of root, where FIELDS have no other user."""
    stamp = str(int(time * 1e6)) if isinstance(time, float) else time
    entry = {"__REALTIME_TIMESTAMP": stamp, "SYSLOG_IDENTIFIER": identifier, "MESSAGE": message}
    return json.dumps({"_UID": "0", **entry, **fields}).encode()


def test_journalctls_json_is_read() -> None:
    lines = [
        exported(2.5, "later"),
        exported(1.5, list(b"bytes \xff")),
        exported(1.6, "somebody else's", "sshd"),
        exported(1.6, "forged", _UID="1000"),
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
    assert "-t virt-sanlock-helper -t sanlock --since=@4 _UID=0 + _SYSTEMD_UNIT=sanlock.service" in asked


UNIT = {"_UID": "179", "_SYSTEMD_UNIT": "sanlock.service"}


@pytest.mark.parametrize(
    ("identifier", "fields", "counts"),
    [
        (OURS, {}, True),
        (OURS, {"_UID": ["0", "0"]}, True),
        (OURS, {"_UID": "1000"}, False),
        (OURS, {"_UID": None}, False),
        (OURS, {"_UID": ["0", "1000"]}, False),
        (OURS, {"_UID": []}, False),
        (OURS, {"_UID": [48]}, False),
        (OURS, {"_UID": 0}, False),
        (OURS, {"_UID": "00"}, False),
        (OURS, {"_UID": "1000", "UID": "0"}, False),
        (OURS, {"_UID": {"0": "0"}}, False),
        (OURS, UNIT, False),
        ([OURS, "sshd"], {}, False),
        ("sanlock", {}, True),
        ("sanlock", UNIT, True),
        ("sanlock", {**UNIT, "_SYSTEMD_UNIT": ["sanlock.service", "sanlock.service"]}, True),
        ("sanlock", {**UNIT, "_SYSTEMD_UNIT": ["sanlock.service", "x.service"]}, False),
        ("sanlock", {**UNIT, "_SYSTEMD_UNIT": "user@179.service"}, False),
        ("sanlock", {"_UID": "1000", "_SYSTEMD_USER_UNIT": "sanlock.service"}, False),
        ("sanlock", {"_UID": "1000", "SYSTEMD_UNIT": "sanlock.service"}, False),
        ("sanlock", {"_UID": "1000", "_COMM": "sanlock", "_EXE": "/usr/sbin/sanlock"}, False),
        ("sanlock", {"_UID": "1000", "_SYSTEMD_UNIT": None}, False),
    ],
)
def test_only_what_journald_vouches_for_counts(
    identifier: object, fields: dict[str, object], counts: bool
) -> None:
    assert bool(parse_entries([exported(1.0, "x", identifier, **fields)])) is counts
    without = {key: value for key, value in json.loads(exported(1.0, "x")).items() if key != "_UID"}
    assert parse_entries([json.dumps(without).encode()]) == []


@pytest.mark.parametrize(
    "stamp",
    ["-1", "1e6", "", "x", "٣", "1_0", "9" * 19, "9" * 20, "9" * 5000, "nan", None, ["1", "2"], {}, 1.5e300],
)
def test_a_time_that_is_none_is_no_entry(stamp: object) -> None:
    fields = json.loads(exported(1.0, "x"))
    fields["__REALTIME_TIMESTAMP"] = stamp
    assert parse_entries([json.dumps(fields).encode()]) == []


@pytest.mark.parametrize(
    "message",
    [["a", "b"], [300], [-1], [[1]], {"a": 1}, 5, True],
)
def test_a_message_that_is_no_text_is_no_event(message: object) -> None:
    assert events_of(parse_entries([exported(1.0, message), exported(2.0, message, "sanlock")])) == []


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[]", b"1", b'"x"', b"null", b"{}", b"\xff\xfe", b""])
def test_a_line_that_is_no_entry(text: bytes) -> None:
    assert parse_entries([text, exported(1.0, "x")]) == [Entry(1.0, OURS, "x")]


def test_a_journal_without_a_message_for_us(tmp_path: Path) -> None:
    text = 'case $* in *--header*) echo "File path: /run/log/journal/x";; esac'
    assert read_journal(0.0, program=journalctl(tmp_path / "journalctl", text)) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # systemd 252 without files: it reports that, but not with -o json.
        ('case $* in *--header*) echo "No journal files were found." >&2;; esac', "this host keeps none"),
        ("exit 4", "status 4"),
        # As journalctl answers a user that is not root, with status 0 and no messages.
        ("echo 'Hint: You are currently not seeing messages from other users.' >&2", "no permission"),
        ("echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1", "as root"),
        ("sleep 5", "not done within 0.2 s"),
    ],
)
def test_a_journal_that_cannot_be_read(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PermanentError, match=words):
        read_journal(0.0, 0.2, journalctl(tmp_path / "journalctl", text))
    with pytest.raises(PermanentError, match="missing"):
        read_journal(0.0, program=str(tmp_path / "missing"))
    with pytest.raises(PermanentError, match="No such file"):
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


@pytest.mark.parametrize(
    "content",
    [
        b"Nov 22 20:15:01 host virt-sanlock-helper[7]: poweroff vm1: done\n",
        b'{\n\t"MESSAGE" : "journalctl -o json-pretty"\n}\n',
        b'data: {"__REALTIME_TIMESTAMP":"1"}\n',
        b"\x1f\x8b\x08\x00 compressed",
        b"\0" * 5000,
    ],
)
def test_a_file_that_is_no_export_is_no_time_without_outages(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(PermanentError, match="no line of it is an entry of a journal") as caught:
        read_file(str(path), 0.0)
    assert "journalctl -o json" in caught.value.hint
    # One entry among them, of whatever program: what cannot be read is no event.
    path.write_bytes(content + b'\n{"__REALTIME_TIMESTAMP":"1","MESSAGE":"x","SYSLOG_IDENTIFIER":"cron"}\n')
    assert read_file(str(path), 0.0) == []


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_export_without_entries(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    assert read_file(str(path), 0.0) == []


def test_many_records_beside_many_events() -> None:
    """Each record was once compared with each event, which took seconds."""
    records = [Record(str(number), "vm", "qemu:///system", "poweroff", time=1e9) for number in range(4000)]
    events = [OutageEvent(1e9, "done", "poweroff", uuid=str(number)) for number in range(2000, 42000)]
    began = time.process_time()
    found = add_records(events, records)
    assert time.process_time() - began < 1
    assert len(found) == 40000 + 2000


@pytest.mark.parametrize("text", [OTHER, OTHER.upper()])
def test_a_name_that_is_another_domains_uuid(text: str) -> None:
    named = OutageEvent(1.0, "done", "poweroff", name=OTHER, uuid="defc17ee-2773-427c-8210-136921a454d3")
    meant = OutageEvent(2.0, "done", "poweroff", name="vm2", uuid=OTHER)
    lost = OutageEvent(0.5, "lost")
    assert history._of_domain([lost, named, meant], text, "qemu:///system") == [lost, meant]
    if text == OTHER:
        assert history._of_domain([lost, named], text, "qemu:///system") == [lost, named]


DONE = LoggedEvent("done", "pause", UUID, "vm1", seconds="1.00", found="a", did="b", verified="c")
FAILED = LoggedEvent("failed", "pause", UUID, "vm\n1", seconds="35.00", tries=9, note="no answer", uri="x")


def read(message: str, **fields: object) -> OutageEvent | None:
    (entry,) = parse_entries([exported(1.0, message, **fields)])
    return parse_line(entry)


def test_the_fields_of_an_entry_count_before_its_text() -> None:
    expected = OutageEvent(
        1.0, "failed", "pause", "vm\n1", UUID, "reworded", note="no answer", seconds=35.0, tries=9
    )  # fmt: skip
    assert read(f"pause x {UUID}: reworded", **FAILED.fields()) == expected
    # journald gives what is not printable, as a name may be, as a list of bytes.
    name = {"DOMAIN_NAME": list(b"vm\n1")}
    assert read("reworded", **{**FAILED.fields(), **name}) == expected


@pytest.mark.parametrize("name", ["MESSAGE_ID", "DOMAIN_NAME", "DOMAIN_UUID", "VIRT_SANLOCK_HELPER_SECONDS"])
@pytest.mark.parametrize("value", [None, ["a", "b"], 5, {}, [300]])
def test_a_field_that_is_no_text_leaves_the_line(name: str, value: object) -> None:
    event = read(str(DONE), **{**FAILED.fields(), name: value})
    assert event is not None
    assert (event.kind, event.name, event.seconds) == ("done", "vm1", 1.0)


@pytest.mark.parametrize("number", ["", "x", "-1", "1e5", "9" * 5000, "nan", "٣"])
def test_a_field_that_is_no_number_is_not_known(number: str) -> None:
    fields = {"VIRT_SANLOCK_HELPER_SECONDS": number, "VIRT_SANLOCK_HELPER_TRIES": number}
    event = read("x", **{**FAILED.fields(), **fields})
    assert event is not None
    assert (event.kind, event.seconds, event.tries) == ("failed", None, None)


def test_fields_of_another_user_do_not_count() -> None:
    assert parse_entries([exported(1.0, "x", _UID="1000", **FAILED.fields())]) == []


def test_fields_beside_a_line_of_sanlock_change_nothing() -> None:
    (entry,) = parse_entries([exported(1.0, "s1 kill 79 sig 9 count 1", "sanlock", **FAILED.fields())])
    assert [event.kind for event in events_of([entry])] == ["sigkill"]


def test_a_kind_that_this_version_does_not_know_is_read_from_its_line() -> None:
    fields = {**FAILED.fields(), "MESSAGE_ID": "0" * 32}
    event = read(f"poweroff vm1 {UUID}: done after 1.00 s: found a, b, verified c", **fields)
    assert event is not None
    assert (event.kind, event.action, event.verified) == ("done", "poweroff", "c")


def test_what_libvirts_own_helper_did_is_an_outcome() -> None:
    for kind, outcome in (("stock-helper-done", "done"), ("stock-helper-powered-off", "not done")):
        event = line(str(LoggedEvent(kind, "restart", UUID, "", seconds="3.00")))
        assert event is not None
        assert (event.kind, event.seconds) == (outcome, 3.0)
