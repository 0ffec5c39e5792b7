# SPDX-License-Identifier: LGPL-2.1-or-later
"""One domain's way back: look at it, decide, start or resume it, and look again.

libvirt takes the leases when a domain starts, so a start is always safe.  A resume is not: libvirt resumes a
paused domain whatever became of its lease, with memory older than its disk.  So a domain is resumed only when
each lease on storage has the version that its process held, nobody else has it, and the version is just one
more after the resume.  Changed, unknown or unreadable is no.
"""

from __future__ import annotations

import contextlib
from enum import Enum
from typing import Any, Callable, NamedTuple
from xml.etree import ElementTree

import libvirt

from . import policy
from .book import Book
from .connection import failure, is_no_domain
from .domain_state import state_name
from .errors import FinalError, HelperError, PassingError
from .leases import Lease, qemu_pid
from .lockspaces import Sanlock
from .notes import boot_id
from .processes import process_start
from .record import Record

# A run that is still there so long after its record was never powered off.
STILL_RUNS_SECONDS = 120.0

# Marks of a record whose domain recovery has already touched.
_BEGUN = ("starting", "resuming")

_OFF = -1
_RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)


class Verdict(Enum):
    """How a visit ended; each but EARLY, WAIT and AGAIN is the last word on a record."""

    DONE = "done"  # it is back: the record goes
    DROPPED = "dropped"  # it is not ours to bring back any more: the record goes
    LEFT = "left"  # its policy does not ask for it, or it lost no lease: the record goes
    REFUSED = "refused"  # it could come back, but must not by itself: the record stays for the administrator
    EARLY = "early"  # the helper is still making it safe
    WAIT = "wait"  # its lockspaces are not joined
    AGAIN = "again"  # a failure that may pass


class Finding(NamedTuple):
    """A verdict and its reason, in words for the journal.

    lockspaces: the names of those that the domain's definition asks for, where its leases are not known.
    """

    verdict: Verdict
    text: str
    lockspaces: frozenset[str] = frozenset()


NO_POLICY = Finding(Verdict.LEFT, "as their policy says")
LOST_NOTHING = Finding(
    Verdict.LEFT,
    "for no lockspace was lost: the helper was called by hand, or a host asked for the lease",
)


class RefusalError(Exception):
    """The domain must not be resumed; the text says why."""


class DropError(Exception):
    """The domain is not ours any more; the text says why."""


class Comeback:
    """Visits domains; several threads may use one."""

    def __init__(
        self,
        connect: Callable[[str], Any],
        sanlock: Sanlock,
        book: Book,
        boot: Callable[[], str] = boot_id,
        process_started: Callable[[int], int] = process_start,
        pid_of: Callable[[str], int | None] = qemu_pid,
    ) -> None:
        """CONNECT opens a URI; BOOT, PROCESS_STARTED and PID_OF look at the host (see notes, leases)."""
        self._connect = connect
        self._sanlock = sanlock
        self._book = book
        self._boot = boot
        self._process_started = process_started
        self._pid_of = pid_of

    def visit(self, record: Record, ready: bool, age: float = 0.0, anyway: bool = False) -> Finding:
        """Bring the domain of RECORD back as far as that is possible now.

        READY: its lockspaces are joined.  AGE: seconds that recovery has known it.  ANYWAY: the administrator
        vouches that nobody wrote to the disks of a paused domain.
        """
        try:
            connection = self._connect(record.uri)
            try:
                return self._visit(connection, record, ready, age, anyway)
            finally:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.close()
        except DropError as error:
            return Finding(Verdict.DROPPED, str(error))
        except (RefusalError, policy.PolicyError) as error:
            return Finding(Verdict.REFUSED, str(error))
        except libvirt.libvirtError as error:
            return Finding(Verdict.AGAIN, str(failure("look at the domain", error)))
        except HelperError as error:
            return Finding(Verdict.AGAIN, str(error))
        except OSError as error:
            return Finding(Verdict.AGAIN, f"write the record: {error}")

    def _visit(self, connection: Any, record: Record, ready: bool, age: float, anyway: bool) -> Finding:
        domain = self._look_up(connection, record.uuid)
        run = _OFF if domain is None else domain.ID()
        if run == _OFF:
            if record.todo == "resume":
                self._why_over(domain, record)
            return self._bring_up(connection, domain, record, ready)
        state = domain.state()[0]
        if state == libvirt.VIR_DOMAIN_SHUTOFF:
            return Finding(Verdict.EARLY, "it is just ending")
        if not self._is_same_run(record, run, domain.name()):
            return self._another_run(domain, record)
        if record.todo == "start":
            return self._still_runs(record, age)
        if state in _RUNNING and not self._was_paused(record, age):
            return self._still_runs(record, age)
        return self._bring_on(domain, record, ready, anyway)

    def _was_paused(self, record: Record, age: float) -> bool:
        """Whether a domain that runs was paused since its record was written: its leases are others then."""
        if not record.leases:
            return age > STILL_RUNS_SECONDS
        held = {str(lease): lease.version for lease in self._sanlock.held_by(record.pid)}
        return all(held.get(str(lease)) != lease.version for lease in record.leases)

    def _look_up(self, connection: Any, uuid: str) -> Any:
        try:
            return connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if is_no_domain(error):
                return None
            raise

    def _is_same_run(self, record: Record, run: int, name: str) -> bool:
        """Whether RUN, of the domain NAME, is the run that lost its leases.

        The id alone does not tell: libvirtd may give it again after a restart.  A process id and its start
        time do; a process that has just ended was still that one.
        """
        if run != record.run:
            return False
        if not record.pid_start:
            return record.boot == self._boot()
        pid = self._pid_of(name)
        return pid is None or (pid == record.pid and self._process_started(pid) in (0, record.pid_start))

    # To start

    def _why_over(self, domain: Any, record: Record) -> None:
        """Go on only if a paused run ended by no wish of anybody's; then a start is what is left."""
        if domain is None:
            raise DropError("it was paused, and libvirt no longer knows it")
        if record.mark == "refused":
            raise DropError("it was left paused, and has ended since")
        reason = domain.state()[1]
        if record.boot == self._boot() and reason != libvirt.VIR_DOMAIN_SHUTOFF_CRASHED:
            raise DropError("it was paused, and was powered off since")

    def _bring_up(self, connection: Any, domain: Any, record: Record, ready: bool) -> Finding:
        if domain is None and not record.xml:
            raise DropError(
                "libvirt no longer knows it: undefined, or transient and its XML could not be had"
            )
        if record.action != "restart":
            left = self._why_left(domain, record)
            if left:
                return left
        if not ready:
            return Finding(Verdict.WAIT, "to be started", _own_lockspaces(domain, record))
        for lease in record.leases:
            self._refuse_other_holders(lease, before_start=True)
            if record.action != "restart" and record.mark not in _BEGUN:
                self._drop_if_run_since(lease)
        if not self._book.mark(record, "starting"):
            raise DropError("its record was removed or replaced")
        try:
            domain = connection.createXML(record.xml, 0) if domain is None else domain
            if not domain.isActive():
                domain.create()
        except libvirt.libvirtError as error:
            raise failure("start the domain", error) from error
        return self._started(domain, record, "started")

    def _drop_if_run_since(self, lease: Lease) -> None:
        now = self._sanlock.version(lease)
        if now != lease.version:
            raise DropError(f"it ran since: its lease {lease} was version {lease.version} and is {now} now")

    def _another_run(self, domain: Any, record: Record) -> Finding:
        if record.mark == "starting":
            return self._started(domain, record, "started by an earlier recovery")
        state = state_name(domain.state()[0])
        return Finding(Verdict.DONE, f"found {state}, nothing to do, somebody started it")

    def _started(self, domain: Any, record: Record, did: str) -> Finding:
        state, reason = domain.state()
        starting = reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP
        if state == libvirt.VIR_DOMAIN_PAUSED and not starting:
            return Finding(Verdict.DONE, f"found off, {did}, verified paused: somebody paused it since")
        if state not in _RUNNING:
            raise PassingError("start the domain", f"it is {state_name(state)} after the call")
        held = self._held(domain)
        if record.leases and not held:
            raise PassingError("start the domain", "it runs without a lease: see lock_manager in qemu.conf")
        return Finding(Verdict.DONE, f"found off, {did}, verified running, {_count(held)} held")

    def _still_runs(self, record: Record, age: float) -> Finding:
        """The record is written before the domain is touched: perhaps the helper is just about to."""
        if age > STILL_RUNS_SECONDS:
            raise DropError(f"it still runs: its {record.action} was not done")
        return Finding(Verdict.EARLY, f"its {record.action} is not done yet")

    # To resume

    def _bring_on(self, domain: Any, record: Record, ready: bool, anyway: bool) -> Finding:
        state = domain.state()[0]
        if state in _RUNNING:
            if record.mark != "resuming":
                return Finding(Verdict.DONE, f"found {state_name(state)}, nothing to do, somebody resumed it")
            return self._resumed(domain, record, "resumed by an earlier recovery")
        if state != libvirt.VIR_DOMAIN_PAUSED:
            return Finding(Verdict.AGAIN, f"it is {state_name(state)}")
        if record.mark == "refused" and not anyway and not policy.is_malformed(record.why):
            raise RefusalError(record.why)
        left = None if anyway else self._why_left(domain, record)
        if left:
            return left
        if not ready:
            return Finding(Verdict.WAIT, "to be resumed", _own_lockspaces(domain, record))
        try:
            for lease in record.leases:
                self._refuse_other_holders(lease, before_start=False)
        except HelperError as error:
            raise PassingError("resume the domain", f"it stays paused: {error}") from error
        self._refuse_unless_registered(domain)
        if not anyway:
            self._refuse_unless_untouched(record)
        if not self._book.mark(record, "resuming"):
            raise DropError("its record was removed or replaced")
        try:
            domain.resume()
        except libvirt.libvirtError as error:
            raise failure("resume the domain", error) from error
        return self._resumed(domain, record, "resumed", anyway)

    def _refuse_unless_registered(self, domain: Any) -> None:
        """libvirt takes no lease for a process that sanlock does not know, and resumes it all the same.

        See virLockManagerSanlockNew() and -Acquire() in libvirt src/locking/lock_driver_sanlock.c.
        """
        pid = self._pid_of(domain.name())
        if pid is None or not self._sanlock.is_registered(pid):
            raise RefusalError(
                "sanlock was restarted since and does not know its process: it would go on without a lease; "
                "destroy and start it"
            )

    def _refuse_unless_untouched(self, record: Record) -> None:
        if record.unknown or not record.leases:
            why = record.unknown or "it held none"
            raise RefusalError(f"the versions of its leases before the pause are not known: {why}")
        for lease in record.leases:
            if lease.shared:
                raise RefusalError(f"its lease {lease} is shared: its version says nothing")
            try:
                now = self._sanlock.version(lease)
            except HelperError as error:
                raise PassingError("resume the domain", f"it stays paused: {error}") from error
            if now != lease.version:
                raise RefusalError(
                    f"its lease {lease} was version {lease.version} when it was paused and is {now} now: "
                    "somebody else held it, and the guest's memory may be older than its disk"
                )

    def _resumed(self, domain: Any, record: Record, did: str, anyway: bool = False) -> Finding:
        """Look at what the resume took; anything but what was expected, and the domain is paused again."""
        try:
            held = {str(lease): lease.version for lease in self._held(domain)}
            for lease in record.leases:
                self._check_held(lease, held.get(str(lease)), anyway)
        except (RefusalError, HelperError) as error:
            try:
                domain.suspend()
            except libvirt.libvirtError as again:
                raise PassingError(
                    "pause the domain again", f"{error}; {failure('suspend', again)}"
                ) from again
            raise RefusalError(f"it was paused again at once: {error}") from error
        state = domain.state()[0]
        if state not in _RUNNING:
            raise PassingError("resume the domain", f"it is {state_name(state)} after the call")
        return Finding(
            Verdict.DONE, f"found paused, {did}, verified {state_name(state)}, {_count(held)} held"
        )

    def _check_held(self, lease: Lease, version: int | None, anyway: bool) -> None:
        if version is None:
            raise RefusalError(f"it went on without its lease {lease}")
        if version != lease.version + 1 and not anyway:
            raise RefusalError(
                f"its lease {lease} was version {lease.version} when it was paused and {version} after the "
                f"resume, not {lease.version + 1}: somebody else held it in between"
            )

    # Both

    def _why_left(self, domain: Any, record: Record) -> Finding | None:
        """Why the domain is to stay as it is, if it is."""
        wanted = policy.in_xml(record.xml) if domain is None else policy.recovers(domain)
        if not wanted:
            return NO_POLICY
        return LOST_NOTHING if self._lost_nothing(record) else None

    def _lost_nothing(self, record: Record) -> bool:
        """Whether the domain was made safe while all its lockspaces were healthy, and they still are.

        Then somebody wanted it so.  In doubt it has lost its leases.  What recovery has begun, it ends.
        """
        named = {lockspace.name for lockspace in record.lockspaces}
        return (
            bool(record.leases)
            and record.mark not in _BEGUN
            and named >= {lease.lockspace for lease in record.leases}
            and record.boot == self._boot()
            and all(self._sanlock.kept(lockspace) for lockspace in record.lockspaces)
        )

    def _refuse_other_holders(self, lease: Lease, before_start: bool) -> None:
        """Drop a domain whose LEASE another host holds: it runs there.

        Where sanlock cannot tell yet whether that host lives, a start may be tried: sanlock itself decides.
        """
        joined = self._sanlock.lockspaces().get(lease.lockspace)
        if joined is None:
            raise PassingError(
                "look for other holders", f"lockspace {lease.lockspace} is not joined any more"
            )
        try:
            holders = self._sanlock.holders(lease, joined[0].host_id)
        except HelperError:
            if before_start:
                return
            raise
        for host_id, state in holders.items():
            if state == "live":
                raise DropError(f"its lease {lease} is held by host_id {host_id}: it runs there")
            if state == "unknown" and not before_start:
                raise PassingError(
                    "look for other holders", f"host_id {host_id} has lease {lease}, and may be alive"
                )

    def _held(self, domain: Any) -> list[Lease]:
        pid = self._pid_of(domain.name())
        if pid is None:
            raise FinalError("ask for its leases", "its process id is not known")
        return self._sanlock.held_by(pid)


def _own_lockspaces(domain: Any, record: Record) -> frozenset[str]:
    """The lockspaces of the <lease> elements in the domain's definition, for a record without leases."""
    if record.leases:
        return frozenset()
    xml = record.xml if domain is None else domain.XMLDesc(0)
    found = ElementTree.fromstring(xml).findall("devices/lease/lockspace")
    return frozenset(element.text for element in found if element.text)


def _count(held: Any) -> str:
    return "1 lease" if len(held) == 1 else f"{len(held)} leases"
