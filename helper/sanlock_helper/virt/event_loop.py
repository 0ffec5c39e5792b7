# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's event loop, for connections that are kept: without it libvirt's client sends and answers no
keepalive, and finds out that libvirtd has ended with the next call only."""

from __future__ import annotations

import _thread
from typing import Any, Callable

import libvirt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import VirConnect

# A kept connection whose libvirtd is silent is ended after about so many seconds times the count.  libvirtd's
# own keepalive_interval is 5 s (libvirtd.conf): where that comes, ours is not sent.  Each wakes this process.
KEEPALIVE_SECONDS = 30
KEEPALIVE_COUNT = 1


def start() -> None:
    """Run the loop in a thread; before the first connection is opened, which has to find it.

    Raises RuntimeError where no thread can be started.
    """
    libvirt.virEventRegisterDefaultImpl()
    _thread.start_new_thread(_run, ())


def _run() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            return  # no loop: as in a process that keeps no connection


def keep(connection: VirConnect, on_close: Callable[[], None]) -> None:
    """Have CONNECTION kept alive, and ON_CLOSE called, in the loop's thread, when libvirtd has ended it."""

    def closed(_connection: Any, _reason: int, _opaque: object) -> None:
        on_close()

    handle: Any = connection
    try:
        handle.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
        handle.registerCloseCallback(closed, None)
    except libvirt.libvirtError:
        pass  # a driver without a daemon, or a libvirtd that has no keepalive


def close(connection: VirConnect) -> None:
    """Close a CONNECTION that is kept: the callback refers to it, and would keep it open.

    Raises libvirtError; blocks for as long as libvirtd does.
    """
    handle: Any = connection
    try:
        handle.unregisterCloseCallback()
    except libvirt.libvirtError:
        pass  # there is none, or libvirtd has ended the connection
    handle.close()
