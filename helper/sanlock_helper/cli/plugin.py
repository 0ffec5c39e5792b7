# SPDX-License-Identifier: LGPL-2.1-or-later
"""The result of `check` as a monitoring plugin gives it: one line, and an exit status of four.

Source: the guidelines of the Monitoring Plugins project, which Nagios, Icinga and others follow.
"""

from __future__ import annotations

from ..checks.finding import FAIL, PASS, WARN, Finding
from .check_lines import summary

OK, WARNING, CRITICAL, UNKNOWN = range(4)
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


def plugin_status(findings: list[Finding]) -> int:
    """CRITICAL where one failed; else UNKNOWN where one could not be made; else WARNING where one warns."""
    verdicts = {finding.verdict for finding in findings}
    if FAIL in verdicts:
        return CRITICAL
    if any(finding.unread for finding in findings):
        return UNKNOWN
    return WARNING if WARN in verdicts else OK


def plugin_line(findings: list[Finding]) -> str:
    """The status, the result, the names of what did not pass, and the numbers as performance data.

    What only follows from another finding is not named.
    """
    own = [finding for finding in findings if not finding.cause]
    bad = [finding.name for verdict in (FAIL, WARN) for finding in own if finding.verdict == verdict]
    numbers = (
        f"{word}={sum(finding.verdict == verdict for finding in findings)}"
        for word, verdict in (("failed", FAIL), ("warned", WARN), ("passed", PASS))
    )
    names = f" ({', '.join(bad)})" if bad else ""
    return f"SANLOCK {_WORDS[plugin_status(findings)]} - {summary(findings)[0]}{names} | {' '.join(numbers)}"
