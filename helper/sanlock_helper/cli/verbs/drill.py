# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prove that sanlock runs this program's helper on this host, and that it makes a virtual machine safe.

A lockspace of the drill's own is joined, a virtual machine of its own is started with a lease in it, and the
lockspace is overwritten: sanlock loses it, and does what it would do in an outage.  No other virtual machine,
lease or lockspace is touched, and all that was made is removed.  It takes about ten seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ... import RUNTIME_DIR
from ...drill import diagnosis, lease_files
from ...drill.drill import SAFE_SECONDS, Drill, DrillSetup, Subject
from ...drill.guest import Guest, NoEmulatorError
from ...drill.helper_run import LoggedLine
from ...drill.lease_holder import LeaseHolder
from ...drill.links import BROKEN, HOLDS, NAMES, NOT_TRIED, SKIPPED, Link, completed, first_broken
from ...drill.removal import Removal
from ...drill.scratch import NAME, Note, Scratch
from ...errors import HelperError, PermanentError, UsageError, needs_root
from ...events import Event
from ...history.journal_entries import read_journal
from ...history.logged_events import read_event
from ...install.host import Host
from ...journal import Journal
from ...leases.sanlock_status import SanlockStatus, ask_sanlock
from ...records.single_instance import only_instance
from ...virt.connection import connect
from ..remedy_parts import pieces_of
from ..terminal import ask, painted, plain, print_json, print_pieces, warn
from ..text_width import columns_of
from ..wrapping import Piece, wrap

SCHEMA = 1

LOCK = f"{RUNTIME_DIR}/drill.lock"
ACTIONS = ("pause", "poweroff")
JOURNAL_SECONDS = 3.0

_WIDTH = max(map(len, NAMES))
_VERDICT = max(map(len, (HOLDS, BROKEN, SKIPPED, NOT_TRIED)))
_COLOURS = {HOLDS: "green", BROKEN: "red"}
# What ends a drill from outside, beside Ctrl-C: what it made is removed before.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

_PLAN = """\
will:    join a lockspace of its own in {folder}, with an io_timeout of 1 s,
         {start},
         overwrite that lockspace with zeros, and observe what sanlock and the helper do,
         then remove all of it
touches: no other virtual machine, lease or lockspace of this host
risk:    {risk}
"""
_GUEST = (
    "start a virtual machine without disk or network (16 MiB, on_lockfailure {action}) with a lease there"
)
_PROCESS = "start a process (no virtual machine; the action is ignore) that takes a lease there"
_WATCHDOG = """\
sanlock uses the watchdog. It would reset this host only if what holds the lease could not be
         killed for 60 s: the drill kills it {seconds:g} s after the loss at the latest"""
_NO_WATCHDOG = "none for this host: sanlock uses no watchdog"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "action",
        metavar="ACTION",
        nargs="?",
        choices=ACTIONS,
        help="pause, which is the default, or poweroff",
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=_directory,
        default=lease_files.DIRECTORY,
        help="on a disk: a directory for the lockspace is made there; default: %(default)s",
    )
    parser.add_argument(
        "--qemu-less",
        action="store_true",
        help="a process in the place of the virtual machine, and no action",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="one JSON document, see packaging/schema")


def _directory(text: str) -> str:
    if not os.path.isabs(text) or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no absolute path")
    return os.path.normpath(text)


def run(arguments: argparse.Namespace) -> int:
    """Do it; 0 when each link holds, 1 when one broke or the answer was no.  Raises HelperError."""
    if arguments.qemu_less and arguments.action:
        raise UsageError(
            "ACTION", "a process in the place of the virtual machine has none", "omit one of them"
        )
    arguments.action = arguments.action or ACTIONS[0]
    if not os.path.isdir(arguments.directory):
        raise UsageError(
            "--directory", f"{arguments.directory!r} is no directory", "mkdir it, or give another one"
        )
    # What the note has is found again also where a link leads elsewhere by then; see open_directory().
    arguments.directory = os.path.realpath(arguments.directory)
    if os.geteuid() != 0:
        raise needs_root("drill", "sanlock, libvirtd and the spool are root's")
    status = ask_sanlock()
    lost = _lost(status)
    if lost:
        raise PermanentError(
            "drill", f"sanlock is losing {', '.join(lost)}: this is an outage, no time for a drill"
        )
    plan = _explained(arguments, status)
    if arguments.yes:
        print(plan, end="", file=sys.stderr if arguments.json else sys.stdout, flush=True)
    elif not ask("drill", plan):
        print("nothing was done", file=sys.stderr)
        return 1
    hint = "wait for its end; the note of a drill that was killed is removed by the next one"
    try:
        with only_instance(LOCK, "drill", "drill", hint):
            return _DrillVerb(arguments, status).run()
    except BrokenPipeError:
        raise  # the reader of the output has ended
    except OSError as error:
        raise PermanentError("drill", str(error)) from error


def _lost(status: SanlockStatus) -> list[str]:
    """The lockspaces that sanlock is losing, but for that of a drill under way, or of one that was killed.

    Raises PermanentError where the note of that cannot be read.
    """
    noted = Note().read()
    lost = [space.name for space in status.lockspaces if space.lost]
    return [name for name in lost if noted is None or name != noted.name]


def _explained(arguments: argparse.Namespace, status: SanlockStatus) -> str:
    start = _PROCESS if arguments.qemu_less else _GUEST.format(action=arguments.action)
    is_used = status.number("use_watchdog") != 0
    risk = _WATCHDOG.format(seconds=SAFE_SECONDS) if is_used else _NO_WATCHDOG
    return _PLAN.format(folder=plain(os.path.join(arguments.directory, NAME)), start=start, risk=risk)


class _DrillVerb:
    """One drill, printed as it goes."""

    def __init__(self, arguments: argparse.Namespace, status: SanlockStatus) -> None:
        self._arguments = arguments
        self._status = status
        self._note = Note()
        # Its lines are not for the terminal: what is printed there has more.
        self._journal = Journal(to_terminal=lambda line: None)
        self._problems: list[str] = []
        # What could not be removed, and why.
        self._left: list[str] = []
        self._links: list[Link] = []
        self._drill: Drill | None = None

    def run(self) -> int:
        with _signals_raise():
            try:
                self._remove_left()
                scratch = Scratch.new(self._arguments.directory)
                self._note.write(scratch)
                try:
                    self._perform(scratch)
                finally:
                    self._remove(scratch)
            finally:
                self._journal.flush()
        return self._report(scratch)

    def _remove_left(self) -> None:
        """Remove what a drill that was killed has left."""
        left = self._note.read()
        if left is None:
            return
        problems = Removal(left, self._note, connect, self._journal).run()
        if problems:
            what = f"remove what the drill of process {left.pid} left"
            hint = f"once nothing of it is left: rm {self._note.path}"
            raise PermanentError(what, "; ".join(problems), hint)
        self._print(f"removed what the drill of process {left.pid} left, which was killed")

    def _perform(self, scratch: Scratch) -> None:
        host = Host()
        pid = host.sanlock_pid()
        owner = os.stat(f"/proc/{pid}") if pid else os.stat("/")
        grace = self._status.number("kill_grace_seconds")
        prefix = ("nsenter", f"--target={pid}", "--mount", "--") if host.has_own_mounts(pid) else ()
        sanlock = diagnosis.RunningSanlock(host.stock(), host.seen_by(pid), _environ(pid), prefix, grace)
        since = time.time()
        setup = DrillSetup(scratch, sanlock, owner.st_uid, owner.st_gid, lambda: _logged(scratch.uuid, since))
        drill = self._drill = Drill(setup, self._subject(scratch, sanlock.path), self._began)
        try:
            for link in drill.links():
                self._links.append(link)
                self._print_link(link)
        finally:
            drill.close()

    def _subject(self, scratch: Scratch, path: str) -> Subject:
        if not self._arguments.qemu_less:
            guest = Guest(scratch, self._arguments.action, connect)
            try:
                guest.choose()
                return guest
            except NoEmulatorError as error:
                guest.close()
                self._problems.append(f"{error.what}: {error.why}; a process holds the lease in its place")
                warn(self._problems[-1])
            except HelperError:
                return guest  # the link of the start reports it
        return LeaseHolder(
            scratch,
            path,
            lambda pid, start: self._note.write(replace(scratch, holder=pid, holder_start=start)),
        )

    def _began(self, scratch: Scratch, space: str) -> None:
        self._journal.report(Event("drill-began", lockspace=scratch.name, space=space))
        self._journal.flush()

    def _remove(self, scratch: Scratch) -> None:
        """Remove all that was made; no signal keeps it from that."""
        for number in (signal.SIGINT, *_SIGNALS):
            signal.signal(number, signal.SIG_IGN)
        broken = first_broken(self._links)
        ended = broken is not None or len(self._links) == len(NAMES)
        if not ended:
            print("drill: it did not come to its end: removing what it made", file=sys.stderr, flush=True)
        self._left = Removal(scratch, self._note, connect, self._journal).run()
        for problem in self._left:
            warn(f"not removed: {problem}")
        if broken is not None:
            self._journal.report(Event("drill-failed", note=_text(broken)))
        elif not ended:
            self._journal.report(Event("drill-failed", note="it did not come to its end"))
        else:
            self._journal.report(Event("drill-passed", note=self._summary()))

    # What is printed

    def _summary(self) -> str:
        drill = self._drill
        if drill is None or drill.seconds is None:
            return "sanlock ran this program's helper; the action was ignore"
        did = "paused" if self._arguments.action == "pause" else "off"
        return f"its virtual machine was {did} {drill.seconds:.2f} s after the loss, no lease held"

    def _print(self, text: str) -> None:
        if not self._arguments.json:
            print(plain(text), flush=True)

    def _print_link(self, link: Link) -> None:
        if self._arguments.json:
            return
        width, indent = columns_of(), _WIDTH + _VERDICT + 6
        head = [
            Piece(f"{link.number} {link.name:<{_WIDTH}}  "),
            Piece(f"{link.verdict:<{_VERDICT}}", _COLOURS.get(link.verdict, "yellow")),
        ]
        lines = wrap([*head, Piece(f"  {plain(link.found)}".rstrip())], width, indent)
        if link.remedy:
            remedy = [Piece(f"{' ' * indent}remedy: "), *pieces_of(plain(link.remedy))]
            lines += wrap(remedy, width, indent)
        print("\n".join(painted(line).rstrip() for line in lines), flush=True)

    def _report(self, scratch: Scratch) -> int:
        broken = first_broken(self._links)
        ok = broken is None and not self._left
        if self._arguments.json:
            print_json("drill", SCHEMA, self._data(scratch, broken, ok))
            return 0 if ok else 1
        if broken is not None:
            text = f"drill FAILED at link {broken.number}: {_text(broken)}"
        elif not ok:
            text = "drill FAILED: the chain holds, and what the drill made could not be removed"
        else:
            text = f"drill passed: {self._summary()}"
        print_pieces(pieces_of(plain(text), "green" if ok else "red"), indent=0)
        return 0 if ok else 1

    def _data(self, scratch: Scratch, broken: Link | None, ok: bool) -> dict[str, Any]:
        drill = self._drill
        subject = drill.subject if drill else None
        return {
            "ok": ok,
            "action": subject.action if subject else self._arguments.action,
            "holder": subject.mode if subject else None,
            "virt_type": (subject.virt_type or None) if subject else None,
            "domain": {"name": scratch.name, "uuid": scratch.uuid},
            "directory": scratch.folder,
            "seconds": round(drill.seconds, 3) if drill and drill.seconds is not None else None,
            "broken": broken.name if broken else None,
            "links": [
                {
                    "number": link.number,
                    "name": link.name,
                    "verdict": link.verdict,
                    "found": link.found,
                    "remedy": link.remedy,
                }
                for link in completed(self._links)
            ],
            "problems": [*self._problems, *(f"not removed: {problem}" for problem in self._left)],
        }


def _text(link: Link) -> str:
    """A broken LINK in a line."""
    return f"{link.name}: {link.found}" + (f" ({link.remedy})" if link.remedy else "")


def _environ(pid: int) -> dict[str, str]:
    """The environment of process PID, as its children get it; a service's where it cannot be read."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        words = []
    found = [os.fsdecode(word).partition("=") for word in words if b"=" in word]
    return {name: value for name, _, value in found}


def _logged(uuid: str, since: float) -> list[LoggedLine]:
    """What this program has logged of domain UUID, by journald's word; nothing without a journal."""
    found = []
    with contextlib.suppress(HelperError):
        for entry in read_journal(since, JOURNAL_SECONDS):
            event = read_event(entry.message, entry.fields)
            if event is not None and event.uuid == uuid:
                found.append(LoggedLine(event.kind, event.text()))
    return found


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is inside by an exception, so that what it made is removed."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_SIGNALS)}
    for number in _SIGNALS:
        if before[number] is not signal.SIG_IGN:  # as nohup(1) has SIGHUP
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
