# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether an agent stands, by its files and its process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sanlock_helper import agent_state as module
from sanlock_helper import spool
from sanlock_helper.agent_state import agent_state, described_state

pytestmark = pytest.mark.pure

PID = 77


class Host:
    """A runtime directory and a /proc with one process."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        self.proc = folder / "proc"
        (self.proc / str(PID)).mkdir(parents=True)
        self.run.mkdir()
        self.lock, self.pid_file = self.run / "agent.lock", self.run / "agent.pid"
        self.lock.touch()
        self.stands()
        self.pid_file.write_text(f"{PID} 4000 4026531836\n")
        self.process("S", 4000)

    def stands(self, atime: int = spool.STANDS) -> None:
        os.utime(self.lock, ns=(atime, 12345))

    def process(self, state: str, start: int) -> None:
        fields = [state, *["0"] * 18, str(start), "0"]
        (self.proc / str(PID) / "stat").write_text(f"{PID} (a) b) {' '.join(fields)}\n")
        (self.proc / str(PID) / "status").write_text("Name:\tx\nVmLck:\t 2048 kB\nVmRSS:\t 36864 kB\n")

    def state(self) -> module.AgentState | None:
        return agent_state(self.run, self.proc)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_one_that_stands(host: Host) -> None:
    found = host.state()
    assert found is not None
    assert (found.pid, found.resident, found.locked, found.is_stopped) == (PID, 36, 2, False)
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert abs(found.since - boot - 4000 / os.sysconf("SC_CLK_TCK")) < 1
    assert described_state(found) == "process 77, 36 MiB in memory, 2 of address space locked"


@pytest.mark.parametrize("state", ["T", "t"])
def test_one_that_is_stopped(host: Host, state: str) -> None:
    host.process(state, 4000)
    found = host.state()
    assert found is not None
    assert found.is_stopped
    assert described_state(found).endswith("; it is STOPPED")


@pytest.mark.parametrize(
    "text", ["", "\n", "x", f"{PID}\n", "²\n", "9" * 200, f"{PID} 4001 1\n", "78 4000 1\n"]
)
def test_a_process_that_is_another_one_or_none(host: Host, text: str) -> None:
    host.pid_file.write_text(text)
    assert host.state() is None


def test_one_that_is_no_more(host: Host) -> None:
    host.process("Z", 4000)
    assert host.state() is None
    host.process("S", 4001)
    assert host.state() is None


def test_an_agent_of_one_storm_does_not_stand(host: Host) -> None:
    host.stands(12345)
    assert host.state() is None


def test_without_files(host: Host) -> None:
    host.pid_file.unlink()
    assert host.state() is None
    host.lock.unlink()
    assert host.state() is None


def test_the_mark_is_the_spools() -> None:
    assert module._STANDS == spool.STANDS
