# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock's errors in words, each with what to do about it.

The numbers below -200 are those of sanlock ``src/sanlock_rv.h``; the rest are errnos.
"""

from __future__ import annotations

import errno
import os

_STORAGE = "see whether the storage of the leases is there: sanlock client log_dump"
_ELSEWHERE = "the virtual machine runs there, or another host is taking the lease"
_AGAIN = "it may pass by itself"
_LAYOUT = "the lease on storage is damaged or belongs to something else: see sanlock direct dump PATH"

# number: (what it means, what to do)
ERRORS = {
    -201: ("general error", "see sanlock client log_dump"),
    -202: ("input or output timed out", _STORAGE),
    -203: ("the watchdog cannot be used", "see systemctl status wdmd, or sanlock's option -w"),
    -210: ("a block of the lease cannot be read", _STORAGE),
    -211: ("a block of the lease cannot be written", _STORAGE),
    -212: ("another host acquired the lease in a new ballot", _ELSEWHERE),
    -213: ("another host acquired the lease in this ballot", _ELSEWHERE),
    -214: ("a block of the lease has a wrong checksum", _LAYOUT),
    -220: ("the lease cannot be read", _STORAGE),
    -221: ("the lease cannot be written", _STORAGE),
    -222: ("the lease changed while it was read", _AGAIN),
    -223: ("there is no lease on storage", _LAYOUT),
    -224: (
        "the lease has a format that this sanlock does not know",
        "run one version of sanlock on all hosts",
    ),
    -225: ("the lease has another sector size", _LAYOUT),
    -226: ("the lease belongs to another lockspace", _LAYOUT),
    -227: ("the lease belongs to another resource", _LAYOUT),
    -228: ("the lease is made for another number of hosts", _LAYOUT),
    -229: ("the lease has a wrong checksum", _LAYOUT),
    -230: ("sector size and alignment do not fit each other", _LAYOUT),
    -231: ("the host_id is out of range", "see host_id in /etc/libvirt/qemu-sanlock.conf"),
    -240: ("the lease has another version than was asked for", _ELSEWHERE),
    -241: ("the lockspace is not joined", "virt-sanlock-helper recover joins it again"),
    -242: ("the disk of the lockspace cannot be opened", _STORAGE),
    -243: ("the lease is held by another host", _ELSEWHERE),
    -244: ("another host acquired the lease in another ballot", _ELSEWHERE),
    -245: ("another host acquired the lease at the last moment", _ELSEWHERE),
    -246: ("the lease is held by another host, not shared", _ELSEWHERE),
    -247: ("the lease is owned by another host", _ELSEWHERE),
    -250: ("the lease to release has another version", "see sanlock client log_dump"),
    -251: ("the lease to release has another owner", "see sanlock client log_dump"),
    -260: ("the host's lease was taken by another owner", "two hosts may have the same host_id"),
    -261: ("the host's lease was changed by somebody", "two hosts may have the same host_id"),
    -262: (
        "the host_id is used by another host",
        "give each host a host_id of its own, in qemu-sanlock.conf",
    ),
    -270: ("the request block is damaged", _LAYOUT),
    -271: ("the request block has an unknown version", "run one version of sanlock on all hosts"),
    -272: ("the request is for an older version of the lease", _AGAIN),
    -273: ("the request is for a newer version of the lease", _AGAIN),
    -274: ("the resource index is damaged", _LAYOUT),
    -275: ("the resource index has an unknown version", "run one version of sanlock on all hosts"),
    -276: ("the resource index belongs to another lockspace", _LAYOUT),
    -277: ("the resource index has another offset", _LAYOUT),
    -278: ("the resource index changed while it was read", _AGAIN),
    -errno.ENOSPC: ("the lockspace is not joined", "virt-sanlock-helper recover joins it again"),
    -errno.EAGAIN: ("sanlock still leaves the lockspace", "it is over when no process uses it any more"),
    -errno.EINPROGRESS: ("sanlock is joining the lockspace already", "wait"),
    -errno.EEXIST: ("the lockspace is joined already", ""),
    -errno.EINVAL: (
        "its name or its path is joined with another host_id or path",
        "compare sanlock client status with /etc/libvirt/qemu-sanlock.conf",
    ),
    -errno.ENOENT: ("there is no such file", _STORAGE),
    -errno.ENODEV: ("there is no such device", _STORAGE),
    -errno.EIO: ("input or output error", _STORAGE),
    -errno.EMSGSIZE: ("the file or device ends before the lease does", _STORAGE),
    -errno.EACCES: ("permission denied", "run this as root, or as a member of the group sanlock"),
    -errno.ECONNREFUSED: ("the sanlock daemon does not run", "systemctl start sanlock"),
    -errno.EPIPE: ("the sanlock daemon has ended", "systemctl start sanlock"),
    -errno.ECONNRESET: ("the sanlock daemon has ended", "systemctl start sanlock"),
    -errno.ESRCH: ("sanlock does not know the process", ""),
}


def explain(number: int) -> tuple[str, str]:
    """What sanlock's error NUMBER (an errno or its own, of either sign) means, and what to do about it."""
    number = -abs(number)
    if number in ERRORS:
        why, hint = ERRORS[number]
        return f"{why} (sanlock error {number})", hint
    if number > -200:
        return f"{os.strerror(-number)} (sanlock error {number})", ""
    return f"sanlock error {number}", "see sanlock_rv.h of the installed sanlock"
