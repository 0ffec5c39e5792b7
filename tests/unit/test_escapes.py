# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names and messages of other programs: one line whatever is in them, and the name comes back out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("libvirt")

from sanlock_helper.agent.attempt import Progress
from sanlock_helper.agent.jobs import Job
from sanlock_helper.agent.requests import Request
from sanlock_helper.escapes import printable, quoted, unquoted
from sanlock_helper.history.journal_entries import Entry
from sanlock_helper.history.outages import OutageEvent, parse_line
from sanlock_helper.journal import Journal
from sanlock_helper.leases.grace import Deadline
from sanlock_helper.records.record import Record

URI = "qemu:///system"
UUID = "defc17ee-2773-427c-8210-136921a454d3"
OTHER = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"

NAMES = [
    "vm1",
    "a name",
    "-",
    "--",
    " a ",
    "a:b",
    "a: b",
    "a:",
    ": ",
    "a\nb",
    "a\\nb",
    "\\",
    "\\x3a ",
    "a\tb\r",
    "\x1b[2J\x9b2J",
    "\u202e\u2066\u200f\u200b\u2028\ufeff\xad",
    "\udcff\ud800",
    "\0",
    "é日\U0001f600",
    f"x: done after 1 s {OTHER}: done",
    f"x {OTHER}: done after 0.1 s: found running, destroyed, verified off",
    f"{OTHER}: done",
    f"x\npoweroff vm {OTHER}: done after 0.1 s: found running, destroyed, verified off",
]


def line(message: str) -> OutageEvent:
    event = parse_line(Entry(1000.0, "virt-sanlock-helper", message))
    assert event is not None
    return event


@pytest.mark.parametrize("name", NAMES)
def test_any_name_comes_back_and_forges_nothing(name: str) -> None:
    lines: list[str] = []
    journal = Journal(lambda _priority, text: lines.append(text), lambda _text: None)
    journal.log("notice", f"recover {Record(UUID, name, URI, 'pause')}: done after 3.00 s: resumed")
    case = Job(Request(URI, UUID, "pause", Deadline(0.0, 40)), Progress())
    case.progress.name = name
    journal.log("crit", f"{case}: FAILED after 35.00 s at try 9: x {OTHER}: done after 1 s: y")
    assert journal.flush()
    recovered, failed = map(line, lines)
    assert (recovered.name, recovered.uuid, recovered.kind) == (name, UUID, "done")
    assert (failed.name, failed.uuid, failed.kind) == (name, UUID, "failed")
    assert all(text.isprintable() for text in lines)


@given(st.text(st.characters(), min_size=1))
def test_every_name_comes_back(name: str) -> None:
    assert unquoted(quoted(name)) == name
    event = line(f"recover {Record(UUID, name, URI, 'pause')}: done after 3.00 s: resumed")
    assert (event.name, event.uuid, event.kind) == (name, UUID, "done")


@given(st.text(st.characters()), st.text(st.characters()))
def test_a_text_is_one_line_and_escaped_once(text: str, other: str) -> None:
    once = printable(text)
    assert once.isprintable()
    assert printable(once) == once
    assert (quoted(text) == quoted(other)) is (text == other)


def test_what_is_harmless_stays_as_it_is() -> None:
    for name in ("vm1", "a name", "R&D", "a:b", "büro-日本", "x (2)", "50%"):
        assert quoted(name) == printable(name) == name


@pytest.mark.parametrize(
    "hidden",
    [
        *(*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x2028, 0x202F)),
        *(*range(0x2060, 0x2070), 0xFEFF, 0xD800, 0xDCFF, 0xDFFF, 0xE0001),
    ],
)
def test_what_is_invisible_is_escaped(hidden: int) -> None:
    assert printable(f"a{chr(hidden)}b").isascii()
    assert chr(hidden) not in printable(f"a{chr(hidden)}b")
