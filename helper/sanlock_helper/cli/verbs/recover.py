# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bring back the virtual machines that were made safe when their leases were lost.

Joins their lockspaces again, starts what was powered off and resumes what was paused, as far as each one's
policy asks for it and its leases can be had.  Without options each is tried once, those of a higher priority
first.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from errno import ELOOP, ENOSPC, ENOTDIR, ENOTEMPTY, EROFS
from typing import Any

from ... import IDENTIFIER
from ...errors import HelperError, PermanentError, UsageError, hint_for
from ...events import RECOVER, Event, outcome_parts
from ...journal import Journal
from ...leases.lockspaces import JOINED, Sanlock
from ...records.record import Record
from ...records.recovery_hold import RELEASE, Hold
from ...records.single_instance import only_instance
from ...records.store import RecordStore
from ...recovery.domain import DomainRecovery
from ...recovery.dry_run import DryRun, ReadOnlyStore
from ...recovery.host_settings import HostSettings
from ...recovery.lockspace_waits import NOT_CONFIGURED
from ...recovery.loop import Recovery
from ...recovery.paused_jobs import PausedJobs
from ...recovery.verdict import Verdict
from ...threads import within
from ...timestamps import moment
from ...virt import qemu_sanlock_conf
from ...virt.connection import connect
from ...virt.lookup import find_domain
from ..connecting import add_connect, connect_within
from ..live_lines import LiveLines
from ..recovery_plan import held_since, held_text, order_text, plan_as_dict, print_plan, read_conf
from ..remedy_parts import pieces_of
from ..terminal import plain, print_error, print_json, print_pieces, prompt
from ..wrapping import Piece

SCHEMA = 1

# How long --resume-anyway waits for a lockspace that it joined, and for the domain itself.
JOIN_SECONDS = 30.0
RESUME_SECONDS = 60.0
# How long --forget waits for libvirtd to look up which domain is meant.
LIBVIRT_SECONDS = 10.0

# What to do about a path of the records, or of the hold, by the error.
_HINTS = {
    ENOTEMPTY: "rm -r {path}",
    ENOTDIR: "ls -ld {path}",
    ELOOP: "ls -ld {path}",
    EROFS: "findmnt -T {folder}",
    ENOSPC: "df -h {folder}; df -i {folder}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to PARSER."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--wait", action="store_true", help="wait until every domain is back or refused")
    choice.add_argument(
        "--list", action="store_true", help="print what would be brought back; change nothing"
    )
    choice.add_argument("--forget", metavar="DOMAIN", help="do not bring this one back; leave it as it is")
    choice.add_argument(
        "--resume-anyway",
        metavar="DOMAIN",
        help="resume a paused machine although another host may have written to its disks; asks first",
    )
    add_connect(parser, "only the machines of this connection; all without it", None)
    choice.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done to each, in which order, and why not; change nothing",
    )
    choice.add_argument(
        "--hold",
        action="store_true",
        help="bring nothing back until the release, across a reset of the host too",
    )
    choice.add_argument("--release", action="store_true", help="let recovery go on")
    parser.add_argument("--yes", action="store_true", help="with --resume-anyway: do not ask")
    parser.add_argument("--json", action="store_true", help="with --list or --dry-run: print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status.  Raises HelperError."""
    _check(arguments)
    screen = LiveLines(sys.stderr.isatty())
    journal = Journal(to_terminal=screen.log)
    uri = arguments.connect
    store = RecordStore(journal, uri=uri)
    try:
        status = _without_recovery(arguments, store, journal)
        if status is not None:
            return status
        try:
            return _recover(store, journal, screen, arguments.wait)
        except HelperError as error:
            if not arguments.wait:
                raise
            # As a service it has no other place to report it.
            journal.report(Event("recovery-failed", RECOVER, note=str(error).removeprefix(f"{RECOVER}: ")))
            return 1
    except OSError as error:
        raise PermanentError("recover", *_why(error)) from error
    finally:
        journal.flush()


def _why(error: OSError) -> tuple[str, str]:
    """What ERROR is about and its reason, and a remedy."""
    where = f"{error.filename}: " if error.filename else ""
    hint = _HINTS.get(error.errno or 0) if error.filename else None
    path = str(error.filename)
    hint = hint.format(path=path, folder=os.path.dirname(path)) if hint else hint_for(error)
    return f"{where}{error.strerror or error}", hint


def _without_recovery(arguments: argparse.Namespace, store: RecordStore, journal: Journal) -> int | None:
    """Do what ARGUMENTS ask for and return the exit status; None where that is recovery itself."""
    if arguments.list:
        return _list(store, arguments.json, arguments.connect)
    if arguments.dry_run:
        return _dry_run(ReadOnlyStore(journal), arguments.json, arguments.connect)
    if arguments.hold or arguments.release:
        return _set_hold(Hold(), journal, arguments.hold)
    if arguments.forget is not None:
        return _forget(store, journal, arguments.forget, arguments.connect)
    if arguments.resume_anyway is not None:
        return _resume_anyway(store, journal, arguments.resume_anyway, arguments.yes, arguments.connect)
    return None


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that would be ignored: an administrator who gives one expects more."""
    if arguments.json and not (arguments.list or arguments.dry_run):
        raise UsageError("--json", "it belongs to --list and --dry-run", "see recover --help")
    if arguments.yes and arguments.resume_anyway is None:
        raise UsageError("--yes", "it belongs to --resume-anyway DOMAIN", "see recover --help")
    if arguments.connect is not None and (arguments.hold or arguments.release):
        raise UsageError("--connect", "--hold and --release are for the whole host", "see recover --help")


def _recover(store: RecordStore, journal: Journal, screen: LiveLines, wait: bool) -> int:
    """One pass; or with WAIT until nothing is left to wait for: a refused domain is no failure."""
    since = held_since()
    if since is not None and not wait:
        raise PermanentError("recover", f"an administrator has held it since {moment(since)}", RELEASE)
    with only_instance():
        sanlock = Sanlock()
        settings = HostSettings(journal)
        recovery = Recovery(
            store,
            DomainRecovery(
                connect,
                sanlock,
                store,
                host_conf=lambda: settings.conf,
                is_held=lambda: held_since() is not None,
            ),
            sanlock,
            journal,
            qemu_sanlock_conf.auto_lockspace,
            screen.show,
            before_join=PausedJobs(connect, store, journal).settle,
            host_conf=settings.refresh,
            held_since=held_since,
        )
        done = recovery.run(wait)
        screen.show([])
    # Where there may be other records, not all of them are handled.
    return 0 if wait or (done and not store.unread) else 1


def _set_hold(hold: Hold, journal: Journal, begins: bool) -> int:
    if begins and not hold.begin():
        since = hold.since()
        print(f"held already{'' if since is None else f' since {moment(since)}'}: {RELEASE}")
    elif not begins and not hold.end():
        print("recovery was not held")
    else:
        journal.report(Event("recovery-held" if begins else "recovery-released", RECOVER))
    return 0


def _list(store: RecordStore, as_json: bool, uri: str | None = None) -> int:
    """Print the records, those of URI alone where it is given.

    As JSON (packaging/schema/recover-list.json) records, a list of objects with uuid, name, uri, action
    (poweroff, restart, pause), todo (start, resume), time (seconds since the epoch), state (waiting,
    starting, resuming, refused), why (text, for refused), lockspaces (name, host_id, path, offset, io_timeout
    in seconds, 0 for sanlock's default), leases (lockspace, resource, version, path, offset, shared) and
    unknown (why the leases are not known, else ""); priority and delay (seconds) where they are not 0; cause
    ("I/O error") where no killpath was called, and tries, how often it was resumed in a row and stopped again
    for that, where they are not 0.  Where something could not be read there is also problems, a list of
    texts; and where recovery is held, held_since (seconds since the epoch).

    Returns 1, after it has printed what could be read, when there may be other records.
    """
    found, problems = _records(store, uri)
    records = sorted(found.values(), key=lambda record: record.time)
    since = held_since()
    if as_json:
        more = {"problems": problems} if problems else {}
        held = {} if since is None else {"held_since": since}
        data = {"records": [_as_dict(record) for record in records], **more, **held}
        print_json("recover-list", SCHEMA, data)
    else:
        _print_list(records, since)
    return _report(problems)


def _report(problems: list[str]) -> int:
    """Print the PROBLEMS for which there may be other records; returns the exit status."""
    if problems:
        print_error(f"{IDENTIFIER}: {_unread(problems)}")
        return 1
    return 0


def _records(store: RecordStore, uri: str | None) -> tuple[dict[str, Record], list[str]]:
    """The records by UUID, those of URI alone where it is given, and what could not be read."""
    found, problems = store.records_and_problems()
    return {uuid: record for uuid, record in found.items() if uri in (None, record.uri)}, problems


def _print_list(records: list[Record], held: float | None) -> None:
    if held is not None:
        print_pieces([Piece(held_text(held))])
    for record in records:
        since = moment(record.time)
        cause = f" after an {record.cause}" if record.cause else ""
        line = f"{record.name} {record.uuid} {record.todo}{cause} since {since}: {_state(record)}"
        print_pieces([Piece(plain(f"{line}{order_text(record)}"))])
        if record.why:
            print_pieces([Piece("    "), *pieces_of(plain(record.why))])


def _unread(problems: list[str]) -> PermanentError:
    """What is wrong when PROBLEMS, each with its remedy, kept records from being read."""
    return PermanentError("recover: not all records could be read", "; ".join(problems))


def _dry_run(store: ReadOnlyStore, as_json: bool, uri: str | None = None) -> int:
    """Print what recovery would do now: see recovery_plan.py.  Returns 1 when there may be other records."""
    found, problems = _records(store, uri)
    conf = read_conf()
    lockspace = qemu_sanlock_conf.auto_lockspace
    plan = DryRun(connect, Sanlock(), store, lockspace, conf).plan(list(found.values()))
    since = held_since()
    if as_json:
        print_json("recover-dry-run", SCHEMA, {**plan_as_dict(plan, conf, since), "problems": problems})
    else:
        print_plan(plan, conf, since)
    return _report(problems)


def _forget(store: RecordStore, journal: Journal, text: str, uri: str | None = None) -> int:
    record = _find(store, text, uri)
    store.forget(record.uuid)
    journal.report(Event("recovery-forgotten", RECOVER, record.uuid, record.name, uri=record.uri))
    return 0


def _resume_anyway(store: RecordStore, journal: Journal, text: str, yes: bool, uri: str | None = None) -> int:
    record = _find(store, text, uri)
    if record.todo != "resume":
        raise PermanentError(f"resume {record.name}", "it was powered off, not paused", "see recover --list")
    if not yes:
        _ask(record)
    sanlock = Sanlock()
    domain_recovery = DomainRecovery(connect, sanlock, store)
    jobs = PausedJobs(connect, store, journal)
    within(2 * JOIN_SECONDS, "join the lockspaces", lambda: _join_all(sanlock, record, jobs))
    # Taken from the helper's directory, if it still is there, so that it can be marked.
    record = store.gather().get(record.uuid, record)
    finding = within(
        RESUME_SECONDS,
        f"resume {record.name}",
        lambda: domain_recovery.visit(record, ready=True, anyway=True),
    )
    if finding.verdict is Verdict.DONE:
        store.remove(record)
        parts = outcome_parts(finding.text)
        journal.report(Event("resumed-anyway", RECOVER, record.uuid, record.name, uri=record.uri, **parts))
        return 0
    if finding.verdict is Verdict.DROPPED:
        store.remove(record)
    raise PermanentError(f"resume {record.name}", finding.text)


def _ask(record: Record) -> None:
    why = f": {record.why}" if record.why else ""
    print_pieces(pieces_of(plain(f"{record.name} was paused when its leases were lost{why}")))
    danger = "If anything wrote to its disks since, resuming it destroys their content."
    prompt(f"{danger} Resume it? [yes/no] ", sys.stdout)
    if sys.stdin.readline().strip() != "yes":
        raise PermanentError(f"resume {record.name}", "not confirmed", "answer yes, or give --yes")


def _join_all(sanlock: Sanlock, record: Record, jobs: PausedJobs) -> None:
    default = qemu_sanlock_conf.auto_lockspace()
    for noted in record.lockspaces:
        # As recovery does: an old copy of libvirt's own would be no protection, and an old host_id not ours.
        if noted.name == qemu_sanlock_conf.LOCKSPACE and default is None:
            raise PermanentError(f"join lockspace {noted.name}", NOT_CONFIGURED)
        lockspace = default if default is not None and default.name == noted.name else noted
        end = time.monotonic() + JOIN_SECONDS
        while sanlock.lockspaces().get(lockspace.name, (lockspace, ""))[1] != JOINED:
            if time.monotonic() > end:
                raise PermanentError(f"join lockspace {lockspace}", f"not joined within {JOIN_SECONDS:.0f} s")
            if lockspace.name not in sanlock.lockspaces():
                jobs.settle(lockspace)
                sanlock.join(lockspace)
            time.sleep(0.2)


def _find(store: RecordStore, text: str, uri: str | None = None) -> Record:
    """The record of the domain that TEXT names: by UUID or name as recorded, else as libvirt knows it.

    In that order, as virsh does: a domain may be named by another one's UUID.  Of the records of URI alone
    where it is given.

    Raises PermanentError when there is none or more than one, or when not all could be read.
    """
    records, problems = _records(store, uri)
    if text.lower() in records:
        return records[text.lower()]
    found = [record for record in records.values() if text == record.name]
    if len(found) == 1:
        return found[0]
    what = f"domain {text!r}"
    if found:
        raise PermanentError(what, f"{len(found)} records have this name", "give a UUID of recover --list")
    if problems:
        raise _unread(problems)
    unknown = ""
    for each in sorted({record.uri for record in records.values()}):
        try:
            uuid = within(LIBVIRT_SECONDS, f"look up {what}", lambda uri=each: _uuid_of(uri, text))  # type: ignore[misc]
        except HelperError as error:
            unknown = f"; {error}"
            continue
        if uuid in records:
            return records[uuid]
    raise PermanentError(what, f"there is no record of it{unknown}", "see recover --list")


def _uuid_of(uri: str, text: str) -> str:
    connection = connect_within(uri)
    try:
        uuid: str = find_domain(connection, text).UUIDString()
        return uuid
    finally:
        connection.close()


def _state(record: Record) -> str:
    return record.mark or "waiting"


def _as_dict(record: Record) -> dict[str, Any]:
    names = ("uuid", "name", "uri", "action", "todo", "time", "why", "unknown")
    lockspace_names = ("name", "host_id", "path", "offset", "io_timeout")
    lease_names = ("lockspace", "resource", "version", "path", "offset", "shared")
    more = ("priority", "delay", "cause", "tries")
    return {
        **{name: getattr(record, name) for name in names},
        **{name: value for name in more if (value := getattr(record, name))},
        "state": _state(record),
        "lockspaces": [
            {name: getattr(entry, name) for name in lockspace_names} for entry in record.lockspaces
        ],
        "leases": [{name: getattr(entry, name) for name in lease_names} for entry in record.leases],
    }
