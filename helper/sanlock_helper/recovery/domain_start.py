# SPDX-License-Identifier: LGPL-2.1-or-later
"""The start of a domain that was powered off: the checks before it, the start, and what became of it.

libvirt takes the leases when a domain starts.  Where it does not, as with another lock_manager or a sanlock
that was restarted meanwhile, the domain is powered off again at once: another host may start it, too.
"""

from __future__ import annotations

from typing import Callable

import libvirt

from ..errors import TransientError
from ..leases.held import Lease
from ..leases.lockspaces import Sanlock
from ..records.record import Record
from ..records.store import RecordStore
from ..virt import policy
from ..virt.connection import failure
from ..virt.domain_argument import as_argument
from ..virt.domain_state import RUNNING_STATES, describe, ends_by_itself, is_administrators_pause
from ..virt.domain_xml import parse_xml
from ..virt.storage_pools import Volumes
from . import domain_identity
from .recorded_leases import BEGUN, PROCESS_SECONDS, RecordedLeases, count, own_lockspaces, read_policy
from .verdict import (
    HELD_MEANWHILE,
    NO_PROCESS,
    RAN_UNPROTECTED,
    TO_BE_STARTED,
    DropError,
    RefusalError,
    UnusableError,
    Verdict,
    VisitResult,
    may_be_decided,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect, VirDomain

# libvirt's words for the end of a run that no administrator asked for.  "failed" is a start that was asked
# for, and refused.  "unknown" is in the log where a new libvirtd cannot reach QEMU's monitor and ends it, as
# with a name that is another one when it is read again (qemuProcessReconnect() in libvirt
# src/qemu/qemu_process.c).
_UNWISHED_ENDS = ("crashed", "daemon", "failed", "unknown")


class DomainStart:
    """Starts domains; several threads may use one."""

    def __init__(
        self,
        sanlock: Sanlock,
        store: RecordStore,
        leases: RecordedLeases,
        boot: Callable[[], str],
        ended: Callable[[str, float], str],
        is_held: Callable[[], bool],
    ) -> None:
        """The parameters are those of DomainRecovery; LEASES are looked up through them."""
        self._sanlock = sanlock
        self._store = store
        self._leases = leases
        self._boot = boot
        self._ended = ended
        self._is_held = is_held
        # The runs that this process has started, by UUID and libvirt's id.
        self._begun: set[tuple[str, int]] = set()

    def drop_if_migrated(self, domain: VirDomain | None, record: Record) -> None:
        """Go on only if no other host has taken the run over, whatever was to be done with it here."""
        if self._end_reason(domain, record) == "migrated":
            raise DropError("it was migrated to another host")

    def drop_if_ended_by_wish(self, domain: VirDomain | None, record: Record) -> None:
        """Go on only if a paused run ended by no wish of an administrator's; then a start is what is left.

        sanlock kills a process that still holds a lease when the grace is over.  libvirt calls that end
        "crashed", also where its daemon was away and finds later that the process has ended.  An end whose
        reason is not recorded is taken for such a one: a start takes its leases, and harms nothing.
        """
        if domain is None and not record.xml:
            raise DropError("it was paused, and libvirt no longer knows it")
        is_left = record.mark == "refused" and not record.why.startswith(RAN_UNPROTECTED)
        if is_left and not may_be_decided(record.why):
            raise DropError("it was left paused, and has ended since")
        if record.boot != self._boot() or record.mark == "starting":
            return
        why = self._end_reason(domain, record)
        if why == "destroyed":
            raise DropError("it was paused, and was powered off since")
        if why and why not in _UNWISHED_ENDS:
            raise DropError(f"it was paused, and has ended since: {why}")

    def _end_reason(self, domain: VirDomain | None, record: Record) -> str:
        """libvirt's word for why the domain's last run ended, "" where it is not recorded."""
        state, reason = (libvirt.VIR_DOMAIN_SHUTOFF, 0) if domain is None else domain.state()
        if state == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN:
            # A transient domain, or libvirtd was restarted since.
            return self._ended(record.name, record.time)
        return describe(state, reason).partition("(")[2].rstrip(")")

    def start(
        self, connection: VirConnect, domain: VirDomain | None, record: Record, ready: bool, age: float
    ) -> VisitResult:
        """Start the domain of RECORD, DOMAIN where libvirt knows it, if no check fails.

        Raises what DomainRecovery.visit() makes verdicts of.
        """
        if record.mark == "refused" and record.why.startswith(RAN_UNPROTECTED):
            raise RefusalError(record.why)
        if domain is None and not record.xml:
            raise DropError(
                "libvirt no longer knows it: undefined, or transient and its XML could not be had"
            )
        if domain is None:
            _check_definition(record)
        else:
            self._drop_another_machine(connection, domain, record)
        found = policy.Policy(True)
        if record.action != "restart":
            found = read_policy(domain, record)
            left = self._leases.why_left(found, record)
            if left:
                return left
        if not ready:
            return VisitResult(Verdict.WAIT, TO_BE_STARTED, own_lockspaces(domain, record))
        for lease in record.leases:
            self._check_before_start(lease, domain, record)
        if self._is_held():
            return HELD_MEANWHILE
        if not self._store.mark(record, "starting"):
            raise DropError("its record was removed or replaced")
        domain = self._begin(connection, domain, record)
        return self.started(domain, record, "started", age).with_note(found.problem)

    def _begin(self, connection: VirConnect, domain: VirDomain | None, record: Record) -> VirDomain:
        """Start the domain of RECORD: DOMAIN, where libvirt knows it, which may run by now."""
        try:
            is_ours = domain is None or not domain.isActive()
            if domain is None:
                domain = connection.createXML(record.xml, 0)
            elif is_ours:
                domain.create()
            if is_ours:
                self._begun.add((record.uuid, domain.ID()))
        except libvirt.libvirtError as error:
            raise failure("start the domain", error) from error
        return domain

    def _drop_another_machine(self, connection: VirConnect, domain: VirDomain, record: Record) -> None:
        path_of = Volumes(connection).path
        try:
            why = domain_identity.why_another(record, domain.name(), domain.XMLDesc(0), path_of)
        except libvirt.libvirtError as error:
            raise failure("read the domain's XML", error) from error
        if why:
            raise DropError(
                f"not started: {why}; if it is to run: virsh start {as_argument(domain.name(), record.uuid)}"
            )

    def _check_before_start(self, lease: Lease, domain: VirDomain | None, record: Record) -> None:
        """Drop a domain that runs on another host, or ran since it was made safe."""
        if record.action == "restart" or record.mark in BEGUN:
            self._leases.refuse_other_holders(lease, before_start=True)
            return
        xml = record.xml if domain is None else domain.XMLDesc(0)
        there, now = self._leases.find(lease, record, xml)
        self._leases.refuse_other_holders(there, before_start=True)
        if now != lease.version:
            raise DropError(f"it ran since: its lease {lease} was version {lease.version} and is {now} now")

    def started(self, domain: VirDomain, record: Record, did: str, age: float) -> VisitResult:
        """What became of a start: only a state that lasts is the end of it."""
        state, reason = domain.state()
        if is_administrators_pause(state, reason):
            return VisitResult(
                Verdict.DONE, f"found off, {did}, verified paused; an administrator has paused it since"
            )
        if state == libvirt.VIR_DOMAIN_PAUSED and not ends_by_itself(state, reason):
            now = describe(state, reason)
            command = f"virsh resume {as_argument(domain.name(), record.uuid)}"
            raise DropError(f"{did}, and it is {now} now; once that is mended: {command}")
        if state not in RUNNING_STATES:
            raise TransientError("start the domain", f"it is {describe(state, reason)} after the call")
        pid = self._leases.process(record)
        if pid is None:
            return self._started_unseen(did, age)
        held = self._sanlock.held_by(pid)
        if record.leases and not held:
            self._end_unprotected(domain, record)
        return VisitResult(Verdict.DONE, f"found off, {did}, verified running, {count(held)} held")

    def _end_unprotected(self, domain: VirDomain, record: Record) -> None:
        """Power DOMAIN off, which runs without the leases that it had, if this process has started that run.

        Raises RefusalError then: a further start would not take them either.  An administrator's own run is
        left alone: TransientError.
        """
        what, why = "start the domain", "it runs without a lease: see lock_manager in qemu.conf"
        try:
            is_ours = (record.uuid, domain.ID()) in self._begun
            if not (is_ours and domain_identity.has_leases(domain.XMLDesc(0))):
                raise TransientError(what, why)
            domain.destroy()
        except libvirt.libvirtError as error:
            raise TransientError(what, f"{why}; {failure('power it off again', error)}") from error
        raise RefusalError(f"{RAN_UNPROTECTED}: see lock_manager in qemu.conf")

    def _started_unseen(self, did: str, age: float) -> VisitResult:
        """A domain runs, and its process is not to be found: that is no failure of the start."""
        why = f"{NO_PROCESS}, so its leases were not checked"
        if age < PROCESS_SECONDS:
            raise TransientError("check the leases of the started domain", why)
        return VisitResult(
            Verdict.DONE, f"found off, {did}, verified running; {why}: see sanlock client status"
        )


def _check_definition(record: Record) -> None:
    """Refuse RECORD when its XML is no definition of its domain: no try would start it, or another one."""
    try:
        found = parse_xml(record.xml).findtext("uuid", record.uuid).strip()
    except ValueError as error:
        raise UnusableError(f"its XML is malformed: {error}") from error
    if found.lower() != record.uuid.lower():
        raise UnusableError(f"its XML is of another domain, {found[:60]!r}")
