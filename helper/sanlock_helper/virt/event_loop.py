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


# While calls are made, the loop runs once in so many seconds: see LoopThrottle.
THROTTLED_SECONDS = 0.25


class LoopThrottle:
    """`with THROTTLE:` while many calls are made.  The loop runs now and then only, not whenever it is woken.

    Each call takes the connection's socket from the loop and gives it back, and wakes the loop for both
    (virNetClientIO() in libvirt src/rpc/virnetclient.c): that costs more than the call itself, and the caller
    waits for Python's lock meanwhile.  The answer to a call is read by the call.  What the loop is late with
    is an answer to a keepalive, and the end of a connection that no call uses.
    """

    def __init__(self, seconds: float = THROTTLED_SECONDS) -> None:
        """The loop runs once in so many SECONDS."""
        self._seconds = seconds
        self._lock = _thread.allocate_lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self) -> None:
        """The loop: return once it is not throttled, or after the time."""
        if self._lock.acquire(timeout=self._seconds):
            self._lock.release()


# Of the one loop that a process has.
THROTTLE = LoopThrottle()


def start() -> None:
    """Run the loop in a thread; before the first connection is opened, which has to find it.

    Raises RuntimeError where no thread can be started.
    """
    libvirt.virEventRegisterDefaultImpl()
    _thread.start_new_thread(run, ())


def run() -> None:
    """The loop's thread."""
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            return  # no loop: as in a process that keeps no connection
        THROTTLE.wait()


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
