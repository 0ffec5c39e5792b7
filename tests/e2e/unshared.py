# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that is PID 1 of namespaces of its own; all below it ends with it, or with its parent."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

# The distribution's interpreter: the one that has libvirt-python and sanlock-python.
PYTHON = "/usr/bin/python3"

# What systemd gives a service: no HOME, no TERM, nothing of the caller's.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}

NAMESPACES = [
    # Mounts made inside stay inside: unshare also makes them private.
    "--mount",
    # Everything inside ends when PID 1 does.
    "--pid",
    "--fork",
    "--mount-proc",
    # When unshare is killed, so is PID 1.
    "--kill-child",
    "--ipc",
]


class Unshared:
    """Runs a script of ours as PID 1: it prints a line when it is ready, and ends when its input does."""

    def __init__(self, script: Path, *arguments: str, namespaces: tuple[str, ...] = ()) -> None:
        """NAMESPACES are unshare's options for more of them."""
        self._process = subprocess.Popen(
            # -ISB: nothing from the caller's environment or the user's site-packages.
            ["unshare", *NAMESPACES, *namespaces, PYTHON, "-ISB", str(script), *arguments],
            # The owner's end of this pipe closes when the owner dies, however it dies.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            text=True,
            # Ctrl-C in a terminal is for pytest, which then closes all in order.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the unshare in front, on the outside; the script is its only child."""
        return self._process.pid

    def wait_ready(self, seconds: float) -> str:
        """The line that the script prints."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise RuntimeError("PID 1 of the namespaces did not start; its message is on stderr")
        return line

    def close(self, seconds: float) -> None:
        """End everything inside, and wait until it has ended; it is killed after SECONDS."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def children(parent: int) -> list[int]:
    """The pids whose parent is this one, on the outside."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(int(name)) == parent]


def parent_of(pid: int) -> int:
    """The parent of a process, 0 when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    # comm is in parentheses and may hold any character, parentheses too.
    return int(stat.rpartition(")")[2].split()[1])
