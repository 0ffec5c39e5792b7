# SPDX-License-Identifier: LGPL-2.1-or-later
"""A call of the killpath executable that is not over once its request is written.

An administrator waits for the outcome, or asks for the options; the arguments have to be read closely, or are
wrong; this process is needed to serve the spool, or the spool cannot be used.
"""

import posix
import sys

from . import IDENTIFIER, MOST_DESCRIPTORS, __version__
from .handover import Handover
from .invocation import EXIT_DONE, EXIT_FAILED, HELP, PROGRAM, Invocation
from .spool import Spool, SpoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# EMFILE and ENFILE (errno(3)): no descriptor is free, in this process or on this host.
_NO_DESCRIPTOR = (24, 23)

# Older requests are not handed to libvirt's helper: this is the budget where no --budget was given.
_STOCK_SECONDS = 35.0


def run(words: "Sequence[str]", start: float, waits: bool, handover: "Handover | None") -> int:
    """Do what WORDS, the arguments of a call that came at START, ask for; returns the exit status.

    START is in seconds of CLOCK_MONOTONIC.  WAITS: an administrator waits for the outcome.  HANDOVER has the
    request, where that is written already.
    """
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
    spool, problem = None, ""
    if invocation.action != "ignore":
        try:
            try:
                spool, is_needed = _enlist(invocation, start, waits, handover)
            except SpoolError as error:
                if getattr(error.__cause__, "errno", 0) not in _NO_DESCRIPTOR:
                    raise
                # Inherited descriptors use all that are allowed.
                posix.closerange(3, MOST_DESCRIPTORS)
                spool, is_needed = _enlist(invocation, start, waits, None)
            if not is_needed:
                # Another process serves it; a stand-by has waited for that.
                return EXIT_FAILED if spool.was_dismissed and spool.has_failed() else EXIT_DONE
        except SpoolError as error:
            problem = str(error)
    return _perform(invocation, start, spool, problem)


def _enlist(
    invocation: Invocation, start: float, waits: bool, handover: "Handover | None"
) -> "tuple[Spool, bool]":
    """Put the request into the spool, unless HANDOVER has: returns that, and whether this process is needed.

    Raises SpoolError when it cannot be written, or the locks cannot be used; then no file is left there.
    """
    if handover is not None:
        spool = Spool.of(handover)
    else:
        spool = Spool.open()
        spool.write(invocation, start, keep=waits)
    try:
        return spool, waits or spool.enlist()
    except SpoolError:
        if not spool.remove(spool.name):
            return spool, False  # an agent has served it
        raise


def _perform(invocation: Invocation, start: float, spool: "Spool | None", problem: str) -> int:
    """Serve requests in this process: see service.perform()."""
    import gc

    # Short-lived, and nearly all that is made while importing stays: collecting garbage only costs.
    gc.disable()
    try:
        from .agent.service import perform
    except Exception as error:
        # Other processes have written their requests and exited, relying on this one.
        if spool is not None and spool.is_agent():
            spool.leave_to_stock(spool.name, start - _STOCK_SECONDS, error)
        raise
    return perform(invocation, start, spool, problem)


def _print(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        from .journal import Stderr

        Stderr().write(f"{IDENTIFIER}: write the text: {error.strerror}")
        return EXIT_FAILED
    return EXIT_DONE
