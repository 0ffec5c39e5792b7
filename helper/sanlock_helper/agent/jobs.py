# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent's open requests: which is next, and which has to wait, for another one or for libvirtd.

One job at a time acts on a domain.  The same action requested twice is one job; another action waits until
the first is over.
"""

from __future__ import annotations

import _thread
from _queue import SimpleQueue

from ..escapes import quoted
from ..events import Event
from ..virt import AHEAD, IN_FLIGHT
from .attempt import Progress
from .connection_pool import Connection
from .requests import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from typing import Callable, ClassVar
else:
    # What is in C of it: the rest takes a millisecond to load.
    from _collections import deque

# Of these, poweroffs and restarts that may destroy: a destroy takes an ordinary worker when the five for high
# priority are busy.  One is left for a pause that comes later, and for those that are prepared.
OTHERS_IN_FLIGHT = 24

# While new pauses keep coming: the end of a QEMU process is work for the host as well, and the processes that
# bring further pauses would wait for it.  A pause that hangs or is tried again holds up no other.
OTHERS_BESIDE_PAUSES = 1
PAUSE_SECONDS = 0.1


# The states of a job.
OPEN = "open"
PREPARING = "preparing"
READY = "ready"
TRIED = "tried"
BACKOFF = "backoff"
DONE = "done"

# The states of an execution, which begins as STARTED.
STARTED = "started"
PARKED = "parked"
ACTING = "acting"
ENDED = "ended"
GIVEN_UP = "given_up"


class Stateful:
    """What is in one of a few named states, and goes from one to another as its table allows."""

    __slots__ = ("state",)

    NEXT: ClassVar[dict[str, tuple[str, ...]]] = {}
    state: str

    def enter(self, state: str) -> None:
        """Change the state.  Raises ValueError for a transition that is not in the table."""
        if state not in self.NEXT[self.state]:
            raise ValueError(f"{self}: {self.state} cannot become {state}")
        self.state = state


class Job(Stateful):
    """One action on one domain, and the requests that asked for it.

    | state | event | next state |
    | --- | --- | --- |
    | OPEN | no earlier job of its domain is open, or that one is over and saw no run | PREPARING |
    | OPEN | the earlier job of its domain is over, and saw the run | READY |
    | PREPARING | what the host knows of the domain is there, or none of it is needed | READY |
    | PREPARING | a connection is idle, and its try can begin meanwhile: see Attempt.lookup() | READY |
    | READY | a connection and a place among the tries are free | TRIED |
    | TRIED | a failure that may pass, a refused login, or no answer in time | BACKOFF |
    | BACKOFF | its delay is over | READY |
    | any but DONE | its outcome is there, or its time is up | DONE |

    execution is set while it is TRIED, and in no other state.
    """

    __slots__ = (
        "execution",
        "in_hand",
        "preparation",
        "progress",
        "reached",
        "reason",
        "requests",
        "slept",
        "tries",
    )

    NEXT: ClassVar[dict[str, tuple[str, ...]]] = {
        OPEN: (PREPARING, READY, DONE),
        PREPARING: (READY, DONE),
        READY: (TRIED, DONE),
        TRIED: (BACKOFF, DONE),
        BACKOFF: (READY, DONE),
        DONE: (),
    }

    def __init__(self, request: Request, progress: Progress) -> None:
        self.state = OPEN
        self.requests = [request]
        self.progress = progress
        self.tries = 0
        self.execution: Execution | None = None
        # The last reason for another try.
        self.reason = ""
        # The number under which its request is noted as in hand while it is prepared: see in_hand.py.
        self.in_hand = -1
        # Locked while its preparation is under way.
        self.preparation = _thread.allocate_lock()
        # For how many seconds this process was not running when it should have been.
        self.slept = 0.0
        self.reached = False

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self.state == DONE

    @property
    def request(self) -> Request:
        """The request that came first: its clock counts."""
        return self.requests[0]

    @property
    def domain(self) -> tuple[str, str]:
        """What names the domain."""
        return self.request.uri, self.request.uuid

    def __str__(self) -> str:
        name = quoted(self.progress.name) if self.progress.name else "-"
        return f"{self.request.action} {name} {self.request.uuid}"

    def event(self, kind: str, **parts: object) -> Event:
        """An event of KIND with PARTS, of this domain under the name that is known so far."""
        event = self.request.event(kind, **parts)
        event.name = self.progress.name
        return event


class Execution(Stateful):
    """One try under way.

    | state | event | next state |
    | --- | --- | --- |
    | STARTED | it is a pause, a slot is free, or the agent's loop itself runs it | ACTING |
    | STARTED | all that comes before the destroy is done, and no slot was free | PARKED |
    | PARKED | a slot is free | ACTING |
    | STARTED, ACTING | its thread has answered | ENDED |
    | STARTED, PARKED, ACTING | no answer in time, its job's time is up, or another agent serves | GIVEN_UP |

    Only the agent's loop changes the state; the thread of the try reads it.  Slots holds it while it is
    STARTED, PARKED or ACTING.
    """

    __slots__ = ("connection", "in_hand", "in_place", "job", "slot_given", "timed_from")

    NEXT: ClassVar[dict[str, tuple[str, ...]]] = {
        STARTED: (ACTING, PARKED, ENDED, GIVEN_UP),
        PARKED: (ACTING, GIVEN_UP),
        ACTING: (ENDED, GIVEN_UP),
        ENDED: (),
        GIVEN_UP: (),
    }

    def __init__(self, job: Job, connection: Connection) -> None:
        self.state = STARTED
        self.job = job
        self.connection = connection
        # Its thread waits here for a slot, or until it is given up.
        self.slot_given: SimpleQueue[None] = SimpleQueue()
        # The number under which its request is noted as in hand: see in_hand.py.
        self.in_hand = -1
        # Whether the agent's loop itself runs it, since there are no more threads.
        self.in_place = False
        # Since when libvirtd's answer is waited for; it is not while the state is PARKED.
        self.timed_from = 0.0

    @property
    def has_slot(self) -> bool:
        """Whether it may do all that its action needs."""
        return self.state == ACTING

    @property
    def given_up(self) -> bool:
        """Whether its answer no longer counts."""
        return self.state == GIVEN_UP

    def give_up(self) -> None:
        """Wait for it no more; its thread, where it waits for a slot, goes on and ends."""
        self.enter(GIVEN_UP)
        self.slot_given.put(None)

    def __str__(self) -> str:
        return f"a try of {self.job}"


class JobQueue:
    """All jobs that are open, in the order in which they are served."""

    def __init__(self, make_progress: Callable[[Request], Progress]) -> None:
        self._make_progress = make_progress
        # By URI.  A pause saves the guest's state, is quick, and is served by fewer of libvirtd's workers.
        self._pauses: dict[str, deque[Job]] = {}
        self._others: dict[str, deque[Job]] = {}
        # Requests that were in hand when an agent died come last.
        self._suspects: dict[str, deque[Job]] = {}
        # Per domain the open jobs, the one being served first.
        self._domains: dict[tuple[str, str], list[Job]] = {}
        self.open = 0

    def add(self, request: Request) -> Job:
        """The job of REQUEST: a new one, or the open one that asks for the same."""
        queue = self._domains.setdefault((request.uri, request.uuid), [])
        for job in queue:
            if job.request.action == request.action:
                job.requests.append(request)
                return job
        job = Job(request, self._make_progress(request))
        self.open += 1
        queue.append(job)
        return job

    def is_first(self, job: Job) -> bool:
        """Whether no earlier job of the same domain is open."""
        return self._domains[job.domain][0] is job

    def ready(self, job: Job) -> None:
        """JOB can be tried, now or again, unless it is over meanwhile."""
        if not job.done:
            job.enter(READY)
            queues = self._pauses if job.request.action == "pause" else self._others
            if job.request.died:
                queues = self._suspects
            queues.setdefault(job.request.uri, deque()).append(job)

    def next(
        self, borrow: Callable[[str, str], Connection | None], pauses_only: bool = False
    ) -> tuple[Job, Connection] | None:
        """The job to try next, and what BORROW gives for its URI and action.

        None when none is ready, or may start.
        """
        queues_in_order = (self._pauses, self._others, self._suspects)
        for queues in queues_in_order[:1] if pauses_only else queues_in_order:
            for uri in sorted(queues, key=lambda uri: queues[uri][0].request.deadline.start):
                queue = queues[uri]
                while queue and queue[0].done:
                    queue.popleft()
                connection = borrow(uri, queue[0].request.action) if queue else None
                job = queue.popleft() if connection is not None else None
                if not queue:
                    del queues[uri]
                if job is not None and connection is not None:
                    return job, connection
        return None

    def all(self) -> list[Job]:
        """All that are open."""
        return [job for queue in self._domains.values() for job in queue]

    def close(self, job: Job) -> Job | None:
        """JOB is over; returns the one of its domain that has waited for it."""
        job.enter(DONE)
        self.open -= 1
        queue = self._domains[job.domain]
        was_first = queue[0] is job
        queue.remove(job)
        if queue:
            return queue[0] if was_first else None
        del self._domains[job.domain]
        return None


class Slots:
    """The tries under way, and which of them may destroy.  Only the agent's loop calls this.

    A destroy keeps one of libvirtd's workers for 0.2 s or more, a pause for milliseconds.  Poweroffs and
    restarts get the slots that are left beside the pauses.  A few more of them are prepared meanwhile: their
    domain is looked up and recorded, the try waits for a slot, and makes its destroy the moment another one
    has returned.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """CLOCK is monotonic, in seconds."""
        self._clock = clock
        # Those that make calls: pauses, others that have a slot, and others that are being prepared without;
        # and those that are prepared and wait.  The oldest first.
        self._pauses: list[Execution] = []
        self._others: list[Execution] = []
        self._preparing: list[Execution] = []
        self._waiting: list[Execution] = []
        # When the latest first attempt of a pause began.
        self._paused_at = float("-inf")

    @property
    def under_way(self) -> int:
        """How many tries make calls, or are prepared and wait."""
        return self.calling + len(self._waiting)

    @property
    def calling(self) -> int:
        """How many tries make calls."""
        return len(self._pauses) + len(self._others) + len(self._preparing)

    @property
    def is_full(self) -> bool:
        """Whether no try may start a call now."""
        return self.calling >= IN_FLIGHT

    @property
    def is_saturated(self) -> bool:
        """Whether no further poweroff or restart should start now, not even to be prepared."""
        prepared = len(self._waiting) + len(self._preparing)
        return not self._is_one_free() and (self._pauses_come() or prepared >= AHEAD)

    def begin(self, execution: Execution) -> None:
        """A try starts: a pause with a slot, a poweroff or restart with one if it is free."""
        if execution.job.request.action == "pause":
            execution.enter(ACTING)
            self._pauses.append(execution)
            if execution.job.tries == 1:
                self._paused_at = self._clock()
        elif self._is_one_free():
            execution.enter(ACTING)
            self._others.append(execution)
        else:
            self._preparing.append(execution)

    def park(self, execution: Execution) -> bool:
        """A try is prepared; True when it waits for a slot, False when it has one already."""
        if execution.has_slot:
            return False
        execution.enter(PARKED)
        self._preparing.remove(execution)
        self._waiting.append(execution)
        return True

    def release_next(self) -> Execution | None:
        """Give a free slot to the try that was prepared first; None when none is free, or no try needs it."""
        first = self._waiting or self._preparing
        if not first or not self._is_one_free():
            return None
        self.give(first[0])
        return self._others[-1]

    def give(self, execution: Execution) -> None:
        """Give a try that has none a slot, whether one is free or not."""
        self.end(execution)
        execution.enter(ACTING)
        self._others.append(execution)

    def end(self, execution: Execution) -> None:
        """A try is over, or is waited for no more."""
        calling = (self._pauses, self._others, self._preparing)
        next((tries for tries in calling if execution in tries), self._waiting).remove(execution)

    def _is_one_free(self) -> bool:
        return len(self._others) < (OTHERS_BESIDE_PAUSES if self._pauses_come() else OTHERS_IN_FLIGHT)

    def _pauses_come(self) -> bool:
        return self._clock() - self._paused_at < PAUSE_SECONDS
