# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recovery's own records: taken from the helper's directory on tmpfs, kept on disk.

A record that the helper wrote is taken by renaming it: from then on the helper, which may write a newer one
of the same domain at any moment, cannot be overwritten or removed by us.  It is copied to disk, in one step,
and only then removed from tmpfs.  While the disk cannot be written to, it stays where it is.
"""

from __future__ import annotations

import contextlib

from ..events import RECOVER, Event
from ..journal import Journal, RepeatFilter
from . import snapshot
from .directory import RUN_DIR, STATE_DIR, TAKEN, RecordDirectory
from .file_lock import locked
from .record import Record, RecordError
from .same_run import combined


class RecordStore:
    """All records that there are."""

    def __init__(
        self, journal: Journal, run_dir: str = RUN_DIR, state_dir: str = STATE_DIR, uri: str | None = None
    ) -> None:
        """URI: gather() leaves the records of other connections out, which stay as they are."""
        self._journal = journal
        self._uri = uri
        self._lock_path = f"{run_dir}.lock"
        self._new = RecordDirectory(run_dir)
        self._taken = RecordDirectory(run_dir, TAKEN)
        self._on_disk = RecordDirectory(state_dir)
        # What each pass finds again is logged once.
        self._repeats = RepeatFilter(float("inf"))
        # Directories whose records, if there are any, are not known.
        self.unread: set[str] = set()

    def records(self) -> dict[str, Record]:
        """The records by UUID, the newest of each domain, read only; what cannot be read is left out."""
        return self.records_and_problems()[0]

    def records_and_problems(self) -> tuple[dict[str, Record], list[str]]:
        """What records() returns, and what could not be read, in words."""
        found: dict[str, Record] = {}
        unread: list[str] = []
        # Same order as recovery moves records, so one that moves meanwhile is still found.
        for records in (self._new, self._taken, self._on_disk):
            here, problems = snapshot.read_all(records)
            unread += problems
            for record in here:
                found.setdefault(record.uuid, record)
        # One directory is read under two names.
        return found, list(dict.fromkeys(unread))

    def gather(self) -> dict[str, Record]:
        """Take what is new, copy it to disk, and return all by UUID; what is no record is set aside."""
        found: dict[str, Record] = {}
        with self._locked():
            for uuid in self._uuids(self._new):
                self._take(uuid)
            for uuid in self._uuids(self._taken):
                record = self._read(self._taken, uuid)
                if record and self._copy_to_disk(record):
                    self._drop_taken(uuid)
            for records in (self._on_disk, self._taken):
                for uuid in self._uuids(records):
                    record = self._read(records, uuid)
                    if record and self._uri in (None, record.uri):
                        found[uuid] = record
        return found

    def _take(self, uuid: str) -> None:
        """Take what the helper wrote of domain UUID; what cannot be taken stays, and is reported once.

        What an earlier record has of the same run is added: see same_run.py.
        """
        new = self._read(self._new, uuid)
        if not new:
            return
        try:
            if self._adds_something(new):
                self._new.take(uuid, TAKEN)
            else:
                self._new.remove(uuid)
        except FileNotFoundError:
            pass  # the helper has taken it back: a restart that succeeded
        except OSError as error:
            what = "taken, the domain is not brought back"
            self._log_once(_stuck(self._new, uuid, what, error))

    def _adds_something(self, new: Record) -> bool:
        """Complete NEW, where it is, with what recovery has; whether it is to take that one's place."""
        old = self._read(self._taken, new.uuid) or self._read(self._on_disk, new.uuid)
        if old is None:
            return True
        before = new.encode()
        if combined(old, new) is old:
            return False
        if new.encode() != before:
            self._new.write(new)
        return True

    def _drop_taken(self, uuid: str) -> None:
        try:
            self._taken.remove(uuid)
        except OSError as error:
            self._log_once(_stuck(self._taken, uuid, "removed", error))

    def add(self, record: Record) -> bool:
        """Add a RECORD of recovery's own; False when its domain has one.

        Raises OSError when it cannot be written.
        """
        with self._locked():
            if record.uuid in self.records():
                return False
            self._taken.write(record)
        return True

    def mark(self, record: Record, mark: str, why: str = "") -> bool:
        """Write down what is about to be done with RECORD; False when it was removed or replaced.

        On disk where it is on disk; on tmpfs where it is there, and while the disk is full: gather() copies
        it later.  Raises OSError when it can be written nowhere.
        """
        with self._locked():
            place = self._place(record)
            if place is None:
                return False
            before = record.mark, record.why
            record.mark, record.why = mark, why
            try:
                if place is not self._on_disk or not self._copy_to_disk(record):
                    self._taken.write(record)
            except OSError:
                record.mark, record.why = before
                raise
        return True

    def remove(self, record: Record) -> bool:
        """Remove RECORD; False when it was removed or replaced already."""
        with self._locked():
            places = [place for place in (self._on_disk, self._taken) if self._is_in(place, record)]
            # The copy on disk first: it may be the older one, and would count without the other.
            return any([place.remove(record.uuid) for place in places])

    def set_aside(self, record: Record, why: str) -> None:
        """Set RECORD aside, for WHY, and report that; nothing is done if it was removed or replaced."""
        with self._locked():
            place = self._place(record)
            if place is not None:
                self._set_aside(place, record.uuid, why)

    def forget(self, uuid: str) -> bool:
        """Remove whatever there is of domain UUID; False when there was nothing."""
        with self._locked():
            gone = [records.remove(uuid) for records in (self._new, self._taken, self._on_disk)]
        return any(gone)

    def _place(self, record: Record) -> RecordDirectory | None:
        """The directory that still holds this very RECORD, else None."""
        for records in (self._taken, self._on_disk):
            with contextlib.suppress(RecordError):
                found = records.read(record.uuid)
                if found is not None:
                    return records if _is_same(found, record) else None
        return None

    def _is_in(self, records: RecordDirectory, record: Record) -> bool:
        """Whether RECORD can be read in RECORDS."""
        try:
            found = records.read(record.uuid)
        except (RecordError, OSError):
            return False
        return found is not None and _is_same(found, record)

    def _uuids(self, records: RecordDirectory) -> list[str]:
        """UUIDs with a record there; none if the directory is unreadable, so that others are recovered."""
        try:
            uuids = records.uuids()
            self.unread.discard(records.path)
            return uuids
        except OSError as error:
            self.unread.add(records.path)
            self._log_once(Event("records-unread", RECOVER, path=records.path, note=error))
            return []

    def _log_once(self, event: Event) -> None:
        """Log EVENT once, however often it recurs."""
        if self._repeats.is_due(event.render(), "", 0.0):
            self._journal.report(event)

    def _read(self, records: RecordDirectory, uuid: str) -> Record | None:
        """The record of domain UUID in RECORDS; what is none is set aside, what cannot be read is left."""
        try:
            return records.read(uuid)
        except RecordError as error:
            why = str(error)
        except OSError as error:
            self._log_once(_stuck(records, uuid, "read", error))
            return None
        self._set_aside(records, uuid, why)
        return None

    def _set_aside(self, records: RecordDirectory, uuid: str, why: str) -> None:
        try:
            now = f"set aside as {records.set_aside(uuid)}"
        except OSError as error:
            now = f"and cannot be set aside: {error}"
        note = f"{why}; {now}"
        self._log_once(Event("record-unusable", RECOVER, uuid, path=records.file(uuid), note=note))

    def _copy_to_disk(self, record: Record) -> bool:
        try:
            self._on_disk.write(record, durable=True)
        except OSError as error:
            self._log_once(Event("records-not-copied", RECOVER, path=self._on_disk.path, note=error))
            return False
        return True

    def _locked(self) -> contextlib.AbstractContextManager[int]:
        """One process changes records at a time; held for moments only."""
        return locked(self._lock_path, wait=True)


def _stuck(records: RecordDirectory, uuid: str, what: str, error: OSError) -> Event:
    """That WHAT cannot be done with the record of domain UUID in RECORDS."""
    return Event("record-stuck", RECOVER, uuid, path=records.file(uuid), what=what, note=error)


def _is_same(found: Record, record: Record) -> bool:
    """Whether FOUND is of the same loss as RECORD, whatever recovery has marked since."""
    return found.time == record.time and found.run == record.run
