# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk that the kernel caches as it does any other, and that stops answering when this process is stopped.

Run inside a stack by the distribution's Python as

    cached_disk.py SOURCE MOUNTPOINT

shows SOURCE, read-only, at MOUNTPOINT.  FUSE by its own protocol (linux/fuse.h), without a library: with one
each open(2), and after a while each name, is asked of the process, as no file system of a disk does.  Here
the kernel keeps names, attributes, symbolic links, directories and pages for as long as it has room.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from typing import Callable

LOOKUP, FORGET, GETATTR, READLINK, READ, STATFS, INIT, READDIR = 1, 2, 3, 5, 15, 17, 26, 28
INTERRUPT, BATCH_FORGET = 36, 42
UNANSWERED = (FORGET, INTERRUPT, BATCH_FORGET)

CACHE_SYMLINKS = 1 << 23
FOR_EVER = 1 << 30
# Else the kernel asks for a file's times again after each read.
MS_RDONLY = 1
CLONE_NEWNS = 0x00020000
MS_PRIVATE_ALL = (1 << 18) | (1 << 14)


class Disk:
    """One mount; inodes are numbered as they are met."""

    def __init__(self, source: str, mountpoint: str) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._paths = {1: source}
        self._numbers = {source: 1}
        self._fuse = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        if self._libc.mount(b"disk", mountpoint.encode(), b"fuse", MS_RDONLY, options.encode()):
            raise OSError(ctypes.get_errno(), "mount")
        # What is bound over SOURCE later is not seen from here.
        if self._libc.unshare(CLONE_NEWNS) or self._libc.mount(None, b"/", None, MS_PRIVATE_ALL, None):
            raise OSError(ctypes.get_errno(), "unshare")

    def serve(self) -> None:
        while True:
            data = os.read(self._fuse, 1 << 20)
            length, opcode, unique, node = struct.unpack_from("=IIQQ", data)
            if opcode in UNANSWERED:
                continue
            try:
                answer, error = self._answer(opcode, node, data[40:length]), 0
            except OSError as failed:
                answer, error = b"", -(failed.errno or errno.EIO)
            try:
                os.write(self._fuse, struct.pack("=IiQ", 16 + len(answer), error, unique) + answer)
            except FileNotFoundError:
                pass  # the caller was killed meanwhile

    def _answer(self, opcode: int, node: int, data: bytes) -> bytes:
        if opcode == INIT:
            return struct.pack("=IIIIHHII", 7, 31, 1 << 17, CACHE_SYMLINKS, 12, 9, 4096, 1) + bytes(36)
        answers: dict[int, Callable[[str, bytes], bytes]] = {
            LOOKUP: lambda path, data: self._entry(f"{path}/{data.rstrip(bytes(1)).decode()}"),
            GETATTR: lambda path, _: struct.pack("=QII", FOR_EVER, 0, 0) + self._attributes(path),
            READLINK: lambda path, _: os.readlink(path).encode(),
            READ: self._read,
            READDIR: self._names,
            STATFS: lambda _path, _data: bytes(80),
        }
        if opcode not in answers:
            # So the kernel sends these once, and never again: open, opendir, getxattr, access, flush.
            raise OSError(errno.ENOSYS, "")
        return answers[opcode](self._paths[node], data)

    @staticmethod
    def _read(path: str, data: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", data)
        with open(path, "rb") as file:
            return os.pread(file.fileno(), size, offset)

    def _entry(self, path: str) -> bytes:
        if not os.path.lexists(path):
            return struct.pack("=QQQQII", 0, 0, FOR_EVER, FOR_EVER, 0, 0) + bytes(88)
        number = self._numbers.setdefault(path, len(self._numbers) + 1)
        self._paths[number] = path
        return struct.pack("=QQQQII", number, 0, FOR_EVER, FOR_EVER, 0, 0) + self._attributes(path)

    def _attributes(self, path: str) -> bytes:
        found = os.lstat(path)
        times = [
            (ns // 10**9, ns % 10**9) for ns in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
        ]
        return struct.pack(
            "=6Q10I",
            found.st_ino, found.st_size, found.st_blocks, *(time[0] for time in times),
            *(time[1] for time in times), found.st_mode, found.st_nlink, found.st_uid, found.st_gid,
            0, 4096, 0,
        )  # fmt: skip

    @staticmethod
    def _names(path: str, data: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", data)
        answer = b""
        for number, name in enumerate([".", "..", *sorted(os.listdir(path))][offset:], offset + 1):
            raw = name.encode()
            kind = stat.S_IFMT(os.lstat(f"{path}/{name}").st_mode) >> 12
            entry = struct.pack("=QQII", number, number, len(raw), kind) + raw
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer


if __name__ == "__main__":
    disk = Disk(sys.argv[1], sys.argv[2])
    print("ready", flush=True)
    disk.serve()
