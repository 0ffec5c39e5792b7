# SPDX-License-Identifier: LGPL-2.1-or-later
"""--debug and VIRT_SANLOCK_HELPER_DEBUG: tracebacks and debug lines where they are wanted."""

from __future__ import annotations

import argparse
import posix
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper import IDENTIFIER
from sanlock_helper.checks.facts import Facts, HostPaths
from sanlock_helper.checks.finding import passed
from sanlock_helper.checks.registry import Check
from sanlock_helper.cli import main as cli
from sanlock_helper.cli.verbs import history
from sanlock_helper.errors import PermanentError
from sanlock_helper.history.journal_entries import Entry
from sanlock_helper.history.outages import events_of
from sanlock_helper.journal import DEBUG_VARIABLE, Journal, log_debug, log_traceback, wants_debug
from tests.private_run import PRIVATE_RUN

HELPER = Path(__file__).parents[2] / "helper"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix, "environ", dict(posix.environ))
    monkeypatch.setenv(DEBUG_VARIABLE, "")
    posix.environ.pop(DEBUG_VARIABLE.encode(), None)


def wanted(value: bytes = b"1") -> None:
    posix.environ[DEBUG_VARIABLE.encode()] = value


def logged(error: BaseException | None = None) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    journal = Journal(lambda priority, line: lines.append((priority, line)), lambda _line: None)
    journal.log("notice", "done")
    if wants_debug():
        log_debug(journal, "attempt 1")
    if error is not None:
        log_traceback(journal, error)
    assert journal.flush(10)
    return lines


@pytest.mark.parametrize("value", [None, b"", b"0"])
def test_without_it_only_events_are_logged(value: bytes | None) -> None:
    if value is not None:
        wanted(value)
    assert logged(ValueError("x")) == [(5, "done")]


def test_with_it_debug_lines_are_logged_and_are_no_events() -> None:
    wanted()
    try:
        raise ValueError("a\x1b[2Jb")
    except ValueError as error:
        lines = logged(error)
    assert lines[:2] == [(5, "done"), (7, "debug: attempt 1")]
    assert lines[2] == (7, "debug: Traceback (most recent call last):")
    assert lines[-1] == (7, r"debug: ValueError: a\x1b[2Jb")
    entries = [Entry(1.0, IDENTIFIER, line) for _, line in lines[1:]]
    assert list(events_of(entries)) == []


ODD = [
    (PermanentError("read a\x1b[2J", "b", "c"), r"virt-sanlock-helper: read a\x1b[2J: b (c)"),
    (ZeroDivisionError("one"), "virt-sanlock-helper: internal error: ZeroDivisionError('one')"),
    (ImportError("no libvirt", name="libvirt"), "virt-sanlock-helper: load libvirt: no libvirt"),
]


@pytest.mark.parametrize("words", [["--debug", "history"], ["history", "--debug"]])
@pytest.mark.parametrize(("error", "last"), ODD, ids=lambda value: type(value).__name__)
def test_the_command_prints_where_an_error_was_raised(
    words: list[str],
    error: Exception,
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_arguments: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(history, "run", fail)
    assert cli.main(["history"]) == 1
    plain = capsys.readouterr().err.splitlines()
    assert len(plain) == 1
    assert plain[0].startswith(last)
    assert cli.main(words) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any(", in fail" in line for line in lines)
    assert lines[-1] == plain[0]
    assert "\x1b" not in "".join(lines)


def test_a_defect_in_a_check_is_traced(capfd: pytest.CaptureFixture[str]) -> None:
    def defect(_facts: Facts) -> tuple[str]:
        raise KeyError("Uid")

    broken = Check("x", "", defect, passed)
    assert broken.run(Facts(HostPaths())).verdict == "warn"
    assert capfd.readouterr().err == ""
    wanted()
    assert broken.run(Facts(HostPaths())).verdict == "warn"
    assert ", in defect" in capfd.readouterr().err


def helper(**environ: str) -> subprocess.CompletedProcess[str]:
    command = [*PRIVATE_RUN, str(HELPER / "libvirt_sanlock_helper"), "test:///default", UUID, "pause"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


def test_the_killpath_logs_each_attempt_and_connection() -> None:
    quiet = helper()
    assert (quiet.returncode, quiet.stderr.count("\n")) == (0, 1), quiet.stderr
    traced = helper(VIRT_SANLOCK_HELPER_DEBUG="1")
    assert traced.returncode == 0
    for words in ("attempt 1 of pause", "begins", "has opened a connection", "is over"):
        assert words in traced.stderr
    debug = [line for line in traced.stderr.splitlines() if ": debug: " in line]
    assert len(debug) == len(traced.stderr.splitlines()) - 1


PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.journal import Journal
Journal(lambda *_: None, lambda *_: None).prepare()
print(*sys.modules)
"""


@pytest.mark.parametrize(("environ", "loaded"), [({}, False), ({DEBUG_VARIABLE: "1"}, True)])
def test_what_prints_a_traceback_is_loaded_where_it_is_wanted(environ: dict[str, str], loaded: bool) -> None:
    command = [sys.executable, "-ISB", "-c", PROBE, str(HELPER)]
    modules = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout.split()
    assert ("traceback" in modules) is loaded
