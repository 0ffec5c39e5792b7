# SPDX-License-Identifier: LGPL-2.1-or-later
"""The packages of the program and the arrows between them, as its imports have them."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parents[2] / "helper" / "sanlock_helper"

# Modules on the top shelf that every package may use.
GROUND = {
    "__init__",
    "agent_state",
    "command",
    "distribution",
    "errors",
    "escapes",
    "events",
    "inherited_descriptors",
    "inotify",
    "journal",
    "memory_limits",
    "numbers",
    "regular_file",
    "threads",
    "timestamps",
}
# What a killpath process loads before it has to serve.
FAST = {"call", "handover", "invocation", "killpath", "spool"}


def modules(top: Path, pattern: str = "") -> Iterator[tuple[Path, ast.Module]]:
    """The path and the tree of each module below TOP whose text has PATTERN: to parse all takes a second."""
    for path in sorted(top.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if re.search(pattern, text, re.MULTILINE):
            yield path, ast.parse(text)


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements of TREE, with those in others, and without their expressions: a tenth of all nodes."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, field, None)
            # A lambda's body is an expression.
            left += inner if isinstance(inner, list) else []


def imported(path: Path, tree: ast.Module, top: Path) -> Iterator[str]:
    """The packages, and the modules of the top shelf, that the module at PATH imports from below TOP."""
    package = path.relative_to(top).parts[:-1]
    for node in statements(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = (*base, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                found = module[0] if module else alias.name
                yield found if (top / found).is_dir() or (top / f"{found}.py").exists() else "__init__"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            assert not any(name.split(".")[0] == top.name for name in names), (
                f"{path}: write relative imports"
            )


def arrows(top: Path) -> set[tuple[str, str]]:
    """Each (package, package that it imports) below TOP; a module of the top shelf stands for itself."""
    found = set()
    for path, tree in modules(top):
        parts = path.relative_to(top).parts
        here = parts[0] if len(parts) > 1 else path.stem
        found |= {(here, other) for other in imported(path, tree, top) if other != here}
    return found


@functools.cache
def own_arrows() -> frozenset[tuple[str, str]]:
    """Those of the program."""
    return frozenset(arrows(TOP))
