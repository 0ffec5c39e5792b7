# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a lockspace is on storage, when only leases in it are known: no part of libvirt's has its path."""

from __future__ import annotations

import os
import stat

# struct leader_record, little-endian on every host: magic, version, flags, sector_size of 4 bytes, then five
# numbers of 8, then the lockspace's name (sanlock src/ondisk.c, src/leader.h).
_MAGIC = (0x12212010).to_bytes(4, "little")
_NAME_AT, _NAME_LENGTH = 56, 48

# What may lie beside a lease; oVirt has a handful of files, or of logical volumes.
_MOST_ENTRIES = 500


def find_lockspace(name: str, lease_path: str) -> str | None:
    """The file or device with lockspace NAME at its start: that of the lease at LEASE_PATH, or one beside it.

    None where it is not found.  Reads storage, and may wait for it.
    """
    folder = os.path.dirname(lease_path)
    try:
        beside = sorted(os.listdir(folder))[:_MOST_ENTRIES]
    except OSError:
        beside = []
    paths = [lease_path, *(os.path.join(folder, entry) for entry in beside)]
    return next((path for path in paths if read_name(path) == name), None)


def read_name(path: str) -> str | None:
    """The name of the lockspace at the start of the file or device PATH; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            return None
        data = os.pread(descriptor, _NAME_AT + _NAME_LENGTH, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    name = data[_NAME_AT:].split(b"\0")[0].decode("utf-8", "surrogateescape")
    return name if data.startswith(_MAGIC) and name else None
