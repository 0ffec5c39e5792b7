# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's log of a domain: why its last run ended."""

from __future__ import annotations

import calendar
import os
from pathlib import Path

import pytest

from sanlock_helper.virt.domain_log import last_end

pytestmark = pytest.mark.pure

START = (
    "2026-11-25 16:17:07.309+0000: starting up libvirt version: 9.0.0, package: 9, hostname: h\nLC_ALL=C \\\n"
)
SIGNAL = "2026-11-25T16:17:08.992504Z qemu-system-x86_64: terminating on signal 15 from pid 17 (libvirtd)\n"
SINCE = float(calendar.timegm((2026, 11, 25, 16, 17, 9)))


def end(reason: str, second: int = 11) -> str:
    return f"2026-11-25 16:17:{second:02}.661+0000: shutting down, reason={reason}\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (START + SIGNAL + end("destroyed"), "destroyed"),
        (START + end("crashed"), "crashed"),
        (START + end("from snapshot"), "from snapshot"),
        (START + end("crashed") + "trailing words of QEMU", "crashed"),
        (START + end("destroyed", 7) + START + end("crashed"), "crashed"),
        # Within the second in which the record was written.
        (START + end("crashed", 9), "crashed"),
        # Before; a run since; nothing; cut off; on another line of QEMU's.
        (START + end("destroyed", 8), ""),
        (end("destroyed") + START, ""),
        (START, ""),
        ("", ""),
        ("shutting down, reason=destroyed\n", ""),
        (f"guest: {end('destroyed')}", ""),
    ],
)
def test_the_last_end(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "vm1.log").write_text(text)
    assert last_end("vm1", SINCE, str(tmp_path)) == word


def test_the_end_of_a_long_log(tmp_path: Path) -> None:
    (tmp_path / "vm1.log").write_text(START + "x\n" * 300_000 + end("crashed"))
    assert last_end("vm1", SINCE, str(tmp_path)) == "crashed"


@pytest.mark.parametrize("name", ["R&D", "a b", "ü", "\udcff", "x" * 300, "a\0b"])
def test_any_name(tmp_path: Path, name: str) -> None:
    assert last_end(name, SINCE, str(tmp_path)) == ""
    if len(name) < 200 and "\0" not in name:
        (tmp_path / f"{name}.log").write_text(START + end("crashed"))
        assert last_end(name, SINCE, str(tmp_path)) == "crashed"


def test_what_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.log")
    (tmp_path / "directory.log").mkdir()
    (tmp_path / "link.log").symlink_to("/dev/zero")
    for name in ("fifo", "directory", "link", "nothing"):
        assert last_end(name, SINCE, str(tmp_path)) == ""
