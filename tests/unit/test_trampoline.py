# SPDX-License-Identifier: LGPL-2.1-or-later
"""The executable's text for a program that cannot be loaded: it is a string, which no linter reads."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
EXECUTABLE = TOP / "helper" / "libvirt_sanlock_helper"

# What the executable has when it runs the text.
AROUND = '''\
"""The text, as it runs."""

import posix
import sys

error = Exception()
'''


def fall_back() -> str:
    """The text of FALL_BACK."""
    for node in ast.parse(EXECUTABLE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FALL_BACK":
            assert isinstance(node.value, ast.Constant)
            return str(node.value.value)
    raise AssertionError("the executable has no FALL_BACK")


def ruff() -> str:
    """The linter of this environment; a build root has none."""
    found = shutil.which("ruff", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        if os.environ.get("SANLOCK_HELPER_REQUIRE") == "1":
            pytest.fail("ruff is missing", pytrace=False)
        pytest.skip("ruff is missing")
    return found


def lint(text: str, folder: Path) -> str:
    """What ruff's linter and formatter report of TEXT, by the rules of the checkout."""
    path = folder / "fall_back.py"
    path.write_text(text, encoding="utf-8")
    settings = ["--config", str(TOP / "pyproject.toml"), "--no-cache"]
    longest = ["--config", "lint.pycodestyle.max-line-length=115"]
    # Two of its comments are longer than a line may be.  Shortened they would make it another executable, and
    # hosts have the one whose sum tests/packaging/test_trampoline.py holds.
    words = ["check", "--output-format", "concise", *settings, *longest, str(path)]
    checked = subprocess.run([ruff(), *words], capture_output=True, text=True, check=False)
    words = ["format", "--check", "--diff", *settings, str(path)]
    formatted = subprocess.run([ruff(), *words], capture_output=True, text=True, check=False)
    problems = checked.stdout if checked.returncode else ""
    return problems + (formatted.stdout + formatted.stderr if formatted.returncode else "")


def test_the_text_is_clean(tmp_path: Path) -> None:
    assert lint(AROUND + fall_back(), tmp_path) == ""


@pytest.mark.parametrize("line", ["import re\n", "undefined()\n", "x = [ 1 ]\n"])
def test_a_fault_in_the_text_is_found(tmp_path: Path, line: str) -> None:
    assert lint(AROUND + fall_back() + line, tmp_path) != ""


def test_the_text_compiles() -> None:
    compile(fall_back(), str(EXECUTABLE), "exec")
