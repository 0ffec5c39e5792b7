# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show the outages: when the lease was lost, what was found, done and verified, and what came back.

It is made from the journal and from the records that the helper leaves for recovery; nothing is changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from ...history.journal_entries import parse_since
from ...history.outages import ON_RECORD, WARNED, DomainOutage, Outage, OutageEvent, make_outages
from ...history.sources import gather
from ...records.record import Record
from ...threads import within
from ...timestamps import iso, moment
from ..connecting import add_connect, connect_within
from ..terminal import plain, print_json, print_pieces, warn
from ..wrapping import Piece

SCHEMA = 1

LIBVIRT_SECONDS = 10.0

_COLOURS = {
    "done": "green",
    "failed": "red",
    "not done": "yellow",
    "try": "yellow",
    "ignored": "yellow",
    ON_RECORD: "yellow",
}


# Of a record's `todo`.
_PARTICIPLES = {"start": "started", "resume": "resumed"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "--since",
        metavar="TIME",
        default="30d",
        help="'2026-11-22 20:15', today, yesterday, or an age as in 2h or 3d; default: %(default)s",
    )
    parser.add_argument("--domain", metavar="DOMAIN", help="this domain only: name, UUID or id")
    parser.add_argument(
        "--journal", metavar="FILE", help="a file by journalctl -o json, not the journal and the records here"
    )
    add_connect(parser, "where an id is looked up")
    parser.add_argument("--json", action="store_true", help="one JSON document, see packaging/schema")


def run(arguments: argparse.Namespace) -> int:
    """Print what there is; 1 when the journal cannot be read and there is no record either."""
    since = parse_since(arguments.since, datetime.now())
    logged = gather(since, arguments.journal)
    if logged.journal_error and not logged.events:
        # "No outage" would be a guess.
        for problem in logged.problems[1:]:
            warn(problem)
        raise logged.journal_error
    events = logged.events
    if arguments.domain is not None:
        events = _of_domain(events, arguments.domain, arguments.connect)
    outages = make_outages(events, logged.waiting)
    if arguments.domain is not None:
        outages = [outage for outage in outages if outage.domains]
    if arguments.json:
        data = {"since": iso(since), "outages": [_json(outage) for outage in outages]}
        print_json("history", SCHEMA, {**data, "problems": logged.problems})
        return 0
    if not outages:
        of = "" if arguments.domain is None else f" of {plain(arguments.domain)}"
        print_pieces([Piece(f"no outage{of} since {moment(since)}")])
    for number, outage in enumerate(outages):
        _print(outage, number > 0)
    sys.stdout.flush()
    for problem in logged.problems:
        warn(problem)
    return 0


def _of_domain(events: list[OutageEvent], text: str, uri: str) -> list[OutageEvent]:
    """EVENTS of one domain, and of the host."""
    uuids = {event.uuid for event in events if event.uuid == text.lower() and text}
    if not uuids:
        # A name may be given as it is shown.
        uuids = {event.uuid for event in events if event.uuid and text in (event.name, plain(event.name))}
    if not uuids and text.isascii() and text.isdigit():
        from ...virt.lookup import find_domain  # with libvirt-python, which nothing else here needs

        connection = connect_within(uri)
        domain = within(LIBVIRT_SECONDS, f"look up domain {text}", lambda: find_domain(connection, text))
        uuids = {domain.UUIDString()}
    return [event for event in events if not event.uuid or event.uuid in uuids]


def _print(outage: Outage, apart: bool) -> None:
    if apart:
        print()
    count = len(outage.domains)
    kills = [("SIGTERM", outage.sigterms), ("SIGKILL", outage.sigkills)]
    sent = "".join(f", {len(events)} {signal} by sanlock" for signal, events in kills if events)
    print_pieces([Piece(f"{_head(outage)}: {count} domain{'' if count == 1 else 's'}{sent}", "bold")])
    for event in outage.renewals:
        colour = "yellow" if event.kind == WARNED else ""
        _print_line(event.time, f"lockspace {event.lockspace}: ", Piece(event.text, colour))
    for domain in outage.domains.values():
        _print_domain(domain)
    for signal, events in kills:
        for event in events:
            _print_kill(signal, event)


def _head(outage: Outage) -> str:
    if outage.lost:
        return f"lease lost at {moment(outage.lost[0])}"
    if outage.renewals:
        end = "how that ended is not in the journal" if outage.is_loss_ahead else "nothing was lost"
        return f"renewals failed at {moment(outage.began)}, {end}"
    return f"{moment(outage.began)}, no loss on record, as when it is done by hand"


def _print_kill(signal: str, event: OutageEvent) -> None:
    """The first such signal to a process; which domain's it was, where that is known."""
    whose = f"{event.name or event.uuid}: " if event.uuid else ""
    colour = "red" if signal == "SIGKILL" else "yellow"
    _print_line(event.time, whose, Piece(f"sanlock sent {signal} to process {event.pid}", colour))


def _print_line(time: float | None, subject: str, what: Piece, more: str = "") -> None:
    """A line of an outage: the time of day, SUBJECT and WHAT it is, in WHAT's colour, and MORE."""
    clock = "" if time is None else moment(time).split()[1]
    body = [Piece(plain(subject)), what._replace(text=plain(what.text)), Piece(more)]
    print_pieces([Piece(f"  {clock:8}  "), *body], indent=12)


def _print_domain(domain: DomainOutage) -> None:
    """Its events, where tries that failed are only counted, unless they are the end of it."""
    name, outcome, tries = domain.name or domain.uuid, domain.outcome, 0
    for event in (*domain.actions, *domain.came_back):
        if event.kind == "try" and event is not outcome:
            tries = max(tries + 1, event.tries or 0)
            continue
        failed = domain.failed_tries if event is outcome and event.kind != "try" else tries
        again = f" (failed before: {failed})" if failed else ""
        _print_line(
            event.time, f"{name}: {event.action} ", Piece(event.text, _COLOURS.get(event.kind, "")), again
        )
        tries = 0
    if domain.waiting:
        _print_line(None, f"{name}: ", Piece(_waits(domain.waiting), "yellow"))


def _waits(record: Record) -> str:
    """What recovery still has to do, by its record."""
    if record.mark == "refused":
        return f"not to be {_PARTICIPLES[record.todo]} by itself: {record.why}"
    if record.mark:
        return f"waits for recovery, which was {record.mark} it"
    # Whether it is to be brought back at all, recovery asks when it comes to it.
    return f"waits for recovery, to be {_PARTICIPLES[record.todo]} if its policy asks for it"


def _json(outage: Outage) -> dict[str, Any]:
    return {
        "began": iso(outage.began),
        "ended": iso(outage.ended),
        "lost": [iso(time) for time in outage.lost],
        "sigkills": [_kill_json(event) for event in outage.sigkills],
        "sigterms": [_kill_json(event) for event in outage.sigterms],
        "domains": [_domain_json(domain) for domain in outage.domains.values()],
        "renewals": [_renewals_json(event) for event in outage.renewals],
    }


def _renewals_json(event: OutageEvent) -> dict[str, Any]:
    return {
        "time": iso(event.time),
        "lockspace": event.lockspace,
        "kind": event.kind,
        "seconds": event.seconds,
        "text": event.text,
    }


def _kill_json(event: OutageEvent) -> dict[str, Any]:
    return {"time": iso(event.time), "pid": event.pid, "name": event.name, "uuid": event.uuid or None}


def _domain_json(domain: DomainOutage) -> dict[str, Any]:
    outcome = domain.outcome
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "action": outcome.action if outcome else None,
        "outcome": outcome.kind if outcome else None,
        "found": outcome.found if outcome else "",
        "did": outcome.did if outcome else "",
        "verified": outcome.verified if outcome else "",
        "note": outcome.note if outcome else "",
        "seconds": outcome.seconds if outcome else None,
        "failed_tries": domain.failed_tries,
        "came_back": _events_json(domain.came_back),
        "waiting": domain.waiting and _waiting_json(domain.waiting),
        "events": _events_json(domain.events),
    }


def _waiting_json(record: Record) -> dict[str, Any]:
    return {
        "since": iso(record.time),
        "todo": record.todo,
        "state": record.mark or "waiting",
        "why": record.why,
    }


def _events_json(events: Iterable[OutageEvent]) -> list[dict[str, Any]]:
    return [
        {"time": iso(event.time), "kind": event.kind, "action": event.action, "text": event.text}
        for event in events
    ]
