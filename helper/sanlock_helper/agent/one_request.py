# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that serves one request apart from all others: see apart.py."""

from __future__ import annotations

import fcntl
import posix
import time

from ..inherited_descriptors import close_inherited_descriptors
from ..journal import Journal
from ..leases.grace import Grace
from ..leases.sanlock_daemon import join_sanlock_group, run_dir
from ..spool import Spool
from .requests import Requests
from .service import make_agent

# How often a process waits for another one that serves the same request, left by an agent that died.
_WAIT_SECONDS = 0.05

# The parent of a process whose own parent has died.
_INIT = 1


class OneRequest(Requests):
    """The spool, of which this process serves one request."""

    def __init__(self, spool: Spool, grace: int | Grace, descriptor: int) -> None:
        """DESCRIPTOR is the request's file, locked by this process."""
        super().__init__(spool, grace)
        self._descriptor = descriptor
        self._agent = posix.getppid()

    def show_life(self) -> bool:
        """Show the agent that this process lives: by the time of the request's file."""
        nanoseconds = time.monotonic_ns()
        posix.utime(self._descriptor, ns=(nanoseconds, nanoseconds))
        return True

    def may_be_logged_by_another(self, name: str) -> bool:
        """Whether the next agent may have: it finds the outcome when the agent of this process has died."""
        is_orphan = posix.getppid() != self._agent or self._agent == _INIT
        return is_orphan or super().may_be_logged_by_another(name)


def main(name: str) -> None:
    """Serve request NAME, log its outcome and exit: with status 0 when its goal was reached."""
    spool = Spool.open()
    close_inherited_descriptors(spool.descriptors())
    join_sanlock_group(run_dir())
    try:
        descriptor = posix.open(name, posix.O_RDWR | posix.O_NOFOLLOW, dir_fd=spool.directory)
    except FileNotFoundError:
        posix._exit(0)
    while not _lock(descriptor):
        time.sleep(_WAIT_SECONDS)
    requests = OneRequest(spool, Grace(), descriptor)
    request = requests.read(name)
    if request is None or request.outcome is not None:
        posix._exit(0)  # the other one has served it
    requests.show_life()
    journal = Journal()
    agent = make_agent(journal, request.uri)
    reached = agent.serve_apart(requests, request)
    journal.flush()
    # Threads whose calls hang must not keep the process.
    posix._exit(0 if reached else 1)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
