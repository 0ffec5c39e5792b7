# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock's errors in words, each with what to do about it.

The numbers below -200 are those of sanlock ``src/sanlock_rv.h``; the rest are errnos.  sanlock 5 has new
ones, and has moved two: what was -250 and -251 up to 3.9 is -252 and -253 there, and -250 and -251 are free.
So no number means one thing to an older daemon and another to a newer one, and the daemon's version does not
matter.
"""

from __future__ import annotations

import errno
import os

from ..errors import RUN_AS_ROOT

_STORAGE = "see whether the storage of the leases is there: sanlock client log_dump"
_ELSEWHERE = "the virtual machine runs there, or another host is taking the lease"
_AGAIN = "it may pass by itself"
_VERSIONS = (
    "run one version of sanlock on all hosts of the lockspace; virt-sanlock-helper check has its format"
)
_CAW = "see caw in sanlock.conf, the same on all hosts, and whether the disk has compare-and-write"
_LAYOUT = "the lease on storage is damaged or belongs to something else: see sanlock direct dump PATH"

# number: (what it means, what to do)
ERRORS = {
    -201: ("general error", "see sanlock client log_dump"),
    -202: ("input or output timed out", _STORAGE),
    -203: ("the watchdog cannot be used", "see systemctl status wdmd, or sanlock's option -w"),
    -204: ("the lockspace or the lease has the format of another version of sanlock", _VERSIONS),
    -210: ("a block of the lease cannot be read", _STORAGE),
    -211: ("a block of the lease cannot be written", _STORAGE),
    -212: ("another host acquired the lease in a new ballot", _ELSEWHERE),
    -213: ("another host acquired the lease in this ballot", _ELSEWHERE),
    -214: ("a block of the lease has a wrong checksum", _LAYOUT),
    -220: ("the lease cannot be read", _STORAGE),
    -221: ("the lease cannot be written", _STORAGE),
    -222: ("the lease changed while it was read", _AGAIN),
    -223: ("there is no lease on storage", _LAYOUT),
    -224: ("the lockspace or the lease has a format that this sanlock does not know", _VERSIONS),
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
    -248: ("the owner's generation on storage went back", "see sanlock client log_dump"),
    -249: (
        "the lease is owned by another host, whose lockspace has no timeout",
        "make sure that host is off, then see no_timeout in sanlock's manual page",
    ),
    -250: ("the lease to release has another version", "see sanlock client log_dump"),
    -251: ("the lease to release has another owner", "see sanlock client log_dump"),
    -252: ("the lease to release has another version", "see sanlock client log_dump"),
    -253: ("the lease to release has another owner", "see sanlock client log_dump"),
    -260: ("the host's lease was taken by another owner", "two hosts may have the same host_id"),
    -261: ("the host's lease was changed by another host", "two hosts may have the same host_id"),
    -262: (
        "the host_id is used by another host",
        "give each host a host_id of its own, in qemu-sanlock.conf",
    ),
    -263: ("another host has marked this one as dead", "see sanlock client log_dump of the other hosts"),
    -270: ("the request block is damaged", _LAYOUT),
    -271: ("the request block has an unknown version", _VERSIONS),
    -272: ("the request is for an older version of the lease", _AGAIN),
    -273: ("the request is for a newer version of the lease", _AGAIN),
    -274: ("the resource index is damaged", _LAYOUT),
    -275: ("the resource index has an unknown version", _VERSIONS),
    -276: ("the resource index belongs to another lockspace", _LAYOUT),
    -277: ("the resource index has another offset", _LAYOUT),
    -278: ("the resource index changed while it was read", _AGAIN),
    -280: ("the lease belongs to another generation of the host", _AGAIN),
    -281: ("compare-and-write is on for the lease and off here, or the other way round", _CAW),
    -282: ("the configuration of compare-and-write does not fit", _CAW),
    -283: ("the disk cannot be opened for compare-and-write", _CAW),
    -284: ("the disk refuses compare-and-write", _CAW),
    -285: ("another host wrote the lease at the same time", _ELSEWHERE),
    -286: ("compare-and-write failed", _CAW),
    -287: ("the lease has another way of input and output", _CAW),
    -288: ("compare-and-write is not allowed by the disk", _CAW),
    -errno.ENOSPC: ("the lockspace is not joined", "virt-sanlock-helper recover joins it again"),
    -errno.EAGAIN: ("sanlock still leaves the lockspace", "it is over when no process uses it any more"),
    -errno.EINPROGRESS: ("sanlock is joining the lockspace already", "wait"),
    -errno.EEXIST: ("the lockspace is joined already", ""),
    -errno.ENOENT: ("there is no such file", _STORAGE),
    -errno.ENODEV: ("there is no such device", _STORAGE),
    -errno.EIO: ("input or output error", _STORAGE),
    -errno.EMSGSIZE: ("the file or device ends before the lease does", _STORAGE),
    -errno.EACCES: ("permission denied", f"{RUN_AS_ROOT}, or as a member of the group sanlock"),
    -errno.ECONNREFUSED: ("the sanlock daemon does not run", "systemctl start sanlock"),
    -errno.EPIPE: ("the sanlock daemon has ended", "systemctl start sanlock"),
    -errno.ECONNRESET: ("the sanlock daemon has ended", "systemctl start sanlock"),
    -errno.ESRCH: ("sanlock does not know the process", ""),
}


# The same for a lockspace that is joined; of a file that is read it has no more than open(2).
JOIN_ERRORS = {
    -errno.EINVAL: (
        "its name or its path is joined with another host_id or path, or is on no storage for leases",
        "compare sanlock client status with /etc/libvirt/qemu-sanlock.conf",
    ),
}


def explain(number: int, joins: bool = False) -> tuple[str, str]:
    """What sanlock's error NUMBER (an errno or its own, of either sign) means, and what to do about it.

    JOINS: it was the answer to the joining of a lockspace.
    """
    number = -abs(number)
    errors = {**ERRORS, **JOIN_ERRORS} if joins else ERRORS
    if number in errors:
        why, hint = errors[number]
        return f"{why} (sanlock error {number})", hint
    if number > -200:
        return f"{os.strerror(-number)} (sanlock error {number})", ""
    return f"sanlock error {number}", "see sanlock_rv.h of the installed sanlock"
