# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one drill makes, by name, and the note of it that outlives a drill that is killed.

The note is written before the first of it is made, and removed after the last of it is gone: the next drill
removes what the note names.  It is on disk, as are the files of the lockspace.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass

from .. import DRILL_UUIDS
from ..errors import PermanentError, hint_for
from ..records.directory import STATE_DIR, open_directory

NAME = "virt-sanlock-helper-drill"
NOTE = "drill.json"

_RUN = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Scratch:
    """The names of one drill.

    run: twelve hexadecimal digits, another one each time.  folder: the directory that the drill makes.  pid:
    of the drill.  holder, holder_start: the process that holds the lease in a drill without a virtual
    machine, and its start in clock ticks since boot; 0 while there is none.
    """

    run: str
    folder: str
    pid: int
    holder: int = 0
    holder_start: int = 0

    @classmethod
    def new(cls, directory: str) -> Scratch:
        """The names of a drill of this process, with its files below DIRECTORY."""
        return cls(secrets.token_hex(6), os.path.join(directory, NAME), os.getpid())

    @property
    def uuid(self) -> str:
        """Of the virtual machine, or what stands for one."""
        return f"{DRILL_UUIDS}{self.run}"

    @property
    def name(self) -> str:
        """Of the lockspace and of the virtual machine."""
        return f"{NAME}-{self.run}"

    @property
    def lockspace_path(self) -> str:
        """The file of the lockspace."""
        return f"{self.folder}/lockspace"

    @property
    def lease_path(self) -> str:
        """The file of the lease, apart: sanlock can write to it after the lockspace is lost."""
        return f"{self.folder}/lease"


class Note:
    """The note of the drill under way, or of one that was killed."""

    def __init__(self, folder: str = STATE_DIR) -> None:
        self.path = f"{folder}/{NOTE}"
        self._folder = folder

    def write(self, scratch: Scratch) -> None:
        """Write it, in one step, so that it outlives a reset.  Raises PermanentError."""
        try:
            directory = open_directory(self._folder, make=True)
            try:
                self._write(directory, json.dumps(asdict(scratch)).encode())
            finally:
                os.close(directory)
        except OSError as error:
            raise PermanentError(f"write {self.path}", str(error), hint_for(error)) from error

    def _write(self, directory: int, data: bytes) -> None:
        draft = f".{NOTE}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600, dir_fd=directory)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(draft, NOTE, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)

    def read(self) -> Scratch | None:
        """What a drill that was killed has left, None when there is no note.

        Raises PermanentError where the note is none of a drill's.
        """
        try:
            directory = open_directory(self._folder)
            try:
                descriptor = os.open(NOTE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            finally:
                os.close(directory)
            with os.fdopen(descriptor, "rb") as file:
                data = file.read(64 * 1024)
        except FileNotFoundError:
            return None
        except OSError as error:
            hint = hint_for(error) or f"mv {self.path} {self.path}.away"
            raise PermanentError(f"read {self.path}", error.strerror or str(error), hint) from error
        found = _parse(data)
        if found is None:
            raise PermanentError(f"read {self.path}", "it is no note of a drill", f"rm {self.path}")
        return found

    def remove(self) -> None:
        """Remove it: nothing is left.  Raises OSError."""
        directory = open_directory(self._folder)
        try:
            os.unlink(NOTE, dir_fd=directory)
        finally:
            os.close(directory)


def _parse(data: bytes) -> Scratch | None:
    try:
        found = Scratch(**json.loads(data))
        numbers = (found.pid, found.holder, found.holder_start)
        is_one = _RUN.fullmatch(found.run) and all(type(number) is int for number in numbers)
        return (
            found
            if is_one and os.path.isabs(found.folder) and os.path.basename(found.folder) == NAME
            else None
        )
    except (ValueError, TypeError, RecursionError):
        return None
