# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock as recovery needs it: which lockspaces are joined and healthy, joining one, leases on storage."""

from __future__ import annotations

import errno
import time
from typing import Any, Callable

from ..errors import HelperError, LeasesUnknownError, PermanentError, TransientError
from ..numbers import whole_number
from . import held as leases
from .error_texts import explain
from .held import Lease, Lockspace
from .sanlock_status import SanlockStatus, ask_sanlock

try:
    # Where it is there it does what answers with no more than an error: see libsanlock.py for the rest.
    import sanlock
except ImportError:
    sanlock = None

JOINED, JOINING, LEAVING, FAILING, ABSENT = "joined", "joining", "leaving", "failing", "absent"

# sanlock's errors for a place where no such lease or lockspace is: no file or device, or something else is
# there.
NOT_THERE = frozenset(
    (
        -errno.ENOENT, -errno.ENOTDIR, -errno.ENODEV, -errno.ENXIO, -errno.ELOOP, -errno.EISDIR,
        -223, -226, -227,
    )
)  # fmt: skip


class SanlockError(TransientError):
    """sanlock refused; number is its error, negative, 0 when it could not be asked at all."""

    def __init__(self, what: str, number: int, joins: bool = False) -> None:
        why, hint = explain(number, joins)
        super().__init__(what, why, hint)
        self.number = -abs(number)


class Sanlock:
    """The sanlock daemon.  Methods raise SanlockError; those on storage block as long as it does."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        status: Callable[[], SanlockStatus] = ask_sanlock,
    ) -> None:
        """CLOCK is CLOCK_MONOTONIC, which sanlock's timestamps are of; STATUS asks for its whole status.

        Raises PermanentError where sanlock's client library is not installed.
        """
        try:
            self._binding = leases.load()
        except LeasesUnknownError as error:
            cause = error.__cause__
            raise (
                cause if isinstance(cause, PermanentError) else PermanentError("sanlock", str(error))
            ) from None
        self._errors: Any = (self._binding.SanlockException,)
        if sanlock is not None:
            self._errors = (self._binding.SanlockException, sanlock.SanlockException)
        self._clock = clock
        self._status = status

    def lockspaces(self) -> dict[str, tuple[Lockspace, str]]:
        """What sanlock knows, by name: each lockspace with its state."""
        found = {}
        for entry in self._ask("list sanlock's lockspaces", self._binding.get_lockspaces):
            name = entry["lockspace"]
            lockspace = Lockspace(leases.text(name), entry["host_id"], entry["path"], entry["offset"])
            if entry["flags"] & self._binding.LSFLAG_ADD:
                state = JOINING
            elif entry["flags"] & self._binding.LSFLAG_REM:
                state = LEAVING
            else:
                state = self._health(lockspace)
            found[lockspace.name] = lockspace, state
        return found

    def _health(self, lockspace: Lockspace) -> str:
        """Whether a lockspace that sanlock has joined is being renewed."""
        try:
            hosts = self._ask(
                "read the state of a lockspace",
                lambda: self._binding.get_hosts(leases.raw(lockspace.name), lockspace.host_id),
            )
        except SanlockError as error:
            if error.number == -errno.EAGAIN:
                return JOINED  # acquired a moment ago: nothing was read back yet
            if error.number == -errno.ENOENT:
                return LEAVING
            raise
        if not hosts:
            return FAILING
        lockspace.io_timeout = hosts[0]["io_timeout"]
        return JOINED if leases.is_renewed(hosts[0], self._clock()) else FAILING

    def still_joined_since(self, lockspace: Lockspace) -> bool:
        """Whether this host has not lost LOCKSPACE since its generation was noted.

        The generation counts up at every join (sanlock src/delta_lease.c).  A lockspace that is being lost
        will be left, even if its storage returns before that and its renewals succeed again (killing_pids in
        sanlock src/main.c).  In doubt it was lost.
        """
        if not lockspace.generation:
            return False
        # The sanlock command inherits the group from this process.
        leases.join_sanlock_group()
        try:
            found = self._status().lockspace(lockspace.name)
        except HelperError:
            return False
        same = {"list": "spaces", "host_generation": str(lockspace.generation)}
        return (
            found is not None
            and not found.lost
            and found.host_id == lockspace.host_id
            and all(found.values.get(key) == value for key, value in same.items())
        )

    def renewed_since(self, name: str, moment: float) -> bool:
        """Whether this host has renewed lockspace NAME since MOMENT, in seconds of CLOCK_MONOTONIC.

        By when a renewal began that has succeeded, which sanlock's library does not give
        (renewal_last_success in sanlock src/lockspace.c).  Raises a HelperError when sanlock does not answer.
        """
        leases.join_sanlock_group()
        found = self._status().lockspace(name)
        if found is None or not found.joined or found.lost:
            return False
        renewed_at = whole_number(found.values.get("renewal_last_success", ""))
        return renewed_at is not None and renewed_at >= moment

    def join(self, lockspace: Lockspace) -> None:
        """Join LOCKSPACE, and wait until that has ended; joined already is success."""
        try:
            self._ask(
                f"join lockspace {lockspace.name}",
                lambda: (sanlock or self._binding).add_lockspace(
                    leases.raw(lockspace.name),
                    lockspace.host_id,
                    lockspace.path,
                    lockspace.offset,
                    iotimeout=lockspace.io_timeout,
                ),
                joins=True,
            )
        except SanlockError as error:
            if error.number != -errno.EEXIST:
                raise

    def is_registered(self, pid: int) -> bool:
        """Whether sanlock knows process PID, as it must before libvirt can take leases for it."""
        try:
            self._ask(f"ask for process {pid}", lambda: leases.inquire(pid))
        except SanlockError as error:
            if error.number == -errno.ESRCH:
                return False
            raise
        return True

    def held_by(self, pid: int) -> list[Lease]:
        """The leases that process PID holds."""
        try:
            return leases.held_by(pid)
        except LeasesUnknownError as error:
            raise TransientError(f"ask for the leases of process {pid}", str(error)) from error

    def release(self, pid: int) -> None:
        """Give up all leases that process PID holds, as libvirt does when it pauses a domain."""
        try:
            leases.release(pid)
        except LeasesUnknownError as error:
            raise TransientError(f"release the leases of process {pid}", str(error)) from error

    def version(self, lease: Lease) -> int:
        """The version of LEASE on storage now."""
        what = f"read lease {lease}"
        found = self._ask(what, lambda: self._binding.read_resource(lease.path, lease.offset))
        if (leases.text(found["lockspace"]), leases.text(found["resource"])) != (
            lease.lockspace,
            lease.resource,
        ):
            raise SanlockError(what, -227)
        version: int = found["version"]
        return version

    def holders(self, lease: Lease, host_id: int) -> dict[int, str]:
        """The other hosts that hold LEASE on storage: host_id and "live", "dead" or "unknown".

        HOST_ID is our own.  "unknown" is what sanlock reports for a host until it has watched it for a while.
        """
        owners = self._ask(
            f"read the holders of lease {lease}",
            lambda: self._binding.read_resource_owners(
                leases.raw(lease.lockspace), leases.raw(lease.resource), [(lease.path, lease.offset)]
            ),
        )
        others = [owner["host_id"] for owner in owners if owner["host_id"] != host_id]
        return {other: self._host_state(lease.lockspace, other) for other in others}

    def _host_state(self, lockspace: str, host_id: int) -> str:
        try:
            hosts = self._ask(
                "read the state of a host", lambda: self._binding.get_hosts(leases.raw(lockspace), host_id)
            )
        except SanlockError:
            return "unknown"
        state = hosts[0]["flags"] & 0xF if hosts else self._binding.HOST_UNKNOWN  # SANLK_HOST_MASK
        if state in (self._binding.HOST_LIVE, self._binding.HOST_FAIL):
            return "live"
        return "dead" if state in (self._binding.HOST_DEAD, self._binding.HOST_FREE) else "unknown"

    def _ask(self, what: str, call: Callable[[], Any], joins: bool = False) -> Any:
        leases.join_sanlock_group()
        try:
            return call()
        except self._errors as error:
            raise SanlockError(what, error.errno, joins) from error
