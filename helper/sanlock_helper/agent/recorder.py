# SPDX-License-Identifier: LGPL-2.1-or-later
"""The record that the helper writes before it touches a domain, so that recovery can bring it back.

The virtual machine's safety comes first: nothing here waits for long, nothing reads a disk, and a failure
is logged and stops nothing.  The record is made of what the host itself knows, before libvirtd is
asked: a domain whose libvirtd is away for all of the time is killed by sanlock, and is to come back all the
same.  Whether it is to be brought back at all, recovery decides, by the metadata in its definition, once the
machine is safe.
"""

from __future__ import annotations

import _thread
import time
from typing import Callable, TypeVar

from .. import DRILL_UUIDS
from ..events import Event
from ..journal import Journal
from ..leases import held as leases
from ..numbers import DELAYS, PRIORITIES, number_within
from ..records.directory import RecordDirectory
from ..records.record import Record, RecordError
from ..records.same_run import combined
from ..threads import NoAnswerError, call_with_timeout
from ..virt.connection import is_embedded
from ..virt.processes import Process, boot_id
from ..virt.status_files import STATE_WORDS, Status, metadata_attributes
from .descriptors import lacks_descriptor
from .preparation import XML_SECONDS
from .requests import Request

# sanlock answers from memory, in a millisecond; one that was silent so often in a row is not asked again.
SANLOCK_SECONDS = 1.0
SANLOCK_TRIES = 3

# How long the XML of a transient domain may take once libvirtd has not answered within XML_SECONDS.
IMPATIENT_XML_SECONDS = 0.2

T = TypeVar("T")

# What is not to come back: it is going off, or an administrator paused it.
_ENDING = ("shutdown", "shutoff", "crashed")
_ADMINISTRATORS_PAUSES = ("user", "from snapshot")


class RecoveryRecorder:
    """The notes of one process on all the domains it serves; used by several threads."""

    def __init__(
        self,
        records: RecordDirectory,
        journal: Journal,
        wall: Callable[[], float] = time.time,
        ask_sanlock: Callable[[int], tuple[tuple[leases.Lockspace, ...], tuple[leases.Lease, ...]]]
        | None = None,
        free_descriptors: Callable[[], bool] = lambda: False,
    ) -> None:
        """WALL is the time of day; ASK_SANLOCK gives the lockspaces and the leases of a process id.

        FREE_DESCRIPTORS is called when none is free: whether some are then.
        """
        self._records = records
        self._journal = journal
        self._wall = wall
        self._ask_sanlock = ask_sanlock or leases.CachedLeases().of
        self._free_descriptors = free_descriptors
        # Held while a record is written: each takes a descriptor of the directory and one of its own.
        self._writing = _thread.allocate_lock()
        self._silences = 0
        self._boot = ""
        self.xml_seconds = XML_SECONDS

    def xml_came(self, came: bool) -> None:
        """Whether libvirtd gave a domain's XML in time: if it did not, the others wait for less."""
        self.xml_seconds = XML_SECONDS if came else IMPATIENT_XML_SECONDS

    def of_status(self, status: Status, uri: str, action: str) -> Record | None:
        """The record of a domain by its STATUS file, not yet written; None where it is not to come back."""
        is_paused = status.state == "paused" and status.reason in _ADMINISTRATORS_PAUSES
        if action != "restart" and (is_paused or status.state in _ENDING):
            return None
        found = STATE_WORDS.get(status.state, status.state)
        record = Record(status.uuid, status.name, uri, action, found=found, run=status.id)
        record.xml = status.xml
        attributes = metadata_attributes(status.xml)
        # What is malformed counts as not given; recovery reads it again, and reports it.
        record.priority = number_within(attributes.get("priority", ""), PRIORITIES) or 0
        record.delay = number_within(attributes.get("delay", ""), DELAYS) or 0
        return record

    def make_record(self, request: Request, name: str, action: str, found: str, run: int) -> Record:
        """The record of a domain that libvirtd has shown, not yet written."""
        return Record(request.uuid, name, request.uri, action, found=found, run=run)

    def write(
        self, record: Record, process: Process | None, every: float | None = None, logs: bool = True
    ) -> bool:
        """Complete RECORD with what PROCESS holds now, and write it; False when that failed.

        That is logged, as LOGS has it: with EVERY, how many seconds later the caller tries again.

        libvirt's embedded test driver ends with this process: there is nothing to come back to.  Nor is the
        domain of a drill to come back.
        """
        if is_embedded(record.uri) or record.uuid.startswith(DRILL_UUIDS):
            return False
        record.time = self._wall()
        if not self._boot:
            # "" for want of a descriptor, too: recovery would take the record for one of an earlier boot.
            self._boot = boot_id() or (boot_id() if self._free_descriptors() else "")
        record.boot = self._boot
        if process is None:
            record.unknown = "its process was not found"
        else:
            record.pid, record.pid_start = process.pid, process.start
            if not (record.leases or record.unknown):
                self._add_leases(record, process.pid)
        is_wanted = bool(record.leases) and not record.cause
        return self.rewrite(record, every, logs) if is_wanted or self._adds_something(record) else True

    def _adds_something(self, record: Record) -> bool:
        """Complete RECORD with what an earlier one of the same run has; whether it has to be written then.

        A guest that stopped by an I/O error has no leases any more when the killpath comes for it.
        """
        if record.cause and not (record.leases or record.unknown):
            return False  # sanlock does not protect it
        try:
            old = self._records.read(record.uuid)
        except (OSError, RecordError):
            return True
        return old is None or combined(old, record) is record

    def rewrite(self, record: Record, every: float | None = None, logs: bool = True) -> bool:
        """Write a complete RECORD; False when that failed, and was logged: see write()."""
        try:
            with self._writing:
                self._with_descriptors(lambda: self._records.write(record))
        except Exception as error:
            if logs:
                seconds = None if every is None else f"{every:.0f}"
                parts = {"note": error, "every": seconds}
                self._journal.report(
                    Event("record-not-written", record.action, record.uuid, record.name, **parts)
                )
            return False
        return True

    def _with_descriptors(self, call: Callable[[], T]) -> T:
        """What CALL returns; it is made again when it lacked a descriptor and some could be freed."""
        try:
            return call()
        except Exception as error:
            if not (lacks_descriptor(error) and self._free_descriptors()):
                raise
            return call()

    def has(self, uuid: str) -> bool:
        """Whether the record of domain UUID is where the helper writes it."""
        try:
            return uuid in self._records.uuids()
        except OSError:
            return False

    def drop(self, uuid: str) -> None:
        """The domain is back: there is nothing to recover."""
        try:
            self._records.remove(uuid)
        except OSError as error:
            self._journal.report(Event("record-not-removed", "restart", uuid, note=error))

    def _add_leases(self, record: Record, pid: int) -> None:
        if self._silences >= SANLOCK_TRIES:
            record.unknown = "sanlock did not answer for other domains, and was not asked for this one"
            return
        try:
            record.lockspaces, found = call_with_timeout(
                lambda: self._with_descriptors(lambda: self._ask_sanlock(pid)), SANLOCK_SECONDS
            )
            self._silences = 0
            record.leases = tuple(lease for lease in found if lease.lockspace != leases.UNKNOWN)
            if len(record.leases) < len(found):
                # There is no lockspace of that name to be waited for.
                record.unknown = "sanlock: the name of a lease could not be read"
        except NoAnswerError as error:
            self._silences += 1
            record.unknown = f"sanlock: {error}"
        except Exception as error:
            record.unknown = str(error)
