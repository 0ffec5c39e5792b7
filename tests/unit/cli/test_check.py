# SPDX-License-Identifier: LGPL-2.1-or-later
"""The exit status of `check`."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.finding import Finding
from sanlock_helper.checks.registry import Check
from sanlock_helper.cli.main import make_parser
from sanlock_helper.cli.verbs import check


@pytest.mark.parametrize(
    ("verdicts", "normal", "strict"),
    [(["pass"], 0, 0), (["pass", "warn"], 0, 1), (["warn", "fail"], 1, 1), (["fail", "pass"], 1, 1)],
)
def test_warnings_count_only_when_strict(
    verdicts: list[str], normal: int, strict: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It replaces the environment by that of sanlock.
    monkeypatch.setattr(os, "environ", dict(os.environ))
    checks = [
        Check("x", "", lambda _facts, verdict=verdict: (verdict,), lambda verdict: Finding("", verdict, ""))  # type: ignore[misc]
        for verdict in verdicts
    ]
    monkeypatch.setattr(check, "CHECKS", checks)
    for options, status in (([], normal), (["--strict"], strict), (["--quiet"], normal)):
        assert check.run(make_parser().parse_args(["check", *options])) == status
