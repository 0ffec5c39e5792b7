# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recovery held for maintenance: a file beside the records on disk, while which is there nothing is brought
back.

On disk, not in /run: maintenance may well reset the host, and recovery starts at boot.  The file is empty, so
that a disk that is nearly full takes it; when it was made is when recovery was held.  Where its directory
cannot be read, or others may write to it, recovery is not held, as the records in there do not count.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .directory import STATE_DIR, open_directory

_NAME = "hold"

# What ends it, as the administrator can paste it.
RELEASE = "virt-sanlock-helper recover --release"


class Hold:
    """The hold of this host.  Methods raise OSError when the directory cannot be used."""

    def __init__(self, state_dir: str = STATE_DIR) -> None:
        self._directory = state_dir
        self.path = f"{state_dir}/{_NAME}"

    def since(self) -> float | None:
        """When recovery was held, in seconds since the epoch; None where it is not."""
        try:
            directory = open_directory(self._directory)
        except FileNotFoundError:
            return None
        try:
            # Whatever it is: what an administrator has put there by hand holds as well.
            return os.stat(_NAME, dir_fd=directory, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return None
        finally:
            os.close(directory)

    def begin(self) -> bool:
        """Hold recovery, durably; False where it was held already."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = open_directory(self._directory, make=True)
        try:
            with self._changing(directory):
                os.close(os.open(_NAME, flags, 0o600, dir_fd=directory))
        except FileExistsError:
            return False
        return True

    def end(self) -> bool:
        """Release recovery, durably; False where it was not held."""
        try:
            directory = open_directory(self._directory)
            with self._changing(directory):
                # On a read-only disk, too, what is not there needs no removal.
                os.stat(_NAME, dir_fd=directory, follow_symlinks=False)
                try:
                    os.unlink(_NAME, dir_fd=directory)
                except IsADirectoryError:
                    # It was made there by hand.
                    os.rmdir(_NAME, dir_fd=directory)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _changing(self, directory: int) -> Iterator[None]:
        """Synchronise DIRECTORY when its change is done, and close it; an error of that names the hold."""
        try:
            yield
            os.fsync(directory)
        except OSError as error:
            error.filename = self.path
            raise
        finally:
            os.close(directory)
