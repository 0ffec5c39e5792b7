# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each kind of event: its line is taken apart again, and its id stands in the catalogue."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanlock_helper.events import (
    ACTION_KINDS,
    HOST_KINDS,
    KINDS,
    RECOVER,
    RECOVERY_HOST_KINDS,
    RECOVERY_KINDS,
    Event,
    outcome_parts,
    outcome_text,
)
from sanlock_helper.history.logged_events import from_fields, read_event
from sanlock_helper.invocation import ACTIONS
from sanlock_helper.journal import LEVELS, one_line

pytestmark = pytest.mark.pure

UUID = "defc17ee-2773-427c-8210-136921a454d3"
NUMBERS = {"count", "deaths", "every", "left", "requests", "seconds", "tries"}

# Any name that libvirt or this program could have: what is not to be seen, and what a line is made of.
NAMES = st.text(st.characters(), min_size=1) | st.text(st.sampled_from(list(": -\\x20a\n\u202e")), min_size=1)
DIGITS = st.integers(0, 999_999_999).map(str)
DECIMALS = st.tuples(DIGITS, DIGITS).map(".".join)
# Words that no sentence of this program holds.
WORDS = st.text(st.sampled_from("äöüABCQ/%"), min_size=1, max_size=8)
# Sentences of this program, and what ends its parts.
PIECES = sorted(
    {piece for kind in KINDS.values() for form in kind.forms for piece in re.split(r"\[|\]|\{[a-z]+\}", form)}
)
TEXTS = st.lists(WORDS | st.sampled_from([piece for piece in PIECES if piece]), min_size=1).map("".join)


def parts_of(form: str) -> tuple[list[str], list[str]]:
    """The parts that FORM always has, and those that it may have."""
    optional = re.findall(r"\{([a-z]+)\}", "".join(re.findall(r"\[[^]]*\]", form)))
    return [part for part in re.findall(r"\{([a-z]+)\}", form) if part not in optional], optional


@st.composite
def events(draw: st.DrawFn, texts: st.SearchStrategy[str], names: st.SearchStrategy[str] = NAMES) -> Event:
    kind = draw(st.sampled_from(sorted(KINDS)))
    form = draw(st.sampled_from(KINDS[kind].forms))
    needed, optional = parts_of(form)
    chosen = needed + [part for part in optional if draw(st.booleans())]
    # What a sentence has several times is a name of this program's own: the domain's, or a directory's.
    own = {part for part in chosen if form.count(f"{{{part}}}") > 1}
    parts = {
        part: draw(DIGITS | DECIMALS if part in NUMBERS else WORDS if part in own else texts)
        for part in dict.fromkeys(chosen)
    }
    action, uuid, name = "", "", None
    if kind in ACTION_KINDS:
        action, uuid = draw(st.sampled_from([*ACTIONS])), UUID
    elif kind not in HOST_KINDS:
        action, uuid = RECOVER, UUID if kind in RECOVERY_KINDS else ""
    if uuid:
        name = draw(st.none() | st.just("") | names)
    event = Event(kind, action, uuid, name, **parts)
    event.repeated = draw(st.booleans()) and kind in ACTION_KINDS
    return event


def shape(event: Event) -> tuple[object, ...]:
    return event.kind, event.action, event.uuid, event.name, event.parts, event.repeated


@given(events(WORDS))
def test_each_kind_is_read_as_it_was_written(event: Event) -> None:
    found = Event.parse(one_line(event.render()))
    assert found is not None
    assert shape(found) == shape(event)
    assert found.render() == event.render()


@given(events(TEXTS))
def test_a_text_that_resembles_a_sentence_changes_no_domain(event: Event) -> None:
    """The text of other programs may hold anything: the line stays as it is, and so does what it is about."""
    line = event.render()
    found = Event.parse(line)
    assert found is not None
    assert found.render() == line
    assert (found.action, found.uuid, found.name) == (event.action, event.uuid, event.name)


@given(events(TEXTS))
def test_each_kind_is_read_from_its_fields(event: Event) -> None:
    found = from_fields(event.fields())
    assert found is not None
    assert shape(found)[:3] == shape(event)[:3]
    assert (found.name, found.parts) == (event.name or "", event.parts)
    assert read_event("whatever", event.fields()) is not None


def test_a_number_of_its_own_is_a_field_alone() -> None:
    event = Event("done", "pause", UUID, "vm1", uri="qemu:///system", found="x", did="y", verified="z")
    assert event.render() == f"pause vm1 {UUID}: done: found x, y, verified z"
    assert event.fields() == {
        "MESSAGE_ID": "3b8a803a1db5463f8172789157e1c6c1",
        "DOMAIN_UUID": UUID,
        "DOMAIN_NAME": "vm1",
        "VIRT_SANLOCK_HELPER_ACTION": "pause",
        "VIRT_SANLOCK_HELPER_OUTCOME": "done",
        "VIRT_SANLOCK_HELPER_URI": "qemu:///system",
        "VIRT_SANLOCK_HELPER_FOUND": "x",
        "VIRT_SANLOCK_HELPER_DID": "y",
        "VIRT_SANLOCK_HELPER_VERIFIED": "z",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"MESSAGE_ID": "0" * 32},
        {"MESSAGE_ID": ""},
        {},
        {"DOMAIN_UUID": "x"},
        {"DOMAIN_UUID": UUID.upper()},
        {"VIRT_SANLOCK_HELPER_ACTION": "A b"},
        {"VIRT_SANLOCK_HELPER_ACTION": ""},
    ],
)
def test_fields_that_are_no_event_leave_the_line(fields: dict[str, str]) -> None:
    good = Event("done", "pause", UUID, "vm1", found="a", did="b", verified="c").fields()
    changed = {**good, **fields} if fields else {}
    assert from_fields(changed) is None
    found = read_event(f"poweroff vm2 {UUID}: FAILED after 1.00 s: x", changed)
    assert found is not None
    assert (found.kind, found.name, found.parts["note"]) == ("failed", "vm2", "x")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        ": ",
        f"pause {UUID}",
        f"Pause vm1 {UUID}: x",
        f"-p vm1 {UUID}: x",
        f"pause vm1 {UUID[:-1]}: x",
    ],
)
def test_a_line_that_is_none_of_ours(line: str) -> None:
    assert Event.parse(line) is None


def test_a_line_of_another_version_is_about_its_domain() -> None:
    found = Event.parse(f"pause {UUID}: acting without other processes: why")
    assert found is not None
    assert shape(found) == ("", "pause", UUID, None, {"note": "acting without other processes: why"}, False)
    assert (found.outcome, found.level) == ("note", "notice")
    assert found.fields()["DOMAIN_UUID"] == UUID
    assert "MESSAGE_ID" not in found.fields()


def test_a_defect_does_not_cost_the_line() -> None:
    assert Event("failed", "pause", UUID, "vm1").render() == f"pause vm1 {UUID}: failed: {{}}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("resumed", {"note": "resumed"}),
        ("found off, started, verified running, 1 lease held",
         {"found": "off", "did": "started", "verified": "running, 1 lease held"}),
        ("found off, started, verified running; why",
         {"found": "off", "did": "started", "verified": "running", "note": "why"}),
    ],
)  # fmt: skip
def test_what_was_found_done_and_verified(text: str, parts: dict[str, str]) -> None:
    assert outcome_parts(text) == parts
    if len(parts) > 1:
        assert outcome_text(**parts) == text


def test_the_table() -> None:
    assert len(KINDS) == sum(map(len, (ACTION_KINDS, HOST_KINDS, RECOVERY_KINDS, RECOVERY_HOST_KINDS)))
    assert len({kind.message_id for kind in KINDS.values()}) == len(KINDS)
    for kind in KINDS.values():
        assert re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", kind.message_id)
        assert kind.level in LEVELS
        assert kind.outcome in ("done", "not done", "failed", "try", "ignored", "note")
        # Names of journal fields; and each part is a number in every kind, or in none.
        for form in kind.forms:
            assert re.fullmatch(r"[^\[\]{}]*(\[[^\[\]]*\]|\{[a-z]+\}|[^\[\]{}])*", form)
