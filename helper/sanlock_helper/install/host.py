# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host that this program is installed on: its paths, its sanlock.service, which helper is where."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Sequence
from pathlib import Path

from ..command import Answer, Run, run
from ..distribution import PATHS, Distribution
from ..errors import HelperError
from ..leases.sanlock_daemon import daemon_pid
from ..numbers import whole_number
from .paths import KILLPATHS, our_executable

# Where it is put when ours takes its place on the host itself; the name that dpkg-divert's manual uses.
ASIDE = ".distrib"

SERVICE = "sanlock.service"

# dpkg-divert waits for another dpkg's lock; the others answer at once.
COMMAND_SECONDS = 60.0


def run_command(argv: Sequence[str]) -> Answer:
    """Run ARGV for COMMAND_SECONDS at most."""
    return run(argv, COMMAND_SECONDS)


class Host:
    """This host; in tests, a folder that stands for its root."""

    def __init__(
        self,
        root: Path = Path("/"),
        run: Run = run_command,
        ours: Path | None = None,
        proc: Path = Path("/proc"),
        run_dir: Path | None = None,
    ) -> None:
        """OURS is this program's executable, RUN_DIR where sanlock's runtime directory is, below ROOT."""
        self.root = root
        self.run_dir = run_dir or self.path("/run")
        self.run = run
        self.ours = ours or our_executable()
        self.proc = proc

    def path(self, name: str) -> Path:
        """Where the file NAME of the host is."""
        return self.root / name.lstrip("/")

    def stock(self) -> str:
        """The path at which libvirt has sanlock run its helper.

        Raises HelperError when nothing is there.
        """
        for name in KILLPATHS:
            if os.path.lexists(self.path(name)):
                return name
        raise HelperError(
            "libvirt's helper",
            f"not at {' nor '.join(KILLPATHS)}",
            Distribution.read(self._os_release()).install("libvirt's sanlock driver"),
        )

    def _os_release(self) -> tuple[str, ...]:
        return tuple(str(self.path(name)) for name in PATHS)

    def is_replaced(self) -> bool:
        """Whether the host's own path is a symbolic link to ours: what `activate` or a diversion makes."""
        path = self.path(self.stock())
        return path.is_symlink() and os.readlink(path) == str(self.ours)

    def service(self, name: str) -> str:
        """The property NAME of sanlock.service; "" where systemd does not answer."""
        return self.run(["systemctl", "show", f"--property={name}", "--value", SERVICE]).stdout.strip()

    def sanlock_pid(self) -> int:
        """The process id of the running sanlock, 0 when none runs."""
        pid = daemon_pid(str(self.run_dir / "sanlock"), str(self.proc))
        if pid:
            return pid
        # A daemon with another runtime directory (SANLOCK_RUN_DIR) is known to systemd.
        found = whole_number(self.service("MainPID"))
        return found if found and (self.proc / str(found)).exists() else 0

    def seen_by(self, pid: int | None) -> str:
        """The file at libvirt's path as process PID sees it; as the host does without a PID."""
        root = self.proc / str(pid) / "root"
        stock = self.stock()
        return f"{root}{stock}" if pid and root.is_dir() else str(self.path(stock))

    def sanlock_runs_ours(self, pid: int) -> bool:
        """Whether the file at libvirt's path is ours as process PID sees it, by its own mounts."""
        seen = self.proc / str(pid) / "root" / self.stock().lstrip("/")
        try:
            return filecmp.cmp(self.ours, seen, shallow=False)
        except OSError:
            return False

    def has_own_mounts(self, pid: int) -> bool:
        """Whether process PID was started with a mount namespace, as the drop-in makes sanlock.service be."""
        try:
            return os.readlink(self.proc / str(pid) / "ns/mnt") != os.readlink(self.proc / "1/ns/mnt")
        except OSError:
            return False

    def bind_command(self) -> list[str]:
        """What binds ours into the running sanlock.service."""
        return ["systemctl", "bind", "--read-only", SERVICE, str(self.ours), self.stock()]
