# SPDX-License-Identifier: LGPL-2.1-or-later
"""The paragraph on one check, for `check --explain`."""

from __future__ import annotations

from ..checks.explanations import EXPLANATIONS
from ..checks.plan import CHECKS, HEADINGS
from ..errors import UsageError
from ..escapes import shown
from .suggestions import did_you_mean
from .terminal import paint, plain, print_pieces
from .wrapping import Piece


def explain(name: str) -> int:
    """Print what the check NAME examines, why that matters, and what to do; returns the exit status.

    Raises UsageError when there is no such check.
    """
    names = {check.name: check for check in CHECKS}
    # As it may be typed: in any case, without quotation marks.
    found = {each.lower(): each for each in names}.get(" ".join(name.lower().split()), "")
    if not found:
        hint = did_you_mean(name, names) or f"one of: {', '.join(names)}"
        raise UsageError("--explain", f"there is no check {shown(name)}", hint)
    print(paint(found, "bold") + f" ({HEADINGS[found]})")
    print()
    print_pieces(_pieces(EXPLANATIONS[found].text), indent=0)
    if wanted := names[found].wanted:
        print()
        print_pieces([Piece("wanted: "), Piece(plain(wanted))], indent=8)
    return 0


def _pieces(text: str) -> list[Piece]:
    """TEXT, where every other part stands between backquotes."""
    return [Piece(part, "", number % 2 == 1) for number, part in enumerate(text.split("`")) if part]
