# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the killpath executable does: read the arguments, write the request to the spool, and exit unless
this process has to serve.

Nothing here may depend on the environment: sanlock starts the program without HOME, with stdio on /dev/null,
SIGINT ignored and pipe ends of its own left open.  Hundreds of these processes may start in the same second,
and all that most of them do is in this module; the rest is in agent/service.py.
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

# EMFILE and ENFILE (errno(3)): no descriptor is free, in this process or on this host.
_NO_DESCRIPTOR = (24, 23)
# Where the numbers of inherited descriptors end that are closed when none is free.
_MOST_DESCRIPTORS = 65536

# Older requests are not handed to libvirt's helper: this is the budget where no --budget was given.
_STOCK_SECONDS = 35.0


def main(arguments: "Sequence[str]", interactive: "bool | None" = None) -> int:
    """Run with the ARGUMENTS behind the program's name; returns the exit status.

    INTERACTIVE: an administrator waits for the outcome, as at a terminal (which is checked when it is None).
    sanlock does not wait: this process is done once another one will serve its request.
    """
    start = time.monotonic()
    posix.umask(0o077)
    _open_standard_descriptors()
    words = list(arguments)
    if words in (["--help"], ["-h"]):
        return _print(HELP)
    if words == ["--version"]:
        return _print(f"{PROGRAM} ({IDENTIFIER}) {__version__}\n")
    if words == ["--list-files"]:
        from .agent.opened_files import list_files

        return list_files()
    try:
        invocation = Invocation.parse(words)
    except ValueError as error:  # a UsageError
        from .agent.service import refuse

        return refuse(error)
    waits = posix.isatty(2) if interactive is None else interactive
    spool, name, problem = None, "", ""
    if invocation.action != "ignore":
        try:
            try:
                spool, name, needed = _hand_over(invocation, start, waits)
            except SpoolError as error:
                if getattr(error.__cause__, "errno", 0) not in _NO_DESCRIPTOR:
                    raise
                # Inherited descriptors use all that are allowed.
                posix.closerange(3, _MOST_DESCRIPTORS)
                spool, name, needed = _hand_over(invocation, start, waits)
            if not needed:
                # Another process serves it; a stand-by has waited for that.
                return EXIT_FAILED if spool.was_dismissed and spool.has_failed() else EXIT_DONE
        except SpoolError as error:
            problem = str(error)
    return _perform(invocation, start, spool, name, problem)


def _hand_over(invocation: Invocation, start: float, waits: bool) -> "tuple[Spool, str, bool]":
    """Put the request into the spool: returns that, the request's file, and whether this process is needed.

    Raises SpoolError when it cannot be written, or the locks cannot be used; then no file is left there.
    """
    spool = Spool.open()
    name = spool.write(invocation, start, keep=waits)
    try:
        return spool, name, waits or spool.enlist()
    except SpoolError:
        if not spool.remove(name):
            return spool, name, False  # an agent has served it
        raise


def _perform(invocation: Invocation, start: float, spool: "Spool | None", name: str, problem: str) -> int:
    """Serve requests in this process: see service.perform()."""
    import gc

    # Short-lived, and nearly all that is made while importing stays: collecting garbage only costs.
    gc.disable()
    try:
        from .agent.service import perform
    except Exception as error:
        # Other processes have written their requests and exited, relying on this one.
        if spool is not None and spool.is_agent():
            spool.leave_to_stock(name, start - _STOCK_SECONDS, error)
        raise
    return perform(invocation, start, spool, name, problem)


def _open_standard_descriptors() -> None:
    """Open 0, 1 and 2 if they are closed: a socket to libvirtd must not become the standard error."""
    try:
        descriptor = posix.open("/dev/null", posix.O_RDWR)
    except OSError:
        posix.closerange(3, _MOST_DESCRIPTORS)
        descriptor = posix.open("/dev/null", posix.O_RDWR)
    while descriptor <= 2:
        descriptor = posix.open("/dev/null", posix.O_RDWR)
    posix.close(descriptor)


def _print(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        from .journal import Stderr

        Stderr().write(f"{IDENTIFIER}: write the text: {error.strerror}")
        return EXIT_FAILED
    return EXIT_DONE
