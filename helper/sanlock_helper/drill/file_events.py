# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens to a few files, by inotify(7): sanlock opens an executable, a request comes to the spool.

inotify goes by the file itself, whatever its path in sanlock's mount namespace.  A request that is served may
be gone a moment later, and a helper as well: the kernel keeps the events until they are read.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

IN_OPEN = 0x20
IN_MOVED_TO = 0x80

# struct inotify_event without its name: wd, mask, cookie, len.
_EVENT = struct.Struct("iIII")
_BUFFER = 1 << 16


class FileEvents:
    """The events of some files and directories."""

    def __init__(self) -> None:
        """Raises OSError where the kernel gives no instance (fs.inotify.max_user_instances)."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._checked(
            self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1"
        )

    def watch(self, path: str, mask: int) -> int:
        """Watch PATH for the events of MASK; returns the number that its events have.  Raises OSError."""
        number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), ctypes.c_uint32(mask))
        return self._checked(number, path)

    def read(self) -> Iterator[tuple[int, str]]:
        """The events since the last call: the number of the watch, and the name in a directory, else ""."""
        while True:
            try:
                data = os.read(self._descriptor, _BUFFER)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(data):
                number, _, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size
                yield number, os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
                offset += length

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self._descriptor)

    def _checked(self, result: int, what: str) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), what)
        return result
