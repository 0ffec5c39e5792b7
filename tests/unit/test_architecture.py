# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/architecture.md is true: the drawing of the packages, the walk from the arguments to the journal."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from .layers import FAST, GROUND, TOP, own_arrows

pytestmark = pytest.mark.pure

CHECKOUT = TOP.parents[1]
PAGE = CHECKOUT / "docs" / "architecture.md"

MOST_STEPS = 8


@pytest.fixture(scope="module")
def found() -> set[tuple[str, str]]:
    """The arrows of the imports."""
    return between(own_arrows())


def between(found: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows of FOUND that do not end in the base, which every package may use."""
    return {(here, other) for here, other in found if here not in GROUND and other not in GROUND}


def drawn(page: str) -> list[tuple[str, str]]:
    """The arrows in the drawing of PAGE, in mermaid's syntax: one --> another & a third."""
    found = []
    for block in re.findall(r"^```mermaid\nflowchart TD\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            here, arrow, others = line.strip().partition(" --> ")
            assert arrow, f"no arrow: {line!r}"
            found += [(here, other) for other in others.split(" & ")]
    return found


def drawing(found: set[tuple[str, str]]) -> str:
    """The drawing of the arrows FOUND, the packages with the most first."""
    lines = {here: sorted(other for one, other in found if one == here) for here, _ in found}
    ordered = sorted(lines, key=lambda here: (-len(lines[here]), here))
    return "\n".join(f"    {here} --> {' & '.join(lines[here])}" for here in ordered)


def test_the_drawing_has_the_arrows_of_the_imports(found: set[tuple[str, str]]) -> None:
    in_page = drawn(PAGE.read_text(encoding="utf-8"))
    assert len(in_page) == len(set(in_page))
    assert set(in_page) == found, f"the drawing is now:\n{drawing(found)}"


def test_an_arrow_more_or_less_is_found(found: set[tuple[str, str]]) -> None:
    text = f"```mermaid\nflowchart TD\n{drawing(found)}\n```\n"
    assert set(drawn(text)) == found
    assert set(drawn(text.replace("    install --> leases\n", ""))) == found - {("install", "leases")}


def test_the_table_of_packages_has_each_once() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## The packages\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    packages = {path.name for path in TOP.iterdir() if (path / "__init__.py").exists()}
    assert sorted(named) == sorted(packages | FAST | (GROUND - {"__init__"}))


def steps() -> list[tuple[Path, str]]:
    """The file and the function of each step of the walk."""
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| `([\w.]+)\(\)` \|", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    return [(CHECKOUT / path, function) for _, path, function in rows]


def functions(path: Path) -> set[str]:
    """The functions of the module at PATH, methods behind the name of their class."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
    return found


def test_the_walk_has_few_steps_and_each_is_there() -> None:
    walk = steps()
    assert 1 < len(walk) <= MOST_STEPS
    assert len({path for path, _ in walk}) == len(walk)
    for path, function in walk:
        assert function in functions(path), f"{function}() is not in {path}"


def names_of(path: Path, function: str) -> set[str]:
    """What a caller may write for FUNCTION of the module at PATH: its name, or the table that holds it."""
    name = function.rpartition(".")[2]
    tables = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
    ]
    return {name} | {
        ast.unparse(table.target)
        for table in tables
        if name in (ast.unparse(value) for value in ast.walk(table) if isinstance(value, ast.Name))
    }


def test_each_step_is_reached_from_an_earlier_one() -> None:
    walk = steps()
    assert "sanlock_helper.killpath import main" in (CHECKOUT / "helper/libvirt_sanlock_helper").read_text()
    for number, (path, function) in enumerate(walk[1:], 1):
        before = [earlier.read_text(encoding="utf-8") for earlier, _ in walk[:number]]
        assert any(
            re.search(rf"\b{path.stem}\b", text) and re.search(rf"\b{name}\b", text)
            for text in before
            for name in names_of(path, function)
        ), f"{function}() is not called before step {number + 1}"
