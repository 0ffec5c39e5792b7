# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a process does once it has to act: as the agent, as a stand-by, or alone."""

from __future__ import annotations

import posix
import sys
import time

from .. import IDENTIFIER
from ..errors import described
from ..events import Event
from ..invocation import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, USAGE, Invocation
from ..journal import Journal, Stderr, log_traceback
from ..leases.grace import Deadline, Grace
from ..leases.sanlock_daemon import join_sanlock_group, run_dir
from ..memory_limits import forbid_core_dumps, require_memory
from ..spool import Spool, SpoolError
from .requests import Request, Requests
from .stand_by import StandBy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..virt.local_domains import LocalDomains
    from .agent import Agent
    from .descriptors import Descriptors
    from .recorder import RecoveryRecorder

# The agent's nice value (setpriority(2)).  With -20 it would weigh as much as 88 others: the kernel keeps
# those off its processor, where they wait while it idles between two calls.  That cost a storm a twentieth.
NICE = -10

# How long a thread may compute before another one may.
SWITCH_SECONDS = 0.0005

# The names of `typing` that libvirt.py of libvirt-python uses, in annotations only.
_TYPING = ("Any", "Callable", "Dict", "List", "Optional", "Tuple", "Type", "TypeVar", "Union", "overload")

# Why no process of this program can serve, by its limits or its files: no defect.  It is logged with what is
# left to libvirt's helper.
_CANNOT_SERVE = (ImportError, MemoryError)

# How often a process that waits for another one's outcome checks for it.
WAIT_SECONDS = 0.05


def refuse(error: Exception) -> int:
    """Log what is wrong with the arguments; returns the exit status."""
    journal = Journal()
    journal.report(Event("usage-error", note=error))
    journal.flush()
    Stderr().write(USAGE.rstrip("\n"))
    return EXIT_USAGE


def perform(invocation: Invocation, start: float, spool: Spool | None, problem: str) -> int:
    """Serve the INVOCATION that came at START, or have another process serve it.

    SPOOL has its file, and this process is enlisted there or waits for the outcome.  Without a spool it
    serves only this request, for the reason PROBLEM; the action "ignore" has none.  Returns the exit status.
    """
    journal = Journal()
    join_sanlock_group(run_dir())
    grace = Grace()
    name = "" if spool is None else spool.name
    request = Request.of(invocation, Deadline(start, grace, invocation.budget), name)
    try:
        if request.action == "ignore":
            grace.wait()
            ignore(request, journal)
            status = EXIT_DONE
        elif spool is None:
            journal.report(request.event("served-alone", note=problem))
            status = serve_alone(request, lambda: make_agent(journal, request.uri))
        else:
            status = _serve_spool(request, spool, grace, journal)
    except KeyboardInterrupt:
        journal.report(request.event("interrupted", domain=request.uuid))
        status = EXIT_INTERRUPTED
    journal.flush()
    return status


def _serve_spool(request: Request, spool: Spool, grace: Grace, journal: Journal) -> int:
    """Serve what is in SPOOL, REQUEST among it, or have another process serve it."""
    requests = Requests(spool, grace, StandBy(spool, time.monotonic, journal.report))
    try:
        return SpoolService(request, spool, requests, journal).perform()
    except SpoolError as error:
        # Neither this process nor another can serve the spool: each serves its own request, unless an agent
        # has done so.
        if not requests.remove(request.name) and not spool.waits_for_outcome:
            return EXIT_FAILED if spool.has_failed() else EXIT_DONE
        spool.is_given_up = True
        journal.report(request.event("served-alone", note=error))
        return serve_alone(request, lambda: make_agent(journal, request.uri))


def ignore(request: Request, journal: Journal) -> None:
    """Do nothing, and log when sanlock sends SIGKILL."""
    sigkill = request.deadline.sigkill(time.monotonic(), time.time())
    journal.report(request.event("ignored", note=sigkill))


def serve_alone(request: Request, make_agent: Callable[[], Agent]) -> int:
    """Serve REQUEST in this process with the agent that MAKE_AGENT makes; returns the exit status.

    What cannot be imported, or is a defect, is not caught: the executable then runs libvirt's own helper.
    """
    agent = make_agent()
    reached = agent.serve(request)
    agent.close()
    return EXIT_DONE if reached else EXIT_FAILED


class SpoolService:
    """The service of a spool by this process, whose own request is one of those in there."""

    def __init__(self, request: Request, spool: Spool, requests: Requests, journal: Journal) -> None:
        self._request = request
        self._spool = spool
        self._requests = requests
        self._journal = journal
        # Whether the goal of our own request was reached, None when this process did not serve it.
        self._reached: bool | None = None

    def perform(self) -> int:
        """Serve while this process is needed, or until the own request is over; returns the exit status."""
        if not self._spool.waits_for_outcome:
            self._requests.attend(self._serve)
            if self._reached is None and self._spool.has_failed():
                self._reached = False
        else:
            self._requests.attend_until(self._is_over, self._serve, lambda: time.sleep(WAIT_SECONDS))
            if self._reached is None:
                level, line = self._requests.outcome_of(self._request) or ("error", "")
                Stderr().write(f"{IDENTIFIER}: {line}")
                self._reached = level == "notice"
        return EXIT_FAILED if self._reached is False else EXIT_DONE

    def _is_over(self) -> bool:
        return self._requests.outcome_of(self._request) is not None

    def _serve(self) -> None:
        request = self._request
        try:
            agent = make_agent(self._journal, request.uri)
            agent.work(self._requests)
        except KeyboardInterrupt:
            # It was interrupted, and is not to be done later; the requests of other processes stay.
            self._requests.remove(request.name)
            raise
        except Exception as error:
            deadline = request.deadline
            oldest = time.monotonic() - (deadline.expires - deadline.start)
            if self._spool.leave_to_stock(request.name, oldest, error):
                raise
            if not isinstance(error, _CANNOT_SERVE):
                self._journal.report(request.event("defect-after-service", note=described(error)))
                log_traceback(self._journal, error)
            return
        agent.close()
        self._reached = agent.reached(request) if self._reached is None else self._reached


def make_agent(journal: Journal, uri: str) -> Agent:
    """The agent for a domain of URI and others, with everything imported that it may need.

    That is done before the first action: the disk that holds Python may be the next thing to fail.
    """
    prepare_process(journal)
    from ..virt.connection import connect, is_embedded
    from .agent import Agent
    from .descriptors import Descriptors

    descriptors = Descriptors()
    agent = Agent(
        descriptors.guard(connect),
        journal,
        make_host=lambda: make_host(journal, descriptors),
        descriptors=descriptors,
    )
    if not is_embedded(uri):
        preload()
    return agent


def prepare_process(journal: Journal, unit: str = "sanlock.service") -> None:
    """Set this process, of the service UNIT, up as an agent's, with libvirt-python found.

    Raises MemoryError where its limits leave too little, ImportError without libvirt-python.
    """
    require_memory(unit=unit)
    forbid_core_dumps()
    # The C module: its children's exit statuses are needed (see apart.py), which the kernel forgets where the
    # process that started this one ignores their end.
    import _signal  # type: ignore[import-not-found]

    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    journal.prepare()
    raise_priority()
    # The GIL's switch interval is 5 ms by default: a thread that returns from a call of 0.5 ms would wait ten
    # times as long to go on.
    sys.setswitchinterval(SWITCH_SECONDS)
    _import_libvirt()


def preload() -> None:
    """Import what the tries for a domain may need that is not of libvirt's embedded test driver."""
    # What the executable writes its line with when this process fails and libvirt's helper takes over.
    import encodings.unicode_escape  # noqa: F401

    import libvirt_auth

    libvirt_auth.preload()
    from ..errors import LeasesUnknownError
    from ..leases import held as leases
    from ..records import directory as records  # noqa: F401
    from ..virt import local_domains  # noqa: F401
    from . import pause, recorder  # noqa: F401

    try:
        leases.load()
    except LeasesUnknownError:
        pass  # a lease that cannot be read is reported with its domain


def make_host(journal: Journal, descriptors: Descriptors) -> tuple[LocalDomains, RecoveryRecorder]:
    """What the host knows of its domains, and what takes down what recovery needs."""
    from ..records.directory import RecordDirectory
    from ..virt.local_domains import LocalDomains
    from .recorder import RecoveryRecorder

    return LocalDomains(), RecoveryRecorder(
        RecordDirectory(), journal, free_descriptors=descriptors.free_reserve
    )


def _find_modules() -> None:
    """Have libvirt-python found: the executable starts with -S.

    The folders are enough: the .pth files in them run code of any package that was ever installed on this
    host.  Those below /usr/local, which may be another disk, are added only where the distribution's
    have no libvirt-python.
    """
    import site

    folders = site.getsitepackages()
    local = [folder for folder in folders if folder.startswith("/usr/local/")]
    sys.path.extend(folder for folder in folders if folder not in local)
    try:
        import libvirt  # noqa: F401
    except ImportError:
        sys.path.extend(local)


class _Form:
    """What stands for a name of `typing`: it is itself when it is called or subscripted."""

    def __call__(self, *_: object) -> _Form:
        return self

    def __getitem__(self, _: object) -> _Form:
        return self


def _import_libvirt() -> None:
    """Import libvirt-python, where it is found, without `typing`: see _TYPING.

    That module and what it imports in turn (re, enum, collections, contextlib) take as long as all else of
    libvirt-python.  One that needs more of it is imported with the module itself.
    """
    if "typing" not in sys.modules:
        path = sys.path[:]
        stand_in = type(sys)("typing")
        stand_in.__dict__.update(dict.fromkeys(_TYPING, _Form()))
        sys.modules["typing"] = stand_in
        try:
            _find_modules()
        except Exception:
            pass  # of any type: it has used a name in its own way
        finally:
            del sys.modules["typing"]
        if "libvirt" in sys.modules:
            return
        sys.path[:] = path
    _find_modules()


def raise_priority() -> None:
    """Run before the processes that only write their request: hundreds may start, and all need this one."""
    try:
        posix.setpriority(posix.PRIO_PROCESS, 0, NICE)
    except OSError:
        pass  # not root, or without CAP_SYS_NICE
