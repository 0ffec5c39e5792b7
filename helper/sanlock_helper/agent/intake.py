# SPDX-License-Identifier: LGPL-2.1-or-later
"""What comes into the agent's spool: requests to serve, outcomes to log, and files that are neither.

What is no request is moved out of the spool, and is logged once.  What cannot be read for want of a resource
(descriptors, memory) is a request all the same, and is read later.
"""

from __future__ import annotations

from ..events import Event
from ..journal import Journal
from ..leases.grace import DEFAULT_GRACE
from ..spool import DONE, LOGGING, RUNTIME_DIR, SpoolError, is_request
from .requests import Receipt, Request, Requests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable

# How often the agent reads the spool: a destroy keeps libvirtd's worker for 0.2 s, and the sooner the
# first ones begin, the sooner the last.
POLL_SECONDS = 0.008

# So many files that are no requests are moved out of the spool at a time.
ODD_AT_ONCE = 100

# A START that is further in the future is no time of the clock: the request would never expire.
AHEAD_SECONDS = 10.0

_FOLDER = f"{RUNTIME_DIR}/requests"

# So many are logged one by one, the rest in one line.
_LOGGED = 10


class OddFiles:
    """The files that are no requests, as one agent found them."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        """CLOCK is monotonic, in seconds."""
        self._journal = journal
        self._clock = clock
        self._moved = 0
        self._ignored = 0
        # When a file could not be read first.
        self._unread: dict[str, float] = {}

    def move(self, requests: Requests, name: str, why: str) -> None:
        """NAME is no request, for the reason WHY: move it out of the spool, or ignore it."""
        now = ""
        try:
            place = requests.put_aside(name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._ignored += 1
            if self._ignored <= _LOGGED:
                now = f"it cannot be moved ({error.strerror}), and is ignored"
        else:
            self._moved += 1
            if self._moved <= _LOGGED:
                now = f"it was moved to {place}"
        if now:
            self._journal.report(Event("odd-file", path=repr(name), folder=_FOLDER, note=f"{why}; {now}"))

    def report(self) -> None:
        """Log how many more there were than were logged one by one."""
        for number, what in ((self._moved, "were moved out of"), (self._ignored, "are ignored in")):
            if number > _LOGGED:
                self._journal.report(Event("odd-files", count=number - _LOGGED, note=f"{what} {_FOLDER}"))
        self._moved, self._ignored = min(self._moved, _LOGGED), min(self._ignored, _LOGGED)

    def later(self, name: str, error: OSError) -> bool:
        """Request NAME cannot be read now; False when it is too late to read it."""
        now = self._clock()
        if name not in self._unread:
            self._unread[name] = now
            self._journal.report(Event("request-unread", path=repr(name), note=error.strerror))
        elif now - self._unread[name] > DEFAULT_GRACE:
            del self._unread[name]
            self._journal.report(Event("request-lost", path=repr(name), note=error.strerror))
            return False
        return True

    def was_read(self, name: str) -> None:
        """Request NAME was read."""
        self._unread.pop(name, None)

    def are_there(self, names: list[str]) -> bool:
        """Whether one of NAMES, all that are in the spool, is still to be read."""
        for name in [name for name in self._unread if name not in names]:
            del self._unread[name]
        return bool(self._unread)


class Intake:
    """What is new in the spool of one agent."""

    def __init__(
        self, requests: Requests, journal: Journal, clock: Callable[[], float], known: Iterable[str] = ()
    ) -> None:
        """CLOCK is monotonic, in seconds; KNOWN are files of the spool that are seen to already."""
        self._requests = requests
        self._journal = journal
        self._clock = clock
        # Files of the spool that are known, and when the spool was read last.
        self._before = frozenset(known)
        self._known = {*requests.ignored, *known}
        self._read_at = float("-inf")
        self._odd_files = OddFiles(journal, clock)

    def take(self, serve: Callable[[list[Request]], None]) -> bool:
        """Read the spool, if it is time to, and pass what is new to SERVE.

        Returns whether something was left, and the spool has to be read again.
        """
        now = self._clock()
        if now - self._read_at < POLL_SECONDS:
            return False
        self._read_at = now
        names = self._requests.names(self._known)
        odd = [name for name in names if not is_request(name)]
        fresh = [self._read(name) for name in names if is_request(name)]
        serve([request for request in fresh if request is not None])
        # Last, and a few at a time: no virtual machine is behind them.
        for name in odd[:ODD_AT_ONCE]:
            self._known.add(name)
            self._odd_files.move(self._requests, name, "its name is none")
        if odd[ODD_AT_ONCE:] or self._odd_files.are_there(names):
            return True
        self._odd_files.report()
        return False

    def read_anew(self) -> None:
        """Something has come into the spool: have the next take() read it, whether it is time to or not."""
        self._read_at = float("-inf")

    def left(self) -> set[str]:
        """The names, of all steps, of what was seen to here, and of what was known before and is still there.

        A file that is renamed meanwhile, as by the thread that logs its outcome, may be in no listing.
        """
        there = {_base(name) for name in self._requests.names()}
        return {name for name in self._known if name not in self._before or _base(name) in there}

    def expect(self, name: str) -> None:
        """Request NAME is served, by this process or by one of its own, which takes its next steps."""
        self._known.update((name + DONE, name + LOGGING))

    def read_outcome(self, name: str) -> None:
        """Another process has served request NAME: log the outcome, unless that has."""
        self._read(name + DONE)

    def _read(self, name: str) -> Request | None:
        """The request in file NAME if it has to be served."""
        self._known.add(name)
        try:
            request = self._requests.read(name)
            if request is not None and request.deadline.start > self._clock() + AHEAD_SECONDS:
                raise SpoolError("it is not one of this program's: its START is in the future")
        except SpoolError as error:
            self._odd_files.move(self._requests, name, str(error))
            return None
        except OSError as error:
            if self._odd_files.later(name, error):
                self._known.discard(name)
            return None
        self._odd_files.was_read(name)
        if request is None:
            self._is_gone(name)
            return None
        if request.outcome is not None and not name.endswith((DONE, LOGGING)):
            # Its agent died right after it had noted the outcome; or could not rename it, and has logged it.
            done = self._requests.mark_done(name)
            if done is None:
                self._is_gone(name)
                return None
            name = done
        if request.outcome is not None or name.endswith((DONE, LOGGING)):
            self._log_for_another(name, request)
            return None
        return request

    def _is_gone(self, name: str) -> None:
        """Request NAME is not there any more: the agent that this one serves beside may have served it."""
        if self._requests.is_done_by_another(name):
            self.read_outcome(name)
        elif name not in self._requests.ignored:
            # Its own process has removed it; what has this name later is a request again.
            self._known.discard(name)

    def _log_for_another(self, name: str, request: Request) -> None:
        """Log the outcome of a request whose agent died before it could."""
        for step in (DONE, LOGGING):
            if name.endswith(step):
                # Its next step is this process's own.
                self.expect(name[: -len(step)])
        event, level = request.event("outcome-not-noted", domain=request.uuid), "error"
        if request.outcome is not None:
            level, line = request.outcome
            # A line of another version may be about nothing that this one knows.
            event = Event.parse(line) or Event("", note=line)
            event.parts.setdefault("uri", request.uri)
        event.repeated = name.endswith(LOGGING)
        self._journal.log(level, event, Receipt(self._requests, name, is_own=False))


def _base(name: str) -> str:
    """The name of a request before its outcome was noted."""
    return name.removesuffix(DONE).removesuffix(LOGGING)
