# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock's grace and the budget that follows."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from sanlock_helper.grace import Deadline, kill_grace_seconds

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("text", "grace"),
    [
        ("", 40),
        ("kill_grace_seconds = 25\n", 25),
        ("kill_grace_seconds=25", 25),
        ("kill_grace_seconds\t=\t25\n", 25),
        ("# kill_grace_seconds = 25\n", 40),
        (" kill_grace_seconds = 25\n", 40),
        ("kill_grace_seconds = 25 # why\n", 25),
        ("kill_grace_seconds = 0\n", 0),
        ("kill_grace_seconds = none\n", 0),  # atoi() reads a 0
        ("kill_grace_seconds = 60\n", 60),
        ("kill_grace_seconds = 61\n", 40),
        ("kill_grace_seconds = -1\n", 40),
        ("kill_grace_seconds 25\n", 40),
        ("kill_grace_seconds = 10\nkill_grace_seconds = 20\n", 20),
        ("kill_grace_seconds = 10\nkill_grace_seconds = 99\n", 10),
        # sanlock 3.9.5 answered so to the first two and the last; 3.8 has 60 s built in.
        ("watchdog_fire_timeout = 45\n", 15),
        ("watchdog_fire_timeout = 20\n", 0),
        ("watchdog_fire_timeout = 30\n", 15),
        ("watchdog_fire_timeout = 29\n", 0),
        ("watchdog_fire_timeout = 90\n", 40),
        ("watchdog_fire_timeout = none\n", 40),
        ("watchdog_fire_timeout = 45\nkill_grace_seconds = 25\n", 25),
        ("watchdog_fire_timeout = 60\n", 40),
        ("io_timeout = 1\n\n=\nkill_grace_seconds = 30\n", 30),
        ("\udcff\nkill_grace_seconds = 30\n", 30),
    ],
)
def test_grace_is_read_as_sanlock_reads_it(tmp_path: Path, text: str, grace: int) -> None:
    conf = tmp_path / "sanlock.conf"
    conf.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert kill_grace_seconds(str(conf), str(tmp_path)) == grace


def test_no_file_is_sanlocks_default(tmp_path: Path) -> None:
    assert kill_grace_seconds(str(tmp_path / "missing"), str(tmp_path)) == 40


def test_the_daemons_command_line_counts_first(tmp_path: Path) -> None:
    (tmp_path / "sanlock.conf").write_text("kill_grace_seconds = 25\n")
    command = ["/bin/sh", "-c", "echo ready; read line", "-g", "12"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        # The kernel shows the command line a moment after exec() has closed Popen's own pipe.
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        (tmp_path / "sanlock.pid").write_text(f"{daemon.pid}\n")
        # exec(2) closes Popen's pipe, which tells it to go on, before the kernel shows the new command line.
        while not Path(f"/proc/{daemon.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        assert kill_grace_seconds(str(tmp_path / "sanlock.conf"), str(tmp_path)) == 12


@pytest.mark.parametrize(
    ("grace", "budget", "end"), [(40, None, 35), (60, None, 55), (6, None, 3), (0, None, 35), (40, 3.0, 3)]
)
def test_budget_is_the_grace_less_a_margin(grace: int, budget: float | None, end: float) -> None:
    deadline = Deadline(1000.0, grace, budget)
    assert deadline.end == 1000.0 + end
    assert deadline.left(1000.0) == end
    assert deadline.left(5000.0) == 0.0


def test_sigkill_is_told_as_a_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    deadline = Deadline(1000.0, 40)
    assert "SIGKILL at 00:00:30" in deadline.sigkill(now=1010.0, wall=0.0)
