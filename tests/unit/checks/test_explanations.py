# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each check is explained, in the program and in docs/checks.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.explanations import EXPLANATIONS
from sanlock_helper.checks.plan import CHECKS, HEADINGS
from sanlock_helper.cli import main as cli

TOP = Path(__file__).parents[3]


def test_each_check_has_a_paragraph_and_no_other_has() -> None:
    assert [check.name for check in CHECKS] == list(EXPLANATIONS)
    assert set(HEADINGS) == set(EXPLANATIONS)


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_a_paragraph_has_all_three_parts(name: str) -> None:
    for part in EXPLANATIONS[name]:
        assert re.fullmatch(r"\S.*\.", part)
        assert part.count("`") % 2 == 0
        assert "  " not in part


def test_the_page_is_made_of_them() -> None:
    made = subprocess.run(
        [sys.executable, str(TOP / "packaging/make-checks")], check=True, capture_output=True, text=True
    ).stdout
    assert (TOP / "docs/checks.md").read_text() == made, "run packaging/make-checks >docs/checks.md"
    assert re.findall(r"^### (.+)$", made, re.MULTILINE) == list(EXPLANATIONS)


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_the_verb_explains_each(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (name, name.upper(), f" {name} "):
        assert cli.main(["check", "--explain", typed]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{name} (")
        assert EXPLANATIONS[name].examines.replace("`", "") in out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("kilpath", "did you mean killpath?"),
        ("lease", "leases"),
        ("", "one of: user, program"),
        ("\x1b[2J", "one of: user"),
        ("x" * 5000, "one of: user"),
        ("host-id", "did you mean host_id"),
    ],
)
def test_another_name_is_refused(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--explain", typed]) == 2
    error = capsys.readouterr().err
    assert error.startswith("virt-sanlock-helper: --explain: there is no check ")
    assert meant in error
    assert (error.count("\n"), "\x1b" in error) == (1, False)
