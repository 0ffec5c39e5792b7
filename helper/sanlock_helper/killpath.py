# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the killpath executable does: read the arguments, write the request down, and go, unless it is needed.

Nothing here may depend on the environment: sanlock starts the program without HOME, with stdio on /dev/null,
SIGINT ignored and pipe ends of its own left open.  Hundreds of these processes may start in the same second,
and what most of them do is all here; the rest is in duty.py.
"""

import posix
import sys
import time

from . import IDENTIFIER, __version__
from .invocation import EXIT_DONE, EXIT_FAILED, HELP, PROGRAM, Invocation
from .spool import Spool, SpoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# How old a request may be that libvirt's helper is left with: what the budget is where nobody says otherwise.
_STOCK_SECONDS = 35.0


def main(arguments: "Sequence[str]", in_person: "bool | None" = None) -> int:
    """Run with the ARGUMENTS behind the program's name; returns the exit status.

    IN_PERSON: somebody waits for the outcome, as at a terminal (which it is taken from when it is None).
    sanlock does not: a request that another process will serve is done for this one.
    """
    start = time.monotonic()
    posix.umask(0o077)
    _open_standard_descriptors()
    words = list(arguments)
    if words in (["--help"], ["-h"]):
        return _print(HELP)
    if words == ["--version"]:
        return _print(f"{PROGRAM} ({IDENTIFIER}) {__version__}\n")
    try:
        invocation = Invocation.parse(words)
    except ValueError as error:  # a UsageError
        from .duty import refuse

        return refuse(error)
    waits = posix.isatty(2) if in_person is None else in_person
    spool, name, problem = None, "", ""
    if invocation.action != "ignore":
        try:
            spool = Spool.open()
            name = spool.write(invocation, start, keep=waits)
            if not waits and not spool.enlist():
                return EXIT_DONE
        except SpoolError as error:
            problem = str(error)
            if spool is not None and name:
                spool.remove(name)
            spool = None
    return _perform(invocation, start, spool, name, problem)


def _perform(invocation: Invocation, start: float, spool: "Spool | None", name: str, problem: str) -> int:
    """Do what this process is needed for: see duty.perform()."""
    try:
        from .duty import perform
    except Exception as error:
        # Others have handed over and gone, relying on this process.
        if spool is not None and spool.is_agent():
            spool.leave_to_stock(name, start - _STOCK_SECONDS, error)
        raise
    return perform(invocation, start, spool, name, problem)


def _open_standard_descriptors() -> None:
    """See that 0, 1 and 2 are open: a socket to libvirtd that became descriptor 2 would get our messages."""
    descriptor = posix.open("/dev/null", posix.O_RDWR)
    while descriptor <= 2:
        descriptor = posix.open("/dev/null", posix.O_RDWR)
    posix.close(descriptor)


def _print(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        from .journal import write_stderr

        write_stderr(f"{IDENTIFIER}: write the text: {error.strerror}")
        return EXIT_FAILED
    return EXIT_DONE
