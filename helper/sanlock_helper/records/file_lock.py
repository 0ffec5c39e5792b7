# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lock on a file: the kernel frees it when its holder ends, however it ends (flock(2))."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from .directory import open_directory

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def locked(path: str, wait: bool) -> Iterator[int]:
    """Hold the lock at PATH, and give the open file's descriptor; file and directory are made if need be.

    Waits for another holder with WAIT, and raises BlockingIOError without.  Raises OSError when the file
    cannot be opened, a symbolic link among others, or when its directory is not this user's alone.
    """
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    directory = open_directory(os.path.dirname(path), make=True)
    try:
        return os.open(os.path.basename(path), _FLAGS, 0o600, dir_fd=directory)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(directory)
