# SPDX-License-Identifier: LGPL-2.1-or-later
"""Outages, made out of what was told in the journal: when a lease was lost, what was done to each domain.

The recovery records add what the journal has lost, or never had: that a domain was about to be made safe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from . import IDENTIFIER
from .invocation import ACTIONS
from .journal_entries import SANLOCK, Entry
from .record import Record

# Without an event for so many seconds an outage is over.  What is told of its domains later (a recovery,
# hours after) is still counted to it.
QUIET_SECONDS = 600.0

# A record is written before its domain is touched, so what the journal tells of that comes later; but each
# has its own look at the clock.
RECORD_EARLY = 1.0

# The kind of an event that is known from a record alone.
ON_RECORD = "on record"

_LINE = re.compile(
    r"(?P<action>[a-z][a-z-]*) (?:(?P<name>.*) )?"
    r"(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}): (?P<text>.*)",
    re.DOTALL,
)
_VERDICT = re.compile(
    r"(?P<verdict>done|NOT DONE|FAILED)(?: after (?P<seconds>[0-9.]+) s)?"
    r"(?: at try (?P<tries>\d+))?: (?P<rest>.*)",
    re.DOTALL,
)
_OUTCOME = re.compile(
    r"found (?P<found>.*?), (?P<did>.*), verified (?P<verified>[^;]*)(?:; (?P<note>.*))?", re.DOTALL
)
_REQUESTS = re.compile(r" \(\d+ requests\)\Z")
_TRY = re.compile(r"try (?P<tries>\d+) failed: ")
# sanlock src/lockspace.c, check_our_lease(), and src/main.c, send_helper_kill().
_LOST = re.compile(r"\bs\d+ check_our_lease (?:failed|corrupt) -?\d+")
_KILL = re.compile(r"\bs\d+ kill (?P<pid>\d+) sig 9 count 1\b")


@dataclass(frozen=True)
class Event:
    """Something that was told.

    `kind` is done, not done, failed, try, ignored, note or on record for a domain; lost or sigkill for the
    host.
    `text` is the line without the domain; what does not apply is "" or None.  `seconds` is how long it took.
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


@dataclass
class Story:
    """What happened to one domain in one outage; `waiting` is the record of it that recovery still has."""

    uuid: str
    events: list[Event] = field(default_factory=list)
    waiting: Record | None = None

    @property
    def name(self) -> str:
        """As last told, "" when it never was."""
        return next((event.name for event in reversed(self.events) if event.name), "")

    @property
    def actions(self) -> list[Event]:
        """What was done on the loss."""
        return [event for event in self.events if event.action in ACTIONS]

    @property
    def outcome(self) -> Event | None:
        """How the action ended, as far as it is told."""
        actions = self.actions
        told = [event for event in actions if event.kind not in ("try", "note")] or actions
        return told[-1] if told else None

    @property
    def came_back(self) -> list[Event]:
        """What recovery told."""
        return [event for event in self.events if event.action not in ACTIONS]


@dataclass
class Outage:
    """Events that belong together; `lost` are the times (seconds since the epoch) of lockspaces lost."""

    began: float
    ended: float
    lost: list[float] = field(default_factory=list)
    sigkills: list[Event] = field(default_factory=list)
    stories: dict[str, Story] = field(default_factory=dict)


def events_of(entries: Iterable[Entry]) -> list[Event]:
    """The events that ENTRIES tell; lines that tell none are skipped."""
    found = (_sanlocks(entry) if entry.identifier == SANLOCK else parse_line(entry) for entry in entries)
    return [event for event in found if event is not None]


def parse_line(entry: Entry) -> Event | None:
    """Read a line of our own journal; agent.py and killpath.py write them."""
    line = _LINE.fullmatch(entry.message)
    if entry.identifier != IDENTIFIER or line is None:
        return None
    text = line["text"]
    verdict, again = _VERDICT.fullmatch(text), _TRY.match(text)
    # One try may serve several requests, and says so at the end.
    outcome = _OUTCOME.fullmatch(_REQUESTS.sub("", verdict["rest"])) if verdict else None
    kind = "ignored" if line["action"] == "ignore" else "note"
    if again:
        kind = "try"
    if verdict:
        kind = verdict["verdict"].lower()
    return Event(
        entry.time,
        kind,
        action=line["action"],
        # The agent's word for a domain whose name it never learned is "-".
        name="" if line["name"] in (None, "-") else line["name"],
        uuid=line["uuid"],
        text=text,
        found=outcome["found"] if outcome else "",
        did=outcome["did"] if outcome else "",
        verified=outcome["verified"] if outcome else "",
        note=(outcome["note"] or "") if outcome else (verdict["rest"] if verdict else ""),
        seconds=float(verdict["seconds"]) if verdict and verdict["seconds"] else None,
        tries=_number((verdict and verdict["tries"]) or (again and again["tries"])),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _sanlocks(entry: Entry) -> Event | None:
    if _LOST.search(entry.message):
        return Event(entry.time, "lost", text=entry.message)
    kill = _KILL.search(entry.message)
    return Event(entry.time, "sigkill", text=entry.message, pid=int(kill["pid"])) if kill else None


def add_records(events: Iterable[Event], records: Iterable[Record]) -> list[Event]:
    """EVENTS, and one for each of RECORDS that none of them tells of."""
    told = list(events)
    return [*told, *(_from_record(record) for record in records if not _is_told(record, told))]


def _is_told(record: Record, events: Iterable[Event]) -> bool:
    return any(
        event.uuid == record.uuid
        and event.action == record.action
        and -RECORD_EARLY <= event.time - record.time <= QUIET_SECONDS
        for event in events
    )


def _from_record(record: Record) -> Event:
    """A record says what was asked for and found, not how it ended."""
    number = len(record.leases)
    leases = f"{number} lease{'' if number == 1 else 's'} held"
    if record.unknown:
        leases = f"leases not known: {record.unknown}"
    note = f"{leases}; how it ended is not in the journal"
    text = f"{ON_RECORD}: found {record.found}, {note}"
    return Event(
        record.time,
        ON_RECORD,
        record.action,
        record.name,
        record.uuid,
        text,
        found=record.found,
        note=note,
    )


def make_outages(
    events: Iterable[Event], waiting: Mapping[str, Record] | None = None, quiet: float = QUIET_SECONDS
) -> list[Outage]:
    """Group EVENTS into outages, oldest first; WAITING are the records of recovery by UUID."""
    outages = _grouped(events, quiet)
    for uuid, record in (waiting or {}).items():
        for outage in reversed(outages):
            if uuid in outage.stories:
                outage.stories[uuid].waiting = record
                break
    return outages


def _grouped(events: Iterable[Event], quiet: float) -> list[Outage]:
    outages: list[Outage] = []
    for event in sorted(events, key=lambda event: event.time):
        outage = _outage_of(event, outages, quiet)
        if outage is None:
            outage = Outage(event.time, event.time)
            outages.append(outage)
        if event.action in ACTIONS or not event.uuid:
            outage.ended = event.time
        if event.kind == "lost":
            outage.lost.append(event.time)
        elif event.kind == "sigkill":
            outage.sigkills.append(event)
        else:
            outage.stories.setdefault(event.uuid, Story(event.uuid)).events.append(event)
    return outages


def _outage_of(event: Event, outages: list[Outage], quiet: float) -> Outage | None:
    if event.uuid and event.action not in ACTIONS:
        for outage in reversed(outages):
            if event.uuid in outage.stories:
                return outage
    if not outages or event.time - outages[-1].ended > quiet:
        return None
    # What was done before a loss, by hand, is no part of it.
    return None if event.kind == "lost" and not outages[-1].lost else outages[-1]


def last_events(events: Iterable[Event]) -> dict[str, Event]:
    """What was told last of each domain, by UUID; failed tries and remarks on an action do not count."""
    ordered = sorted(events, key=lambda event: event.time)
    return {event.uuid: event for event in ordered if event.uuid and not _is_aside(event)}


def _is_aside(event: Event) -> bool:
    return event.kind == "try" or (event.kind == "note" and event.action in ACTIONS)
