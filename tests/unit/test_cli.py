# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line's own doings: its streams, and errors that nobody thought of."""

from __future__ import annotations

import argparse
import io
import sys

import pytest

pytest.importorskip("libvirt")

from sanlock_helper import cli
from sanlock_helper.errors import FinalError
from sanlock_helper.verbs import history


def fail(_arguments: argparse.Namespace) -> int:
    raise ZeroDivisionError("one\ntwo")


def test_a_defect_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(history, "run", fail)
    assert cli.main(["history"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        r"virt-sanlock-helper: internal error: ZeroDivisionError('one\ntwo') in test_cli.py, line "
    )
    assert error.count("\n") == 1


def test_an_error_cannot_move_the_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_arguments: argparse.Namespace) -> int:
        raise FinalError("read a\x1b[2J", "b\nc", "d")

    monkeypatch.setattr(history, "run", run)
    assert cli.main(["history"]) == 1
    assert capsys.readouterr().err == "virt-sanlock-helper: read a\\x1b[2J: b\\nc (d)\n"


def test_any_text_can_be_written_to_any_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_arguments: argparse.Namespace) -> int:
        print("\u65e5 \udcff")
        return 0

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", "strict"))
    monkeypatch.setattr(history, "run", run)
    assert cli.main(["history"]) == 0
    assert written.getvalue() == b"\\u65e5 \\udcff\n"


def test_streams_that_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert cli.main(["--version"]) == 0
