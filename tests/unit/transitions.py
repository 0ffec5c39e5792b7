# SPDX-License-Identifier: LGPL-2.1-or-later
"""A table of transitions, as a docstring has it: it is what the code allows, no more and no less."""

from __future__ import annotations

from typing import Callable


def rows(docstring: str) -> set[tuple[str, str]]:
    """Each (phase, next phase) of the table in DOCSTRING."""
    lines = [line.strip() for line in docstring.splitlines()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    named = {name for row in cells[2:] for name in (*row[0].split(", "), row[2]) if name.isupper()}
    found = set()
    for row in cells[2:]:
        before = row[0].split(", ")
        if row[0].startswith("any but "):
            before = sorted(named - {row[0].removeprefix("any but ")})
        found |= {(one, row[2]) for one in before}
    return found


def allowed(names: list[str], can_enter: Callable[[str, str], bool]) -> set[tuple[str, str]]:
    """Each pair of NAMES whose first may become the second, by CAN_ENTER."""
    return {(one, two) for one in names for two in names if can_enter(one, two)}
