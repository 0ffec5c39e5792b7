# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journal never makes anybody wait."""

from __future__ import annotations

import syslog
import threading
import time

import pytest

from sanlock_helper.journal import MAX_BYTES, Journal

pytestmark = pytest.mark.pure


def test_levels_and_order() -> None:
    lines: list[tuple[int, str]] = []
    terminal: list[str] = []
    journal = Journal(lambda priority, line: lines.append((priority, line)), terminal.append)
    journal.warning("trying")
    journal.crit("failed")
    journal.log("error", "safe")
    journal.notice("done")
    assert journal.flush()
    assert lines == [
        (syslog.LOG_WARNING, "trying"),
        (syslog.LOG_CRIT, "failed"),
        (syslog.LOG_ERR, "safe"),
        (syslog.LOG_NOTICE, "done"),
    ]
    assert terminal == [f"virt-sanlock-helper: {line}" for _, line in lines]


def test_a_syslog_that_blocks_holds_up_nobody() -> None:
    release = threading.Event()

    def blocked(_priority: int, _line: str) -> None:
        release.wait()

    journal = Journal(blocked, lambda line: None)
    start = time.monotonic()
    journal.notice("one")
    journal.notice("two")
    assert not journal.flush(timeout=0.1)
    assert time.monotonic() - start < 5
    release.set()


def test_a_silent_journal_is_flushed_at_once() -> None:
    assert Journal().flush(timeout=0)


def test_any_text_is_one_line_everywhere() -> None:
    lines: list[str] = []
    terminal: list[str] = []
    journal = Journal(lambda _priority, line: lines.append(line), terminal.append)
    journal.notice("a\nb\x1b[2J\x9b\u202e\u2028\udcff\0é")
    assert journal.flush()
    assert lines == ["a\\nb\\x1b[2J\\x9b\\u202e\\u2028\\udcff\\x00é"]
    assert terminal == [f"virt-sanlock-helper: {lines[0]}"]


def test_a_line_that_journalctl_would_not_give_is_cut() -> None:
    lines: list[str] = []
    journal = Journal(lambda _priority, line: lines.append(line), lambda _line: None)
    for text in ("x" * MAX_BYTES, "x" * (MAX_BYTES + 1), "é\n" * 100_000):
        journal.notice(text)
    assert journal.flush(timeout=30)
    assert lines[0] == "x" * MAX_BYTES
    assert all(line.endswith(" [...]") and len(line.encode()) <= MAX_BYTES for line in lines[1:])


def test_an_unknown_level_is_an_error() -> None:
    lines: list[tuple[int, str]] = []
    journal = Journal(lambda priority, line: lines.append((priority, line)), lambda _line: None)
    for level in ("forged", "", "NOTICE"):
        journal.log(level, "x")
    assert journal.flush()
    assert lines == [(syslog.LOG_ERR, "x")] * 3


class BrokenReceipt:
    """One whose spool cannot be changed."""

    def __init__(self) -> None:
        self.was_told = False

    def logging(self) -> bool:
        raise OSError("read-only")

    def logged(self) -> None:
        self.was_told = True
        raise OSError("read-only")


@pytest.mark.parametrize("broken", ["syslog", "terminal", "both"])
def test_the_thread_goes_on_whatever_fails(broken: str, capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    terminal: list[str] = []

    def to_syslog(_priority: int, line: str) -> None:
        if line == "one" and broken in ("syslog", "both"):
            raise ValueError("no\nsyslog")
        lines.append(line)

    def to_terminal(line: str) -> None:
        if line.endswith("one") and broken in ("terminal", "both"):
            raise KeyError("no terminal")
        terminal.append(line)

    journal = Journal(to_syslog, to_terminal)
    receipt = BrokenReceipt()
    journal.log("notice", "one", receipt)
    journal.log("notice", "two", BrokenReceipt())
    journal.notice("three")
    assert journal.flush()
    # One that does not know whether another process logs the line logs it all the same.
    assert lines[-2:] == ["two", "three"]
    assert len(terminal) == (3 if broken == "syslog" else 2)
    assert receipt.was_told
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("virt-sanlock-helper: write the log: ") for line in errors)
