# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show all domains: state, on_lockfailure, leases held, what would happen at a loss, and what happened last.

Nothing is changed and no lease is taken.  Times are seconds after the host's last good renewal.

Without libvirtd the domains that run on this host are shown, by libvirt's own files and sanlock.  Where a
line has no room for all columns, the last ones stand below it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ... import RUNTIME_DIR
from ...agent_state import AgentState, agent_state, described_state
from ...errors import PermanentError, TransientError, UsageError
from ...history.current_outage import (
    CurrentOutage,
    LockspaceRow,
    current_outage,
    is_at_rest,
    lockspace_rows,
    read_again,
)
from ...history.forecast import Row, make_rows
from ...history.outages import OutageEvent, last_events
from ...history.sources import History, gather
from ...leases.daemon_states import daemon_states
from ...leases.sanlock_daemon import join_sanlock_group, run_dir
from ...leases.sanlock_status import SanlockStatus, SanlockUnknownError, ask_sanlock
from ...records.record import Record
from ...threads import within
from ...timestamps import iso, moment
from ...virt.connection import is_local
from ...virt.domain_state import STATES
from ...virt.inventory import KnownDomain, find_forgotten, running_domains, take_inventory, with_default
from ..connecting import add_connect, connect_within
from ..formats import JSON, OPENMETRICS, TEXT, add_format
from ..metrics import agent_lines, lockspace_metrics, print_metrics, status_lines
from ..outage_lines import lockspace_json, lockspace_lines, outage_json, outage_line
from ..recovery_plan import held_since, held_text, read_conf
from ..suggestions import did_you_mean
from ..tables import table
from ..terminal import paint, painted, plain, print_json, print_pieces, warn
from ..text_width import columns_of
from ..watching import Watch

SCHEMA = 1

LIBVIRT_SECONDS = 10.0
# What happened longer ago is history's.
JOURNAL_AGE = 7 * 86400.0
# A table is not worth waiting longer for a slow journal.
JOURNAL_SECONDS = 2.0
# A countdown goes on without an answer.
SANLOCK_SECONDS = 0.2
WATCH_SECONDS = 2.0

HEAD = ("NAME", "STATE", "ON_LOCKFAILURE", "RECOVER", "LEASES", "AT A LOSS", "LAST")
# By DomainConfig.recover.
_RECOVER = {True: "yes", False: "-", None: "malformed"}
# What recovery has still to do, by the mark of its record.
_WAITS = {
    "": "waits for recovery",
    "starting": "waits for recovery, which was starting it",
    "resuming": "waits for recovery, which was resuming it",
    "refused": "refused by recovery",
}
CLEAR = "\033[H\033[2J"

_unanswered: list[Any] = []


@dataclass(frozen=True)
class View:
    """What is shown: the rows that are wanted, all that is known of the past, and what could not be read.

    `lockspaces` are those of this host, `outage` one that is not over, and `now` is CLOCK_MONOTONIC.
    """

    rows: list[Row]
    history: History
    problems: list[str]
    lockspaces: list[LockspaceRow]
    outage: CurrentOutage | None
    now: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "domain", metavar="DOMAIN", nargs="*", help="name, UUID or id; all domains without one"
    )
    add_connect(parser)
    parser.add_argument(
        "--state",
        metavar="STATE",
        action="append",
        type=_state,
        help="only domains in this state, as virsh names it: running, paused, 'shut off'; may be repeated",
    )
    parser.add_argument(
        "--name",
        metavar="PATTERN",
        action="append",
        help="only domains of this name; may be 'web*', and repeated",
    )
    add_format(parser)
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


def _state(text: str) -> str:
    """virsh's word for the state that TEXT names, in any case, with or without its blank."""
    known = {word.replace(" ", ""): word for word in STATES}
    found = known.get("".join(char for char in text.lower() if char not in " -_"))
    if found is None:
        meant = did_you_mean(text, STATES) or f"one of: {', '.join(STATES)}"
        raise argparse.ArgumentTypeError(f"{text!r} is no state of a domain; {meant}")
    return found


def _seconds(text: str) -> float:
    try:
        seconds = float(text) if text.isascii() and "_" not in text else 0.0
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0.1 to 86400 seconds")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Print once, or until Ctrl-C; 1 when the domains cannot be listed or a domain is not there."""
    if arguments.format == OPENMETRICS and arguments.watch is not None:
        raise UsageError(
            "--watch", "a textfile has one document", "use one of --watch and --format openmetrics"
        )
    show = {TEXT: _print, JSON: _print_json, OPENMETRICS: _print_metrics}[arguments.format]
    connections: list[Any] = []
    if arguments.watch is None:
        show(_read(connections, arguments), arguments)
        return 0

    def show_again(view: View | None, error: str) -> None:
        if view is not None:
            show(view, arguments)
        if error:
            warn(error)

    is_live = arguments.format == TEXT and sys.stdout.isatty()
    count_down = _count_down if is_live else None
    Watch(lambda: _read(connections, arguments), show_again, count_down).run(arguments.watch)
    return 0


def _count_down(view: View) -> View:
    """VIEW with its lockspaces as they are now, itself where there is nothing new to be shown."""
    if is_at_rest(view.lockspaces, time.monotonic()):
        return view
    join_sanlock_group(run_dir())
    states = daemon_states(run_dir(), SANLOCK_SECONDS)
    lockspaces = (
        read_again(view.lockspaces, states.lockspaces, states.settings) if states else view.lockspaces
    )
    now = time.monotonic()
    if lockspace_lines(lockspaces, now) == lockspace_lines(view.lockspaces, view.now):
        return view
    return replace(view, lockspaces=lockspaces, now=now)


def _read(connections: list[Any], arguments: argparse.Namespace) -> View:
    """All that is shown; the last of CONNECTIONS is used, or one is opened."""
    try:
        if not connections:
            connections.append(connect_within(arguments.connect))
        connection = connections[-1]
        domains = within(LIBVIRT_SECONDS, "list the domains", lambda: take_inventory(connection))
        return _view(domains, [], arguments)
    except TransientError as error:
        # A connection that hangs would do so in its destructor, too, and is kept.
        _unanswered.extend(connections)
        connections.clear()
        # libvirt's status files are for root alone.
        if not is_local(arguments.connect) or os.geteuid() != 0:
            raise
        domains = within(LIBVIRT_SECONDS, "read libvirt's status files", running_domains)
        why = f"{error}; shown is what runs on this host, by libvirt's status files"
        return _view(domains, [why], arguments)


def _view(domains: list[KnownDomain], problems: list[str], arguments: argparse.Namespace) -> View:
    conf = read_conf(arguments.connect)
    domains = with_default(domains, conf.default)
    problems += _hold()
    problems += [f"settings that do not count: {conf.problem}"] if conf.problem else []
    problems += [f"{domain.name}: {problem}" for domain in domains for problem in domain.problems]
    sanlock: SanlockStatus | None = None
    try:
        sanlock = ask_sanlock()
    except SanlockUnknownError as error:
        problems.append(str(error))
    if sanlock is not None and is_local(arguments.connect):
        domains, unknown = _with_forgotten(domains, sanlock)
        problems += unknown
    logged = gather(time.time() - JOURNAL_AGE, arguments.journal, JOURNAL_SECONDS)
    waiting = logged.records or logged.waiting
    rows = make_rows(domains, sanlock, last_events(logged.events), waiting)
    wanted = [row for row in _named(rows, arguments.domain) if _is_wanted(row, arguments)]
    lockspaces: list[LockspaceRow] = []
    if sanlock is not None and is_local(arguments.connect):
        lockspaces = lockspace_rows(sanlock, rows, waiting.values())
    now = time.monotonic()
    outage = current_outage(lockspaces, logged.events, waiting, now)
    return View(wanted, logged, [*problems, *logged.problems], lockspaces, outage, now)


def _hold() -> list[str]:
    """That recovery is held, if it is, or that its disk does not give that."""
    try:
        since = within(JOURNAL_SECONDS, "read whether recovery is held", held_since)
    except TransientError as error:
        return [str(error)]
    return [held_text(since)] if since is not None else []


def _with_forgotten(
    domains: list[KnownDomain], sanlock: SanlockStatus
) -> tuple[list[KnownDomain], list[str]]:
    """DOMAINS with what libvirtd has forgotten, and the problems of that: see find_forgotten().

    The memory of a process may hang, and block every process that reads it.
    """
    holders = {lease.pid for lease in sanlock.leases if sanlock.held_by(lease.pid)}
    what = "read the processes that hold leases"
    try:
        return within(LIBVIRT_SECONDS, what, lambda: find_forgotten(domains, holders))
    except TransientError as error:
        return domains, [str(error)]


def _named(rows: list[Row], names: list[str]) -> list[Row]:
    """Those of ROWS that NAMES name, all without one.  Raises PermanentError for one that names none.

    A name is an id, a UUID or a name, in that order as lookup.find_domain() has it.
    """
    if not names:
        return rows
    found = []
    for name in names:
        matches = (
            [row for row in rows if row.domain.is_active and name == str(row.domain.id)]
            or [row for row in rows if name.lower() in (row.domain.uuid, row.domain.uuid.replace("-", ""))]
            or [row for row in rows if name == row.domain.name]
        )
        if not matches:
            raise PermanentError(f"domain {name!r}", "there is no such domain", "see virsh list --all")
        found += [row for row in matches if row not in found]
    return found


def _is_wanted(row: Row, arguments: argparse.Namespace) -> bool:
    name, states, patterns = row.domain.name, arguments.state, arguments.name
    # "paused (saving)" is paused; a name that is a pattern as it is, as in vm[1], is itself.
    is_state = not states or any(row.domain.state.partition(" (")[0] == state for state in states)
    return is_state and (
        not patterns or any(pattern == name or fnmatchcase(name, pattern) for pattern in patterns)
    )


def _print(view: View, arguments: argparse.Namespace) -> None:
    if arguments.watch is not None:
        title = f"{moment(time.time())}  {plain(arguments.connect)}"
        print(f"{CLEAR}{title}" if sys.stdout.isatty() else title)
    head, *rows = table(HEAD, [_cells(row) for row in view.rows], columns_of())
    for line in head:
        print(paint(painted(line), "bold"))
    for row, lines in zip(view.rows, rows):
        for line in lines:
            print(paint(painted(line), "red" if row.lost else ""))
    _print_outage(view)
    agent = _agent()
    if agent is not None:
        print(f"\nthe agent has been ready since {moment(agent.since)}: {described_state(agent)}")
    for problem in view.problems:
        warn(problem)
    sys.stdout.flush()


def _print_outage(view: View) -> None:
    lines = lockspace_lines(view.lockspaces, view.now)
    lines += [outage_line(view.outage)] if view.outage else []
    if lines:
        print()
    for line in lines:
        print_pieces([line])


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
        _last(row.last, row.waiting),
    )


def _last(last: OutageEvent | None, waiting: Record | None) -> str:
    """What happened last, and that recovery has to do with it still."""
    event = f"{last.action} {last.kind}, {moment(last.time)}".strip() if last else ""
    return "; ".join(filter(None, (event, _WAITS[waiting.mark] if waiting else ""))) or "-"


def _print_metrics(view: View, arguments: argparse.Namespace) -> None:
    records = view.history.records
    events = None if view.history.journal_error else view.history.events
    lines = [
        *lockspace_metrics(view.lockspaces, view.now),
        *status_lines(view.rows, None if records is None else len(records), events, len(view.problems)),
        *_agent_lines(),
    ]
    print_metrics(lines)
    for problem in view.problems:
        warn(problem)


def _print_json(view: View, arguments: argparse.Namespace) -> None:
    data = {
        "uri": arguments.connect,
        "domains": [_json(row) for row in view.rows],
        "lockspaces": [lockspace_json(row, view.now) for row in view.lockspaces],
        "outage": outage_json(view.outage),
        "problems": view.problems,
    }
    # One line each when watched, for a reader that takes them one by one.
    data["agent"] = _agent_json()
    print_json("status", SCHEMA, data, indent=None if arguments.watch else 2)


def _agent() -> AgentState | None:
    """The agent that stands; None where none does, and to others than root, which alone may read that."""
    try:
        return agent_state(Path(RUNTIME_DIR))
    except OSError:
        return None


def _agent_lines() -> list[str]:
    """The agent's gauges; none to others than root: 0 would be a guess."""
    try:
        return agent_lines(agent_state(Path(RUNTIME_DIR)))
    except OSError:
        return []


def _agent_json() -> dict[str, Any] | None:
    agent = _agent()
    if agent is None:
        return None
    return {
        "pid": agent.pid,
        "since": iso(agent.since),
        "resident_mib": agent.resident,
        "locked_mib": agent.locked,
        "stopped": agent.is_stopped,
    }


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
