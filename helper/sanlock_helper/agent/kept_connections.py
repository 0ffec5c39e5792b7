# SPDX-License-Identifier: LGPL-2.1-or-later
"""The connections that an agent which stands keeps open while nothing is to be served."""

from __future__ import annotations

from _queue import SimpleQueue
from typing import Any, Callable

from ..errors import AuthenticationError, HelperError, TransientError, described
from ..events import Event
from .connection_pool import Connections

# Kept to the one URI, and to each that requests named, beside the one for events: libvirtd's keepalive wakes
# this process for each every five seconds.
KEPT, KEPT_TO_OTHERS = 1, 1

# When libvirtd refuses the login, or is away, it is asked again after so many seconds.
FIRST_RETRY, LAST_RETRY = 0.5, 10.0
# An account is locked after a few refusals.  A request has its own try: see connection_pool.LOGIN_SECONDS.
REFUSED_RETRY = 300.0

# What cannot be closed yet, since it is being opened or a call over it hangs, is tried again after so many.
CLOSE_RETRY = 5.0

# A libvirtd that restarts is away for a moment.
LOGGED_AFTER = 3


def retry_seconds(error: Exception, tries: int) -> float:
    """How long libvirtd is left alone after so many TRIES in a row, the last of which ended with ERROR."""
    is_refused = isinstance(error, AuthenticationError)
    return REFUSED_RETRY if is_refused else min(LAST_RETRY, FIRST_RETRY * 2.0 ** (tries - 1))


class KeptConnections:
    """To one URI always; to those that requests named, until libvirtd ends them."""

    def __init__(
        self,
        uri: str,
        connections: Connections,
        clock: Callable[[], float],
        start_thread: Callable[[Callable[..., object], tuple[Any, ...]], object],
        report: Callable[[Event], None],
        wake: Callable[[], None],
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        """CLOCK is monotonic, in seconds; WAKE is called, in another thread, when update() has to be.

        OPENED is called, in another thread too, each time after all of URI were found to be open.
        START_THREAD starts the one that opens and closes.  Raises RuntimeError where it cannot be started.
        """
        self._uri = uri
        self._connections = connections
        self._clock = clock
        self._report = report
        self._wake = wake
        self._opened = opened
        # Whether the thread that opens is under way, and whether it has something new to see to.
        self._opening = False
        self._is_due = True
        self._tries = 0
        self._next_try = 0.0
        self._logged = ""
        # What the thread has to do: whether it may log in.
        self._work: SimpleQueue[bool] = SimpleQueue()
        start_thread(self._run, (self._work,))

    def update(self) -> float | None:
        """Have opened what is missing, and closed what is too much; never waits.

        Returns after how many seconds it is to be called again, None where it need not.
        """
        if self._opening:
            return None
        left = self._next_try - self._clock()
        if left > 0 and not self._is_due:
            return None if left == float("inf") else left
        self._opening, self._is_due = True, False
        self._work.put(left <= 0 or self._tries == 0)
        return None

    def settle(self) -> None:
        """A storm is over, or libvirtd has ended a connection: see to it with the next update()."""
        self._is_due = True

    def _run(self, work: SimpleQueue[bool]) -> None:
        """The thread that closes and opens, as WORK has it; it hangs as long as libvirtd does."""
        while True:
            may_open = work.get()
            error: HelperError | None = None
            is_left = False
            try:
                is_left = self._connections.trim({self._uri: KEPT}, KEPT_TO_OTHERS)
                if may_open:
                    self._connections.open_more(self._uri, KEPT)
                    self._opened()
            except HelperError as raised:
                error = raised
            except Exception as raised:
                # A defect of ours, or of libvirt-python: without this thread no connection is kept any more.
                error = TransientError("internal error", described(raised))
            if may_open or error is not None:
                self._note(error)
            if is_left:
                self._next_try = min(self._next_try, self._clock() + CLOSE_RETRY)
            self._opening = False
            self._wake()

    def _note(self, error: HelperError | None) -> None:
        if error is None:
            self._tries, self._logged = 0, ""
            self._next_try = float("inf")
            return
        self._tries += 1
        seconds = retry_seconds(error, self._tries)
        self._next_try = self._clock() + seconds
        may_pass = not isinstance(error, AuthenticationError) and self._tries <= LOGGED_AFTER
        if not may_pass and str(error) != self._logged:
            self._logged = str(error)
            self._report(Event("agent-not-connected", note=error, every=f"{seconds:.0f}"))
