# SPDX-License-Identifier: LGPL-2.1-or-later
"""The systemd units, as systemd itself reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
UNITS = sorted(path.name for path in (TOP / "packaging").glob("virt-sanlock-helper-recover.*"))

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and os.environ.get("SANLOCK_HELPER_REQUIRE") != "1",
    reason="systemd-analyze is missing",
)


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units, with the program in its place in this checkout."""
    for name in UNITS:
        text = (TOP / "packaging" / name).read_text()
        program = str(TOP / "helper" / "virt-sanlock-helper")
        (tmp_path / name).write_text(text.replace("/usr/bin/virt-sanlock-helper", program))
    return [str(tmp_path / name) for name in UNITS]


def test_verify(units: list[str]) -> None:
    assert UNITS == ["virt-sanlock-helper-recover.path", "virt-sanlock-helper-recover.service"]
    command = ["systemd-analyze", "verify", "--man=no", *units]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    # It returns 0 for unknown keys: what it prints counts.
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_security(units: list[str]) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", units[1]]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-200:]
