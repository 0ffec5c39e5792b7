# SPDX-License-Identifier: LGPL-2.1-or-later
"""A call of the killpath executable that is not over once its request is written.

An administrator waits for the outcome, or asks for the options; the arguments have to be read closely, or are
wrong; this process is needed to serve the spool, or the spool cannot be used.
"""

import sys

from . import IDENTIFIER, __version__
from .inherited_descriptors import close_inherited_descriptors
from .invocation import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, HELP, PROGRAM, Invocation
from .spool import Spool, SpoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .handover import Handover

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
    close_inherited_descriptors(handover.descriptors() if handover is not None else ())
    try:
        invocation = Invocation.parse(words)
    except ValueError as error:  # a UsageError
        from .agent.service import refuse

        return refuse(error)
    if invocation.action == "ignore":
        return _perform(invocation, start, None)
    return _serve(invocation, start, waits, handover)


def _serve(invocation: Invocation, start: float, waits: bool, handover: "Handover | None") -> int:
    """Have the request of INVOCATION served, by this process or by an agent; returns the exit status."""
    spool, problem = None, ""
    try:
        spool = Spool.of(handover) if handover is not None else _written(invocation, start, waits)
        is_needed = waits or spool.enlist()
    except SpoolError as error:
        if spool is not None and not spool.remove(spool.name):
            return _status(spool)  # an agent has served it
        spool, problem, is_needed = None, str(error), True
    if spool is not None and not is_needed:
        # Another process serves it; a stand-by has waited for that.
        return _status(spool) if spool.was_dismissed else EXIT_DONE
    try:
        return _perform(invocation, start, spool, problem)
    except KeyboardInterrupt:
        # While the rest is loaded: it is not to be done later.
        if spool is not None:
            spool.remove(spool.name)
        return EXIT_INTERRUPTED
    except Exception as error:
        if spool is None or spool.is_given_up or _leave_to_stock(spool, start, error):
            raise
        _log_defect(invocation, error)
        return _status(spool)


def _status(spool: Spool) -> int:
    """The exit status of a process whose own request another one has served."""
    return EXIT_FAILED if spool.has_failed() else EXIT_DONE


def _log_defect(invocation: Invocation, error: Exception) -> None:
    """Log an ERROR of this program that came when the INVOCATION's request was served already."""
    try:
        from .errors import described
        from .events import Event
        from .journal import Journal

        journal, kind, note = Journal(), "defect-after-service", described(error)
        journal.report(Event(kind, invocation.action, invocation.uuid, None, uri=invocation.uri, note=note))
        journal.flush()
    except Exception:
        pass  # of the same damage, mostly, and nothing is left to do


def _written(invocation: Invocation, start: float, waits: bool) -> Spool:
    """The spool, with the request in it.  Raises SpoolError when it cannot be written."""
    spool = Spool.open()
    spool.write(invocation, start, keep=waits)
    return spool


def _leave_to_stock(spool: Spool, start: float, error: Exception) -> bool:
    """After an ERROR that is a defect, or a broken package: whether this process's own request is left to do.

    Other processes have written their requests and exited, relying on the agent, which this process may be.
    """
    if spool.is_agent():
        return spool.leave_to_stock(spool.name, start - _STOCK_SECONDS, error)
    return spool.remove(spool.name)


def _perform(invocation: Invocation, start: float, spool: "Spool | None", problem: str = "") -> int:
    """Serve requests in this process: see service.perform()."""
    import gc

    # Short-lived, and nearly all that is made while importing stays: collecting garbage only costs.
    gc.disable()
    from .agent.service import perform

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
