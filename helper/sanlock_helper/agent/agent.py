# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that serves requests: it tries, tries again, and gives up on calls that hang.

A call into libvirt cannot be interrupted, so each try runs in a thread of its own and the agent waits for its
answer for a limited time.  The agent itself is one loop in one thread; only the tries run beside it.
"""

from __future__ import annotations

import time
from _heapq import heapify, heappop, heappush
from _queue import Empty, SimpleQueue

from ..errors import (
    AuthenticationError,
    GivenUpError,
    HelperError,
    PermanentError,
    TransientError,
    described,
)
from ..events import Event
from ..journal import Journal, RepeatFilter, log_debug, log_traceback, wants_debug
from ..spool import LIFE_SECONDS, RUNTIME_DIR
from ..threads import WORKERS
from ..virt import AHEAD, IN_FLIGHT
from ..virt.connection import is_embedded, is_local
from .actions import ACTIONS
from .apart import Apart
from .attempt import Attempt, Progress
from .connection_pool import LOGIN_SECONDS, Connection, Connections
from .descriptors import lacks_descriptor
from .intake import POLL_SECONDS, Intake
from .jobs import (
    BACKOFF,
    ENDED,
    PARKED,
    PREPARING,
    TRIED,
    Execution,
    Job,
    JobQueue,
    Slots,
)
from .outcomes import Outcome
from .preparation import prepare
from .requests import Receipt, Request, Requests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from typing import Any, Callable, Iterable

    from ..virt.api import VirConnect
    from ..virt.local_domains import LocalDomains
    from .descriptors import Descriptors
    from .recorder import RecoveryRecorder

    # What the threads have to report, each as a call that the loop makes.
    Answers = SimpleQueue[Callable[[], None]]
else:
    # What is in C of it: the rest takes a millisecond to load.
    from _collections import deque

# A destroy may take seconds on a loaded host; when libvirtd is silent for longer, the call is made again.
PATIENCE = 10.0

FIRST_BACKOFF = 0.25
LAST_BACKOFF = 2.0

# The same reason is logged again after so many seconds.
REPEAT_SECONDS = 10.0

# How long the agent stays when there were several requests: sanlock starts its processes over some seconds,
# and the next agent would have to import libvirt and log in all over.
LINGER_SECONDS = 0.3

# Domains that are named, and their records written, at a time.
PREPARED_AT_ONCE = 4

# A wait that takes so much longer than asked for was no wait: the process was stopped.
OVERSLEPT_SECONDS = 1.0

# How long an answer may take that came while the process was stopped.
MOMENT_SECONDS = 0.5


# What was read of a domain is valid for so long, and its record may take as long
# (recorder.SANLOCK_SECONDS).
READ_AGAIN_SECONDS = 1.0


class Agent:
    """Serves requests until each is done or its time is up."""

    def __init__(
        self,
        connect: Callable[[str], VirConnect],
        journal: Journal,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        start_thread: Callable[[Callable[..., object], tuple[Any, ...]], object] | None = None,
        answers: Answers | None = None,
        recorder: RecoveryRecorder | None = None,
        local: LocalDomains | None = None,
        make_host: Callable[[], tuple[LocalDomains, RecoveryRecorder]] | None = None,
        descriptors: Descriptors | None = None,
        connections: Connections | None = None,
        stands: bool = False,
    ) -> None:
        """CONNECT opens a URI (see connection.connect); CLOCK is monotonic, WALL the time of day.

        RECORDER writes down what recovery needs; LOCAL is what the host knows of its QEMU domains; MAKE_HOST
        makes both when the first request comes that is not for libvirt's embedded test driver.  START_THREAD
        runs a try, ANSWERS brings what it found; tests replace both to do without time.  DESCRIPTORS has
        some for when none is free.  CONNECTIONS are those of an agent before this one.  STANDS: this process
        stays when nothing is left to serve, and its journal with it.
        """
        self._stands = stands
        self._connections = connections or Connections(connect, IN_FLIGHT + AHEAD, clock)
        self._journal = journal
        self._recorder = recorder
        self._local = local
        self._make_host = make_host
        self._descriptors = descriptors
        # Requests that wait for what the host knows of their domains, and how many are being prepared.
        self._unprepared: deque[Job] = deque()
        self._preparing = 0
        self._clock = clock
        self._wall = wall
        self._start_thread = start_thread or WORKERS.start
        self._answers: Answers = answers or SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._jobs = JobQueue(self._progress)
        self._slots = Slots(clock)
        self._requests: Requests | None = None
        self._intake: Intake | None = None
        self._obstacle = ""
        self._has_threads = True
        self._apart = Apart(journal, clock, self._end_apart, self._open, self._was_served)
        # By job, why it is tried again; by URI, how libvirtd refused the login.
        self._repeats = RepeatFilter(REPEAT_SECONDS)
        # When each domain's last action was over, and how.
        self._ended: dict[tuple[str, str, str], tuple[float, bool]] = {}
        self._ended_at = 0.0
        self._reached: dict[str, bool] = {}

    def serve(self, request: Request) -> bool:
        """Serve one REQUEST to its end; True when its goal was reached and verified."""
        job = self._jobs.add(request)
        self._watch(job)
        self._prepare(job)
        while not job.done:
            self._step()
        return job.reached

    def work(self, requests: Requests) -> None:
        """Serve REQUESTS, and what comes into their spool meanwhile, until nothing is left.

        The caller holds the spool's lock.
        """
        self.begin(requests)
        while self.tick():
            pass

    def begin(self, requests: Requests, known: Iterable[str] = ()) -> None:
        """Take over the spool of REQUESTS, with what the agents before have left.

        KNOWN are files whose outcomes this process is about to log: see left().
        """
        self._requests = requests
        self._intake = Intake(requests, self._journal, self._clock, known)
        requests.inherit()
        requests.sweep(self._clock())

    def expect_more(self) -> None:
        """Something has come into the spool: the next tick() reads it, however lately it was read."""
        if self._intake is not None:
            self._intake.read_anew()

    def left(self) -> set[str]:
        """What this agent has seen to and is in the spool: outcomes that are about to be logged."""
        return set() if self._intake is None else self._intake.left()

    def tick(self, longest: float = POLL_SECONDS) -> bool:
        """Take what is new, start what can start, and wait LONGEST seconds at most for the next answer.

        Returns False when nothing is left, or when another agent serves in this one's place.
        """
        requests, intake = self._requests, self._intake
        if requests is None or intake is None or not requests.show_life():
            self._withdraw()
            return False
        self._apart.step(requests, self._jobs.open)
        is_more = self._take_new(intake)
        if not (is_more or self._jobs.open or self._apart.open or self._lingers()):
            if not self._stands:
                self._journal.flush()
            return False
        self._step(longest)
        return True

    def _take_new(self, intake: Intake) -> bool:
        """Take what is new in the spool: see Intake.take()."""
        try:
            return intake.take(self._take)
        except OSError as error:
            # It is read again: at once with what was kept back, else when a try has given its own back.
            if not (lacks_descriptor(error) and (self._free_descriptors() or self._jobs.open)):
                raise
            return True

    def _free_descriptors(self) -> bool:
        """No descriptor is free: give up what was kept back for this; whether there was any."""
        return self._descriptors is not None and self._descriptors.free_reserve()

    def serve_apart(self, requests: Requests, request: Request) -> bool:
        """Serve one REQUEST of the spool to its end, beside the agent: see one_request.py."""
        self._requests = requests
        job = self._jobs.add(request)
        self._watch(job)
        self._prepare(job)
        while not job.done and requests.show_life():
            self._step(LIFE_SECONDS)
        return job.reached

    def reached(self, request: Request) -> bool | None:
        """Whether the goal of REQUEST was reached, None when this agent did not serve it."""
        return self._reached.get(request.name)

    @property
    def calling(self) -> int:
        """How many tries make calls to libvirtd now."""
        return self._slots.calling

    @property
    def under_way(self) -> int:
        """How many tries are under way: those, and the ones that are prepared and wait for a slot."""
        return self._slots.under_way

    def close(self) -> None:
        """Close the connections to libvirtd."""
        self._connections.close()

    # The spool

    def _withdraw(self) -> None:
        """Leave all to the agent that took this one's place while this process was stopped, or hung."""
        for job in self._jobs.all():
            if job.execution is not None:
                job.execution.give_up()
        self._journal.report(Event("agent-withdrawn", count=self._jobs.open))
        self._journal.flush()

    def _lingers(self) -> bool:
        return not self._stands and len(self._ended) > 1 and self._clock() - self._ended_at < LINGER_SECONDS

    def _take(self, requests: list[Request]) -> None:
        """Serve what is new in the spool."""
        for request in requests:
            self._apart.suspect(request)
        for request in requests:
            if self._was_served(request):
                continue
            if self._apart.takes(request):
                # Its own process takes the further steps.
                self._expect(request)
            else:
                self._open(request)

    def _expect(self, request: Request) -> None:
        if self._intake is not None:
            self._intake.expect(request.name)

    def _was_served(self, request: Request) -> bool:
        """Whether the same was done for another request after this one had come: then this one is over."""
        ended = self._ended.get((request.uri, request.uuid, request.action))
        if ended is None or request.deadline.start > ended[0]:
            return False
        # A second restart would hit a healthy run.
        self._log_outcome(request, ended[1], request.event("served-together"))
        return True

    def _open(self, request: Request) -> None:
        """Serve REQUEST in this process."""
        job = self._jobs.add(request)
        if job.request is request:
            self._watch(job)
            if self._jobs.is_first(job):
                self._prepare(job)

    def _prepare(self, job: Job) -> None:
        """Have the domain of JOB named and its record written, by what the host knows; then it is tried."""
        job.enter(PREPARING)
        if self._make_host is not None and not is_embedded(job.request.uri):
            self._local, self._recorder = self._make_host()
            self._make_host = None
        if self._local is None or not is_local(job.request.uri):
            self._jobs.ready(job)
            return
        if job.request.action == "pause":
            self._unprepared.appendleft(job)
        else:
            self._unprepared.append(job)
        self._start_preparing()

    def _start_preparing(self) -> None:
        while self._local is not None and self._unprepared and self._preparing < PREPARED_AT_ONCE:
            self._preparing += 1
            job = self._unprepared.popleft()
            if self._requests is not None:
                job.in_hand = self._requests.begin(job.request.name)
            job.preparation.acquire()
            try:
                self._start_thread(self._run_preparation, (job, self._local))
            except RuntimeError:
                # No more threads.  The next one is prepared when this one's answer is read.
                self._run_preparation(job, self._local)
                return
            if self._stands and self._slots.under_way < PREPARED_AT_ONCE:
                # Its connection is open: libvirtd is asked meanwhile.
                self._jobs.ready(job)

    def _run_preparation(self, job: Job, local: LocalDomains) -> None:
        """The thread of one preparation; its waits are bounded."""
        try:
            prepare(job.request, job.progress, local, self._recorder)
        except Exception as error:
            # A defect of ours: the domain is made safe all the same.
            self._journal.report(job.event("defect-before-attempt", note=described(error)))
            log_traceback(self._journal, error)
        job.preparation.release()
        self._answers.put(lambda: self._prepared(job))

    def _prepared(self, job: Job) -> None:
        self._preparing -= 1
        if self._requests is not None:
            self._requests.end(job.in_hand)
        self._start_preparing()
        if job.state == PREPARING:
            self._jobs.ready(job)

    def _end_apart(self, request: Request, reached: bool, outcome: Event | None) -> None:
        """A process of its own has served REQUEST: it has logged the outcome, or OUTCOME is that."""
        self._ended_at = self._clock()
        self._ended[(request.uri, request.uuid, request.action)] = (self._ended_at, reached)
        self._reached[request.name] = reached
        if outcome is not None:
            self._log_outcome(request, reached, outcome)
        else:
            self._read_outcome(request)

    def _log_outcome(self, request: Request, reached: bool, event: Event, log: bool = True) -> None:
        """Note EVENT, the outcome of REQUEST, in the spool, then log it."""
        self._reached[request.name] = reached
        receipt = None
        if self._requests is not None:
            done = self._requests.finish(request.name, event.level, event.render())
            self._expect(request)
            if done is None and not self._requests.serves():
                return  # another agent serves it by now
            if done is None and self._requests.is_done_by_another(request.name):
                self._read_outcome(request)
                return
            # One that could not be renamed goes as well, else the next agent logs its outcome again.
            name = done or request.name
            if log:
                receipt = Receipt(self._requests, name)
            else:
                self._requests.remove(name)
            self._report_obstacle(self._requests.obstacle)
        if log:
            self._journal.report(event, receipt)

    def _read_outcome(self, request: Request) -> None:
        """Another process has served REQUEST, and may have left it to this one to log the outcome."""
        if self._intake is not None:
            self._intake.read_outcome(request.name)

    def _report_obstacle(self, why: str) -> None:
        if why != self._obstacle:
            self._obstacle = why
            self._journal.report(Event("spool-unchangeable", note=why, path=f"{RUNTIME_DIR}/requests"))

    def _progress(self, request: Request) -> Progress:
        requests, name = self._requests, request.name
        if requests is None:
            return Progress(request.run)
        # Should this agent die, the next one has to know the run: a restart must not be done twice, and a
        # transient domain that has ended by then was there.
        return Progress(request.run, lambda run: requests.save_run(name, run))

    # The loop

    def _step(self, longest: float | None = None) -> None:
        """Start what can start, then wait for the next answer or timer, LONGEST seconds at most."""
        self._fill()
        waits = [] if longest is None else [longest]
        now = self._clock()
        if self._timers:
            waits.append(max(0.0, self._timers[0][0] - now))
        timeout = min(waits, default=None)
        try:
            answer = self._answers.get(timeout=timeout)
        except Empty:
            self._overslept(self._clock() - now - (timeout or 0.0))
            while self._timers and self._timers[0][0] <= self._clock():
                heappop(self._timers)[2]()
        else:
            if self._requests is not None and not self._requests.show_life():
                return
            answer()

    def _overslept(self, seconds: float) -> None:
        """A wait took so much longer than it should have: this process was stopped, or had no processor.

        The threads of its tries were as well, so libvirtd's answers have not been waited for: each try gets
        its time again, and one whose time is up a moment for an answer that is there already.
        """
        if seconds < OVERSLEPT_SECONDS:
            return
        now = self._clock()
        for job in self._jobs.all():
            job.slept += seconds
            if job.execution is not None and job.execution.state != PARKED:
                self._time(job.execution)
        timers = []
        for when, number, call in self._timers:
            timers.append((max(when, now + MOMENT_SECONDS), number, call))
        heapify(timers)
        self._timers = timers

    def _fill(self) -> None:
        """Start what can start: pauses, then what is prepared, then further tries."""
        while not self._slots.is_full:
            found = self._jobs.next(self._connections.borrow, pauses_only=True)
            granted = None if found is not None else self._slots.release_next()
            if granted is not None:
                self._time(granted)
                self._debug(granted, "has its slot")
                granted.slot_given.put(None)
                continue
            if found is None and not self._slots.is_saturated:
                found = self._jobs.next(self._connections.borrow)
            if found is None:
                break
            self._start(*found)
            if not self._has_threads:
                break  # whatever came meanwhile may be more urgent

    def _debug(self, execution: Execution, what: str) -> None:
        """Log WHAT an attempt does, if debug lines are wanted."""
        if wants_debug():
            job = execution.job
            uri = execution.connection.uri
            log_debug(self._journal, f"attempt {job.tries} of {job} over {uri}: {what}")

    def _park(self, execution: Execution) -> None:
        """A try is prepared, and waits for a slot; no answer from libvirtd is due meanwhile."""
        if not execution.given_up:
            self._slots.park(execution)

    def _at(self, when: float, call: Callable[[], None]) -> None:
        self._timer_count += 1
        heappush(self._timers, (when, self._timer_count, call))

    def _watch(self, job: Job) -> None:
        self._at(job.request.deadline.next_check(self._clock()), lambda: self._expire(job))

    def _start(self, job: Job, connection: Connection) -> None:
        if job.request.deadline.expires <= self._clock():
            # Perhaps long ago: the domain may run again by now, under its leases.
            self._connections.give_back(connection)
            self._fail(job, "the time was up before it could be served")
            return
        job.enter(TRIED)
        job.tries += 1
        job.execution = execution = Execution(job, connection)
        if self._requests is not None:
            execution.in_hand = self._requests.begin(job.request.name)
        self._slots.begin(execution)
        self._debug(execution, "begins" if execution.has_slot else "begins, to wait for a slot once prepared")
        self._time(execution)
        try:
            self._start_thread(self._run, (execution,))
        except RuntimeError as error:
            self._run_in_place(execution, error)
            return
        self._has_threads = True
        ahead = self._connections.ahead(connection.uri)
        if ahead is not None:
            try:
                self._start_thread(self._open_ahead, (ahead,))
            except RuntimeError:
                self._connections.retire(ahead)

    def _run_in_place(self, execution: Execution, error: RuntimeError) -> None:
        """Make a try here and now: there are no more threads (RLIMIT_NPROC, pids.max, RLIMIT_AS)."""
        if self._has_threads:
            self._has_threads = False
            self._journal.report(Event("no-threads", note=error))
        execution.in_place = True
        if not execution.has_slot:
            self._slots.give(execution)
        if self._may_act(execution):
            self._run(execution)
        else:
            answer = GivenUpError("try", "another process serves")
            self._answers.put(lambda: self._answered(execution, answer))

    def _time(self, execution: Execution) -> None:
        """Wait for a try from now on, as long as there is patience."""
        execution.timed_from = now = self._clock()
        self._at(now + self._patience(execution.job), lambda: self._give_up(execution, now))

    def _patience(self, job: Job) -> float:
        """Seconds to wait for one try: a short budget still has room for three."""
        deadline = job.request.deadline
        return min(PATIENCE, (deadline.expires - deadline.start) / 3.5)

    def _open_ahead(self, connection: Connection) -> None:
        """The thread that opens a connection for a try to come."""
        try:
            self._connections.handle(connection)
        except HelperError:
            # The try that needs it opens one itself, and reports.
            self._connections.retire(connection)
        self._answers.put(_opened)

    def _run(self, execution: Execution) -> None:
        """The thread of one try."""
        request, connection = execution.job.request, execution.connection
        is_new = connection.handle is None
        answer: Outcome | HelperError
        lacking: Exception | None = None
        try:
            handle = self._connections.handle(connection)
            if is_new:
                self._answers.put(_opened)
                self._debug(execution, "has opened a connection")
            if execution.given_up:
                raise GivenUpError("connect", "took too long")
            answer = ACTIONS[request.action](self._attempt(execution, handle))
        except HelperError as error:
            answer = lacking = error
            if connection.handle is None:
                self._connections.retire(connection)
            elif not connection.handle.isAlive():
                self._connections.lost(connection)
        except Exception as error:
            # A defect of ours, or libvirt-python raised something else: one try fails, not the agent.
            lacking = error
            answer = TransientError("internal error", described(error))
            log_traceback(self._journal, error)
        if lacks_descriptor(lacking):
            self._free_descriptors()
            self._connections.stop_growing()
        self._connections.give_back(connection)
        self._answers.put(lambda: self._answered(execution, answer))
        if lacks_descriptor(lacking):
            # Closed by libvirtd's leave: the loop does not wait for that.
            self._connections.make_room(connection.uri)

    def _attempt(self, execution: Execution, handle: VirConnect) -> Attempt:
        """What an action is given: EXECUTION, over the open connection HANDLE."""
        request = execution.job.request
        return Attempt(
            handle,
            request,
            execution.job.progress,
            lambda: execution.given_up or not self._may_act(execution),
            self._local if is_local(request.uri) else None,
            self._recorder,
            lambda: self._await_slot(execution),
            execution.job.preparation,
        )

    def _may_act(self, execution: Execution) -> bool:
        """Whether a try may change its domain: no other process serves in this one's place."""
        requests = self._requests
        if requests is None:
            return True
        serves = requests.show_life() if execution.in_place else requests.may_act()
        # Read last: between this and the call nothing is left to be found out.
        return serves and not self._is_done_by_another(execution.job)

    def _is_done_by_another(self, job: Job) -> bool:
        """Whether the agent that this one serves beside has served all requests of JOB meanwhile."""
        requests = self._requests
        return requests is not None and all(requests.is_done_by_another(r.name) for r in job.requests)

    def _await_slot(self, execution: Execution) -> bool:
        """The thread of a try that is prepared: return when it has a slot; whether that took long."""
        if execution.has_slot:
            return False
        since = self._clock()
        self._answers.put(lambda: self._park(execution))
        execution.slot_given.get()
        if execution.given_up:
            raise GivenUpError("wait for a slot", "this try was given up")
        return self._clock() - since > READ_AGAIN_SECONDS

    def _answered(self, execution: Execution, answer: Outcome | HelperError) -> None:
        """The thread of a try has its ANSWER."""
        if execution.given_up:
            return
        execution.enter(ENDED)
        job = execution.job
        self._put_down(execution)
        job.execution = None
        # libvirtd has a worker free: what is left to do for this one keeps no other waiting.
        self._fill()
        if isinstance(answer, Outcome):
            self._finish(job, answer)
        elif isinstance(answer, AuthenticationError):
            self._refused(job, answer)
        elif isinstance(answer, PermanentError):
            self._fail(job, str(answer))
        elif isinstance(answer, GivenUpError) and self._is_done_by_another(job):
            # Its outcome is there, and this one is not logged: see _log_outcome().
            self._fail(job, str(answer))
        else:
            self._again(job, str(answer), min(LAST_BACKOFF, FIRST_BACKOFF * 2.0 ** (job.tries - 1)))

    def _refused(self, job: Job, error: AuthenticationError) -> None:
        """libvirtd refused the login: the next one, for all that wait for this URI, comes seconds later."""
        uri = job.request.uri
        next_at, _ = self._connections.refusal(uri) or (self._clock(), error)
        job.reason = str(error)
        job.enter(BACKOFF)
        self._at(next_at, lambda: self._jobs.ready(job))
        if self._repeats.is_due(uri, job.reason, self._clock()):
            every = f"{LOGIN_SECONDS:.0f}"
            self._journal.report(job.event("login-refused", note=job.reason, every=every))

    def _give_up(self, execution: Execution, timed_from: float) -> None:
        """Stop waiting for a try that was timed then; its connection serves no other try."""
        job = execution.job
        is_timed = execution.state != PARKED and execution.timed_from == timed_from
        if job.execution is execution and is_timed:
            self._abandon(execution)
            self._again(job, f"no answer from libvirtd within {self._patience(job):.1f} s", 0.0)

    def _abandon(self, execution: Execution) -> None:
        execution.give_up()
        execution.job.execution = None
        self._put_down(execution)
        self._connections.retire(execution.connection)

    def _put_down(self, execution: Execution) -> None:
        """A try is over, or is waited for no more."""
        self._slots.end(execution)
        self._debug(execution, "is over" if not execution.given_up else "is given up: its call hangs")
        if self._requests is not None:
            self._requests.end(execution.in_hand)

    def _again(self, job: Job, why: str, delay: float) -> None:
        now = self._clock()
        # Kept though it is not logged again: the reason of an end without an answer.
        job.reason = why
        if self._repeats.is_due(job, why, now):
            left = f"{job.request.deadline.left(now):.1f}"
            self._journal.report(job.event("attempt-failed", tries=job.tries, note=why, left=left))
        job.enter(BACKOFF)
        self._at(now + delay, lambda: self._jobs.ready(job))

    def _expire(self, job: Job) -> None:
        if job.done:
            return
        if job.request.deadline.left(self._clock()):
            # sanlock's grace was not known yet.
            self._watch(job)
            return
        if job.execution is not None:
            self._abandon(job.execution)
        refusal = self._connections.refusal(job.request.uri)
        self._fail(job, job.reason or (str(refusal[1]) if refusal else "no answer from libvirtd"))

    # Outcomes

    def _finish(self, job: Job, outcome: Outcome) -> None:
        event = job.event(
            "done" if outcome.reached else "not-done",
            seconds=self._seconds(job),
            found=outcome.found,
            did=outcome.did,
            verified=outcome.verified,
            note=outcome.remark,
        )
        self._end(job, outcome.reached, event)

    def _fail(self, job: Job, why: str) -> None:
        if job.slept:
            why += f" (this process was stopped, or had no processor, for {job.slept:.1f} s of that time)"
        if job.progress.is_over():
            after_that = job.progress.next if job.request.action == "restart" else ""
            kind, note = "not-done", f"the VM is safe (off), but: {why}{after_that}"
        else:
            sigkill = job.request.deadline.sigkill(self._clock(), self._wall())
            kind, note = "failed", f"{why}; {sigkill}"
        self._end(job, False, job.event(kind, seconds=self._seconds(job), tries=job.tries, note=note))

    def _end(self, job: Job, reached: bool, event: Event) -> None:
        job.reached = reached
        self._repeats.forget(job)
        following = self._jobs.close(job)
        if following is not None:
            # It came before this one was over, and is about the same run.
            following.progress.follow(job.progress)
            if following.progress.run is None:
                self._prepare(following)
            else:
                self._jobs.ready(following)
        self._ended_at = self._clock()
        self._ended[(*job.domain, job.request.action)] = (self._ended_at, reached)
        first, *others = job.requests
        if others:
            event.parts["requests"] = str(len(job.requests))
        for request in others:
            self._log_outcome(request, reached, event, log=False)
        self._log_outcome(first, reached, event)

    def _seconds(self, job: Job) -> str:
        return f"{self._clock() - job.request.deadline.start:.2f}"


def _opened() -> None:
    """A connection is open: nothing is left to do but to start the next try, as the loop does anyway."""
