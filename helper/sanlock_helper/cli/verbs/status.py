# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show all domains: state, on_lockfailure, leases held, what would happen at a loss, and what happened last.

Nothing is changed and no lease is taken.  Times are seconds after the host's last good renewal.

Without libvirtd the domains that run on this host are shown, by libvirt's own files and sanlock.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from ...errors import PermanentError, TransientError
from ...history.forecast import Row, make_rows
from ...history.outages import last_events
from ...history.sources import gather
from ...leases.sanlock_status import SanlockStatus, SanlockUnknownError, ask_sanlock
from ...threads import within
from ...virt.connection import is_local
from ...virt.inventory import KnownDomain, find_forgotten, running_domains, take_inventory
from ..connecting import add_connect, connect_within
from ..terminal import iso, moment, paint, print_json, table, warn

SCHEMA = 1

LIBVIRT_SECONDS = 10.0
# What happened longer ago is history's.
JOURNAL_AGE = 7 * 86400.0
# A table is not worth waiting longer for a slow journal.
JOURNAL_SECONDS = 2.0
WATCH_SECONDS = 2.0

HEAD = ("NAME", "STATE", "ON_LOCKFAILURE", "RECOVER", "LEASES", "AT A LOSS", "LAST")
# By DomainConfig.recover.
_RECOVER = {True: "yes", False: "-", None: "malformed"}
CLEAR = "\033[H\033[2J"

_unanswered: list[Any] = []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "domain", metavar="DOMAIN", nargs="*", help="name, UUID or id; all domains without one"
    )
    add_connect(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document, see packaging/schema")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=WATCH_SECONDS,
        help=f"show it again every SECONDS, {WATCH_SECONDS:g} by default, until Ctrl-C",
    )
    parser.add_argument(
        "--journal", metavar="FILE", help="a file by journalctl -o json, not the journal and the records here"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0.1 to 86400 seconds")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Print once, or until Ctrl-C; 1 when the domains cannot be listed or a domain is not there."""
    show = _print_json if arguments.json else _print
    connections: list[Any] = []
    while True:
        try:
            show(*_read(connections, arguments), arguments)
        except TransientError as error:
            if arguments.watch is None:
                raise
            # An outage is what a watch is for: libvirtd may answer the next time.
            warn(str(error))
        if arguments.watch is None:
            return 0
        time.sleep(arguments.watch)


def _read(connections: list[Any], arguments: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """The rows, and what could not be read; the last of CONNECTIONS is used, or one is opened."""
    try:
        if not connections:
            connections.append(connect_within(arguments.connect))
        connection = connections[-1]
        domains = within(LIBVIRT_SECONDS, "list the domains", lambda: take_inventory(connection))
        return _rows(domains, [], arguments)
    except TransientError as error:
        # A connection that hangs would do so in its destructor, too, and is kept.
        _unanswered.extend(connections)
        connections.clear()
        # libvirt's status files are for root alone.
        if not is_local(arguments.connect) or os.geteuid() != 0:
            raise
        domains = within(LIBVIRT_SECONDS, "read libvirt's status files", running_domains)
        why = f"{error}; shown is what runs on this host, by libvirt's status files"
        return _rows(domains, [why], arguments)


def _rows(
    domains: list[KnownDomain], problems: list[str], arguments: argparse.Namespace
) -> tuple[list[Row], list[str]]:
    problems += [f"{domain.name}: {problem}" for domain in domains for problem in domain.problems]
    sanlock: SanlockStatus | None = None
    try:
        sanlock = ask_sanlock()
    except SanlockUnknownError as error:
        problems.append(str(error))
    if sanlock is not None and is_local(arguments.connect):
        holders = {lease.pid for lease in sanlock.leases if sanlock.held_by(lease.pid)}
        domains, unknown = find_forgotten(domains, holders)
        problems += unknown
    logged = gather(time.time() - JOURNAL_AGE, arguments.journal, JOURNAL_SECONDS)
    rows = make_rows(domains, sanlock, last_events(logged.events))
    return _wanted(rows, arguments.domain), [*problems, *logged.problems]


def _wanted(rows: list[Row], names: list[str]) -> list[Row]:
    if not names:
        return rows
    found = []
    for name in names:
        matches = [row for row in rows if name in (row.domain.name, row.domain.uuid, str(row.domain.id))]
        if not matches:
            raise PermanentError(f"domain {name!r}", "there is no such domain", "see virsh list --all")
        found += [row for row in matches if row not in found]
    return found


def _print(rows: list[Row], problems: list[str], arguments: argparse.Namespace) -> None:
    if arguments.watch is not None:
        title = f"{moment(time.time())}  {arguments.connect}"
        print(f"{CLEAR}{title}" if sys.stdout.isatty() else title)
    head, *lines = table(HEAD, [_cells(row) for row in rows])
    print(paint(head, "bold"))
    for row, line in zip(rows, lines):
        print(paint(line, "red" if row.lost else ""))
    for problem in problems:
        warn(problem)
    sys.stdout.flush()


def _cells(row: Row) -> tuple[str, ...]:
    config = row.domain.config
    leases = (
        "?" if row.leases is None else ", ".join(f"{space}: {n}" for space, n in row.leases.items()) or "-"
    )
    return (
        row.domain.name,
        row.domain.state,
        config.on_lockfailure if config else "?",
        _RECOVER[config.recover] if config else "?",
        f"{leases} LOST" if row.lost else leases,
        row.at_loss.text,
        f"{row.last.action} {row.last.kind}, {moment(row.last.time)}".strip() if row.last else "-",
    )


def _print_json(rows: list[Row], problems: list[str], arguments: argparse.Namespace) -> None:
    data = {"uri": arguments.connect, "domains": [_json(row) for row in rows], "problems": problems}
    # One line each when watched, for a reader that takes them one by one.
    print_json("status", SCHEMA, data, indent=None if arguments.watch else 2)


def _json(row: Row) -> dict[str, Any]:
    config, last = row.domain.config, row.last
    return {
        "name": row.domain.name,
        "uuid": row.domain.uuid,
        "id": row.domain.id,
        "state": row.domain.state,
        "on_lockfailure": config.on_lockfailure if config else None,
        "recover": config.recover if config else None,
        "leases": row.leases,
        "lost": list(row.lost),
        "at_loss": {
            "text": row.at_loss.text,
            "helper_seconds": row.at_loss.helper_seconds,
            "sigkill_seconds": row.at_loss.sigkill_seconds,
        },
        "last": last
        and {"time": iso(last.time), "action": last.action, "kind": last.kind, "text": last.text},
    }
