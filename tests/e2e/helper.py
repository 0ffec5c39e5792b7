# SPDX-License-Identifier: LGPL-2.1-or-later
"""The executable that sanlock runs: ours or libvirt's, with a record of its calls."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import NamedTuple

from .namespace import Namespace

# LIBEXECDIR of Debian, then of Fedora and RHEL.
PLACES = (
    "/usr/lib/libvirt/libvirt_sanlock_helper",
    "/usr/libexec/libvirt_sanlock_helper",
)

STOCK = "/run/stack/stock_helper"
WRAPPER = "/run/stack/wrapper"
CALLS = "/run/stack/calls"

# The times of a call are those of the files, so that no clock needs another process. The helper's
# environment is the caller's and PWD, which sh adds. When a record cannot be made (a test may fill
# /run) the call itself must still happen.
_WRAPPER = """\
#!/bin/sh
call={calls}/$$
mkdir "$call" 2>/dev/null || {{
    call=$call-$(date +%s%N)
    mkdir "$call" || exec {target} "$@"
}}
cat /proc/$$/environ >"$call/environ"
printf '%s\\0' "$@" >"$call/argv"
{target} "$@" >"$call/stdout" 2>"$call/stderr"
status=$?
echo "$status" >"$call/status"
exit "$status"
"""


class HelperCall(NamedTuple):
    """One call of the helper. argv is without the program; end and status are None while it runs.

    start and end are on the clock of time.time(), to about 10 ms.
    """

    argv: tuple[str, ...]
    environ: dict[str, str]
    start: float
    end: float | None
    status: int | None
    stdout: str
    stderr: str


def stock_path() -> str | None:
    """Where libvirt's own helper is installed; None when it is not."""
    return next((path for path in PLACES if os.access(path, os.X_OK)), None)


class Helper:
    """Puts an executable on the path that libvirt registers with sanlock."""

    def __init__(self, space: Namespace) -> None:
        self._space = space
        self._covered = False
        path = stock_path()
        if path is None:
            raise RuntimeError(f"none of {', '.join(PLACES)} is there to be covered")
        self.path = path

    def prepare(self) -> None:
        """Keep libvirt's helper reachable at STOCK, whatever covers it."""
        self._space.path(STOCK).touch()
        self._space.path(CALLS).mkdir()
        self._space.run("mount", "--bind", self.path, STOCK)

    def install(self, target: str, record: bool) -> None:
        """Make sanlock run target: through the recording wrapper, or as the file itself."""
        if record:
            self._write_wrapper(target)
            target = WRAPPER
        self.uncover()
        self._space.run("mount", "--bind", target, self.path)
        self._covered = True

    def _write_wrapper(self, target: str) -> None:
        # A new file each time: a call under way reads the old one as it goes.
        new = self._space.path(WRAPPER + ".new")
        new.write_text(_WRAPPER.format(calls=CALLS, target=shlex.quote(target)))
        new.chmod(0o755)
        new.replace(self._space.path(WRAPPER))

    def uncover(self) -> None:
        """Let libvirt's helper be seen again at its own path."""
        if self._covered:
            # Lazy: it may be running.
            self._space.run("umount", "--lazy", self.path)
            self._covered = False

    def calls(self) -> list[HelperCall]:
        """The recorded calls, oldest first."""
        found = (_read_call(folder) for folder in self._space.path(CALLS).iterdir())
        return sorted((call for call in found if call), key=lambda call: call.start)

    def forget_calls(self) -> None:
        """Drop the record. Only while no call is under way."""
        for folder in self._space.path(CALLS).iterdir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def _read_call(folder: Path) -> HelperCall | None:
    stderr = folder / "stderr"
    if not stderr.exists():
        # The wrapper has only begun.
        return None
    status = folder / "status"
    ended = status.exists() and status.read_text().endswith("\n")
    return HelperCall(
        argv=tuple(_words(folder / "argv")),
        environ=dict(word.split("=", 1) for word in _words(folder / "environ") if "=" in word),
        start=(folder / "environ").stat().st_mtime,
        end=status.stat().st_mtime if ended else None,
        status=int(status.read_text()) if ended else None,
        stdout=(folder / "stdout").read_text(errors="backslashreplace"),
        stderr=stderr.read_text(errors="backslashreplace"),
    )


def _words(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8", "backslashreplace").split("\0")[:-1]
