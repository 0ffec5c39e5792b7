# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that serves requests: it tries, tries again, and gives up on calls that hang.

A call into libvirt cannot be interrupted, so each try runs in a thread of its own and the agent waits for its
answer no longer than it is worth.  The agent itself is one loop in one thread; only the tries run beside it.
"""

from __future__ import annotations

import _thread
import time
from _queue import Empty, SimpleQueue
from collections import deque
from heapq import heappop, heappush
from typing import Any, Callable

from .actions import ACTIONS, Outcome, Progress, Try
from .connections import Connection, Connections
from .errors import FinalError, GivenUpError, HelperError, PassingError
from .journal import Journal
from .notes import Notes
from .requests import Request

# Tries at a time: libvirtd has 20 ordinary workers and 5 for high-priority calls (libvirtd.conf).
IN_FLIGHT = 25

# A destroy may well take seconds on a loaded host; a libvirtd that is silent for longer is asked anew.
PATIENCE = 10.0

FIRST_BACKOFF = 0.25
LAST_BACKOFF = 2.0

# The same reason is told again after so many seconds.
REPEAT_SECONDS = 10.0


class Case:
    """One request in the agent's hands."""

    __slots__ = ("done", "progress", "reached", "request", "running", "told", "told_at", "tries")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.progress = Progress()
        self.tries = 0
        self.running: Running | None = None
        self.told = ""
        self.told_at = 0.0
        self.done = False
        self.reached = False

    def __str__(self) -> str:
        return f"{self.request.action} {self.progress.name or '-'} {self.request.uuid}"


class Running:
    """One try under way."""

    __slots__ = ("case", "connection", "given_up")

    def __init__(self, case: Case) -> None:
        self.case = case
        self.connection: Connection | None = None
        self.given_up = False


Answers = SimpleQueue["tuple[Running, Outcome | HelperError]"]


class Agent:
    """Serves requests until each is done or its time is up."""

    def __init__(
        self,
        connect: Callable[[str], Any],
        journal: Journal,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        start_thread: Callable[[Callable[..., object], tuple[Any, ...]], object] = _thread.start_new_thread,
        answers: Answers | None = None,
        notes: Notes | None = None,
    ) -> None:
        """CONNECT opens a URI (see connection.connect); CLOCK is monotonic, WALL the time of day.

        NOTES takes down what recovery needs.  START_THREAD runs a try, ANSWERS brings what it found; tests
        replace both to do without time.
        """
        self._connections = Connections(connect)
        self._journal = journal
        self._notes = notes
        self._clock = clock
        self._wall = wall
        self._start_thread = start_thread
        self._answers: Answers = answers or SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._pauses: deque[Case] = deque()
        self._others: deque[Case] = deque()
        self._in_flight = 0
        self._open_cases = 0

    def serve(self, request: Request) -> bool:
        """Serve one REQUEST to its end; True when its goal was reached and verified."""
        case = self._take(request)
        while not case.done:
            self._step()
        return case.reached

    def close(self) -> None:
        """Say goodbye to libvirtd."""
        self._connections.close()

    def _take(self, request: Request) -> Case:
        case = Case(request)
        self._open_cases += 1
        self._at(request.deadline.end, lambda: self._expire(case))
        self._ready(case)
        return case

    def _step(self) -> None:
        """Start what can start, then wait for the next answer or timer and see to it."""
        while self._in_flight < IN_FLIGHT and (self._pauses or self._others):
            self._start((self._pauses or self._others).popleft())
        try:
            wait = max(0.0, self._timers[0][0] - self._clock()) if self._timers else None
            running, answer = self._answers.get(timeout=wait)
        except Empty:
            _, _, call = heappop(self._timers)
            call()
        else:
            self._answered(running, answer)

    def _at(self, when: float, call: Callable[[], None]) -> None:
        self._timer_count += 1
        heappush(self._timers, (when, self._timer_count, call))

    def _ready(self, case: Case) -> None:
        # A pause saves the guest's state, is quick, and is served by fewer of libvirtd's workers.
        if not case.done:
            (self._pauses if case.request.action == "pause" else self._others).append(case)

    def _start(self, case: Case) -> None:
        if case.done:
            return
        case.tries += 1
        case.running = running = Running(case)
        self._in_flight += 1
        self._at(self._clock() + self._patience(case), lambda: self._give_up(running))
        self._start_thread(self._run, (running,))

    def _patience(self, case: Case) -> float:
        """Seconds to wait for one try: a short budget still has room for three."""
        deadline = case.request.deadline
        return min(PATIENCE, (deadline.end - deadline.start) / 3.5)

    def _run(self, running: Running) -> None:
        """The thread of one try."""
        request = running.case.request
        running.connection = connection = self._connections.borrow(request.uri)
        answer: Outcome | HelperError
        try:
            handle = self._connections.handle(connection)
            if running.given_up:
                raise GivenUpError("connect", "took too long")
            this = Try(
                handle,
                request.uuid,
                running.case.progress,
                lambda: running.given_up,
                request.pid,
                self._notes,
                request.uri,
            )
            answer = ACTIONS[request.action](this)
        except HelperError as error:
            answer = error
            if connection.handle is None or not connection.handle.isAlive():
                self._connections.retire(connection)
        except Exception as error:
            # A defect of ours, or libvirt-python raised something else: one try fails, not the agent.
            answer = PassingError("internal error", repr(error))
        self._connections.give_back(connection)
        self._answers.put((running, answer))

    def _answered(self, running: Running, answer: Outcome | HelperError) -> None:
        case = running.case
        if running.given_up:
            return
        self._in_flight -= 1
        case.running = None
        if case.done:
            return
        if isinstance(answer, Outcome):
            self._finish(case, answer)
        elif isinstance(answer, FinalError):
            self._fail(case, str(answer))
        else:
            self._again(case, str(answer), min(LAST_BACKOFF, FIRST_BACKOFF * 2.0 ** (case.tries - 1)))

    def _give_up(self, running: Running) -> None:
        """Stop waiting for a try; its connection serves nobody else any more."""
        case = running.case
        if case.running is not running:
            return
        self._abandon(running)
        seconds = self._patience(case)
        self._again(case, f"no answer from libvirtd within {seconds:.1f} s", 0.0)

    def _abandon(self, running: Running) -> None:
        running.given_up = True
        running.case.running = None
        self._in_flight -= 1
        if running.connection is not None:
            self._connections.retire(running.connection)

    def _again(self, case: Case, why: str, delay: float) -> None:
        now = self._clock()
        if case.told != why or now - case.told_at >= REPEAT_SECONDS:
            case.told, case.told_at = why, now
            left = case.request.deadline.left(now)
            self._journal.warning(f"{case}: try {case.tries} failed: {why}; trying again, {left:.1f} s left")
        else:
            case.told = why
        self._at(now + delay, lambda: self._ready(case))

    def _expire(self, case: Case) -> None:
        if case.done:
            return
        if case.running is not None:
            self._abandon(case.running)
        self._fail(case, case.told.rstrip(".") or "no answer from libvirtd")

    def _finish(self, case: Case, outcome: Outcome) -> None:
        case.reached = outcome.reached
        self._close(case)
        verdict = "done" if outcome.reached else "NOT DONE"
        tell = self._journal.notice if outcome.reached else self._journal.error
        tell(f"{case}: {verdict} after {self._seconds(case)}: {outcome}")

    def _fail(self, case: Case, why: str) -> None:
        self._close(case)
        after = f"after {self._seconds(case)} at try {case.tries}"
        if case.progress.safe:
            self._journal.error(f"{case}: NOT DONE {after}: the VM is safe (off), but: {why}")
        else:
            sigkill = case.request.deadline.sigkill(self._clock(), self._wall())
            self._journal.crit(f"{case}: FAILED {after}: {why}; {sigkill}")

    def _close(self, case: Case) -> None:
        case.done = True
        self._open_cases -= 1

    def _seconds(self, case: Case) -> str:
        return f"{self._clock() - case.request.deadline.start:.2f} s"
