# SPDX-License-Identifier: LGPL-2.1-or-later
"""The actions of on_lockfailure on one domain: what was found, what was done, what was verified."""

from __future__ import annotations

import libvirt

from ..errors import PermanentError, TransientError
from ..virt.domain_state import describe, ends_by_itself, runs_elsewhere, state_name
from .attempt import Attempt
from .outcomes import OFF, Outcome, ended, moved
from .preparation import complete, complete_at_end, is_in_use, is_persistent, write_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


def poweroff(attempt: Attempt) -> Outcome:
    """Destroy the domain without grace; the goal is that the run which lost its leases is over."""
    return _poweroff(attempt, "poweroff")


def _poweroff(attempt: Attempt, action: str) -> Outcome:
    progress = attempt.progress
    run = attempt.lookup()
    if not attempt.still_runs(run):
        if progress.found not in ("", "off"):
            complete_at_end(attempt, run)
        progress.set_ended()
        return ended(attempt, run)
    state, reason = attempt.state()
    progress.found = progress.found or state_name(state)
    if runs_elsewhere(state, reason):
        return moved(attempt)
    # A record there is of a domain that was in use, and may have been paused by an earlier request since.
    if action == "restart" or progress.record is not None or is_in_use(state, reason):
        write_record(attempt, action)
    if attempt.await_slot():
        run = attempt.lookup()
        if not attempt.still_runs(run):
            return _ended_meanwhile(attempt, run)
        if runs_elsewhere(*attempt.state()):
            return moved(attempt)
    try:
        attempt.change("destroy the domain", "destroyed", attempt.domain.destroy)
    except (TransientError, PermanentError) as error:
        # It may be over all the same: it ended while we worked, or only the answer was lost.
        now = attempt.lookup_again(error)
        if attempt.still_runs(now):
            raise
        if now is None and isinstance(error, PermanentError):
            # A transient domain that ended before the call: the reason is in libvirt's log of it, on a disk.
            progress.xml = None
            progress.xml_missing = "it ended before it was destroyed, and may have been migrated"
        return _ended_meanwhile(attempt, now)
    now = attempt.lookup()
    if attempt.still_runs(now):
        raise TransientError("destroy the domain", "it is still active after the call")
    complete_at_end(attempt, now)
    return attempt.outcome(attempt.over(now))


def _ended_meanwhile(attempt: Attempt, run: int | None) -> Outcome:
    attempt.progress.did = "it ended meanwhile"
    complete_at_end(attempt, run)
    return ended(attempt, run)


def restart(attempt: Attempt) -> Outcome:
    """Power the domain off, verified; then one try to start it again.

    Only the poweroff matters for safety: an Outcome that is not reached means that the domain is off.
    """
    progress = attempt.progress
    off = _poweroff(attempt, "restart")
    if progress.moved:
        return off
    if progress.record is not None and progress.record.action != "restart":
        # An earlier request has ended the run.
        complete(attempt, progress.record, "restart", is_persistent(attempt))
    if _runs_again(attempt, attempt.lookup()):
        return _restarted(attempt)
    if progress.start_error:
        return _not_started(attempt, off, progress.start_error)
    if progress.calling:
        # An earlier destroy that has not returned would hit the new run.
        raise TransientError("start the domain", "an earlier call for it has not returned yet")
    start = _starter(attempt)
    if start is None:
        return _not_started(attempt, off, progress.xml_missing)
    try:
        attempt.change("start the domain", f"{progress.did}, started again", start)
        progress.start_error = "it was off again after the start"
    except (TransientError, PermanentError) as error:
        progress.start_error = str(error)
    if _runs_again(attempt, attempt.lookup()):
        return _restarted(attempt)
    return _not_started(attempt, off, progress.start_error)


def _starter(attempt: Attempt) -> Callable[[], Any] | None:
    """The call that starts the domain again, None when there is no XML to start it from."""
    progress = attempt.progress
    if progress.xml is not None:
        xml = progress.xml
        return lambda: attempt.connection.createXML(xml, 0)
    if attempt.lookup() is None:
        progress.xml_missing = progress.xml_missing or "libvirt does not know it"
        return None
    create: Callable[[], Any] = attempt.domain.create
    return create


def _restarted(attempt: Attempt) -> Outcome:
    if attempt.progress.recorded and attempt.recorder is not None:
        attempt.recorder.drop(attempt.request.uuid)
    return attempt.outcome("running again")


def _not_started(attempt: Attempt, off: Outcome, why: str) -> Outcome:
    remark = f"the VM is safe, but was not started again: {why}{attempt.progress.next}"
    return attempt.outcome(off.verified, remark, reached=False)


def _runs_again(attempt: Attempt, run: int | None) -> bool:
    """Whether another run is active.

    Raises TransientError while its start is under way, which may still fail.
    """
    progress = attempt.progress
    if run in (None, OFF) or (run == progress.run and run != progress.another):
        return False
    state, reason = attempt.state()
    if state in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
        return False
    if ends_by_itself(state, reason):
        raise TransientError("start the domain", f"it is {describe(state, reason)}")
    return True


def _pause(attempt: Attempt) -> Outcome:
    """See pause.pause().  service.make_agent() has loaded it where a disk may stand in the way."""
    from .pause import pause

    return pause(attempt)


ACTIONS: dict[str, Callable[[Attempt], Outcome]] = {"poweroff": poweroff, "restart": restart, "pause": _pause}
