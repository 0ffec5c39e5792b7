# SPDX-License-Identifier: LGPL-2.1-or-later
"""SECURITY.md names a test for each claim: the tests are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_test_that_is_named_exists() -> None:
    # A file, and then the functions in it, up to the next file.
    parts = re.split(r"\b((?:unit|integration|e2e|packaging)/[\w/]+\.py)\b", PAGE)
    named = {
        (path, name)
        for path, text in zip(parts[1::2], parts[2::2])
        for name in re.findall(r"`(test_\w+)`", text)
    }
    assert len(named) > 20
    assert {(path, name) for path, name in named if name not in functions(TESTS / path)} == set()


def test_each_row_has_one() -> None:
    section = PAGE.partition("## What each can do")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 12
    assert [row for row in rows if "`test_" not in row.split(" | ")[-1]] == []
