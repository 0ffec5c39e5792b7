# SPDX-License-Identifier: LGPL-2.1-or-later
"""What status shows of the past, and of which domains."""

from __future__ import annotations

import argparse
import threading
import time

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.cli.text_width import cut
from sanlock_helper.cli.verbs import status
from sanlock_helper.errors import PermanentError
from sanlock_helper.history.forecast import AtLoss, Row
from sanlock_helper.history.outages import OutageEvent
from sanlock_helper.leases.sanlock_status import HeldLease, SanlockStatus
from sanlock_helper.records.record import MARKS, Record
from sanlock_helper.timestamps import moment
from sanlock_helper.virt.domain_state import STATES
from sanlock_helper.virt.inventory import KnownDomain

UUID = "defc17ee-2773-427c-8210-136921a454d3"
DONE = OutageEvent(1e9, "done", "poweroff")


@pytest.mark.parametrize(
    ("last", "mark", "text"),
    [
        (None, None, "-"),
        (DONE, None, f"poweroff done, {moment(1e9)}"),
        (DONE, "", f"poweroff done, {moment(1e9)}; waits for recovery"),
        (None, "", "waits for recovery"),
        (DONE, "refused", f"poweroff done, {moment(1e9)}; refused by recovery"),
        (None, "starting", "waits for recovery, which was starting it"),
        (None, "resuming", "waits for recovery, which was resuming it"),
    ],
)
def test_what_happened_last(last: OutageEvent | None, mark: str | None, text: str) -> None:
    record = None if mark is None else Record(UUID, "vm1", "qemu:///system", "poweroff", mark=mark)
    assert status._last(last, record) == text


def test_each_mark_of_a_record_has_its_words() -> None:
    assert set(status._WAITS) == set(MARKS)


@pytest.mark.parametrize("word", STATES)
def test_each_state_can_be_asked_for(word: str) -> None:
    for typed in (word, word.upper(), word.replace(" ", ""), word.replace(" ", "-")):
        assert status._state(typed) == word
    row = Row(KnownDomain("vm1", UUID, 1, f"{word} (a reason)", None), {}, (), AtLoss(""), None)
    assert status._is_wanted(row, argparse.Namespace(state=[word], name=None))
    other = next(each for each in STATES if each != word)
    assert not status._is_wanted(row, argparse.Namespace(state=[other], name=None))


OTHER = "11111111-2222-3333-4444-555555555555"


def row(name: str, uuid: str, number: int | None) -> Row:
    return Row(KnownDomain(name, uuid, number, "running", None), {}, (), AtLoss(""), None)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("3", "named 4"),
        ("4", "4"),
        (UUID.upper(), "named 4"),
        (UUID.replace("-", ""), "named 4"),
        (OTHER, "off"),
        ("off", "off"),
        ("a b", "a b"),
        ("{}", "{}"),
    ],
)
def test_a_domain_is_named_as_virsh_takes_it(typed: str, found: str) -> None:
    rows = [
        row("named 4", UUID, 3),
        row("4", "22222222-2222-3333-4444-555555555555", None),
        row("3", "33333333-2222-3333-4444-555555555555", 7),
        row("off", OTHER, None),
        row("a b", "44444444-2222-3333-4444-555555555555", None),
        row("{}", "55555555-2222-3333-4444-555555555555", 8),
    ]
    assert [one.domain.name for one in status._named(rows, [typed])] == [found]


@pytest.mark.parametrize("typed", ["None", "", "-1", "03", " 3", "OFF", f"{{{UUID}}}"])
def test_what_names_no_domain(typed: str) -> None:
    with pytest.raises(PermanentError, match="there is no such domain"):
        status._named([row("off", OTHER, None), row("vm1", UUID, 3)], [typed])


@pytest.mark.parametrize("typed", ["", "1_0", "\u0663", "nan", "inf", "0", "0.09", "86401", "1e9", "2 s"])
def test_what_is_no_time_between_two_watches(typed: str) -> None:
    assert status._seconds("2.5") == 2.5
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not 0\.1 to 86400 seconds"):
        status._seconds(typed)


@pytest.mark.parametrize("typed", ["", "runing", "off", "\x1b[2J", "x" * 500])
def test_what_is_no_state(typed: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is no state of a domain; (?:did|one)"):
        status._state(typed)


@pytest.mark.parametrize(
    ("text", "width", "rest"),
    [("abc", 3, "abc"), ("abcd", 3, "abc"), ("日本語", 5, "日本"), ("e\u0301e\u0301x", 2, "e\u0301e\u0301")],
)
def test_a_line_is_cut_at_the_terminals_width(text: str, width: int, rest: str) -> None:
    assert cut(text, width) == rest


def test_a_process_whose_memory_hangs_keeps_no_status_from_being_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    domains = [KnownDomain("vm1", UUID, 3, "running", None)]
    hangs = threading.Event()

    def hang(*_: object) -> None:
        hangs.wait(10)

    monkeypatch.setattr(status, "find_forgotten", hang)
    monkeypatch.setattr(status, "LIBVIRT_SECONDS", 0.1)
    lease = HeldLease("LS", "disk", "/p", 0, 4711)
    start = time.monotonic()
    found, problems = status._with_forgotten(domains, SanlockStatus({}, (), (lease,)))
    hangs.set()
    assert time.monotonic() - start < 5
    assert found == domains
    assert problems == ["read the processes that hold leases: no answer within 0.1 s"]
