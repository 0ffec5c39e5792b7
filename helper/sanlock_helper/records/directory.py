# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory of records, one file per domain, that only its owner can have written."""

from __future__ import annotations

import errno
import os
import stat

from .. import RUNTIME_DIR
from .record import Record, RecordError, check, decode

# On tmpfs: written by the helper, before a virtual machine is touched.
RUN_DIR = f"{RUNTIME_DIR}/records"
# On disk: recovery's copies, which outlive a reset of the host.
STATE_DIR = "/var/lib/virt-sanlock-helper"

# One recovery at a time.
INSTANCE_LOCK = f"{RUNTIME_DIR}/recover.lock"

SUFFIX = ".record"
# One on tmpfs that recovery has taken from the helper.
TAKEN = ".taken"
SET_ASIDE = "set-aside"

# The XML of a domain is at most 4 MiB (libvirt src/remote/remote_protocol.x), more when escaped.
_MAX_BYTES = 32 * 1024 * 1024


class RecordDirectory:
    """The records in one directory.  Methods raise OSError when the directory cannot be used."""

    def __init__(self, path: str = RUN_DIR, suffix: str = SUFFIX) -> None:
        self.path = path
        self._suffix = suffix
        self._prepared = False

    def file(self, uuid: str) -> str:
        """Where the record of domain UUID is."""
        return f"{self.path}/{uuid}{self._suffix}"

    def write(self, record: Record, durable: bool = False) -> None:
        """Write RECORD, in one step; DURABLE waits until it is on the disk."""
        new = f"{self.path}/.{record.uuid}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = self._open(new, flags)
        try:
            data = memoryview(record.encode())
            while data:
                data = data[os.write(descriptor, data) :]
            if durable:
                os.fsync(descriptor)
            os.rename(new, self.file(record.uuid))
        except BaseException:
            os.unlink(new)
            raise
        finally:
            os.close(descriptor)
        if durable:
            self._sync()

    def remove(self, uuid: str) -> bool:
        """Remove the record of domain UUID; False when there was none."""
        try:
            os.unlink(self.file(uuid))
        except FileNotFoundError:
            return False
        return True

    def uuids(self) -> list[str]:
        """The domains that have a record here, of whatever quality."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        suffix = self._suffix
        return sorted(name[: -len(suffix)] for name in names if name.endswith(suffix) and name[0] != ".")

    def read(self, uuid: str) -> Record | None:
        """The record of domain UUID, None when there is none.

        Raises RecordError when what is there is no record, or not one that this user alone can have written;
        OSError when it cannot be read now, which proves nothing about it.
        """
        path = self.file(uuid)
        try:
            # Before it is opened: to open a device or a FIFO has effects of its own.
            if not _may_be_opened(os.lstat(path)):
                raise RecordError("it is no regular file")
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise RecordError(f"it cannot be opened: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RecordError("it is no regular file")
            if status.st_uid != os.geteuid() or status.st_mode & 0o022 or status.st_nlink > 1:
                mode = stat.S_IMODE(status.st_mode)
                raise RecordError(f"it is owned by user {status.st_uid}, mode {mode:o}: not ours alone")
            record = decode(_read_all(descriptor))
        finally:
            os.close(descriptor)
        check(record)
        if record.uuid != uuid:
            raise RecordError(f"it is the record of {record.uuid[:60]!r}")
        return record

    def set_aside(self, uuid: str) -> str:
        """Move what is no record out of the way, and return where it is now."""
        folder = f"{self.path}/{SET_ASIDE}"
        os.makedirs(folder, 0o700, exist_ok=True)
        number = 1
        while os.path.lexists(target := f"{folder}/{uuid}.{number}"):
            number += 1
        os.rename(self.file(uuid), target)
        return target

    def _open(self, new: str, flags: int) -> int:
        """Open the file NEW in a directory that was checked once: only its owner can replace it."""
        if self._prepared:
            try:
                return os.open(new, flags, 0o600)
            except FileNotFoundError:
                pass  # the directory was removed since
        self._prepare()
        self._prepared = True
        return os.open(new, flags, 0o600)

    def _prepare(self) -> None:
        """Make the directory, and refuse one in which another user could have written."""
        parent = os.path.dirname(self.path)
        for path in (parent, self.path):
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                pass
        for path in (parent, self.path):
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "it is no directory", path)
            sticky = status.st_mode & stat.S_ISVTX and path == parent
            if status.st_uid not in (0, os.geteuid()) or (status.st_mode & 0o022 and not sticky):
                raise PermissionError(errno.EPERM, "others may write to it", path)

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _may_be_opened(status: os.stat_result) -> bool:
    """Whether it is a file, or a symbolic link, which os.open() refuses with a reason of its own."""
    return stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)


def _read_all(descriptor: int) -> bytes:
    """The content of a file, of which what no record can hold is left out."""
    data = b""
    while len(data) < _MAX_BYTES:
        more = os.read(descriptor, 65536)
        if not more:
            break
        data += more
    return data
