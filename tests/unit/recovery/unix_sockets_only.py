# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a command as RestrictAddressFamilies=AF_UNIX of recovery's unit does, by a filter in the kernel.

Run as a program: unix_sockets_only.py COMMAND [ARGUMENT...].
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from pathlib import Path

# The number of socket(2), by machine.
SOCKET_CALLS = {"x86_64": 41, "aarch64": 198}

WORDS = [sys.executable, str(Path(__file__))]

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
# <linux/bpf_common.h>, <linux/seccomp.h>: load a word, jump if equal, return; allow, fail with an errno.
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
# Where struct seccomp_data has the call's number, and its first argument.
_NUMBER, _FIRST = 0, 16


def restrict() -> None:
    """Have socket(2) fail in this process and its children for all families but AF_UNIX."""
    steps = (
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, SOCKET_CALLS[os.uname().machine]),
        (_LOAD, 0, 0, _FIRST),
        (_EQUAL, 1, 0, socket.AF_UNIX),
        (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _MODE_FILTER, program)):
        if libc.prctl(*arguments, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    restrict()
    os.execv(sys.argv[1], sys.argv[1:])
