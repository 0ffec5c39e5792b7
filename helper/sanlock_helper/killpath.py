# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the killpath executable does: read the arguments, serve the request, exit.

Nothing here may depend on the environment: sanlock starts the program without HOME, with stdio on /dev/null,
SIGINT ignored and pipe ends of its own left open.
"""

from __future__ import annotations

import gc
import posix
import sys
import time

from . import __version__
from .errors import UsageError
from .grace import Deadline, kill_grace_seconds
from .invocation import HELP, PROGRAM, USAGE, Invocation
from .journal import IDENTIFIER, Journal, write_stderr
from .requests import Request, Spool, SpoolError
from .stock import leave_to_stock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .agent import Agent

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
# What a shell gives for a program that SIGINT ended.
EXIT_INTERRUPTED = 130

# How often somebody who waits for another process's outcome looks for it.
WAIT_SECONDS = 0.05


def main(arguments: Sequence[str], in_person: bool | None = None) -> int:
    """Run with the ARGUMENTS behind the program's name; returns the exit status.

    IN_PERSON: somebody waits for the outcome, as at a terminal (which it is taken from when it is None).
    sanlock does not: a request that another process will serve is done for this one.
    """
    start = time.monotonic()
    isolate()
    journal = Journal()
    if list(arguments) in (["--help"], ["-h"]):
        return _print(HELP)
    if list(arguments) == ["--version"]:
        return _print(f"{PROGRAM} ({IDENTIFIER}) {__version__}\n")
    try:
        invocation = Invocation.parse(arguments)
    except UsageError as error:
        journal.crit(f"usage error: {error}")
        journal.flush()
        write_stderr(USAGE.rstrip("\n"))
        return EXIT_USAGE
    request = Request.of(invocation, Deadline(start, kill_grace_seconds(), invocation.budget))
    waits = posix.isatty(2) if in_person is None else in_person
    try:
        status = _serve(request, journal, waits)
    except KeyboardInterrupt:
        journal.warning(f"{request}: interrupted, the outcome is not known")
        status = EXIT_INTERRUPTED
    journal.flush()
    return status


def _serve(request: Request, journal: Journal, waits: bool) -> int:
    """Serve REQUEST, or see to it that another process does; returns the exit status."""
    if request.action == "ignore":
        ignore(request, journal)
        return EXIT_DONE
    try:
        spool = Spool.open()
        spool.write(request, keep=waits)
    except SpoolError as error:
        journal.warning(f"{request}: acting without other processes: {error}")
        return serve_alone(request, lambda: _agent(journal))
    return _serve_spool(request, spool, journal, waits)


def ignore(request: Request, journal: Journal) -> None:
    """Do nothing, and say when sanlock will."""
    sigkill = request.deadline.sigkill(time.monotonic(), time.time())
    journal.warning(f"{request}: nothing is done, as asked; {sigkill}")


def serve_alone(request: Request, make_agent: Callable[[], Agent]) -> int:
    """Serve REQUEST in this process with the agent that MAKE_AGENT makes; returns the exit status.

    What cannot be imported, or is a defect, is not caught: the executable then runs libvirt's own helper.
    """
    agent = make_agent()
    reached = agent.serve(request)
    agent.close()
    return EXIT_DONE if reached else EXIT_FAILED


def _serve_spool(request: Request, spool: Spool, journal: Journal, waits: bool) -> int:
    reached: bool | None = None

    def serve() -> None:
        nonlocal reached
        try:
            agent = _agent(journal)
            agent.work(spool)
        except KeyboardInterrupt:
            # Whoever interrupts does not want it done later; what others asked for stays.
            spool.remove(request.name)
            raise
        except Exception as error:
            # The others have handed over and gone: libvirt's own helper has to serve their requests as well.
            mine = request.name in spool.unserved()
            leave_to_stock(_withdraw(request, spool), error)
            if mine:
                raise
            journal.crit(f"{request}: internal error after it was served: {error!r}")
            return
        agent.close()
        reached = agent.reached(request) if reached is None else reached

    if not waits:
        spool.attend(serve)
    else:
        spool.attend_until(request, serve, lambda: time.sleep(WAIT_SECONDS))
        if reached is None:
            level, line = spool.outcome_of(request) or ("error", "")
            write_stderr(f"{IDENTIFIER}: {line}")
            reached = level == "notice"
    return EXIT_FAILED if reached is False else EXIT_DONE


def _withdraw(request: Request, spool: Spool) -> list[tuple[str, str, str]]:
    """Take everything that is not served yet out of the spool; returns the arguments of all but REQUEST."""
    others = []
    for name in spool.unserved():
        try:
            other = spool.read(name)
        except SpoolError:
            other = None
        spool.remove(name)
        if other is not None and name != request.name and other.deadline.left(time.monotonic()):
            others.append((other.uri, other.uuid, other.action))
    return others


def _agent(journal: Journal) -> Agent:
    """The agent, with everything imported that it may need.

    That is done before the first action: the disk that holds Python may be the next thing to fail.
    """
    _hurry()
    journal.prepare()
    # Short-lived, and nearly all that is made while importing stays: collecting garbage only costs.
    gc.disable()
    # The executable starts with -S.  The folders are enough: the .pth files in them run code of anybody who
    # ever installed a package on this host.
    import site

    sys.path.extend(site.getsitepackages())
    from .agent import Agent
    from .connection import connect
    from .notes import Notes
    from .records import Records

    return Agent(connect, journal, notes=Notes(Records(), journal))


def _hurry() -> None:
    """Go before the processes that only hand over: hundreds may start beside this one, and all need it."""
    try:
        posix.setpriority(posix.PRIO_PROCESS, 0, -20)
    except OSError:
        pass  # not root, or without CAP_SYS_NICE


def isolate() -> None:
    """Shed what was inherited: descriptors above 2, the umask; and see that 0, 1 and 2 are open."""
    posix.umask(0o077)
    for name in posix.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                posix.close(int(name))
            except OSError:
                pass  # the descriptor of the listing itself
    # A socket to libvirtd that became descriptor 2 would get our messages.
    while posix.open("/dev/null", posix.O_RDWR) <= 2:
        pass
    posix.close(3)


def _print(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        write_stderr(f"{IDENTIFIER}: write the text: {error.strerror}")
        return EXIT_FAILED
    return EXIT_DONE
