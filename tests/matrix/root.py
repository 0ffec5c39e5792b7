# SPDX-License-Identifier: LGPL-2.1-or-later
"""The root of another distribution, unpacked in a folder of its own, and commands in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.e2e.unshared import ENVIRONMENT, NAMESPACES, PYTHON

PIVOT = Path(__file__).parents[1] / "e2e" / "pivot.py"

# Passed to a command in the root: what the tests themselves take.
_PASSED = ("CI", "TERM", "REQUIRE", "SANLOCK_HELPER_REQUIRE", "SANLOCK_HELPER_DAEMON", "HYPOTHESIS_PROFILE")

# The way to the archive and the index.
NETWORK = ("/etc/hosts", "/etc/resolv.conf")


class Root:
    """A folder with a whole root in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, binds: Iterable[Path] = (), env: Mapping[str, str] | None = None) -> int:
        """Run COMMAND as root in namespaces whose root this is; returns its exit status.

        Its /dev and /sys are the machine's, /proc is new, /run and /tmp are empty.  BINDS are seen inside at
        their own paths, read-only.  Nothing that it starts outlives it.
        """
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        names = (*filter(Path.exists, map(Path, NETWORK)), *binds)
        # What a link leads to: the mount is made before the root is another.
        words = [f"--bind={path.resolve()}={path}" for path in names]
        pivot = [PYTHON, "-ISB", str(PIVOT), str(self.folder), *words, "--", *command]
        return subprocess.run(
            # It ends with this process, however that ends, and all inside with it.
            ["setpriv", "--pdeathsig=KILL", "--", "unshare", *NAMESPACES, *pivot],
            check=False,
            stdin=subprocess.DEVNULL,
            env={**ENVIRONMENT, "HOME": "/root", **passed, **(env or {})},
        ).returncode

    def must(self, *command: str, binds: Iterable[Path] = (), env: Mapping[str, str] | None = None) -> None:
        """The same; raises subprocess.CalledProcessError when it fails."""
        status = self.run(*command, binds=binds, env=env)
        if status != 0:
            raise subprocess.CalledProcessError(status, command)

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file, in the place of whatever is there."""
        path = self.folder / inside.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)
