# SPDX-License-Identifier: LGPL-2.1-or-later
"""The packages of the program, and which of them may know which: see docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .layers import FAST, GROUND, TOP, arrows

pytestmark = pytest.mark.pure

TESTS = Path(__file__).parents[1]

# What each package may import beside GROUND: agent, recovery, history, checks, drill know not of one another.
ALLOWED: dict[str, set[str]] = {
    "leases": set(),
    "virt": {"leases"},
    "records": {"leases"},
    "install": {"leases"},
    "agent": {"records", "virt", "leases", "invocation", "spool"},
    "recovery": {"records", "virt", "leases"},
    "history": {"records", "virt", "leases", "invocation"},
    "checks": {"records", "virt", "leases", "install"},
    "drill": {"records", "virt", "leases", "install", "invocation", "spool"},
    "cli": {
        "agent",
        "recovery",
        "history",
        "checks",
        "drill",
        "install",
        "records",
        "virt",
        "leases",
        "invocation",
        "killpath",
    },
    # The process that has to act is the agent.
    "killpath": {"invocation", "spool", "agent"},
    "invocation": set(),
    "spool": {"invocation"},
}


def forbidden(top: Path) -> set[tuple[str, str]]:
    return {
        (here, other)
        for here, other in arrows(top)
        if other not in GROUND | ALLOWED.get(here, set()) or (here in GROUND and other not in GROUND)
    }


def test_arrows_point_one_way() -> None:
    assert forbidden(TOP) == set()
    assert {path.name for path in TOP.iterdir() if (path / "__init__.py").exists()} == ALLOWED.keys() - FAST
    assert {path.stem for path in TOP.glob("*.py")} == GROUND | FAST


def test_an_arrow_that_is_not_allowed_is_found(tmp_path: Path) -> None:
    for line, arrow in (
        ("from ..recovery.loop import Recovery\n", ("agent", "recovery")),
        ("def late() -> None:\n    from .. import cli\n", ("agent", "cli")),
    ):
        for name in ("agent", "recovery", "cli"):
            (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / "agent" / "x.py").write_text(line)
        assert forbidden(tmp_path) == {arrow}


def test_no_two_modules_have_names_that_differ_by_a_letter() -> None:
    stems = {
        (str(path.relative_to(TOP)), path.stem)
        for path in TOP.rglob("*.py")
        if path.stem != "__init__" and "verbs" not in path.parts and "checks" not in path.parts
    }
    names = [stem for _, stem in stems if stem != "main"]
    close = {
        (one, two)
        for one in names
        for two in names
        if one != two and two in (one + "s", one + "e", one + "d")
    }
    assert close == set()
    assert len(names) == len(set(names))


def test_no_test_imports_another_one() -> None:
    """What tests share is a module of its own: fakes.py, agent_world.py, e2e/lease_loss.py and the like."""
    found = [
        f"{path.relative_to(TESTS)} imports {node.module}"
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2].startswith("test_")
    ]
    assert found == []
