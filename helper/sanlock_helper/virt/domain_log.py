# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's log of a domain: why its last run ended, where libvirtd itself does not know it any more.

libvirtd keeps the reason of a domain that is off in its memory only, and nothing at all of a transient one.
Its QEMU driver writes one line at each start and at each end of a run to the domain's log
(qemuProcessLaunch() and qemuProcessStop() in libvirt src/qemu/qemu_process.c).
"""

from __future__ import annotations

import calendar
import os
import re
import stat
import time

LOG_DIR = "/var/log/libvirt/qemu"

# The lines that are wanted are at the end of the file.
_TAIL_BYTES = 256 * 1024

_LINE = re.compile(
    rb"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.\d+\+0000: (?:starting up|shutting down, reason=([a-z ]+)$)",
    re.MULTILINE,
)


def last_end(name: str, since: float, folder: str = LOG_DIR) -> str:
    """libvirt's word for why the last run of domain NAME ended: "crashed", "destroyed", "shutdown", …

    "" when the log does not have it: it is not there, it cannot be read, the end in it was before SINCE
    (seconds since the epoch), or a run has begun after it.
    """
    try:
        lines = _LINE.findall(_tail(f"{folder}/{name}.log"))
    except (OSError, ValueError):
        return ""
    if not lines:
        return ""
    when, reason = lines[-1]
    try:
        ended = calendar.timegm(time.strptime(when.decode("ascii"), "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return ""  # no time: QEMU, or a guest's console, has written a line of that form
    # The log's whole seconds against the fraction of SINCE.
    return reason.decode("ascii") if ended + 1 > since else ""


def _tail(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        return os.pread(descriptor, _TAIL_BYTES, max(0, status.st_size - _TAIL_BYTES))
    finally:
        os.close(descriptor)
