# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests over which agents died are served apart: each in a process of its own, then by libvirt's helper.

An agent has many requests in hand when it dies, and one of them may be the cause.  Those that were in hand
when two agents died are served last, behind all others, where each can end nothing but its own process.  If
it does, libvirt's own helper is the last resort.
"""

from __future__ import annotations

import posix
import sys

from ..events import Event
from ..journal import Journal
from .requests import Request, Requests
from .stock_helper import arguments, stock_helper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# A request goes apart once it was in hand when so many agents died.
DEATHS = 2

# How many processes there may be at a time: as many as an agent has calls in flight.
MOST = 25

# How long those that go apart wait for all others; an agent does more than a hundred in that time.
BEHIND_SECONDS = 1.0

# A process that shows no life for so long is killed.  It imports libvirt first.
SILENT_SECONDS = 5.0

# How long the time of a request is exceeded before its process is killed: it logs the failure itself.
OVERTIME_SECONDS = 2.0

# When libvirt's helper failed it is run again after so many seconds.
STOCK_SECONDS = 2.0

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from sanlock_helper.agent.one_request import main; main(sys.argv[1])"
)
_SIGKILL = 9


class Apart:
    """The requests of one agent that are served apart."""

    def __init__(
        self,
        journal: Journal,
        clock: Callable[[], float],
        end: Callable[[Request, bool, Event | None], None],
        serve_here: Callable[[Request], None],
        was_served: Callable[[Request], bool],
    ) -> None:
        """END ends a request: whether its goal was reached, and the outcome (None when it was logged).

        SERVE_HERE serves one in this process, the last resort where there is no room for another.  WAS_SERVED
        ends one that was served together with another.
        """
        self._journal = journal
        self._clock = clock
        self._end = end
        self._serve_here = serve_here
        self._was_served = was_served
        self._domains: set[tuple[str, str]] = set()
        self._waiting: list[Request] = []
        self._since = 0.0
        self._next_start = 0.0
        self._running: list[_Child] = []

    @property
    def open(self) -> int:
        """How many are not over."""
        return len(self._waiting) + len(self._running)

    def suspect(self, request: Request) -> None:
        """Whatever asks for the domain of a REQUEST over which too many agents died goes apart."""
        if len(request.died) >= DEATHS:
            self._domains.add((request.uri, request.uuid))

    def takes(self, request: Request) -> bool:
        """Whether REQUEST has to be served apart: then it is."""
        if (request.uri, request.uuid) not in self._domains:
            return False
        if not self.open:
            self._since = self._clock()
        self._waiting.append(request)
        self._journal.report(request.event("served-last", deaths=len(request.died)))
        return True

    def step(self, requests: Requests, others: int) -> None:
        """Start what can start, and check on what runs; OTHERS is how many open requests go before."""
        for child in list(self._running):
            if child.is_over(requests):
                self._running.remove(child)
        if not self._waiting or self._clock() < self._next_start:
            return
        if others and self._clock() - self._since < BEHIND_SECONDS:
            return
        busy = {(child.request.uri, child.request.uuid) for child in self._running}
        for request in list(self._waiting):
            if len(self._running) >= MOST or (request.uri, request.uuid) in busy:
                continue
            if self._was_served(request):
                self._waiting.remove(request)
                continue
            child = _Child(request, self._journal, self._clock, self._end)
            if not child.start():
                self._make_room(request, others)
                return
            self._waiting.remove(request)
            self._running.append(child)
            busy.add((request.uri, request.uuid))

    def _make_room(self, request: Request, others: int) -> None:
        """There is no room for a process: try again soon, or serve REQUEST here when nothing else is left."""
        self._next_start = self._clock() + 0.1
        if not others and not self._running:
            self._waiting.remove(request)
            self._domains.discard((request.uri, request.uuid))
            self._journal.report(request.event("served-here"))
            self._serve_here(request)


class _Child:
    """The process that serves one request: first ours, then libvirt's helper."""

    def __init__(
        self,
        request: Request,
        journal: Journal,
        clock: Callable[[], float],
        end: Callable[[Request, bool, Event | None], None],
    ) -> None:
        self.request = request
        self._journal = journal
        self._clock = clock
        self._end = end
        self._pid = 0
        self._is_stock = False
        # When it showed life last, and the sign of that: see one_request.py.
        self._alive_at = 0.0
        self._life = 0
        self._next_run = 0.0
        self._why = ""

    def start(self) -> bool:
        """Start our own process; False when there is no room for it."""
        command = [sys.executable, "-ISB", "-c", _PROGRAM, self.request.name, *sys.path]
        return self._spawn(command)

    def _spawn(self, command: list[str]) -> bool:
        try:
            self._pid = posix.posix_spawn(command[0], command, posix.environ)
        except OSError as error:
            self._why = f"{command[0]}: {error.strerror}"
            return False
        self._alive_at = self._clock()
        return True

    def is_over(self, requests: Requests) -> bool:
        """Check on it; whether the request is over."""
        if self._pid == 0:
            return self._run_stock()
        now = self._clock()
        pid, status = posix.waitpid(self._pid, posix.WNOHANG)
        if pid == 0:
            self._watch(requests, now)
            return False
        self._pid = 0
        if self._is_stock:
            return self._stock_ended(posix.waitstatus_to_exitcode(status))
        code = posix.waitstatus_to_exitcode(status)
        if not requests.is_unserved(self.request.name):
            self._end(self.request, code == 0, None)
            return True
        self._why = f"signal {-code}" if code < 0 else f"exit status {code}"
        return self._run_stock()

    def _watch(self, requests: Requests, now: float) -> None:
        """Kill it when it hangs: a child that was not waited for keeps its process id."""
        life = requests.life_of(self.request.name)
        if life != self._life:
            self._life, self._alive_at = life, now
        late = now > self.request.deadline.expires + OVERTIME_SECONDS
        if late or (not self._is_stock and now - self._alive_at > SILENT_SECONDS):
            try:
                posix.kill(self._pid, _SIGKILL)
            except OSError:
                pass  # a policy that does not let this program kill
            # It may never end, as when it waits for a disk: it is waited for no more.
            self._pid = 0
            self._why = "no sign of life"

    def _run_stock(self) -> bool:
        """Run libvirt's helper, if there is time; whether the request is over."""
        now = self._clock()
        if now >= self.request.deadline.expires:
            return self._failed("the time is up")
        if now < self._next_run:
            return False
        stock = stock_helper()
        if stock is None:
            return self._failed("libvirt's own helper is not here")
        if not self._is_stock:
            self._journal.report(self.request.event("stock-helper-runs", note=self._why, path=stock))
        self._is_stock = True
        self._next_run = now + STOCK_SECONDS
        request = self.request
        self._spawn(arguments(stock, request.uri, request.uuid, request.action))
        return False

    def _stock_ended(self, code: int) -> bool:
        if code != 0:
            self._why = f"libvirt's own helper: signal {-code}" if code < 0 else f"it gave exit status {code}"
            return False
        restarts = self.request.action == "restart"
        kind = "stock-helper-powered-off" if restarts else "stock-helper-done"
        self._end(self.request, not restarts, self._outcome(kind))
        return True

    def _failed(self, why: str) -> bool:
        self._end(self.request, False, self._outcome("failed", note=f"{why}; its process died ({self._why})"))
        return True

    def _outcome(self, kind: str, **parts: object) -> Event:
        seconds = f"{self._clock() - self.request.deadline.start:.2f}"
        event = self.request.event(kind, seconds=seconds, **parts)
        # The process that knew the domain's name has died.
        event.name = ""
        return event
