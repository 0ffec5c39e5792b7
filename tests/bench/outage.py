# SPDX-License-Identifier: LGPL-2.1-or-later
"""When all virtual machines are safe in an outage; run inside a stack by the distribution's Python.

    outage.py < lines of UUID ACTION

prints "ready", and once all are in their goal state the time of day at which the last one was.
"""

from __future__ import annotations

import sys
import time

import libvirt

from .storm import QemuHost


def main() -> None:
    """Watch until all are safe."""
    requests = [line.split() for line in sys.stdin]
    connection = libvirt.openReadOnly("qemu:///system")
    host = QemuHost(connection, requests)
    # libvirtd must have nothing to do with this.
    connection.close()
    print("ready", flush=True)
    while not (host.all_off() and host.all_paused()):
        time.sleep(0.005)
    print(time.time(), flush=True)


if __name__ == "__main__":
    main()
