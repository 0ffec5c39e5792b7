# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file of an administrator's or a package's, read once: what stands at its path may be anything."""

from __future__ import annotations

import os
import stat

from .errors import PermanentError


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of the regular file at PATH, of a longer one than MOST bytes one byte more than that.

    What is no regular file may have no end, or wait for a writer: PermanentError.  Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PermanentError(f"read {path}", "it is no regular file", f"ls -l {path}")
        # None is of a file of the kernel's that has nothing to read now.
        return file.read(most + 1) or b""
