# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PASS = "pass"
WARN = "warn"
FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """The verdict (pass, warn or fail), what was found, what is wanted, and what to do about it.

    A check's function leaves the name empty, and what is wanted where the registry has it: see registry.py.
    `unread` is why the check could not be made at all, "" where it was made; `cause` the name of the check
    that reports the same reason, where another one does.
    """

    name: str
    verdict: str
    found: str
    wanted: str = ""
    remedy: str = ""
    unread: str = ""
    cause: str = ""

    def as_dict(self) -> dict[str, str]:
        """What packaging/schema has of it."""
        return {name: getattr(self, name) for name in ("name", "verdict", "found", "wanted", "remedy")}


def passed(found: str, wanted: str = "") -> Finding:
    """The host is ready as far as this check goes."""
    return Finding("", PASS, found, wanted)


def warned(found: str, remedy: str = "", wanted: str = "") -> Finding:
    """FOUND may do harm, and REMEDY ends it."""
    return Finding("", WARN, found, wanted, remedy)


def failed(found: str, remedy: str = "", wanted: str = "") -> Finding:
    """The host is not ready because of what was FOUND, and REMEDY ends it."""
    return Finding("", FAIL, found, wanted, remedy)


def judged(verdict: str, found: str, remedy: str = "", wanted: str = "") -> Finding:
    """The same with a VERDICT that depends on more than what was found."""
    return Finding("", verdict, found, wanted, remedy)


def not_checked(why: object, remedy: str = "", cause: str = "") -> Finding:
    """What could not be read: never a pass, and no failure either; CAUSE as in Finding."""
    return Finding("", WARN, f"not checked: {why}", "", remedy, unread=str(why) if cause else "", cause=cause)


def worst(findings: Iterable[Finding]) -> Finding:
    """The first of the worst FINDINGS."""
    return max(findings, key=lambda finding: (PASS, WARN, FAIL).index(finding.verdict))
