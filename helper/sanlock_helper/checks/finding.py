# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass

PASS = "pass"
WARN = "warn"
FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """The verdict (pass, warn or fail), what was found, what is wanted, and what to do about it."""

    name: str
    verdict: str
    found: str
    wanted: str = ""
    remedy: str = ""


def not_looked_at(name: str, why: object, remedy: str = "") -> Finding:
    """The Finding for what could not be looked at: never a pass, and no fail either."""
    return Finding(name, WARN, f"not looked at: {why}", "", remedy)
