# SPDX-License-Identifier: LGPL-2.1-or-later
"""The leases that a record names: where they are now, which hosts hold them, and whether they were lost."""

from __future__ import annotations

from typing import Any, Callable

from ..errors import HelperError, PermanentError, TransientError
from ..leases.held import Lease, Lockspace
from ..leases.lockspaces import NOT_THERE, Sanlock, SanlockError
from ..records.record import Record
from ..virt import policy
from ..virt.domain_argument import as_argument
from ..virt.host_conf import HostConf
from . import lease_places
from .domain_identity import definition
from .verdict import (
    GONE,
    LOST_NOTHING,
    NO_POLICY,
    UNDECIDED,
    DropError,
    RefusalError,
    Verdict,
    VisitResult,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirDomain

# So long a process is searched for: libvirt's status file of it is there before the start has returned.
PROCESS_SECONDS = 120.0

# Marks of a record whose domain recovery has already touched.
BEGUN = ("starting", "resuming")


class RecordedLeases:
    """The leases of a record's domain, in sanlock and on storage; several threads may use one."""

    def __init__(
        self,
        sanlock: Sanlock,
        boot: Callable[[], str],
        pid_of: Callable[[str], int | None],
        default_lockspace: Callable[[], Lockspace | None],
        host_conf: Callable[[], HostConf],
    ) -> None:
        """The parameters are those of DomainRecovery."""
        self._sanlock = sanlock
        self._boot = boot
        self._pid_of = pid_of
        self._default_lockspace = default_lockspace
        self._host_conf = host_conf

    def process(self, record: Record) -> int | None:
        """The process id of the domain of RECORD, None when none is proven to be its.

        Raises TransientError when the host's processes cannot be read.
        """
        try:
            return self._pid_of(record.uuid)
        except OSError as error:
            raise TransientError("find its process", str(error)) from error

    def held(self, record: Record) -> list[Lease]:
        """What the process of the domain holds.  Raises PermanentError when no process is proven."""
        pid = self.process(record)
        if pid is None:
            raise PermanentError("ask for its leases", "its process could not be found")
        return self._sanlock.held_by(pid)

    def find(self, lease: Lease, record: Record, xml: str) -> tuple[Lease, int]:
        """LEASE where it is on storage now, and its version there; TransientError when it cannot be read."""
        tried = []
        for there in self._places(lease, record, xml):
            try:
                return there, self._sanlock.version(there)
            except SanlockError as error:
                # Storage that exists and does not answer rules out every other place.
                if error.number not in NOT_THERE:
                    raise
                tried.append(f"{there.path} ({error.why})")
        by_hand = f"virsh start {as_argument(record.name, record.uuid)}"
        raise TransientError(
            f"find lease {lease}",
            f"it is not where it was noted, nor where libvirt has it now: {', '.join(tried)}",
            f"bring its storage back to {lease.path}, or start the domain by hand: {by_hand}",
        )

    def _places(self, lease: Lease, record: Record, xml: str) -> list[Lease]:
        before = next((space for space in record.lockspaces if space.name == lease.lockspace), None)
        joined = self._sanlock.lockspaces().get(lease.lockspace)
        now = [self._default_lockspace(), joined[0] if joined else None]
        return lease_places.places(lease, before, [space for space in now if space], xml)

    def refuse_other_holders(self, lease: Lease, before_start: bool) -> None:
        """Drop a domain whose LEASE another host holds: it runs there.

        Where sanlock does not know yet whether that host lives, a start may be tried: sanlock itself decides.
        """
        joined = self._sanlock.lockspaces().get(lease.lockspace)
        if joined is None:
            raise TransientError(
                "check for other holders", f"lockspace {lease.lockspace} is not joined any more"
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
                raise TransientError(
                    "check for other holders", f"host_id {host_id} has lease {lease}, and may be alive"
                )

    def why_left(self, found: policy.Policy, record: Record) -> VisitResult | None:
        """Why the domain is to stay as it is, if it is: FOUND is its policy."""
        wanted = found.recover
        if wanted is None:
            conf = self._host_conf()
            wanted = conf.default
            if wanted is None:
                return VisitResult(Verdict.UNDECIDED, f"{UNDECIDED}{conf.problem}")
        if not wanted:
            return NO_POLICY
        return LOST_NOTHING if self._lost_nothing(record) else None

    def _lost_nothing(self, record: Record) -> bool:
        """Whether the domain was made safe while all its lockspaces were healthy, and they still are.

        Then an administrator or another host asked for it.  In doubt it has lost its leases.  What recovery
        has begun, it ends.  A guest that stopped by itself was not asked for.
        """
        named = {lockspace.name for lockspace in record.lockspaces}
        return (
            bool(record.leases)
            and not record.unknown
            and not record.cause
            and record.mark not in BEGUN
            and named >= {lease.lockspace for lease in record.leases}
            and record.boot == self._boot()
            and all(self._sanlock.still_joined_since(lockspace) for lockspace in record.lockspaces)
        )


def read_policy(domain: VirDomain | None, record: Record) -> policy.Policy:
    """The policy of DOMAIN, or of the XML of RECORD where libvirt no longer knows it.

    RECORD gets its place in the order of recovery: it may have been changed since the loss.  Raises
    PolicyError, RefusalError where only the XML has it, or another HelperError when it cannot be read.
    """
    try:
        found = policy.of_xml(record.xml) if domain is None else policy.of_domain(domain)
    except policy.PolicyError as error:
        if domain is not None:
            raise
        raise RefusalError(f"{error.what}: {error.why}{GONE}") from error
    record.priority, record.delay = found.priority or 0, found.delay or 0
    return found


def own_lockspaces(domain: VirDomain | None, record: Record) -> frozenset[str]:
    """The lockspaces of the <lease> elements in the domain's definition, for a record without leases."""
    if record.leases:
        return frozenset()
    xml = record.xml if domain is None else domain.XMLDesc(0)
    found = definition(xml).findall("devices/lease/lockspace")
    return frozenset(element.text for element in found if element.text)


def count(held: Any) -> str:
    """How many leases HELD are, in words."""
    return "1 lease" if len(held) == 1 else f"{len(held)} leases"
