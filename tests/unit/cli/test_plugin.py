# SPDX-License-Identifier: LGPL-2.1-or-later
"""The result of check for a monitoring system that runs plugins."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.facts import Facts
from sanlock_helper.checks.finding import Finding
from sanlock_helper.cli.main import make_parser
from sanlock_helper.cli.verbs import check

GOOD, ODD, BAD = (Finding(verdict, verdict, "x") for verdict in ("pass", "warn", "fail"))
UNREAD = replace(ODD, name="unread", unread="no answer")
FOLLOWS = replace(UNREAD, name="follows", cause="unread")


class Made:
    """A check that has been made."""

    def __init__(self, finding: Finding) -> None:
        self.name = finding.name
        self._finding = finding

    def run(self, _facts: Facts) -> Finding:
        """What it found."""
        return self._finding


@pytest.mark.parametrize(
    ("findings", "status", "line"),
    [
        ([GOOD], 0, "SANLOCK OK - 0 failed, 0 warnings, 1 passed: READY | failed=0 warned=0 passed=1"),
        (
            [GOOD, ODD],
            1,
            "SANLOCK WARNING - 0 failed, 1 warning, 1 passed: READY (warn) | failed=0 warned=1 passed=1",
        ),
        (
            [ODD, BAD, UNREAD],
            2,
            "SANLOCK CRITICAL - 1 failed, 2 warnings, 0 passed: NOT READY (fail, warn, unread) "
            "| failed=1 warned=2 passed=0",
        ),
        (
            [GOOD, UNREAD, FOLLOWS],
            3,
            "SANLOCK UNKNOWN - 0 failed, 2 warnings, 1 passed: NOT KNOWN, 2 not checked (unread) "
            "| failed=0 warned=2 passed=1",
        ),
    ],
)
def test_one_line_and_a_status(
    findings: list[Finding],
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # It replaces the environment by that of sanlock.
    monkeypatch.setattr(os, "environ", dict(os.environ))
    made = [Made(finding) for finding in findings]
    monkeypatch.setattr(check, "CHECKS", made)
    assert check.run(make_parser().parse_args(["check", "--nagios"])) == status
    assert capsys.readouterr().out == f"{line}\n"
