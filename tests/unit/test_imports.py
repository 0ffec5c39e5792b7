# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the fast path imports: hundreds of these processes start in the same second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

HELPER = Path(__file__).parents[2] / "helper"

HEAVY = {
    "argparse", "asyncio", "collections", "configparser", "contextlib", "dataclasses", "enum", "functools",
    "inspect", "json", "libvirt", "libvirtmod", "libvirt_auth", "logging", "os", "pathlib", "re", "sanlock",
    "site", "socket", "subprocess", "threading", "typing",
}  # fmt: skip

PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
import sanlock_helper
from sanlock_helper import killpath
killpath.Invocation.parse(["qemu:///system", "6695eb01-f6a4-8304-79aa-97f2502e193f", "pause"])
print(*sys.modules)
"""


def test_parsing_the_arguments_imports_c_modules_only() -> None:
    command = [sys.executable, "-ISB", "-c", PROBE, str(HELPER)]
    modules = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "sanlock_helper.invocation" in modules
    assert not modules & HEAVY
