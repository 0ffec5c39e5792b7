# SPDX-License-Identifier: LGPL-2.1-or-later
"""The packages of the program, and which of them may know which: see docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from itertools import chain, combinations
from pathlib import Path

import pytest

from .layers import FAST, GROUND, TOP, arrows, modules, own_arrows, statements

pytestmark = pytest.mark.pure

TESTS = Path(__file__).parents[1]

# What each package may import beside GROUND: agent, recovery, history, checks, drill know not of one another.
ALLOWED: dict[str, set[str]] = {
    "leases": set(),
    "virt": {"leases"},
    "records": {"leases"},
    "install": {"leases"},
    "agent": {"records", "virt", "leases", "handover", "invocation", "spool"},
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
    "killpath": {"call", "handover"},
    # The process that has to act is the agent.
    "call": {"agent", "handover", "invocation", "spool"},
    "spool": {"handover", "invocation"},
    "invocation": set(),
    "handover": set(),
}


def forbidden(found: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    return {
        (here, other)
        for here, other in found
        if other not in GROUND | ALLOWED.get(here, set()) or (here in GROUND and other not in GROUND)
    }


def test_arrows_point_one_way() -> None:
    assert forbidden(own_arrows()) == set()
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
        assert forbidden(arrows(tmp_path)) == {arrow}


def differ_by_a_letter(one: str, other: str) -> bool:
    """Whether a letter that is changed, added or left out makes OTHER of ONE."""
    if len(one) == len(other):
        return sum(a != b for a, b in zip(one, other)) == 1
    short, long = sorted((one, other), key=len)
    return any(long[:at] + long[at + 1 :] == short for at in range(len(long)))


def test_no_two_modules_have_names_that_differ_by_a_letter() -> None:
    # A verb's module has the verb's name, and the module of checks that of what they examine.
    paths = [path for path in TOP.rglob("*.py") if path.stem not in ("__init__", "main")]
    names = sorted({path.stem for path in paths if path.parent.name != "verbs"})
    assert [pair for pair in combinations(names, 2) if differ_by_a_letter(*pair)] == []
    own = [path.stem for path in paths if path.parent.name not in ("verbs", "checks")]
    assert len(own) == len(set(own))
    for one, other in (("hold", "held"), ("pool", "spool"), ("domain", "domains"), ("name", "named")):
        assert differ_by_a_letter(one, other)
    assert not differ_by_a_letter("finding", "remedies")


def test_no_two_public_classes_have_one_name() -> None:
    """One word has one meaning: a reader who finds a class by its name finds the one that is meant."""
    homes: dict[str, list[str]] = {}
    for path, tree in modules(TOP, r"^class [^_]"):
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(TOP)))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}
    assert len(homes) > 100


# Of a screen, beside the parameters, the docstring and the comments.
MOST_LINES = 35


def lines_of(node: ast.FunctionDef, text: list[str]) -> int:
    """The lines of code in the body of the function NODE, in the TEXT of its module."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        return 0
    lines = text[body[0].lineno - 1 : node.end_lineno]
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)


def test_functions_fit_a_screen() -> None:
    found = {}
    for path, tree in chain(modules(TOP), modules(TOP.parents[1] / "auth")):
        text = path.read_text(encoding="utf-8").splitlines()
        for node in statements(tree):
            if isinstance(node, ast.FunctionDef):
                found[f"{path.name}: {node.name}"] = lines_of(node, text)
    assert {name: lines for name, lines in found.items() if lines > MOST_LINES} == {}
    assert len(found) > 1000


def private_reads(tree: ast.Module) -> list[str]:
    """The private fields that a test reads, but for those of its own classes and of named tuples."""
    nodes = list(ast.walk(tree))
    imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {alias.asname or alias.name for node in imports for alias in node.names}
    own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    fields = [node for node in nodes if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr)]
    of_self = {node.attr for node in fields if ast.unparse(node.value) in ("self", "cls")}
    return [
        ast.unparse(node)
        for node in fields
        if node.attr not in own | of_self | {"_replace", "_asdict", "_fields_"}
        and ast.unparse(node.value) not in modules
    ]


# A field with one underscore that is read of something else than self and cls: few modules have any.
PRIVATE = r"(?<![^.\w]self)(?<![^.\w]cls)\.[\s\\]*_[a-z]"

# A fault in the place of the program's own code; a case that cannot be made otherwise.
PLANTED = {"model/test_spool.py", "fuzz/targets.py", "integration/test_documents.py"}


def test_no_test_reads_a_private_field() -> None:
    """It would freeze the inside: a test asserts what its object shows."""
    found = {
        str(path.relative_to(TESTS)): reads
        for path, tree in modules(TESTS, PRIVATE)
        if (reads := private_reads(tree))
    }
    assert found.keys() - PLANTED == set(), found
    text = "import os\nos._exit(world.agent._spool.count)\nclass Fake:\n    def f(self): self._x = self._y\n"
    assert private_reads(ast.parse(text)) == ["world.agent._spool"]
    assert re.findall(PRIVATE, text) == ["._e", "._s"]
    assert re.search(PRIVATE, "itself.\\\n    _x")
    assert re.search(PRIVATE, "f().self._x")


def imports_of_tests(top: Path) -> list[str]:
    return [
        f"{path.relative_to(top)} imports {node.module}"
        for path, tree in modules(top, r"\btest_\w+[\s\\]+import\b")
        for node in statements(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2].startswith("test_")
    ]


def test_no_test_imports_another_one(tmp_path: Path) -> None:
    """What tests share is a module of its own: fakes.py, agent_world.py, e2e/lease_loss.py and the like."""
    assert imports_of_tests(TESTS) == []
    for number, line in enumerate(("from .test_x import y", "from ..unit.test_x \\\n  import y")):
        (tmp_path / f"{number}.py").write_text(f"def late() -> None:\n    {line}\n")
    assert imports_of_tests(tmp_path) == ["0.py imports test_x", "1.py imports unit.test_x"]
