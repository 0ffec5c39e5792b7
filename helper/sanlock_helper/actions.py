# SPDX-License-Identifier: LGPL-2.1-or-later
"""The actions of on_lockfailure on one domain: what was found, what was done, what was verified.

Success is a state that was looked at after the call; a state that cannot be read is never "off".
"""

from __future__ import annotations

from typing import Any, Callable

import libvirt

from . import leases
from .bounded import bounded
from .connection import failure, is_no_domain
from .errors import FinalError, GivenUpError, HelperError, PassingError
from .notes import XML_SECONDS, Notes
from .record import Record

# virsh's words for virDomainState.
_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "idle",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}

# The id of a domain that is not active.
_OFF = -1

# States of a domain that somebody uses.  One that was paused or going off before is not brought back.
_IN_USE = (
    libvirt.VIR_DOMAIN_NOSTATE,
    libvirt.VIR_DOMAIN_RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED,
    libvirt.VIR_DOMAIN_PMSUSPENDED,
)


class Outcome:
    """How an action ended: reached or not, safe or not, and the words for the journal."""

    __slots__ = ("did", "found", "note", "reached", "safe", "verified")

    def __init__(
        self, found: str, did: str, verified: str, note: str = "", reached: bool = True, safe: bool = True
    ) -> None:
        self.found = found
        self.did = did
        self.verified = verified
        self.note = note
        self.reached = reached
        self.safe = safe

    def __str__(self) -> str:
        text = f"found {self.found}, {self.did}, verified {self.verified}"
        return f"{text}; {self.note}" if self.note else text


class Progress:
    """What the tries for one request have learned so far; a later try starts from it.

    A domain's id changes at every start.  The id at first sight names the run that lost its leases: another
    run, started since, holds leases of its own and is left alone.
    """

    __slots__ = (
        "calling",
        "did",
        "found",
        "held_before",
        "name",
        "note_run",
        "noted",
        "recorded",
        "run",
        "safe",
        "start_error",
        "xml",
        "xml_missing",
    )

    def __init__(self, run: int | None = None, note_run: Callable[[int], None] | None = None) -> None:
        """RUN is the id at first sight, where an agent that died since saw it; else NOTE_RUN hears of it."""
        self.name = ""
        self.run = run
        self.note_run = note_run
        self.found = ""
        self.did = "nothing to do"
        # Set once the run that lost its leases was seen to be over.
        self.safe = False
        # XML of a transient domain, with its secrets: never to be logged.
        self.xml: str | None = None
        # Why there is none, where one is needed.
        self.xml_missing = ""
        # Whether what recovery needs was taken down, or was tried to be; and whether there is a record.
        self.noted = False
        self.recorded = False
        # Whether an earlier try found it paused with its leases still held.
        self.held_before = False
        # Why the one try to start again failed.
        self.start_error = ""
        # The tries that are inside a call which changes the domain.
        self.calling: set[Try] = set()


class Try:
    """One try of an action on one domain, over one connection."""

    def __init__(
        self,
        connection: Any,
        uuid: str,
        progress: Progress,
        given_up: Callable[[], bool],
        pid: int | None = None,
        notes: Notes | None = None,
        uri: str = "",
        await_turn: Callable[[], bool] = lambda: False,
    ) -> None:
        """GIVEN_UP says whether nobody waits for this try any more; PID held the leases, when it is known.

        NOTES takes down what recovery needs, for a CONNECTION that was opened as URI.  AWAIT_TURN returns
        when the domain may be destroyed, True when it has to be looked at again since that took so long.
        """
        self.connection = connection
        self.uuid = uuid
        self.progress = progress
        self.pid = pid
        self.notes = notes
        self.uri = uri
        self.await_turn = await_turn
        self._given_up = given_up
        self.domain: Any = None

    def look(self) -> int | None:
        """Look the domain up.

        Returns its id, -1 when it is not active, None when it was seen before and libvirtd no longer knows
        it.  Raises FinalError when libvirtd never knew it, PassingError when it does not say.
        """
        try:
            self.domain = self.connection.lookupByUUIDString(self.uuid)
        except libvirt.libvirtError as error:
            if is_no_domain(error) and self.progress.run is not None:
                return None
            raise failure("look up the domain", error) from error
        run: int = self.domain.ID()
        self.progress.name = self.progress.name or self.domain.name()
        if self.progress.run is None:
            self.progress.run = run
            if self.progress.note_run:
                self.progress.note_run(run)
        return run

    def state(self) -> int:
        """The domain's virDomainState now; shut off when libvirtd no longer knows it."""
        try:
            return int(self.domain.state()[0])
        except libvirt.libvirtError as error:
            if is_no_domain(error):
                return int(libvirt.VIR_DOMAIN_SHUTOFF)
            raise failure("read the domain's state", error) from error

    def change(self, what: str, did: str, call: Callable[[], Any]) -> None:
        """Make one CALL that changes the domain; DID is the word for it in the journal.

        Raises GivenUpError instead of calling when nobody waits for this try any more; PassingError or
        FinalError when the call fails.
        """
        if self._given_up():
            raise GivenUpError(what, "this try was given up")
        self.progress.calling.add(self)
        try:
            call()
        except libvirt.libvirtError as error:
            raise failure(what, error) from error
        finally:
            self.progress.calling.discard(self)
        self.progress.did = did

    def outcome(self, verified: str, note: str = "", reached: bool = True) -> Outcome:
        """The Outcome of a domain that is safe."""
        self.progress.safe = True
        return Outcome(self.progress.found, self.progress.did, verified, note, reached)


def poweroff(this: Try) -> Outcome:
    """Destroy the domain without grace; the goal is that the run which lost its leases is over."""
    return _poweroff(this, "poweroff")


def _poweroff(this: Try, action: str) -> Outcome:
    progress = this.progress
    run = this.look()
    if not _still_runs(this, run):
        progress.found = progress.found or "off"
        return this.outcome(_why_over(run))
    state = this.state()
    progress.found = progress.found or state_name(state)
    if action == "restart" or state in _IN_USE:
        _note(this, action)
    if this.await_turn():
        run = this.look()
        if not _still_runs(this, run):
            return _ended_meanwhile(this, run)
    try:
        this.change("destroy the domain", "destroyed", this.domain.destroy)
    except (PassingError, FinalError) as error:
        # It may be over all the same: it ended while we worked, or only the answer was lost.
        now = _look_after(this, error)
        if _still_runs(this, now):
            raise
        return _ended_meanwhile(this, now)
    now = this.look()
    if _still_runs(this, now):
        raise PassingError("destroy the domain", "it is still active after the call")
    return this.outcome(_why_over(now))


def _ended_meanwhile(this: Try, run: int | None) -> Outcome:
    this.progress.did = "it ended meanwhile"
    return this.outcome(_why_over(run))


def restart(this: Try) -> Outcome:
    """Power the domain off, verified; then one try to start it again.

    Safety rests on the poweroff alone: an Outcome that is not reached means that the domain is off.
    """
    progress = this.progress
    off = _poweroff(this, "restart")
    if _runs_again(this, this.look()):
        return _restarted(this)
    if progress.start_error:
        return _not_started(this, off, progress.start_error)
    if progress.calling:
        # An earlier destroy that has not returned would hit the new run.
        raise PassingError("start the domain", "an earlier call for it has not returned yet")
    start = _starter(this)
    if start is None:
        return _not_started(this, off, progress.xml_missing)
    try:
        this.change("start the domain", f"{progress.did}, started again", start)
    except (PassingError, FinalError) as error:
        progress.start_error = str(error)
    if _runs_again(this, this.look()):
        return _restarted(this)
    return _not_started(this, off, progress.start_error or "it was off again after the start")


def pause(this: Try) -> Outcome:
    """Suspend the domain; the goal is a paused domain whose process holds no lease any more."""
    progress = this.progress
    run = this.look()
    if not _still_runs(this, run):
        return _nothing_to_pause(this, run)
    state = this.state()
    progress.found = progress.found or state_name(state)
    if state != libvirt.VIR_DOMAIN_PAUSED:
        if state in _IN_USE:
            _note(this, "pause")
        try:
            this.change("suspend the domain", "suspended", this.domain.suspend)
        except (PassingError, FinalError) as error:
            now = _look_after(this, error)
            if not _still_runs(this, now):
                return _nothing_to_pause(this, now)
            if this.state() != libvirt.VIR_DOMAIN_PAUSED:
                raise
        now = this.look()
        if not _still_runs(this, now):
            return _nothing_to_pause(this, now)
        state = this.state()
        if state != libvirt.VIR_DOMAIN_PAUSED:
            raise PassingError("suspend the domain", f"it is {state_name(state)} after the call")
    return this.outcome(*_leases_given_up(this))


def _leases_given_up(this: Try) -> tuple[str, str]:
    """What was verified of a paused domain, and a note; PassingError while it still holds leases.

    libvirt releases the leases when the guest's processors have stopped, and only warns in its own log when
    that fails (qemuProcessStopCPUs() in libvirt src/qemu/qemu_process.c).
    """
    progress = this.progress
    pid = this.pid or leases.qemu_pid(progress.name)
    if pid is None:
        return "paused", "its leases were not looked at: no process id is known"
    try:
        held = leases.held_by(pid)
    except leases.LeasesUnknownError as error:
        return "paused", f"its leases were not looked at: {error}"
    if not held:
        return "paused, no lease held", ""
    names = ", ".join(str(lease) for lease in held)
    # One look may have come just before libvirt's own release.
    if progress.held_before and pid == leases.qemu_pid(progress.name):
        return _release(this, pid, names)
    progress.held_before = True
    raise PassingError("pause the domain", f"it is paused, but process {pid} still holds {names}")


def _release(this: Try, pid: int, names: str) -> tuple[str, str]:
    """Give up the leases of process PID, the paused domain's own, in libvirt's stead.

    A libvirtd that ends after QEMU has stopped the processors and before it has released the leases leaves
    them for good: the next one finds the domain paused, and to suspend it again does nothing
    (qemuDomainSuspend() in libvirt src/qemu/qemu_driver.c).
    """
    try:
        leases.release(pid)
        held = leases.held_by(pid)
    except leases.LeasesUnknownError as error:
        raise PassingError("give up the leases of the paused domain", f"{names}: {error}") from error
    if held or this.state() != libvirt.VIR_DOMAIN_PAUSED:
        raise PassingError(
            "give up the leases of the paused domain", f"{names}: somebody resumed it meanwhile"
        )
    return "paused, no lease held", f"libvirtd had left {names} with it: released"


def _note(this: Try, action: str) -> None:
    """Take down what recovery needs, once, before the domain is touched.

    Every wait in here is bounded, and a failure is only noted: the virtual machine's safety must not suffer.
    """
    progress = this.progress
    if progress.noted:
        return
    progress.noted = True
    if action == "restart" or (action == "poweroff" and this.notes is not None):
        _save_transient_xml(this)
    if this.notes is not None:
        run = _OFF if progress.run is None else progress.run
        record = Record(this.uuid, progress.name, this.uri, action, progress.found, run)
        record.xml = progress.xml or ""
        progress.recorded = this.notes.write(record, this.pid or leases.qemu_pid(progress.name))


def _save_transient_xml(this: Try) -> None:
    """Keep the XML of a transient domain, which is gone from libvirt once it is off."""
    domain, progress, notes = this.domain, this.progress, this.notes
    seconds = notes.xml_seconds if notes else XML_SECONDS

    def ask() -> str:
        return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE))

    progress.xml_missing = ""
    came = True
    try:
        # Of high priority, as the destroy is: a libvirtd that has no worker for one has none for the other
        # (libvirt src/remote/remote_protocol.x).
        if domain.isPersistent():
            return
        progress.xml = bounded(ask, seconds)
    except libvirt.libvirtError as error:
        progress.xml_missing = str(failure("read the domain's XML", error))
    except TimeoutError:
        progress.xml_missing = f"libvirtd did not give its XML within {seconds:g} s"
        came = False
    if notes:
        notes.xml_came(came)


def _starter(this: Try) -> Callable[[], Any] | None:
    """The call that starts the domain again, None when there is no XML to start it from."""
    progress = this.progress
    if progress.xml is not None:
        xml = progress.xml
        return lambda: this.connection.createXML(xml, 0)
    if this.look() is None:
        progress.xml_missing = progress.xml_missing or "libvirt no longer knows it"
        return None
    create: Callable[[], Any] = this.domain.create
    return create


def _restarted(this: Try) -> Outcome:
    if this.progress.recorded and this.notes is not None:
        this.notes.drop(this.uuid)
    return this.outcome("running again")


def _not_started(this: Try, off: Outcome, why: str) -> Outcome:
    note = f"the VM is safe, but was not started again: {why}"
    if this.progress.recorded:
        note += "; recovery (virt-sanlock-helper recover) starts it once its leases can be had"
    return this.outcome(off.verified, note, reached=False)


def _nothing_to_pause(this: Try, run: int | None) -> Outcome:
    this.progress.found = this.progress.found or "off"
    return this.outcome(_why_over(run), "there is nothing to pause")


def _look_after(this: Try, error: HelperError) -> int | None:
    """Look again after ERROR, which is what counts when that fails as well."""
    try:
        return this.look()
    except HelperError:
        raise error from None


def _still_runs(this: Try, run: int | None) -> bool:
    """Whether the run that lost its leases is active."""
    return run == this.progress.run and run != _OFF


def _runs_again(this: Try, run: int | None) -> bool:
    return run not in (None, _OFF, this.progress.run)


def _why_over(run: int | None) -> str:
    if run is None:
        return "off, libvirt no longer knows it"
    return "off" if run == _OFF else "over, another run was started since"


def state_name(state: int) -> str:
    """virsh's word for a virDomainState."""
    return _STATES.get(state, f"state {state}")


ACTIONS: dict[str, Callable[[Try], Outcome]] = {"poweroff": poweroff, "restart": restart, "pause": pause}
