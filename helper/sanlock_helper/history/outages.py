# SPDX-License-Identifier: LGPL-2.1-or-later
"""Outages, made out of what is in the journal: when a lease was lost, what was done to each domain.

The recovery records add what the journal has lost, or never had: that a domain was about to be made safe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Callable

from .. import IDENTIFIER
from ..events import STILL_HOLDS, Event, as_number, parse_head
from ..invocation import ACTIONS
from ..records.record import Record
from .journal_entries import SANLOCK, Entry
from .logged_events import read_event

# Without an event for so many seconds an outage is over.  What is logged of its domains later (a recovery,
# hours after) is still counted to it.
QUIET_SECONDS = 600.0

# sanlock runs the killpath once, when the leases are lost.  What was asked for so many seconds later, an
# administrator has asked for.
LOSS_SECONDS = 60.0

# A record is written before its domain is touched, so what the journal has of that comes later; but each
# reads the clock itself.
RECORD_EARLY = 1.0

# The kind of an event that is known from a record alone.
ON_RECORD = "on record"

# The kinds of what the agent that stands logs of a lockspace: its renewals fail, succeed again, or are over
# since it is not joined any more.
WARNED, RENEWED, LEFT = "warned", "renewed", "left"
_RENEWAL_KINDS = {
    "renewals-failing": WARNED,
    "loss-near": WARNED,
    "renewals-back": RENEWED,
    "failing-lockspace-left": LEFT,
}

# The kinds for the end of an action.
_ENDS = ("done", "not done", "failed")

# Each expression below is linear in the line's length: no two of its parts can match the same text, and none
# but the last is without a bound.  Numbers are bounded, as int() and float() take no text of any length.
# Our own words for a domain's process, in the reason of a try: see agent/outcomes.py.
_HOLDER = re.compile(rf"\bprocess (?P<pid>[0-9]{{1,10}}){STILL_HOLDS}")
# sanlock's lines begin with the time of day, sanlock's own clock, a thread and a lockspace (src/log.c,
# log_level()), the same in 2.4 to 5.1: "2026-11-22 20:30:23 2912 [5]: s1 ".  A process that holds leases of
# several lockspaces appears under each of them; what one resource logs has "s1:r2 " there.
_SANLOCKS = (
    r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} )?(?:[0-9]{1,20} \[[0-9]{1,10}\]: )?"
    r"s[0-9]{1,10}(?::r[0-9]{1,10})? "
)
# src/lockspace.c, check_our_lease(): 5.x appends why it failed.
# One with no_timeout logs the same every second, and is not lost: 5.1.1, measured.
_LOST = re.compile(_SANLOCKS + r"check_our_lease (?:failed|corrupt) -?[0-9]{1,10}\b(?! \(no_timeout\))")
# src/main.c, kill_pids() and send_helper_kill(): once a second for each process that has a lease.  The signal
# is 15 within kill_grace_seconds for a process without a killpath, and for ever for one that has asked for no
# SIGKILL; 9 otherwise; 100 runs the killpath.  The count goes on when the signal changes.
_KILL = re.compile(
    _SANLOCKS + r"kill (?P<pid>[0-9]{1,10}) sig (?P<signal>9|15) count (?P<count>[0-9]{1,10})\b"
)
_SIGNALS = {"9": "sigkill", "15": "sigterm"}
_KILLS = ("sigkill", "sigterm")


@dataclass(frozen=True)
class OutageEvent:
    """Something that was logged: see events.Event for what this program logs.

    `kind` is done, not done, failed, try, ignored, note or on record for a domain; lost, sigterm or sigkill
    for what sanlock did: the domain of a process that it killed is known only after name_kills(); warned,
    renewed or left for `lockspace`, whose renewals failed.
    `text` is the line without the domain; what does not apply is "" or None.  `seconds` is how long it took,
    `tries` sanlock's count for a process that it kills.
    """

    time: float
    kind: str
    action: str = ""
    name: str = ""
    uuid: str = ""
    text: str = ""
    found: str = ""
    did: str = ""
    verified: str = ""
    note: str = ""
    seconds: float | None = None
    tries: int | None = None
    pid: int | None = None
    lockspace: str = ""


@dataclass
class DomainOutage:
    """What happened to one domain in one outage; `waiting` is the record of it that recovery still has."""

    uuid: str
    events: list[OutageEvent] = field(default_factory=list)
    waiting: Record | None = None

    @property
    def name(self) -> str:
        """As last logged, "" when it never was."""
        return next((event.name for event in reversed(self.events) if event.name), "")

    @property
    def actions(self) -> list[OutageEvent]:
        """What was done on the loss."""
        return [event for event in self.events if event.action in ACTIONS]

    @property
    def outcome(self) -> OutageEvent | None:
        """How the action ended, as far as that was logged."""
        actions = self.actions
        logged = [event for event in actions if event.kind not in ("try", "note")] or actions
        return logged[-1] if logged else None

    @property
    def failed_tries(self) -> int:
        """How often the action failed before its outcome.

        Not each of them is logged: the number that a line has counts.
        """
        tries = [event for event in self.actions if event.kind == "try"]
        ends = [event.tries - 1 for event in self.actions if event.kind in _ENDS and event.tries]
        return max(len(tries), 0, *(event.tries or 0 for event in tries), *ends)

    @property
    def came_back(self) -> list[OutageEvent]:
        """What recovery logged."""
        return [event for event in self.events if event.action not in ACTIONS]


@dataclass
class Outage:
    """Events that belong together; `lost` are the times (seconds since the epoch) of lockspaces lost.

    `sigkills` and `sigterms` have the first such signal for each process: sanlock repeats them each second.
    `renewals` are the events of lockspaces whose renewals failed.
    """

    began: float
    ended: float
    lost: list[float] = field(default_factory=list)
    sigkills: list[OutageEvent] = field(default_factory=list)
    sigterms: list[OutageEvent] = field(default_factory=list)
    domains: dict[str, DomainOutage] = field(default_factory=dict)
    renewals: list[OutageEvent] = field(default_factory=list)

    @property
    def is_loss_ahead(self) -> bool:
        """Whether the renewals of a lockspace failed, and nothing is known of their end."""
        kinds = {event.lockspace: event.kind for event in self.renewals}
        return WARNED in kinds.values()


def events_of(entries: Iterable[Entry]) -> list[OutageEvent]:
    """The events in ENTRIES; lines that are none are skipped."""
    found = (_sanlocks(entry) if entry.identifier == SANLOCK else parse_line(entry) for entry in entries)
    return [event for event in found if event is not None]


def parse_line(entry: Entry) -> OutageEvent | None:
    """Read an entry of our own journal that is about a domain or a lockspace's renewals: see events.py."""
    logged = read_event(entry.message, entry.fields) if entry.identifier == IDENTIFIER else None
    if logged is not None and logged.kind in _RENEWAL_KINDS:
        return _of_renewals(entry, logged)
    if logged is None or not logged.uuid:
        return None
    kind = "ignored" if logged.action == "ignore" else logged.outcome
    parts = logged.parts
    text = entry.message.partition(": ")[2] if parse_head(entry.message) else entry.message
    holder = _HOLDER.search(text)
    return OutageEvent(
        entry.time,
        kind,
        action=logged.action,
        name=logged.name or "",
        uuid=logged.uuid,
        text=text,
        found=parts.get("found", ""),
        did=parts.get("did", ""),
        verified=parts.get("verified", ""),
        # Of the others the text has all.
        note=parts.get("note", "") if kind in _ENDS else "",
        seconds=as_number(parts.get("seconds")) if kind in _ENDS else None,
        tries=_number(parts.get("tries")) if kind in (*_ENDS, "try") else None,
        pid=_number(holder and holder["pid"]),
    )


def _of_renewals(entry: Entry, logged: Event) -> OutageEvent:
    parts = logged.parts
    lockspace, seconds = parts.get("lockspace", ""), as_number(parts.get("seconds"))
    kind = _RENEWAL_KINDS[logged.kind]
    text = {
        WARNED: f"no renewal for {parts.get('seconds', '?')} s",
        RENEWED: f"renewed again, after {parts.get('seconds', '?')} s without a renewal; nothing is lost",
        LEFT: "not joined any more",
    }[kind]
    if kind == WARNED and "lost" in parts:
        text = f"{text}, lost at {parts['lost']} without one"
    return OutageEvent(entry.time, kind, text=text, seconds=seconds, lockspace=lockspace)


def _number(text: str | None) -> int | None:
    """TEXT as a number, None where it is none: a field is whatever root has sent."""
    number = as_number(text)
    return None if number is None else int(number)


def _sanlocks(entry: Entry) -> OutageEvent | None:
    if _LOST.match(entry.message):
        return OutageEvent(entry.time, "lost", text=entry.message)
    kill = _KILL.match(entry.message)
    if kill is None:
        return None
    kind, pid, count = _SIGNALS[kill["signal"]], int(kill["pid"]), int(kill["count"])
    return OutageEvent(entry.time, kind, text=entry.message, pid=pid, tries=count)


def add_records(events: Iterable[OutageEvent], records: Iterable[Record]) -> list[OutageEvent]:
    """EVENTS, and one for each of RECORDS that none of them is of."""
    logged = list(events)
    times: dict[tuple[str, str], list[float]] = {}
    for event in logged:
        times.setdefault((event.uuid, event.action), []).append(event.time)
    return [
        *logged,
        *(
            _from_record(record)
            for record in records
            if not _is_logged(record, times.get((record.uuid, record.action), []))
        ),
    ]


def _is_logged(record: Record, times: Iterable[float]) -> bool:
    """Whether one of TIMES, at which its action on its domain was logged, is of RECORD's loss."""
    return any(-RECORD_EARLY <= time - record.time <= QUIET_SECONDS for time in times)


def _from_record(record: Record) -> OutageEvent:
    """A record has what was asked for and found, not how that ended."""
    number = len(record.leases)
    leases = f"{number} lease{'' if number == 1 else 's'} held"
    if record.unknown:
        leases = f"leases not known: {record.unknown}"
    note = f"{leases}; how it ended is not in the journal"
    if record.cause:
        # No helper was called for it.
        note = f"it stopped by an {record.cause}, {leases} until then"
    text = f"{ON_RECORD}: found {record.found}, {note}"
    return OutageEvent(
        record.time,
        ON_RECORD,
        record.action,
        record.name,
        record.uuid,
        text,
        found=record.found,
        note=note,
    )


def name_kills(events: Iterable[OutageEvent], records: Iterable[Record]) -> list[OutageEvent]:
    """EVENTS, where each kill has the name and UUID of its process's domain, as far as these are known.

    A reason for another try names the process, and so do RECORDS.  A process id may be another process's
    later: what is QUIET_SECONDS older than the kill proves nothing.
    """
    events = list(events)
    known = [(event.time, event.pid, event.name, event.uuid) for event in events if event.pid and event.uuid]
    known += [(record.time - RECORD_EARLY, record.pid, record.name, record.uuid) for record in records]
    domains: dict[int | None, list[tuple[float, str, str]]] = {}
    for time, pid, name, uuid in sorted(known, key=lambda known: known[0]):
        domains.setdefault(pid, []).append((time, name, uuid))
    return [_named(event, domains.get(event.pid, [])) if event.kind in _KILLS else event for event in events]


def _named(kill: OutageEvent, domains: list[tuple[float, str, str]]) -> OutageEvent:
    """KILL with the name and UUID of the last of DOMAINS that had its process then."""
    found = [domain for domain in domains if 0 <= kill.time - domain[0] <= QUIET_SECONDS]
    return replace(kill, name=found[-1][1], uuid=found[-1][2]) if found else kill


def name_domains(
    events: Iterable[OutageEvent], records: Iterable[Record], more: Callable[[], Mapping[str, str]] = dict
) -> list[OutageEvent]:
    """EVENTS, where each domain without a name has the one that other events or RECORDS have for its UUID.

    MORE has further names by UUID; it is asked only where one is missing still.
    """
    events = list(events)
    names = {record.uuid: record.name for record in records if record.name}
    names.update((event.uuid, event.name) for event in events if event.uuid and event.name)
    if any(event.uuid and not event.name and event.uuid not in names for event in events):
        names = {**more(), **names}
    return [
        replace(event, name=names[event.uuid]) if not event.name and event.uuid in names else event
        for event in events
    ]


def make_outages(
    events: Iterable[OutageEvent], waiting: Mapping[str, Record] | None = None, quiet: float = QUIET_SECONDS
) -> list[Outage]:
    """Group EVENTS into outages, oldest first; WAITING are the records of recovery by UUID."""
    outages = _grouped(events, quiet)
    for uuid, record in (waiting or {}).items():
        for outage in reversed(outages):
            if uuid in outage.domains:
                outage.domains[uuid].waiting = record
                break
    return outages


def _grouped(events: Iterable[OutageEvent], quiet: float) -> list[Outage]:
    outages: list[Outage] = []
    killed: set[tuple[int, str, int | None]] = set()
    for event in sorted(events, key=lambda event: event.time):
        outage = _outage_of(event, outages, quiet)
        if outage is None:
            outage = Outage(event.time, event.time)
            outages.append(outage)
        if event.kind in _KILLS:
            process = (len(outages), event.kind, event.pid)
            if process in killed:
                continue
            killed.add(process)
        _add(event, outage)
    return outages


def _add(event: OutageEvent, outage: Outage) -> None:
    if event.action in ACTIONS or not event.action:
        outage.ended = event.time
    if event.kind == "lost":
        outage.lost.append(event.time)
    elif event.kind == "sigkill":
        outage.sigkills.append(event)
    elif event.kind == "sigterm":
        outage.sigterms.append(event)
    elif event.kind in _RENEWAL_KINDS.values():
        outage.renewals.append(event)
    else:
        outage.domains.setdefault(event.uuid, DomainOutage(event.uuid)).events.append(event)


def _outage_of(event: OutageEvent, outages: list[Outage], quiet: float) -> Outage | None:
    if event.action and event.action not in ACTIONS:
        for outage in reversed(outages):
            if event.uuid in outage.domains:
                return outage
    open_ones = [outage for outage in reversed(outages) if event.time - outage.ended <= quiet]
    if event.kind in _KILLS:
        # sanlock kills for a loss, whatever else was done meanwhile.
        open_ones.sort(key=lambda outage: not outage.lost)
    if not open_ones:
        return None
    outage = open_ones[0]
    # What was done before a loss, by hand, is no part of it; nor what was asked for when it was over.
    is_of_storage = event.kind == "lost" or event.kind in _RENEWAL_KINDS.values()
    if is_of_storage and not (outage.lost or outage.renewals):
        return None
    if event.action and outage.renewals and not (outage.lost or outage.is_loss_ahead):
        return None
    return None if _is_later(event, outage) else outage


def _is_later(event: OutageEvent, outage: Outage) -> bool:
    """Whether EVENT is an action that was not asked for because of the loss of OUTAGE."""
    if not outage.lost or event.action not in ACTIONS:
        return False
    if event.kind not in (*_ENDS, "ignored", ON_RECORD):
        return False
    tried = outage.domains.get(event.uuid)
    if tried is not None and tried.outcome is not None and tried.outcome.kind == "try":
        return False
    return event.time - (event.seconds or 0.0) > outage.lost[-1] + LOSS_SECONDS


def last_events(events: Iterable[OutageEvent]) -> dict[str, OutageEvent]:
    """What was logged last of each domain, by UUID; failed tries and remarks on an action do not count."""
    ordered = sorted(events, key=lambda event: event.time)
    return {event.uuid: event for event in ordered if event.uuid and not _is_aside(event)}


def _is_aside(event: OutageEvent) -> bool:
    return event.kind in ("try", "sigterm") or (event.kind == "note" and event.action in ACTIONS)
