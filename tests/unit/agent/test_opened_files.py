# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which files an agent keeps in memory: what a call opens, by the executable that makes the call."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.preconditions import need_programs

HELPER = Path(__file__).parents[3] / "helper"
FAST = {"__init__", "call", "handover", "invocation", "killpath", "spool"}


def listed(executable: str) -> dict[str, list[str]]:
    """What EXECUTABLE lists: the paths by "open" and "stat"."""
    command = [executable, "--list-files"]
    result = subprocess.run(command, capture_output=True, check=True, env={"LC_ALL": "C"})
    found: dict[str, list[str]] = {}
    for line in os.fsdecode(result.stdout).splitlines():
        word, _, path = line.partition(" ")
        found.setdefault(word, []).append(path)
    return found


def copied(folder: Path) -> Path:
    """A copy of the program in FOLDER, without byte code."""
    for name in ("helper", "auth"):
        shutil.copytree(HELPER.parent / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "helper"


@pytest.mark.parametrize("name", ["plain", "a b", "\udcff"], ids=ascii)
def test_what_a_call_opens_is_listed_wherever_the_program_is(tmp_path: Path, name: str) -> None:
    helper = copied(tmp_path / name)
    found = listed(str(helper / "libvirt_sanlock_helper"))
    assert set(found) == {"open", "stat"}
    ours = {Path(path).stem for path in found["open"] if path.startswith(str(helper))}
    assert ours >= FAST
    # Of the rest of the program only what these import, and what lists them.
    assert ours - FAST == {"libvirt_sanlock_helper", "inherited_descriptors", "opened_files"}
    assert all(os.path.exists(path) for path in found["open"])
    assert any("/libc.so" in path or "/libc-" in path for path in found["open"])


def test_the_source_of_byte_code_that_is_out_of_date_is_opened_too(tmp_path: Path) -> None:
    helper = copied(tmp_path / "program")
    compileall.compile_dir(helper / "sanlock_helper", quiet=2)
    source = helper / "sanlock_helper/killpath.py"
    os.utime(source, (1, 1))
    opened = listed(str(helper / "libvirt_sanlock_helper"))["open"]
    assert str(source) in opened
    assert any(path.startswith(str(source.parent / "__pycache__/killpath.")) for path in opened)


# A directory that is closed to the agent cannot be watched; sys.argv: where the package is, the executable.
RENEW = """
import sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.agent.kept_files import KeptFiles, Memory
files = KeptFiles(Memory(), sys.argv[2])
files.renew()
print(files.descriptor >= 0, *files.paths(), sep="\\n")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root without its capabilities")
def test_a_directory_that_is_closed_to_it_keeps_no_file_out(tmp_path: Path) -> None:
    need_programs("setpriv")
    # As installed: the executable has a folder of its own.
    helper, folder = copied(tmp_path / "program"), tmp_path / "libexec"
    folder.mkdir()
    text = (helper / "libvirt_sanlock_helper").read_text()
    executable = folder / "libvirt_sanlock_helper"
    executable.write_text(text.replace("/usr/share/virt-sanlock-helper", str(helper)))
    executable.chmod(0o755)
    os.chown(folder, 65534, 65534)
    folder.chmod(0o711)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
    command = [*without, "/usr/bin/python3", "-IB", "-c", RENEW, str(HELPER), str(executable)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert result.returncode == 0, result.stderr
    can_notice, *paths = result.stdout.splitlines()
    assert can_notice == "True"
    assert str(executable) in paths
    assert str(helper / "sanlock_helper/killpath.py") in paths
