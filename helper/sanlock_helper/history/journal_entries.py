# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the journal has: our own lines and sanlock's, read back with journalctl or from an exported file.

Any user can log under any name.  So a line counts only for what journald itself has noted of its sender, in
the fields with a leading underscore, which no client can set (systemd.journal-fields(7)): see is_trusted().
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from .. import IDENTIFIER
from ..command import NO_END, NOT_RUN, run
from ..errors import PermanentError, UsageError, needs_root
from ..escapes import shown
from ..numbers import whole_number
from ..timestamps import LAST_TIME
from .logged_events import is_field

SANLOCK = "sanlock"
SANLOCK_UNIT = "sanlock.service"

# journalctl reads from disk: a large journal on a slow one takes its time.
SECONDS = 20.0

# A longer line is no export: without --all, a field of more than 4096 bytes is null in it.
MAX_LINE = 1024 * 1024

HINT = "journalctl -o json on the host that has it, then --journal FILE"

_AGE = re.compile(r"(?P<number>\d+)\s*(?P<unit>[smhdw])(?:\s+ago)?")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Entry:
    """One message: seconds since the epoch, its sender, its text, and the fields of an event beside it."""

    time: float
    identifier: str
    message: str
    fields: Mapping[str, str] = field(default_factory=dict)


def read_journal(since: float, seconds: float = SECONDS, program: str = "journalctl") -> list[Entry]:
    """The entries since SINCE (seconds since the epoch), oldest first.

    Raises PermanentError when there is no journal to be read, or reading takes longer than SECONDS.
    """
    named = ["-t", IDENTIFIER, "-t", SANLOCK, f"--since=@{max(0.0, since):.0f}"]
    # Lines of others would be dropped by parse_entries(), after they had been read and printed.
    senders = ["_UID=0", "+", f"_SYSTEMD_UNIT={SANLOCK_UNIT}"]
    text = _journalctl(program, ["-o", "json", "--all", "--no-pager", *named, *senders], seconds)
    # Where there are no files at all, journalctl -o json prints nothing, with status 0: no message is no
    # outage only where messages are kept.  systemd 252 shows that with --header.
    if not text and not _journalctl(program, ["--header"], seconds):
        raise PermanentError("read the journal", "this host keeps none: there are no journal files", HINT)
    return parse_entries(text.splitlines(), since)


def _journalctl(program: str, arguments: list[str], seconds: float) -> bytes:
    """What journalctl prints.  Raises PermanentError when it cannot read the system's messages."""
    answer = run([program, *arguments], seconds)
    if answer.status == NOT_RUN:
        raise PermanentError("read the journal", answer.problem, HINT)
    if answer.status == NO_END:
        raise PermanentError("read the journal", f"not done within {seconds:g} s")
    errors = answer.stderr
    if "not seeing messages" in errors or "insufficient permissions" in errors:
        raise needs_root("read the journal", "no permission to read the system's messages")
    if answer.status != 0:
        raise PermanentError("read the journal", answer.why, HINT)
    return answer.output


def read_file(path: str, since: float) -> list[Entry]:
    """The same from a file that `journalctl -o json` wrote.

    Raises PermanentError when it cannot be read, or is another one: that is no time without outages.
    """
    what, hint = f"read {path or repr(path)}", "--journal takes what journalctl -o json wrote"
    # Whether a line is one of an export, for those that are not blank.
    kinds: set[bool] = set()

    def note(line: bytes) -> bytes:
        if line.strip():
            kinds.add(line.startswith(b"{") and b'"__REALTIME_TIMESTAMP"' in line)
        return line

    try:
        with open(path, "rb") as file:
            entries = parse_entries(
                (note(line) for line in iter(lambda: file.readline(MAX_LINE), b"")), since
            )
    except OSError as error:
        raise PermanentError(what, error.strerror or str(error), hint) from error
    if kinds == {False}:
        raise PermanentError(what, "no line of it is an entry of a journal", hint)
    return entries


def parse_entries(lines: Iterable[bytes], since: float = 0.0) -> list[Entry]:
    """Read `journalctl -o json`, one object a line; what is not of interest is skipped.

    So is what cannot be read, and what another user has logged under one of the names: see is_trusted().
    """
    found = (_entry(line) for line in lines)
    return sorted((entry for entry in found if entry and entry.time >= since), key=lambda entry: entry.time)


def is_trusted(identifier: str, fields: Mapping[str, Any]) -> bool:
    """Whether journald vouches for the sender of an entry with these FIELDS under IDENTIFIER.

    This program's lines are root's.  sanlock's are of its service, whose daemon runs as user sanlock on
    Fedora and RHEL, or root's: a daemon may be started without its unit, and root can log anything anyway.
    """
    is_roots = _is_always(fields.get("_UID"), "0")
    return is_roots or (identifier == SANLOCK and _is_always(fields.get("_SYSTEMD_UNIT"), SANLOCK_UNIT))


def _entry(line: bytes) -> Entry | None:
    if len(line) > MAX_LINE:
        return None
    try:
        fields = json.loads(line)
        identifier = fields["SYSLOG_IDENTIFIER"]
        if identifier not in (IDENTIFIER, SANLOCK) or not is_trusted(identifier, fields):
            return None
        time, message = _time(fields["__REALTIME_TIMESTAMP"]), _text(fields["MESSAGE"])
        return Entry(time, identifier, message, _fields(fields) if identifier == IDENTIFIER else {})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _fields(entry: Mapping[str, Any]) -> dict[str, str]:
    """The fields of ENTRY that an event has; none where one of them is no text, or is repeated."""
    found = {name: value for name, value in entry.items() if is_field(name)}
    try:
        return {name: _field(value) for name, value in found.items()}
    except (ValueError, TypeError):
        return {}


def _field(value: Any) -> str:
    """A field's VALUE.  Raises ValueError or TypeError when it is no text: null, or several in a list."""
    if isinstance(value, list):
        return bytes(value).decode("utf-8", "backslashreplace")
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _is_always(value: Any, wanted: str) -> bool:
    """Whether a field's VALUE, or each of them where the field is repeated, is WANTED."""
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(each == wanted for each in values)


def _time(text: Any) -> float:
    """Seconds since the epoch for a time in microseconds.  Raises ValueError when it is none."""
    number = whole_number(text) if isinstance(text, str) else None
    if number is None:
        raise ValueError("no time")
    seconds = number / 1e6
    if seconds > LAST_TIME:
        raise ValueError("not a time of this era")
    return seconds


def _text(value: Any) -> str:
    # What is not UTF-8 comes as a list of bytes; what is longer than 4096 bytes as null.
    return bytes(value).decode("utf-8", "backslashreplace") if isinstance(value, list) else str(value)


def parse_since(text: str, now: datetime) -> float:
    """Seconds since the epoch for `2026-11-22 20:15`, `yesterday`, `today`, or an age: `2h`, `3 d ago`.

    Raises UsageError for anything else.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    words = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if text in words:
        return words[text].timestamp()
    age = _AGE.fullmatch(text.strip())
    try:
        if age:
            return (now - timedelta(**{_UNITS[age["unit"]]: int(age["number"])})).timestamp()
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            "--since", f"{shown(text)} is no time", "for example 2h, yesterday, '2026-11-22 20:15'"
        ) from None
