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

# The XML of a domain is at most 4 MiB (libvirt src/remote/remote_protocol.x), four times as much when
# escaped: a blank becomes \\x20.
_MAX_BYTES = 17 * 1024 * 1024


class RecordDirectory:
    """The records in one directory.

    Each method opens the directory anew, checks what it has opened (see open_directory()), and does the rest
    through that descriptor: what is at its path by then does not matter.  Methods raise OSError when the
    directory cannot be used.
    """

    def __init__(self, path: str = RUN_DIR, suffix: str = SUFFIX) -> None:
        self.path = path
        self._suffix = suffix

    def file(self, uuid: str) -> str:
        """Where the record of domain UUID is."""
        return f"{self.path}/{self._name(uuid)}"

    def _name(self, uuid: str) -> str:
        return f"{uuid}{self._suffix}"

    def write(self, record: Record, durable: bool = False) -> None:
        """Write RECORD, in one step; DURABLE waits until it is on the disk."""
        directory = open_directory(self.path, make=True)
        try:
            self._write(directory, record, durable)
        finally:
            os.close(directory)

    def _write(self, directory: int, record: Record, durable: bool) -> None:
        new = f".{record.uuid}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600, dir_fd=directory)
        try:
            data = memoryview(record.encode())
            while data:
                data = data[os.write(descriptor, data) :]
            if durable:
                os.fsync(descriptor)
            os.rename(new, self._name(record.uuid), src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(new, dir_fd=directory)
            raise
        finally:
            os.close(descriptor)
        if durable:
            os.fsync(directory)

    def remove(self, uuid: str) -> bool:
        """Remove the record of domain UUID; False when there was none."""
        try:
            directory = open_directory(self.path)
        except FileNotFoundError:
            return False
        try:
            os.unlink(self._name(uuid), dir_fd=directory)
        except FileNotFoundError:
            return False
        finally:
            os.close(directory)
        return True

    def uuids(self) -> list[str]:
        """The domains that have a record here, of whatever quality."""
        suffix = self._suffix
        names = _names(self.path)
        return sorted(name[: -len(suffix)] for name in names if name.endswith(suffix) and name[0] != ".")

    def read(self, uuid: str) -> Record | None:
        """The record of domain UUID, None when there is none.

        Raises RecordError when what is there is no record, or not one that this user alone can have written;
        OSError when it cannot be read now, which proves nothing about it.
        """
        try:
            directory = open_directory(self.path)
            try:
                descriptor = self._open_file(directory, self._name(uuid))
            finally:
                os.close(directory)
        except FileNotFoundError:
            return None
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

    def _open_file(self, directory: int, name: str) -> int:
        # Before it is opened: to open a device or a FIFO has effects of its own.
        if not _may_be_opened(os.stat(name, dir_fd=directory, follow_symlinks=False)):
            raise RecordError("it is no regular file")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(name, flags, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise RecordError(f"it cannot be opened: {error.strerror}") from error

    def take(self, uuid: str, suffix: str) -> None:
        """Give the record of domain UUID another SUFFIX, in place of one that has it already.

        Raises FileNotFoundError when there is no record.
        """
        directory = open_directory(self.path)
        try:
            os.rename(self._name(uuid), f"{uuid}{suffix}", src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            os.close(directory)

    def set_aside(self, uuid: str) -> str:
        """Move what is no record out of the way, and return where it is now."""
        folder = f"{self.path}/{SET_ASIDE}"
        directory = open_directory(self.path)
        try:
            aside = open_directory(folder, make=True)
            try:
                taken = set(os.listdir(aside))
                number = 1
                while (name := f"{uuid}.{number}") in taken:
                    number += 1
                os.rename(self._name(uuid), name, src_dir_fd=directory, dst_dir_fd=aside)
            finally:
                os.close(aside)
        finally:
            os.close(directory)
        return f"{folder}/{name}"

    def names_set_aside(self) -> list[str]:
        """What was set aside here, by its path."""
        folder = f"{self.path}/{SET_ASIDE}"
        return [f"{folder}/{name}" for name in sorted(_names(folder))]


def open_directory(path: str, make: bool = False) -> int:
    """A descriptor of the directory PATH, in which no other user can have made, moved or replaced anything.

    MAKE makes it, and the one above it, for this user alone.  Raises FileNotFoundError where it is not there;
    NotADirectoryError where it, or the one above it, is a symbolic link or anything else that is no
    directory; PermissionError where another user owns one of them, or may write to it; OSError where it
    cannot be opened.  The path of the one that is meant is in the error.
    """
    above = os.path.dirname(path)
    # To be searched only, as /var/lib; another user who may not list it can still be given the reason.
    parent = _open_checked(above, above, os.O_PATH, make, stat.S_ISVTX)
    try:
        return _open_checked(os.path.basename(path), path, os.O_RDONLY, make, dir_fd=parent)
    finally:
        os.close(parent)


def _open_checked(
    name: str, path: str, access: int, make: bool, sticky: int = 0, dir_fd: int | None = None
) -> int:
    """The directory NAME in DIR_FD, which is at PATH; one with the mode bit STICKY may be open to others."""
    try:
        descriptor = _open_or_make(name, access, make, dir_fd)
    except OSError as error:
        if make and error.errno == errno.ENOTDIR:
            # Something else stands in the place of what is to be made.
            raise NotADirectoryError(errno.ENOTDIR, "it is no directory", path) from error
        error.filename = path
        raise
    status = os.fstat(descriptor)
    if status.st_uid not in (0, os.geteuid()) or (status.st_mode & 0o022 and not status.st_mode & sticky):
        os.close(descriptor)
        whose = f"it is user {status.st_uid}'s, mode {stat.S_IMODE(status.st_mode):o}"
        why = f"others may write to it, {whose} (find out why; then chown root:root and chmod 700)"
        raise PermissionError(errno.EPERM, why, path)
    return descriptor


def _open_or_make(name: str, access: int, make: bool, dir_fd: int | None) -> int:
    flags = access | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(name, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        pass  # made by another process meanwhile
    return os.open(name, flags, dir_fd=dir_fd)


def _names(path: str) -> list[str]:
    """What is in the directory PATH; nothing where there is none."""
    try:
        directory = open_directory(path)
    except FileNotFoundError:
        return []
    try:
        return os.listdir(directory)
    finally:
        os.close(directory)


def _may_be_opened(status: os.stat_result) -> bool:
    """Whether it is a file, or a symbolic link, which os.open() refuses with a reason of its own."""
    return stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)


def _read_all(descriptor: int) -> bytes:
    """The content of a file, of which what no record can hold is left out."""
    parts, size = [], 0
    while size < _MAX_BYTES and (part := os.read(descriptor, 1 << 18)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
