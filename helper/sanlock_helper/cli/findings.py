# SPDX-License-Identifier: LGPL-2.1-or-later
"""The findings of checks as text, a line each, written as soon as it is known."""

from __future__ import annotations

from collections.abc import Iterable

from ..checks.finding import FAIL, PASS, WARN, Finding
from .terminal import paint, plain

_COLOURS = {PASS: "green", WARN: "yellow", FAIL: "red"}


def print_findings(findings: Iterable[Finding], width: int, quiet: bool = False) -> list[Finding]:
    """Print FINDINGS with names WIDTH wide, QUIET those alone that did not pass; returns all of them."""
    found = []
    for finding in findings:
        found.append(finding)
        if not (quiet and finding.verdict == PASS):
            print(_line(finding, width), flush=True)
    return found


def _line(finding: Finding, width: int) -> str:
    verdict = paint(finding.verdict, _COLOURS[finding.verdict])
    text = f"{finding.name:<{width}}  {verdict}  {plain(finding.found)}"
    if finding.verdict != PASS:
        text += f"; wanted: {plain(finding.wanted)}" if finding.wanted else ""
        text += f"; remedy: {plain(finding.remedy)}" if finding.remedy else ""
    return text
