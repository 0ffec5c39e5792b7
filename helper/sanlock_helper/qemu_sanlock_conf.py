# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's sanlock configuration, as far as it says which lockspace a host joins.

Not libvirt's whole grammar (src/util/virconf.c): `key = value` on a line, where a value is a number or a text
in one kind of quotes, and `#` begins a comment.  Lists are not read, and no key used here takes one.
"""

from __future__ import annotations

import re

from .leases import Lockspace

PATH = "/etc/libvirt/qemu-sanlock.conf"

# VIR_LOCK_MANAGER_SANLOCK_AUTO_DISK_LOCKSPACE and the default directory (libvirt
# src/locking/lock_driver_sanlock.c).
AUTO_LOCKSPACE = "__LIBVIRT__DISKS__"
LEASE_DIR = "/var/lib/libvirt/sanlock"

_SETTING = re.compile(r"""\s*(\w+)\s*=\s*(?:(-?\d+)|"([^"]*)"|'([^']*)')\s*(?:\#.*)?""")


def parse(text: str) -> dict[str, str]:
    """The settings in TEXT; a later one wins."""
    found = {}
    for line in text.splitlines():
        match = _SETTING.fullmatch(line)
        if match:
            found[match[1]] = next(value for value in match.groups()[1:] if value is not None)
    return found


def auto_lockspace(path: str = PATH) -> Lockspace | None:
    """The lockspace of libvirt's automatic disk leases; None where they are off or the file is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as conf:
            settings = parse(conf.read())
    except OSError:
        return None
    numbers = {key: int(settings.get(key, "0") or 0) for key in ("auto_disk_leases", "host_id", "io_timeout")}
    if not numbers["auto_disk_leases"] or not numbers["host_id"]:
        return None
    folder = settings.get("disk_lease_dir", LEASE_DIR)
    return Lockspace(
        AUTO_LOCKSPACE, numbers["host_id"], f"{folder}/{AUTO_LOCKSPACE}", 0, numbers["io_timeout"]
    )
