# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that is no virtual machine, and holds a lease.

Run inside a stack, see Stack.leaseholder(), by the distribution's Python as

    leaseholder.py LOCKSPACE RESOURCE PATH OFFSET [KILLPATH [ARGUMENT...]]

It registers itself with sanlock, names its killpath, takes the lease, prints "ready PID" and
sleeps until it is killed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "helper"))

from sanlock_helper.leases import libsanlock as sanlock


def main() -> None:
    """Register, name the killpath, take the lease, sleep."""
    lockspace, resource, path, offset, *killpath = sys.argv[1:]
    # The lease is held as long as this socket is open.
    connection = sanlock.register()
    if killpath:
        sanlock.killpath(killpath[0], killpath[1:], slkfd=connection)
    disks = [(path, int(offset))]
    sanlock.acquire(os.fsencode(lockspace), os.fsencode(resource), disks, slkfd=connection)
    print("ready", os.getpid(), flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
