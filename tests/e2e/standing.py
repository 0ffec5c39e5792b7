# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent that stands, inside a stack: started as its service starts it, and again when it ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from sanlock_helper.agent.kept_connections import KEPT

from .lease_loss import HELPER, RUNTIME_DIR, URI
from .stack import Stack
from .waiting import wait_for

COMMAND = HELPER.with_name("virt-sanlock-helper")

# What an agent at rest has open to qemu:///system: those that it keeps, and the one over which events come.
CONNECTIONS = KEPT + 1

# As Restart=always of the unit.
RESTARTS = 'while :; do "$0" agent -c "$1"; sleep 0.1; done'


class StandingAgent:
    """`virt-sanlock-helper agent`, which keeps connections to URI open; RESTARTS: begun anew when it ends."""

    def __init__(
        self,
        stack: Stack,
        uri: str = URI,
        restarts: bool = False,
        command: Path = COMMAND,
        process: subprocess.Popen[str] | None = None,
    ) -> None:
        """PROCESS is where it was started already."""
        self._stack = stack
        words = ["sh", "-c", RESTARTS, str(command), uri] if restarts else [str(command), "agent", "-c", uri]
        nothing = subprocess.DEVNULL
        self._process = process or stack.popen(*words, stdout=nothing, stderr=nothing)

    @property
    def pid(self) -> int:
        """Its process id inside; 0 while none stands."""
        try:
            text = self._stack.path(f"{RUNTIME_DIR}/agent.pid").read_text()
            status = self._stack.path(f"{RUNTIME_DIR}/agent.lock").stat()
        except OSError:
            return 0
        # One that has ended has put an end of line over the first digit.
        words = text.partition("\n")[0].split()
        stands = bool(words) and status.st_atime_ns == 0 and self._stack.is_alive(int(words[0]))
        return int(words[0]) if stands else 0

    def wait_ready(self, timeout: float = 20, but: int = 0) -> int:
        """Wait until one stands, other than process BUT, and sleeps; returns its process id."""

        def ready() -> int:
            pid = self.pid
            if pid in (0, but):
                return 0
            sleeps = self._stack.path(f"/proc/{pid}/task/{pid}/wchan").read_text()
            return pid if "poll" in sleeps else 0

        return wait_for(ready, timeout, "an agent to stand")

    def signal(self, number: signal.Signals) -> int:
        """Send it a signal; returns its process id."""
        pid = self.pid
        self._stack.signal(pid, number)
        return pid

    def end(self) -> int:
        """End it as systemd does; returns its exit status."""
        self.signal(signal.SIGTERM)
        return self._process.wait(20)


def update(folder: Path) -> None:
    """Replace each file of a program as rpm does: written beside it, and renamed."""
    for path in [path for path in folder.rglob("*.py") if path.is_file()]:
        new = path.with_name(f"{path.name};update")
        shutil.copy2(path, new)
        new.replace(path)


def connections(stack: Stack) -> int:
    """The clients that are connected to libvirtd's read-write socket."""
    lines = Path(f"/proc/{stack.init_pid}/net/unix").read_text().splitlines()
    return sum(" 03 " in line and line.endswith("/libvirt/libvirt-sock") for line in lines)
