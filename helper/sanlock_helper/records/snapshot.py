# SPDX-License-Identifier: LGPL-2.1-or-later
"""The recovery records of this host, for reading only.

Recovery's own view of them is store.py, which takes, copies and sets aside.  Here nothing is changed, and
what cannot be used is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import hint_for
from .directory import RUN_DIR, STATE_DIR, TAKEN, RecordDirectory
from .record import Record, RecordError


@dataclass(frozen=True)
class RecordSnapshot:
    """The records that there are, oldest first, what could not be read, and what recovery had set aside."""

    records: list[Record]
    unread: list[str]
    set_aside: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """All that keeps this from being complete, in words."""
        return [*self.unread, *self.set_aside]

    @property
    def newest(self) -> dict[str, Record]:
        """The one that counts of each domain, by UUID: recovery goes by it."""
        return {record.uuid: record for record in self.records}


def take_snapshot(run_dir: str = RUN_DIR, state_dir: str = STATE_DIR) -> RecordSnapshot:
    """All records.  Raises nothing: a directory that is not there has none."""
    found: dict[tuple[str, float], Record] = {}
    unread: list[str] = []
    # Same order as recovery moves records, so one that moves meanwhile is still found.
    lists = [
        read_all(place)
        for place in (RecordDirectory(run_dir), RecordDirectory(run_dir, TAKEN), RecordDirectory(state_dir))
    ]
    for records, why in reversed(lists):
        # A copy on disk and the one on tmpfs that it was made from are one.
        found.update({(record.uuid, record.time): record for record in records})
        unread += why
    set_aside = [line for path in (state_dir, run_dir) for line in _set_aside(path)]
    records_found = sorted(found.values(), key=lambda record: record.time)
    # One directory is read under two names.
    return RecordSnapshot(records_found, list(dict.fromkeys(unread)), set_aside)


def read_all(records: RecordDirectory) -> tuple[list[Record], list[str]]:
    """All that is in RECORDS, and what could not be read, in words."""
    try:
        uuids = records.uuids()
    except OSError as error:
        return [], [f"read the records in {records.path}: {_why(error)}"]
    found, problems = [], []
    for uuid in uuids:
        try:
            record = records.read(uuid)
        except RecordError as error:
            problems.append(f"read {records.file(uuid)}: {error}: recovery will set it aside, unused")
            continue
        except OSError as error:
            problems.append(f"read {records.file(uuid)}: {_why(error)}")
            continue
        # Recovery may have moved it since it was listed.
        if record is not None:
            found.append(record)
    return found, problems


def _set_aside(path: str) -> list[str]:
    try:
        names = RecordDirectory(path).names_set_aside()
    except OSError:
        # In a directory that cannot be read, which is reported already; what is in there is not used.
        return []
    return [f"{name}: was set aside, it is no record that can be used" for name in names]


def _why(error: OSError) -> str:
    why = error.strerror or str(error)
    hint = hint_for(error)
    return f"{why} ({hint})" if hint else why
