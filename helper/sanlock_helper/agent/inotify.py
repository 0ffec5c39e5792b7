# SPDX-License-Identifier: LGPL-2.1-or-later
"""inotify(7): what happens in directories, reported by the kernel; the standard library has no binding."""

from __future__ import annotations

import ctypes
import os
from sys import byteorder as _ORDER

# linux/inotify.h
CLOSE_WRITE = 0x00000008
MOVED_FROM = 0x00000040
MOVED_TO = 0x00000080
CREATE = 0x00000100
DELETE = 0x00000200
DELETE_SELF = 0x00000400
MOVE_SELF = 0x00000800
OVERFLOW = 0x00004000
IGNORED = 0x00008000

# struct inotify_event: watch, mask, cookie, the length of the name behind it.
_HEAD = 16
_LENGTH_AT = 12
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
        """Report what is in MASK of the directory at PATH; returns the number of the watch.

        Raises OSError: it is not there, or there are as many as the kernel allows
        (fs.inotify.max_user_watches).
        """
        answer = self._libc.inotify_add_watch(self.descriptor, os.fsencode(path), ctypes.c_uint32(mask))
        return self._checked(path, answer)

    def read(self) -> set[tuple[int, int]]:
        """The events since the last call, each kind once: the number of the watch and the mask."""
        found: set[tuple[int, int]] = set()
        while True:
            try:
                data = os.read(self.descriptor, _BUFFER)
            except BlockingIOError:
                return found
            at = 0
            while at + _HEAD <= len(data):
                watch = int.from_bytes(data[at : at + 4], _ORDER, signed=True)
                mask = int.from_bytes(data[at + 4 : at + 8], _ORDER)
                found.add((watch, mask))
                at += _HEAD + int.from_bytes(data[at + _LENGTH_AT : at + _HEAD], _ORDER)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

    @staticmethod
    def _checked(what: str, answer: int) -> int:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), what)
        return answer
