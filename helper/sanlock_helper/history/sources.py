# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that is known of the past: the journal's events and the recovery records, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import HelperError, TransientError
from ..records import snapshot
from ..records.record import Record
from ..threads import within
from ..virt.domain_names import names_by_uuid
from .drill_entries import without_drills
from .journal_entries import SECONDS, read_file, read_journal
from .outages import OutageEvent, add_records, events_of, name_domains, name_kills


@dataclass(frozen=True)
class History:
    """Events, the record that recovery still has of a domain by UUID, and what could not be read.

    `waiting` are the records of the time that was asked for; `records` are all, None where not all of them
    could be read.  `journal_error` is None when the journal was read; its text is the first problem
    otherwise.
    """

    events: list[OutageEvent]
    waiting: dict[str, Record]
    problems: list[str]
    journal_error: HelperError | None
    records: dict[str, Record] | None = None


def gather(since: float, journal: str | None = None, seconds: float = SECONDS) -> History:
    """What is known since SINCE (seconds since the epoch), within SECONDS; nothing is changed.

    JOURNAL is a file to read instead of this host's journal: perhaps another host's, which the records here
    have nothing to do with.
    """
    events: list[OutageEvent] = []
    error: HelperError | None = None
    try:
        entries = read_file(journal, since) if journal is not None else read_journal(since, seconds)
        events = events_of(without_drills(entries))
    except HelperError as failure:
        error = failure
    problems = [str(error)] if error else []
    if journal is not None:
        return History(name_domains(name_kills(events, ()), ()), {}, problems, error)
    current = _records(seconds)
    records = [record for record in current.records if record.time >= since]
    waiting = {uuid: record for uuid, record in current.newest.items() if record.time >= since}
    events = name_domains(
        add_records(name_kills(events, records), records), current.records, lambda: _names(seconds)
    )
    known = None if current.unread else current.newest
    return History(events, waiting, [*problems, *current.problems], error, known)


def _records(seconds: float) -> snapshot.RecordSnapshot:
    """The recovery records; none, and why, where their disk does not give them within SECONDS."""
    try:
        return within(seconds, "read the recovery records", snapshot.take_snapshot)
    except TransientError as error:
        return snapshot.RecordSnapshot([], [str(error)])


def _names(seconds: float) -> Mapping[str, str]:
    """What libvirt's files have as names by UUID, as far as their disk gives that within SECONDS."""
    try:
        return within(seconds, "read libvirt's definitions", names_by_uuid)
    except TransientError:
        return {}
