# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process inside a stack that is no virtual machine and holds a lease."""

from __future__ import annotations

from pathlib import Path

from .leases import Lease
from .namespace import PYTHON, CommandError, Namespace

LEASEHOLDER = Path(__file__).resolve().with_name("leaseholder.py")


class LeaseHolder:
    """leaseholder.py, running and holding its lease. pid is that of the inside."""

    def __init__(self, space: Namespace, lease: Lease, killpath: tuple[str, ...]) -> None:
        self._space = space
        offset = str(lease.offset)
        words = (lease.lockspace, lease.resource, lease.path, offset, *killpath)
        argv = (PYTHON, str(LEASEHOLDER), *words)
        self._process = space.popen(*argv)
        assert self._process.stdout is not None
        # A line or, when it failed, the end of file.
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            stdout, stderr = self._process.communicate()
            raise CommandError(argv, self._process.returncode, stdout, stderr)
        self.pid = int(line.split()[1])

    def is_alive(self) -> bool:
        """True while it runs."""
        return self._process.poll() is None

    def wait(self, timeout: float) -> int:
        """Wait for its end; returns its status, as subprocess gives it."""
        return self._process.wait(timeout)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
