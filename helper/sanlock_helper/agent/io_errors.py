# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that stop by an I/O error: each leaves a record, as one that the killpath makes safe does.

In most outages of block storage the guest's own I/O fails before the leases are lost.  QEMU stops the guest
(error_policy stop), libvirt gives its leases up, and sanlock has no process left to run a killpath for.  So
the agent that stands listens to libvirt's events.

libvirt notes what it has given up in the domain's status file, in sanlock's words and with the versions, and
keeps that until the domain goes on (qemuProcessHandleIOError() in libvirt src/qemu/qemu_process.c,
virLockManagerSanlockRelease() in src/locking/lock_driver_sanlock.c).  That is exact where the guest stops
again as soon as it is resumed, and costs nothing while it runs.  A domain that stopped while libvirtd was
away holds its leases still, and sanlock is asked.
"""

from __future__ import annotations

from typing import Callable

from ..errors import HelperError, LeasesUnknownError, TransientError
from ..events import RECOVER, Event
from ..leases import held as leases
from ..records.record import IO_ERROR
from ..threads import NoAnswerError, call_with_timeout, one_at_a_time
from ..virt import NAMESPACE
from ..virt.definition_leases import explicit_leases
from ..virt.domain_state import IO_ERROR_STOP, describe
from ..virt.host_conf import PATH, HostConf, read_host_conf
from ..virt.processes import Processes
from ..virt.status_files import metadata_attributes
from .recorder import SANLOCK_SECONDS, RecoveryRecorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..records.record import Record
    from ..virt.status_files import Status

# A guest that stops again before it ran for so long has stopped once more in a row.
RAN_SECONDS = 60.0

# How long the disk that has the host's settings is waited for.
CONF_SECONDS = 2.0

# libvirt's word for an error that more space mends (qemuMonitorJSONHandleIOError() in libvirt
# src/qemu/qemu_monitor_json.c).
NO_SPACE = "enospc"

# Why the versions are not known of a guest that had stopped before this process began.
UNSEEN = "it had stopped by an I/O error before the agent that stands began to note them"


class _Guest:
    """One run that has stopped: its id, what libvirt gave up then, and when it went on, None where not."""

    __slots__ = ("id", "lock_state", "resumed_at", "tries")

    def __init__(self, id: int) -> None:
        self.id = id
        self.lock_state: str | None = None
        self.resumed_at: float | None = None
        self.tries = 0

    def has_stopped(self, lock_state: str, now: float) -> bool:
        """It has stopped at NOW, with LOCK_STATE given up; False where that is known already."""
        if self.resumed_at is None and self.lock_state == lock_state:
            return False
        is_again = self.resumed_at is not None and now - self.resumed_at < RAN_SECONDS
        self.tries = self.tries + 1 if is_again else 0
        self.resumed_at, self.lock_state = None, lock_state
        return True


class IOErrors:
    """What is noted of the guests of one URI that have stopped; for one thread."""

    def __init__(
        self,
        uri: str,
        recorder: RecoveryRecorder,
        report: Callable[[Event], None],
        clock: Callable[[], float],
        processes: Processes | None = None,
        host_conf: Callable[[], HostConf] = read_host_conf,
    ) -> None:
        """CLOCK is monotonic, in seconds; HOST_CONF reads the host's own settings."""
        self._uri = uri
        self._recorder = recorder
        self._report = report
        self._clock = clock
        self._processes = processes or Processes()
        self._read_host_conf = one_at_a_time(CONF_SECONDS, f"read {PATH}", host_conf)
        self._cached = leases.CachedLeases()
        self._guests: dict[str, _Guest] = {}
        # By domain, the disk and the reason of the last I/O error.
        self._errors: dict[str, tuple[str, str]] = {}

    def failed(self, uuid: str, disk: str, reason: str) -> None:
        """Domain UUID is to be paused for an I/O error of DISK, for libvirt's REASON."""
        self._errors[uuid] = disk, reason

    def resumed(self, uuid: str) -> None:
        """Domain UUID goes on."""
        guest = self._guests.get(uuid)
        if guest is not None:
            guest.resumed_at = self._clock()

    def forget(self, uuid: str) -> None:
        """The run of domain UUID is over."""
        self._guests.pop(uuid, None)
        self._errors.pop(uuid, None)

    def keep_only(self, uuids: set[str]) -> None:
        """The runs of all domains but UUIDS are over."""
        for uuid in self._guests.keys() - uuids:
            self.forget(uuid)

    def stopped(self, uuid: str, name: str, run: int, is_seen: bool = True) -> None:
        """The run RUN of domain UUID has stopped by an I/O error; IS_SEEN: since this process listens."""
        disk, reason = self._errors.pop(uuid, ("", ""))
        status = self._processes.first(self._processes.files.matching(uuid))[0]
        if status is None or status.id != run or status.state != "paused":
            return  # it has gone on since, or is over: that is another event
        guest = self._guests.get(uuid)
        if guest is None or guest.id != run:
            guest = self._guests[uuid] = _Guest(run)
        if not guest.has_stopped(status.lock_state, self._clock()):
            return
        # What a process holds still is known whenever it stopped.
        is_seen = is_seen or not status.lock_state
        kind = "io-error-noted" if is_seen else "io-error-unseen"
        if reason == NO_SPACE or not self._may_come_back(status):
            if not (status.lock_state or self._holds_leases(status.pid)):
                return  # sanlock does not protect it
            kind = "io-error-no-space" if reason == NO_SPACE else "io-error-left-alone"
        elif not self._write_record(status, guest, is_seen):
            return
        # Of a guest that stops again and again, some: the 2nd, 3rd, 5th, 9th and 17th.
        if not guest.tries & (guest.tries - 1):
            tries = guest.tries + 1 if guest.tries and kind == "io-error-noted" else None
            parts = {"uri": self._uri, "disk": disk, "tries": tries, "domain": uuid}
            self._report(Event(kind, RECOVER, uuid, name, **parts))

    def _may_come_back(self, status: Status) -> bool:
        """Whether the policy of a domain, or the host's default, asks for recovery, or that is not known.

        The guest is safe: so this may wait for the disk that has the host's file, for a moment.
        """
        attributes = metadata_attributes(status.xml)
        wanted = attributes.get("recover")
        if wanted is None and (attributes or NAMESPACE not in status.xml):
            try:
                return self._read_host_conf().default is not False
            except TransientError:
                return True
        return wanted != "no"

    def _write_record(self, status: Status, guest: _Guest, is_seen: bool) -> bool:
        """Write the record of a domain; False where it has no leases, or that failed and was logged."""
        record = self._recorder.of_status(status, self._uri, "pause")
        if record is None:
            return False  # an administrator's pause
        record.cause, record.found, record.tries = IO_ERROR, describe(*IO_ERROR_STOP), guest.tries
        self._add_leases(record, status)
        if not is_seen:
            record.unknown = UNSEEN
        process = self._processes.of(status)
        return self._recorder.write(record, process) and bool(record.leases or record.unknown)

    def _add_leases(self, record: Record, status: Status) -> None:
        """What libvirt has given up of a domain; where it has not, the recorder asks what is held still."""
        if not status.lock_state:
            return
        try:
            held = leases.of_state(status.lock_state, explicit_leases(status.xml))
        except LeasesUnknownError as error:
            record.unknown = str(error)
            return
        record.leases = tuple(held)
        try:
            record.lockspaces = call_with_timeout(lambda: self._cached.lockspaces(held), SANLOCK_SECONDS)
        except (NoAnswerError, LeasesUnknownError):
            pass  # libvirt's own is joined as it is configured

    def _holds_leases(self, pid: int) -> bool:
        try:
            return bool(call_with_timeout(lambda: leases.held_by(pid), SANLOCK_SECONDS))
        except (NoAnswerError, LeasesUnknownError, HelperError):
            return False
