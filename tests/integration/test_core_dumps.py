# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that connects to libvirtd holds credentials: it leaves no core dump, whatever its limit was."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.private_run import PRIVATE_RUN

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
BARE = {"PATH": os.defpath}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and limits need root")

HELPER = Path(__file__).parents[2] / "helper"
KILLPATH, COMMAND = str(HELPER / "libvirt_sanlock_helper"), str(HELPER / "virt-sanlock-helper")

# Memory is written to a file, or handed to a program; a limit of one byte keeps the kernel from both, and 0
# from the first only (do_coredump() in Linux fs/coredump.c).
FORBIDDEN = "1"


class SilentDaemon:
    """A socket that takes connections and answers nothing, as a libvirtd that is stopped."""

    def __init__(self, path: Path) -> None:
        self.uri = f"qemu:///system?socket={path}"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(20)

    def accept(self) -> socket.socket:
        return self._socket.accept()[0]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[SilentDaemon]:
    found = SilentDaemon(tmp_path / "socket")
    yield found
    found.close()


def core_limit(pid: int) -> str:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Max core file size"))
    return line.split()[4]


CALLS = {
    "the killpath": [KILLPATH, "--budget=20", "URI", UUID, "pause"],
    "run": [COMMAND, "run", "--connect", "URI", "pause", UUID, "--yes"],
    "auth test": [COMMAND, "auth", "test", "URI"],
    "policy": [COMMAND, "policy", "--connect", "URI", UUID],
}


@pytest.mark.parametrize("name", CALLS)
def test_a_process_that_aborts_leaves_none(daemon: SilentDaemon, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    words = [daemon.uri if word == "URI" else word for word in CALLS[name]]
    # The shell becomes the program: its pid is the program's.
    script = f'cd "{folder}" && ulimit -c unlimited && exec "$@"'
    command = [*PRIVATE_RUN, "/bin/sh", "-c", script, "sh", *words]
    with subprocess.Popen(command, env=BARE, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            connection = daemon.accept()
            limit = core_limit(process.pid)
            process.send_signal(signal.SIGABRT)
            status = process.wait(20)
            connection.close()
        finally:
            process.kill()
    assert status == -signal.SIGABRT
    assert os.listdir(folder) == []
    assert limit == FORBIDDEN


def test_a_lower_limit_is_no_failure() -> None:
    script = 'ulimit -c 0 && exec "$@"'
    drop = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    command = [*PRIVATE_RUN, *drop, "/bin/sh", "-c", script, "sh", KILLPATH, "test:///default", UUID, "pause"]
    result = subprocess.run(command, env=BARE, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "verified paused" in result.stderr
