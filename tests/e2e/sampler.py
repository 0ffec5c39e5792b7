# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks every 50 ms whether a virtual machine runs without a lease.

Run inside a stack, by the distribution's Python, until it is killed: sampler.py NAME...  It prints "ready",
then a line for each time that a machine was seen running without a lease, and a dot for each round.
"""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path

import libvirt

sys.path.insert(0, str(Path(__file__).parents[2] / "helper"))

from sanlock_helper.leases import libsanlock as sanlock

INTERVAL = 0.05


def running(connection: libvirt.virConnect, name: str) -> bool:
    try:
        return bool(connection.lookupByName(name).state()[0] == libvirt.VIR_DOMAIN_RUNNING)
    except libvirt.libvirtError:
        return False


def holds_a_lease(name: str) -> bool:
    try:
        pid = int(Path(f"/run/libvirt/qemu/{name}.pid").read_text())
        return bool(sanlock.inquire(pid=pid))
    except sanlock.SanlockException as error:
        # Another command for that process is under way: the next round has the answer.
        return bool(error.errno == errno.EBUSY)
    except (OSError, ValueError):
        return False


def main() -> None:
    """Sample until killed."""
    connection = libvirt.openReadOnly("qemu:///system")
    libvirt.registerErrorHandler(lambda context, error: None, None)
    print("ready", flush=True)
    while True:
        for name in sys.argv[1:]:
            # Running before and after its lease was read: so it ran meanwhile, too.
            before = running(connection, name)
            if before and not holds_a_lease(name) and running(connection, name):
                print(f"{name} runs without a lease at {time.time():.3f}", flush=True)
        print(".", flush=True)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main()
