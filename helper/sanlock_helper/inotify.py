# SPDX-License-Identifier: LGPL-2.1-or-later
"""inotify(7): what happens to files and in directories; the standard library has no binding.

inotify goes by the file itself, whatever its path in another mount namespace.  What has gone a moment later
is reported all the same: the kernel keeps the events until they are read.
"""

from __future__ import annotations

import ctypes
import os
import struct

# linux/inotify.h
CLOSE_WRITE = 0x00000008
OPEN = 0x00000020
MOVED_FROM = 0x00000040
MOVED_TO = 0x00000080
CREATE = 0x00000100
DELETE = 0x00000200
MOVE_SELF = 0x00000800

# struct inotify_event without its name: wd, mask, cookie, len.
_EVENT = struct.Struct("iIII")
_BUFFER = 64 * 1024


class Inotify:
    """One queue of events; `descriptor` can be read when there are some, and a read never waits."""

    def __init__(self) -> None:
        """Raises OSError when the kernel gives none (fs.inotify.max_user_instances)."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self._checked(
            "inotify_init1", self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        )

    def watch(self, path: str, mask: int) -> int:
        """Report what is in MASK of the file or directory at PATH; returns the number of the watch.

        Raises OSError: it is not there, or there are as many as the kernel allows
        (fs.inotify.max_user_watches).
        """
        answer = self._libc.inotify_add_watch(self.descriptor, os.fsencode(path), ctypes.c_uint32(mask))
        return self._checked(path, answer)

    def read(self) -> list[tuple[int, int, str]]:
        """The events since the last call: the number of the watch, the mask, and the name in a directory."""
        found: list[tuple[int, int, str]] = []
        while True:
            try:
                data = os.read(self.descriptor, _BUFFER)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                found.append((watch, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))))
                at += length

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

    @staticmethod
    def _checked(what: str, answer: int) -> int:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), what)
        return answer
