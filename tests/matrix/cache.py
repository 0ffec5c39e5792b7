# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives of folders that take minutes to make, kept from one run to the next."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Callable

NAME = "virt-sanlock-helper"


def default_folder(environment: Mapping[str, str]) -> Path:
    """Where archives are kept, by the XDG Base Directory Specification: $XDG_CACHE_HOME, else ~/.cache."""
    named = environment.get("XDG_CACHE_HOME", "")
    # A relative one counts as none.
    return (Path(named) if named.startswith("/") else Path.home() / ".cache") / NAME


def digest(parts: Iterable[bytes]) -> str:
    """A key of these parts: other parts, or parts cut elsewhere, give another."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(f"{len(part)}:".encode() + part)
    return whole.hexdigest()[:16]


class Cache:
    """Archives NAME-KEY.tar.zst in one folder; of each NAME the last one made."""

    def __init__(self, folder: Path, log: Callable[[str], None] = print) -> None:
        self._folder = folder
        self._log = log

    def unpack(self, name: str, key: str, make: Callable[[Path], None], target: Path) -> None:
        """Have the folder NAME of KEY as TARGET, a new one: from the archive, else by MAKE, which fills it.

        An archive that does not unpack is made again; one that cannot be kept is made each time.  Raises what
        MAKE raises.
        """
        archive = self._folder / f"{name}-{key}.tar.zst"
        if archive.exists():
            if self._unpacked(archive, target):
                return
            _remove(archive)
            _remove(target)
        self._log(f"{archive.name} is not in {self._folder}: making it")
        target.mkdir(parents=True)
        make(target)
        try:
            self._keep(name, archive, target)
        except (OSError, subprocess.CalledProcessError) as error:
            self._log(f"{archive.name} is not kept: {error}")

    def _unpacked(self, archive: Path, target: Path) -> bool:
        target.mkdir(parents=True)
        command = ["tar", "--zstd", "-xpf", str(archive), "--numeric-owner", "--xattrs", "-C", str(target)]
        result = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="backslashreplace"
        )
        if result.returncode == 0 and any(target.iterdir()):
            return True
        self._log(f"{archive} does not unpack: {result.stderr.strip()[-200:] or 'nothing is in it'}")
        return False

    def _keep(self, name: str, archive: Path, folder: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self._folder) as work:
            new = Path(work, "archive")
            command = ["tar", "--use-compress-program=zstd -3 -T0", "-cpf", str(new), "--numeric-owner"]
            subprocess.run([*command, "--xattrs", "-C", str(folder), "."], check=True)
            os.replace(new, archive)
        for old in self._folder.glob(f"{name}-{'?' * 16}.tar.zst"):
            if old != archive:
                with contextlib.suppress(FileNotFoundError):
                    old.unlink()


def _remove(path: Path) -> None:
    """Remove a file or a folder; what cannot be removed shows when it is in the way."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
