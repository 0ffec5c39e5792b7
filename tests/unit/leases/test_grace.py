# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock's grace and the budget that follows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from sanlock_helper.leases.grace import Deadline, Grace, kill_grace_seconds
from sanlock_helper.leases.sanlock_daemon import daemon_settings

pytestmark = pytest.mark.pure


def learned(conf: Path, directory: Path, within: float = 10.0) -> int:
    """The grace, with more time than a killpath has: what is tried here is not the load of this host."""
    return Grace(str(conf), str(directory), within).wait()


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
        ("kill_grace_seconds = 25\r\n", 25),
        ("kill_grace_seconds = \n", 40),
        (f"kill_grace_seconds = {'9' * 5000}\n", 40),
        ("watchdog_fire_timeout = 45\nwatchdog_fire_timeout = 0\n", 15),
    ],
)
def test_grace_is_read_as_sanlock_reads_it(tmp_path: Path, text: str, grace: int) -> None:
    conf = tmp_path / "sanlock.conf"
    conf.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert learned(conf, tmp_path) == grace


def test_no_file_is_sanlocks_default(tmp_path: Path) -> None:
    assert kill_grace_seconds(str(tmp_path / "missing"), str(tmp_path)) == 40


@pytest.mark.parametrize(("name", "grace"), [("sanlock", 12), ("other", 25)])
def test_the_daemons_command_line_counts_first(tmp_path: Path, name: str, grace: int) -> None:
    """And not that of a process that has got the number of a daemon which was killed."""
    (tmp_path / "sanlock.conf").write_text("kill_grace_seconds = 25\n")
    # The kernel names a process after the file that was executed.
    program = tmp_path / name
    program.symlink_to("/bin/sh")
    command = [str(program), "-c", "echo ready; read line", "-g", "12"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        # The kernel shows the command line a moment after exec() has closed Popen's own pipe.
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        (tmp_path / "sanlock.pid").write_text(f"{daemon.pid}\n")
        # exec(2) closes Popen's pipe, on which it goes on, before the kernel shows the new command line.
        while not Path(f"/proc/{daemon.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        assert learned(tmp_path / "sanlock.conf", tmp_path) == grace


def make_huge(conf: Path) -> None:
    conf.write_text("kill_grace_seconds = 25\n")
    os.truncate(conf, 1 << 40)


def bind_socket(conf: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(conf))


NO_FILES: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "directory": os.mkdir,
    "socket": bind_socket,
    "zero": lambda conf: os.symlink("/dev/zero", conf),
    "loop": lambda conf: os.symlink(conf, conf),
    "hidden": lambda conf: os.symlink("/proc/1/no/such", conf),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    conf = tmp_path / "sanlock.conf"
    NO_FILES[kind](conf)
    began = time.monotonic()
    assert learned(conf, tmp_path) == 40
    assert time.monotonic() - began < 2


def test_of_a_huge_file_the_beginning_is_read(tmp_path: Path) -> None:
    make_huge(tmp_path / "sanlock.conf")
    assert learned(tmp_path / "sanlock.conf", tmp_path) == 25


def test_a_setting_that_is_cut_off_is_none(tmp_path: Path) -> None:
    line = "kill_grace_seconds = 25\n"
    # The end of what is read falls between the digits.
    (tmp_path / "sanlock.conf").write_text("#" * (64 * 1024 - len(line) + 1) + "\n" + line + "#\n" * 9)
    assert learned(tmp_path / "sanlock.conf", tmp_path) == 40


class FakeDaemon:
    """A sanlock as far as the answer to one status command goes; silent where it has none."""

    def __init__(self, directory: Path, text: bytes | None) -> None:
        self.requests: list[bytes] = []
        self._text = text
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(directory / "sanlock.sock"))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            client, _ = self._server.accept()
        except OSError:
            return
        with client:
            self.requests.append(client.recv(4096))
            if self._text is None:
                client.recv(1)
                return
            length = len(self._text).to_bytes(4, sys.byteorder)
            client.sendall(self.requests[0] + bytes(72) + length + bytes(4) + self._text)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)


@pytest.fixture
def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(tmp_path, request.param)
    yield fake
    fake.close()


ANSWER = b"our_host_name=kill_grace_seconds=1 io_timeout=10 kill_grace_seconds=%d helper_pid=7"


@pytest.mark.parametrize(
    ("daemon", "grace"),
    [
        (ANSWER % 12, 12),
        (ANSWER % 0, 0),
        (ANSWER % 12 + b"\0", 12),
        # A daemon that does not give it, or gives nonsense, or breaks off: the file counts.
        (ANSWER % 61, 25),
        (b"io_timeout=10", 25),
        (b"", 25),
        (None, 25),
    ],
    indirect=["daemon"],
)
def test_the_daemons_own_answer_counts_before_the_file(
    tmp_path: Path, daemon: FakeDaemon, grace: int
) -> None:
    (tmp_path / "sanlock.conf").write_text("kill_grace_seconds = 25\n")
    # Half of it is the daemon's, which is silent or answers at once.
    assert learned(tmp_path / "sanlock.conf", tmp_path, 1.0) == grace


@pytest.mark.parametrize("daemon", [None], indirect=True)
def test_a_daemon_is_not_waited_for(tmp_path: Path, daemon: FakeDaemon) -> None:
    began = time.monotonic()
    assert daemon_settings(str(tmp_path), 0.1) == {}
    assert 0.1 <= time.monotonic() - began < 2


@pytest.mark.parametrize("daemon", [None], indirect=True)
def test_what_comes_late_is_not_used(tmp_path: Path, daemon: FakeDaemon) -> None:
    """The first try need not wait, and what it assumed changes once at most."""
    (tmp_path / "sanlock.conf").write_text("kill_grace_seconds = 25\n")
    began = time.monotonic()
    grace = Grace(str(tmp_path / "sanlock.conf"), str(tmp_path), within=0.0)
    assert grace.wait() == grace.seconds() == 40
    assert time.monotonic() - began < 2
    # Nothing shows when the thread has read the file, which takes a few milliseconds.
    time.sleep(0.2)
    assert grace.seconds() == 40


class Learned(Grace):
    """A grace that is learned when the test wants it."""

    now = 40

    def __init__(self) -> None:
        self.settled_at = 1000.2

    def seconds(self) -> int:
        return self.now


def test_a_deadline_changes_when_the_grace_is_known() -> None:
    grace = Learned()
    deadline = Deadline(1000.0, grace)
    assert (deadline.expires, deadline.kill_at, deadline.next_check(1000.0)) == (1035.0, 1040.0, 1000.2)
    grace.now = 20
    assert (deadline.expires, deadline.kill_at, deadline.next_check(1000.2)) == (1015.0, 1020.0, 1015.0)


@pytest.mark.parametrize(
    ("grace", "budget", "end"), [(40, None, 35), (60, None, 55), (6, None, 3), (0, None, 35), (40, 3.0, 3)]
)
def test_budget_is_the_grace_less_a_margin(grace: int, budget: float | None, end: float) -> None:
    deadline = Deadline(1000.0, grace, budget)
    assert deadline.expires == 1000.0 + end
    assert deadline.left(1000.0) == end
    assert deadline.left(5000.0) == 0.0


@pytest.mark.parametrize(("now", "wall"), [(1010.0, 0.0), (1040.0, 30.0), (1000.0, -10.0)])
def test_sigkill_is_logged_as_a_time_of_day(monkeypatch: pytest.MonkeyPatch, now: float, wall: float) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    deadline = Deadline(1000.0, 40)
    assert "SIGKILL at 00:00:30" in deadline.sigkill(now, wall)
