# SPDX-License-Identifier: LGPL-2.1-or-later
"""The storage that holds the leases and the disks: make it fail, bring it back."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .leases import LOCKSPACE
from .namespace import Namespace

LEASES = "/var/lib/libvirt/sanlock"
IMAGES = "/var/lib/libvirt/images"

# QEMU and the firmware only need a disk to be there.
DISK_SIZE = 1024 * 1024


class Storage:
    """Fails by emptying the lockspace file, which the daemons hold open, and returns by refilling
    it. Every renewal in between gets a short read, an I/O error to sanlock.
    """

    leases = LEASES

    def __init__(self, space: Namespace) -> None:
        self._space = space
        self._saved: dict[Path, bytes] = {}
        # time.time() of the last failure and of the last return.
        self.failed_at: float | None = None
        self.restored_at: float | None = None

    @property
    def lockspace_path(self) -> str:
        """The file of the disks' lockspace."""
        return f"{self.leases}/{LOCKSPACE}"

    def is_failed(self) -> bool:
        """True between fail() and restore()."""
        return bool(self._saved)

    def fail(self, resources: bool = False) -> None:
        """Lose the lockspace; with resources, every lease file as well.

        Without resources sanlock can still write to a lease that it releases. On storage that is
        wholly gone it cannot, and the lease stays on record as this host's.
        """
        if self._saved:
            raise RuntimeError("the storage has failed already")
        folder = self._space.path(self.leases)
        paths = [path for path in folder.iterdir() if path.is_file()] if resources else [folder / LOCKSPACE]
        for path in paths:
            # Read and emptied back to back: a renewal in between would be missing from the copy,
            # and sanlock takes a timestamp it has not written for another host's.
            self._saved[path] = path.read_bytes()
            os.truncate(path, 0)
        self.failed_at = time.time()

    def restore(self) -> None:
        """Bring back what fail() took, in the same files: sanlock may still hold them open."""
        for path, data in self._saved.items():
            with path.open("r+b") as file:
                file.write(data)
        self._saved.clear()
        self.restored_at = time.time()

    def disk(self, name: str) -> str:
        """Make a disk image; returns its path inside."""
        inside = f"{IMAGES}/{name}"
        with self._space.path(inside).open("wb") as file:
            file.truncate(DISK_SIZE)
        return inside
