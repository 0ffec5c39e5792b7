# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one way in which other programs are run: what is missing, what hangs, what is no text."""

from __future__ import annotations

import ast
import os
import time
from pathlib import Path

import pytest

from sanlock_helper.command import NO_END, NOT_RUN, run

from .layers import TOP, modules, statements

pytestmark = pytest.mark.pure

# The verb `run` waits for as long as the helper takes, on this terminal.
ELSEWHERE = {"cli/verbs/run.py"}


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return str(path)


def test_what_a_program_prints_is_kept_as_bytes(tmp_path: Path) -> None:
    answer = run([script(tmp_path / "p", "printf 'a\\377'; printf 'b\\376\\nc' >&2; exit 3")], 10)
    assert (answer.status, answer.output, answer.errors, answer.problem) == (3, b"a\xff", b"b\xfe\nc", "")
    assert (answer.stdout, answer.stderr) == ("a\udcff", "b\udcfe\nc")
    assert os.fsencode(answer.stdout) == answer.output
    assert answer.why == "b\udcfe"


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (None, 0o755, "No such file or directory"),
        ("exit 0", 0o644, "Permission denied"),
    ],
)
def test_a_program_that_cannot_be_run(tmp_path: Path, text: str | None, mode: int, why: str) -> None:
    path = tmp_path / "program"
    if text is not None:
        script(path, text, mode)
    answer = run([str(path)], 10)
    assert (answer.status, answer.problem) == (NOT_RUN, f"{path}: {why}")
    assert answer.why == answer.problem


def test_an_argument_with_a_nul_is_no_exception() -> None:
    answer = run(["/bin/echo", "a\0b"], 10)
    assert answer.status == NOT_RUN
    assert "/bin/echo" in answer.problem


def test_a_child_that_keeps_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    answer = run([script(tmp_path / "p", "sleep 20\necho done")], 0.3)
    assert (answer.status, answer.problem) == (NO_END, f"{tmp_path}/p: no end within 0.3 s")
    assert time.monotonic() - began < 10


def test_the_environment_is_the_one_given_and_standard_input_is_empty(tmp_path: Path) -> None:
    path = script(tmp_path / "p", 'read line; echo "$? $HOME $X $PWD"')
    assert run([path], 10, {"X": "1"}).stdout == "1  1 /\n"


def test_a_signal_is_a_negative_status(tmp_path: Path) -> None:
    answer = run([script(tmp_path / "p", "kill -9 $$")], 10)
    assert (answer.status, answer.why) == (-9, "status -9")


def test_no_other_module_runs_a_program() -> None:
    found = set()
    for path, tree in modules(TOP, r"\bsubprocess\b"):
        for node in statements(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if "subprocess" in names:
                found.add(str(path.relative_to(TOP)))
    assert found - ELSEWHERE == {"command.py"}
