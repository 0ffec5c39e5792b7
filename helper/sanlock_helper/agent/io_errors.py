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

Where /run is full libvirt cannot note that, and leaves the file as it was, nor can a record be written: it is
tried again, for nothing else reports such a guest.
"""

from __future__ import annotations

from typing import Callable

from .. import DRILL_UUIDS
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
from ..virt.status_files import STATE_DIR, metadata_attributes
from .recorder import SANLOCK_SECONDS, RecoveryRecorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..records.record import Record
    from ..virt.status_files import Status

# A guest that stops again before it ran for so long has stopped once more in a row.
RAN_SECONDS = 60.0

# How long the disk that has the host's settings is waited for.
CONF_SECONDS = 2.0

# How soon a record is tried again that could not be written.
WRITE_RETRY = 10.0

# libvirt's word for an error that more space mends (qemuMonitorJSONHandleIOError() in libvirt
# src/qemu/qemu_monitor_json.c).
NO_SPACE = "enospc"

# Why the versions are not known of a guest that had stopped before this process began.
UNSEEN = "it had stopped by an I/O error before the agent that stands began to note them"
# Why they are not known of one whose status file libvirt could not write.
UNNOTED = f"libvirt could not note them in {STATE_DIR}, as when /run is full"


class _Stop:
    """A stop of a guest, as libvirtd reports it: see IOErrors.stopped()."""

    __slots__ = ("disk", "is_seen", "is_still", "name", "reason", "run", "uuid")

    def __init__(self, uuid: str, name: str, run: int, is_still: Callable[[], bool], is_seen: bool) -> None:
        self.uuid = uuid
        self.name = name
        self.run = run
        self.is_still = is_still
        self.is_seen = is_seen
        # Of the I/O error that it is for, "" where that is not known.
        self.disk = self.reason = ""


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
        # The stops by domain whose record could not be written.
        self._unwritten: dict[str, _Stop] = {}

    @property
    def retries(self) -> bool:
        """Whether try_again() has anything to do."""
        return bool(self._unwritten)

    def failed(self, uuid: str, disk: str, reason: str) -> None:
        """Domain UUID is to be paused for an I/O error of DISK, for libvirt's REASON."""
        self._errors[uuid] = disk, reason

    def resumed(self, uuid: str) -> None:
        """Domain UUID goes on."""
        self._unwritten.pop(uuid, None)
        guest = self._guests.get(uuid)
        if guest is not None:
            guest.resumed_at = self._clock()

    def forget(self, uuid: str) -> None:
        """The run of domain UUID is over."""
        for known in (self._guests, self._errors, self._unwritten):
            known.pop(uuid, None)

    def keep_only(self, uuids: set[str]) -> None:
        """The runs of all domains but UUIDS are over."""
        for uuid in (self._guests.keys() | self._unwritten.keys()) - uuids:
            self.forget(uuid)

    def stopped(
        self, uuid: str, name: str, run: int, is_still: Callable[[], bool], is_seen: bool = True
    ) -> None:
        """The run RUN of domain UUID has stopped by an I/O error; IS_SEEN: since this process listens.

        IS_STILL asks libvirtd whether it has not gone on since.
        """
        known = self._unwritten.get(uuid)
        if known is None or known.run != run:
            known = _Stop(uuid, name, run, is_still, is_seen)
            known.disk, known.reason = self._errors.pop(uuid, ("", ""))
        if not uuid.startswith(DRILL_UUIDS):
            self._note(known)

    def try_again(self) -> None:
        """Write the records that could not be written, if that is possible now."""
        for stop in list(self._unwritten.values()):
            self._note(stop)

    def _note(self, stop: _Stop) -> None:
        status = self._status(stop)
        if status is None:
            return  # it has gone on since, or is over: that is another event
        guest = self._guests.get(stop.uuid)
        if guest is None or guest.id != stop.run:
            guest = self._guests[stop.uuid] = _Guest(stop.run)
        is_again = self._unwritten.pop(stop.uuid, None) is not None
        if not guest.has_stopped(status.lock_state, self._clock()) and not is_again:
            return
        self._report_stop(stop, guest, self._kind(stop, guest, status, is_again))

    def _status(self, stop: _Stop) -> Status | None:
        """The status of a guest that has stopped, None of one that has not, or not any more.

        Its state is another one where libvirt could not replace the file.
        """

        def read() -> Status | None:
            status = self._processes.first(self._processes.files.matching(stop.uuid))[0]
            return status if status is not None and status.id == stop.run else None

        status = read()
        if status is None or status.state == "paused":
            return status
        # It may have stopped once more in between.
        return read() if stop.is_still() else None

    def _kind(self, stop: _Stop, guest: _Guest, status: Status, is_again: bool) -> str:
        """Write the record of a domain, if it needs one; returns the kind of event, "" for none."""
        if stop.reason == NO_SPACE or not self._may_come_back(status):
            if not (status.lock_state or self._is_protected(status)):
                return ""
            return "io-error-no-space" if stop.reason == NO_SPACE else "io-error-left-alone"
        unknown = UNNOTED if status.state != "paused" else ""
        # What a process holds still is known whenever it stopped.
        if status.lock_state and not stop.is_seen:
            unknown = UNSEEN
        if not self._write_record(status, stop, guest, unknown, is_again):
            return ""
        return {"": "io-error-noted", UNSEEN: "io-error-unseen"}.get(unknown, "io-error-unnoted")

    def _report_stop(self, stop: _Stop, guest: _Guest, kind: str) -> None:
        # Of a guest that stops again and again, some: the 2nd, 3rd, 5th, 9th and 17th.
        if kind and not guest.tries & (guest.tries - 1):
            tries = guest.tries + 1 if guest.tries and kind == "io-error-noted" else None
            parts = {"uri": self._uri, "disk": stop.disk, "tries": tries, "domain": stop.uuid}
            self._report(Event(kind, RECOVER, stop.uuid, stop.name, **parts))

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

    def _write_record(self, status: Status, stop: _Stop, guest: _Guest, unknown: str, is_again: bool) -> bool:
        """Write the record of a domain; False where it has no leases, or that failed and is tried again.

        UNKNOWN: why the versions of its leases are not known.
        """
        record = self._recorder.of_status(status, self._uri, "pause")
        if record is None or (unknown == UNNOTED and not self._is_protected(status)):
            return False  # an administrator's pause; a domain without sanlock
        record.cause, record.found, record.tries = IO_ERROR, describe(*IO_ERROR_STOP), guest.tries
        self._add_leases(record, status)
        record.unknown = unknown or record.unknown
        process = self._processes.of(status)
        if not self._recorder.write(record, process, WRITE_RETRY, logs=not is_again):
            self._unwritten[stop.uuid] = stop
            return False
        return bool(record.leases or record.unknown)

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

    def _is_protected(self, status: Status) -> bool:
        """Whether a domain holds leases still, or, where its pause is not noted, may have held some.

        What sanlock does not answer counts as yes, as for the record of a domain whose pause is noted.
        """
        try:
            if status.state == "paused":
                return bool(call_with_timeout(lambda: leases.held_by(status.pid), SANLOCK_SECONDS))
            return call_with_timeout(lambda: leases.is_registered(status.pid), SANLOCK_SECONDS)
        except (NoAnswerError, LeasesUnknownError, HelperError):
            return True
