# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of the drill's lockspace and of its lease, in a directory of their own."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shlex

from ..errors import HelperError, PermanentError, hint_for
from ..leases import held as leases
from ..leases.lockspaces import SanlockError
from ..records.directory import open_directory
from .scratch import NAME, Scratch

# libvirt's own directory: the targeted policy of SELinux lets sanlock use files there, and their label is
# the directory's.
DIRECTORY = "/var/lib/libvirt"

# What a lockspace or a lease takes, in bytes (sanlock src/leader.h).
SIZE = 1 << 20
# A sector of a disk, in bytes; sanlock reads and writes whole ones (O_DIRECT).
_SECTORS = (512, 4096)

_REMEDY = "drill --directory DIR, where DIR is on a local disk, as of ext4 or XFS"


class LeaseFiles:
    """Makes them, overwrites the lockspace, removes both.  Methods raise HelperError."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._lockspace = -1

    def make(self, uid: int, gid: int) -> None:
        """Make both files, for the sanlock daemon that runs as UID and GID, and the leases in them.

        The directory is root's: that user cannot put anything else in the place of a file.
        """
        scratch = self._scratch
        try:
            directory = open_directory(scratch.folder, make=True)
            try:
                os.fchown(directory, 0, gid)
                os.fchmod(directory, 0o750)
                self._lockspace = _make(directory, scratch.lockspace_path, uid, gid)
                os.close(_make(directory, scratch.lease_path, uid, gid))
            finally:
                os.close(directory)
        except OSError as error:
            # What is there already is not this drill's, and is not used.
            raise PermanentError(f"make {scratch.folder}", str(error), _hint(scratch, error)) from error
        sector = self._sector()
        leases.join_sanlock_group()
        binding = leases.load()
        name = leases.raw(scratch.name)
        try:
            binding.write_lockspace(name, scratch.lockspace_path, iotimeout=1, sector=sector)
            binding.write_resource(name, name, [(scratch.lease_path, 0)], sector=sector)
        except binding.SanlockException as error:
            raise self._refused(SanlockError(f"make a lockspace in {scratch.folder}", error.errno)) from error

    def _refused(self, error: SanlockError) -> HelperError:
        if error.number != -errno.EACCES:
            return error
        why = "the sanlock daemon's user cannot reach it"
        return PermanentError(error.what, why, "drill --directory DIR, where each user may search DIR")

    def _sector(self) -> int:
        """The size of a sector that can be read past the page cache, as sanlock reads."""
        what = f"read {self._scratch.lockspace_path} with O_DIRECT, as sanlock reads"
        try:
            descriptor = os.open(self._scratch.lockspace_path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            raise PermanentError(what, error.strerror or str(error), _REMEDY) from error
        why: OSError | None = None
        try:
            for sector in _SECTORS:
                # O_DIRECT wants memory that begins at a page.
                with mmap.mmap(-1, sector) as buffer:
                    try:
                        os.preadv(descriptor, [buffer], 0)
                        return sector
                    except OSError as error:
                        why = error
        finally:
            os.close(descriptor)
        raise PermanentError(what, str(why), _REMEDY)

    def overwrite(self) -> None:
        """Overwrite the lockspace with zeros: sanlock loses it at its next renewal.

        Through the descriptor of the file that was made, whatever is at its path by now.
        """
        try:
            _fill(self._lockspace)
        except OSError as error:
            raise PermanentError(f"overwrite {self._scratch.lockspace_path}", str(error)) from error

    def close(self) -> None:
        """Close the lockspace's file."""
        if self._lockspace >= 0:
            os.close(self._lockspace)
            self._lockspace = -1


def _hint(scratch: Scratch, error: OSError) -> str:
    """What makes room for the files of SCRATCH after ERROR."""
    folder = shlex.quote(scratch.folder)
    return {
        errno.ENOSPC: f"drill --directory DIR, where {2 * SIZE >> 20} MiB are free",
        errno.EDQUOT: f"drill --directory DIR, where {2 * SIZE >> 20} MiB are free",
        errno.EROFS: "drill --directory DIR, where root may write",
        errno.ENOTDIR: f"mv {folder} {folder}.away, or drill --directory DIR",
        errno.EEXIST: f"rm -r {folder}, once it is not needed, or drill --directory DIR",
        errno.EPERM: "drill --directory DIR, which only root may write to",
    }.get(error.errno or 0, hint_for(error) or _REMEDY)


def remove(scratch: Scratch) -> None:
    """Remove the files of SCRATCH and their directory, as far as they are there.  Raises OSError.

    A sanlock that has them open still keeps them until it has left the lockspace.
    """
    if os.path.basename(scratch.folder) != NAME:
        return
    paths = (scratch.lockspace_path, scratch.lease_path)
    try:
        directory = open_directory(scratch.folder)
    except FileNotFoundError:
        return
    except OSError:
        if any(map(os.path.lexists, paths)):
            raise
        return  # such a directory was refused before anything was made there
    try:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.basename(path), dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(scratch.folder)


def _make(directory: int, path: str, uid: int, gid: int) -> int:
    """A new file, full of zeros, for that user alone; its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(os.path.basename(path), flags, 0o600, dir_fd=directory)
    try:
        _fill(descriptor)
        os.fchown(descriptor, uid, gid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _fill(descriptor: int) -> None:
    """Write zeros over all of it, down to the disk: sanlock reads there, past the page cache."""
    zeros = bytes(1 << 16)
    for offset in range(0, SIZE, len(zeros)):
        if os.pwrite(descriptor, zeros, offset) != len(zeros):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)
