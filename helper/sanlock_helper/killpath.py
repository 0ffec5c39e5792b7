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
from .requests import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .agent import Agent

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
# What a shell gives for a program that SIGINT ended.
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Run with the ARGUMENTS behind the program's name; returns the exit status."""
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
        journal.close()
        write_stderr(USAGE.rstrip("\n"))
        return EXIT_USAGE
    request = Request(invocation, Deadline(start, kill_grace_seconds(), invocation.budget))
    try:
        status = serve(request, journal, lambda: _agent(journal))
    except KeyboardInterrupt:
        journal.warning(f"{request}: interrupted, the outcome is not known")
        status = EXIT_INTERRUPTED
    journal.close()
    return status


def serve(request: Request, journal: Journal, make_agent: Callable[[], Agent]) -> int:
    """Serve REQUEST in this process with the agent that MAKE_AGENT makes; returns the exit status."""
    if request.action == "ignore":
        journal.warning(f"{request}: nothing is done, as asked; {_sigkill(request)}")
        return EXIT_DONE
    # What cannot be imported is not caught: the executable then runs libvirt's own helper.
    agent = make_agent()
    reached = agent.serve(request)
    agent.close()
    return EXIT_DONE if reached else EXIT_FAILED


def _agent(journal: Journal) -> Agent:
    """The agent, with everything imported that it may need.

    That is done before the first action: the disk that holds Python may be the next thing to fail.
    """
    # Short-lived, and nearly all that is made while importing stays: collecting garbage only costs.
    gc.disable()
    # The executable starts with -S.  The folders are enough: the .pth files in them run code of anybody who
    # ever installed a package on this host.
    import site

    sys.path.extend(site.getsitepackages())
    from .agent import Agent
    from .connection import connect

    return Agent(connect, journal)


def _sigkill(request: Request) -> str:
    return request.deadline.sigkill(time.monotonic(), time.time())


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
