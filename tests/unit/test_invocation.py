# SPDX-License-Identifier: LGPL-2.1-or-later
"""The argument contract."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanlock_helper.errors import UsageError
from sanlock_helper.invocation import ACTIONS, Invocation

pytestmark = pytest.mark.pure

URI = "qemu:///system"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


@pytest.mark.parametrize("action", ACTIONS)
def test_what_libvirt_registers(action: str) -> None:
    invocation = Invocation.parse([URI, UUID, action])
    assert (invocation.uri, invocation.uuid, invocation.action) == (URI, UUID, action)
    assert invocation.pid is None
    assert invocation.budget is None


def test_pid_appended_by_sanlock() -> None:
    assert Invocation.parse([URI, UUID, "pause", "4711"]).pid == 4711


@pytest.mark.parametrize("budget", [["--budget", "2.5"], ["--budget=2.5"], ["--budget=2.5", "--"]])
def test_budget(budget: list[str]) -> None:
    assert Invocation.parse([*budget, URI, UUID, "pause"]).budget == 2.5


@pytest.mark.parametrize("uuid", [UUID.upper(), UUID.replace("-", "")])
def test_uuid_is_brought_into_libvirts_form(uuid: str) -> None:
    assert Invocation.parse([URI, uuid, "pause"]).uuid == UUID


def test_uri_with_blanks_and_utf8_stays_as_it_is() -> None:
    uri = "test:///tmp/a b/é.xml?x=%20"
    assert Invocation.parse([uri, UUID, "pause"]).uri == uri


@pytest.mark.parametrize(
    ("arguments", "what", "why"),
    [
        ([], "arguments", "got 0 words"),
        ([URI, UUID], "arguments", "got 2 words"),
        ([URI, UUID, "pause", "1", "2"], "arguments", "got 5 words"),
        (["", UUID, "pause"], "URI", "is empty"),
        (["  ", UUID, "pause"], "URI", "is empty"),
        (["qemu:///\n", UUID, "pause"], "URI", "control characters"),
        (["qemu:///\x7f", UUID, "pause"], "URI", "control characters"),
        (["qemu:///\udcff", UUID, "pause"], "URI", "not UTF-8"),
        ([URI, "", "pause"], "UUID", "is empty"),
        ([URI, UUID[:-1], "pause"], "UUID", "malformed"),
        ([URI, UUID + "0", "pause"], "UUID", "malformed"),
        ([URI, UUID.replace("6", "g"), "pause"], "UUID", "malformed"),
        ([URI, "6695eb01f6a4-8304-79aa-97f2502e193f", "pause"], "UUID", "malformed"),
        ([URI, "-" + UUID, "pause"], "UUID", "malformed"),
        ([URI, "\uff16695eb01-f6a4-8304-79aa-97f2502e193f", "pause"], "UUID", "malformed"),
        ([URI, UUID, ""], "ACTION", "is empty"),
        ([URI, UUID, "default"], "ACTION", "unknown"),
        ([URI, UUID, "Pause"], "ACTION", "unknown"),
        ([URI, UUID, "pause "], "ACTION", "unknown"),
        ([URI, UUID, "pause", ""], "PID", "is empty"),
        ([URI, UUID, "pause", "0"], "PID", "not a process id"),
        ([URI, UUID, "pause", "-1"], "PID", "not a process id"),
        ([URI, UUID, "pause", "4194305"], "PID", "not a process id"),
        ([URI, UUID, "pause", "1" * 5000], "PID", "not a process id"),
        ([URI, UUID, "pause", "²"], "PID", "not a process id"),
        (["--budget"], "--budget", "needs"),
        (["--budget", "soon", URI, UUID, "pause"], "--budget", "not a number"),
        (["--budget=0", URI, UUID, "pause"], "--budget", "not a number"),
        (["--budget=1_0", URI, UUID, "pause"], "--budget", "not a number"),
        (["--budget=\u0663", URI, UUID, "pause"], "--budget", "not a number"),
        (["--budget=0x10", URI, UUID, "pause"], "--budget", "not a number"),
        (["--budget=5,0", URI, UUID, "pause"], "--budget", "not a number"),
        (["--budget=86401", URI, UUID, "pause"], "--budget", "not a number"),
        (["--budget=nan", URI, UUID, "pause"], "--budget", "not a number"),
        (["--budget=inf", URI, UUID, "pause"], "--budget", "not a number"),
        (["--verbose", URI, UUID, "pause"], "option", "unknown option '--verbose'"),
    ],
)
def test_bad_argument_is_named(arguments: list[str], what: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        Invocation.parse(arguments)
    assert caught.value.what == what
    assert why in caught.value.why
    assert "\n" not in str(caught.value)


def test_the_error_for_an_unknown_action_lists_the_actions() -> None:
    with pytest.raises(UsageError, match="poweroff, restart, pause, ignore"):
        Invocation.parse([URI, UUID, "kill"])


@given(st.lists(st.text(st.characters(), max_size=50), max_size=6))
def test_any_words_are_parsed_or_refused(arguments: list[str]) -> None:
    try:
        invocation = Invocation.parse(arguments)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert invocation.action in ACTIONS
        assert invocation.uri
        assert invocation.uri.isprintable()
