# SPDX-License-Identifier: LGPL-2.1-or-later
"""A record: what a domain was and held when it was made safe, so that recovery can bring it back.

A record is a text of lines, each a key and its words with one blank between them; a word is escaped as in a
Python string literal, so it holds no blank, no newline and nothing but ASCII.  The first line is the format
and its version, the last one a checksum of the others.  json and dataclasses are not used: the killpath
writes records before a virtual machine is safe, and has no 10 ms to import them, nor a disk to do it from.
"""

from __future__ import annotations

from _codecs import unicode_escape_decode, unicode_escape_encode
from binascii import crc32
from typing import Any, Callable

from ..errors import SanlockHelperError
from ..escapes import quoted, shown
from ..leases.held import Lease, Lockspace, raw
from ..numbers import DELAYS, PRIORITIES

FORMAT = "virt-sanlock-helper-record"
VERSION = 2
# Version 1 has no generation in its lockspaces.  It is read all the same: a record on disk may be older than
# the program, which an update may have replaced during an outage.
VERSIONS = ("1", "2")

# The lengths that sanlock takes (SANLK_NAME_LEN and SANLK_PATH_LEN of its src/sanlock.h), and the ranges of
# its and libvirt's C types.
_NAME_BYTES, _PATH_BYTES = 48, 1024
_INFINITE = float("inf")
_INT, _UINT, _LONG, _ULONG = 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1

# What stands behind a backslash in a word, beside another one.
_ESCAPES = {b"n", b"r", b"t", b"x", b"u", b"U"}

# What recovery was about to do when it wrote the record last, or that it will not do it.
MARKS = ("", "starting", "resuming", "refused")


class RecordError(SanlockHelperError):
    """A text is no record of this version; the message is the reason."""


# Each line of a record but those of lockspaces and leases, in the order of the file: its type, and its value
# where none is given.
_FIELDS: dict[str, tuple[type, object]] = {
    "uuid": (str, ""),
    "name": (str, ""),
    "uri": (str, ""),
    "action": (str, ""),
    "found": (str, "running"),
    "boot": (str, ""),
    "unknown": (str, ""),
    "xml": (str, ""),
    "mark": (str, ""),
    "why": (str, ""),
    "run": (int, -1),
    "pid": (int, 0),
    "pid_start": (int, 0),
    "time": (float, 0.0),
    "priority": (int, 0),
    "delay": (int, 0),
    "cause": (str, ""),
    "tries": (int, 0),
}
# Lines that are left out where they have their default value: earlier programs do not know them, and set
# aside a record with a line that they do not know.  So they read the records of all domains that have no
# order, and of all that the killpath made safe.
_LEFT_OUT = ("priority", "delay", "cause", "tries")

# The cause of a record that no killpath wrote: the guest stopped by itself, and libvirt gave its leases up.
IO_ERROR = "I/O error"
CAUSES = ("", IO_ERROR)
# The words of a lockspace's and of a lease's line.
_LOCKSPACE_FIELDS = ("name", "host_id", "path", "offset", "io_timeout", "generation")
_LEASE_FIELDS = ("lockspace", "resource", "version", "path", "offset", "shared")


class Record:
    """One domain that may have to be brought back."""

    __slots__ = (*_FIELDS, "leases", "lockspaces")

    # The domain; its definition where it is transient, with its secrets, else "".
    uuid: str
    name: str
    uri: str
    xml: str
    # What the helper was asked for: poweroff, pause or restart; and when, in seconds since the epoch.  Of a
    # guest that stopped by itself: pause, and when that was noted.
    action: str
    time: float
    # The domain's state before, and its id.
    found: str
    run: int
    # Its process, and that process's start time in clock ticks since boot, 0 when unknown; the kernel's boot
    # id.
    pid: int
    pid_start: int
    boot: str
    # What the process held; and why that is not known, else "".
    lockspaces: tuple[Lockspace, ...]
    leases: tuple[Lease, ...]
    unknown: str
    # Its place in the order of recovery: see recovery/order.py.  As in its metadata when it was lost, and
    # then as recovery has read it last.
    priority: int
    delay: int
    # Why there is a record: "" where the killpath was called, else one of CAUSES; and how often the guest was
    # resumed in a row and stopped again for that cause.
    cause: str
    tries: int
    # Recovery's own: see MARKS.
    mark: str
    why: str

    def __init__(self, uuid: str, name: str, uri: str, action: str, **more: Any) -> None:
        """MORE are other fields by name.  Raises TypeError for a name that is no field's."""
        self.lockspaces, self.leases = more.pop("lockspaces", ()), more.pop("leases", ())
        given = {"uuid": uuid, "name": name, "uri": uri, "action": action, **more}
        for key, (_, default) in _FIELDS.items():
            setattr(self, key, given.pop(key, default))
        if given:
            raise TypeError(f"a record has no {', '.join(given)}")

    def is_of_same_run(self, other: Record) -> bool:
        """Whether OTHER is certainly of the same domain and the same process of this boot."""
        names = ("uuid", "run", "pid", "pid_start", "boot")
        is_known = bool(self.pid_start and self.boot)
        return is_known and all(getattr(self, name) == getattr(other, name) for name in names)

    @property
    def todo(self) -> str:
        """What brings the domain back: start or resume."""
        return "resume" if self.action == "pause" else "start"

    def __str__(self) -> str:
        return f"{quoted(self.name)} {self.uuid}"

    def encode(self) -> bytes:
        """The record as the bytes of its file."""
        lines = [_line(FORMAT, VERSION)]
        lines += [
            _line(key, getattr(self, key))
            for key, (_, default) in _FIELDS.items()
            if key not in _LEFT_OUT or getattr(self, key) != default
        ]
        for key, fields, entries in (
            ("lockspace", _LOCKSPACE_FIELDS, self.lockspaces),
            ("lease", _LEASE_FIELDS, self.leases),
        ):
            lines += [_line(key, *[getattr(entry, name) for name in fields]) for entry in entries]
        text = "".join(lines).encode("ascii")
        return text + _line("crc32", crc32(text)).encode("ascii")


def decode(data: bytes) -> Record:
    """The Record that encode() wrote as DATA; raises RecordError for anything else."""
    head, newline, last = data.rpartition(b"\ncrc32 ")
    try:
        if not newline or int(last) != crc32(head + b"\n") or last != b"%d\n" % int(last):
            raise RecordError("its checksum is wrong")
        lines = [_words(line) for line in head.split(b"\n")]
        if lines[0] not in [[FORMAT, version] for version in VERSIONS]:
            # Another version's is named; any other line may be the definition, with its secrets.
            is_other = len(lines[0]) == 2 and lines[0][0] == FORMAT
            found = " ".join(lines[0])[:60] if is_other else "of no format"
            raise RecordError(f"it is {found}, not {FORMAT} {VERSION}")
        return _record(lines[1:], has_generations=lines[0] != [FORMAT, "1"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        # Neither its text nor the error itself: they may quote the definition, with its secrets.
        raise _malformed(
            _REASONS.get(type(error), "a number that is none, or a line of another length")
        ) from None


_REASONS: dict[type[Exception], str] = {
    UnicodeDecodeError: "an escape that is none",
    KeyError: "a line is missing",
}


def _malformed(why: str) -> RecordError:
    return RecordError(f"it is malformed: {why}")


def _named(key: str) -> str:
    """KEY, a line's first word, where it may be a field's: what else is there may be the definition."""
    return shown(key) if key.isidentifier() else "a field"


def _record(lines: list[list[str]], has_generations: bool) -> Record:
    lockspaces, leases = [], []
    fields: dict[str, Any] = {}
    for key, *words in lines:
        if key == "lockspace":
            if not has_generations:
                words.append("0")
            name, host_id, path, offset, io_timeout, generation = words
            lockspaces.append(
                Lockspace(name, int(host_id), path, int(offset), int(io_timeout), int(generation))
            )
        elif key == "lease":
            lockspace, resource, version, path, offset, shared = words
            leases.append(Lease(lockspace, resource, int(version), path, int(offset), bool(int(shared))))
        elif key in fields:
            raise _malformed(f"{_named(key)} twice")
        else:
            (fields[key],) = words
    given = [key for key in _FIELDS if key in fields or key not in _LEFT_OUT]
    record = Record(**{key: _value(key, _FIELDS[key][0], fields.pop(key)) for key in given})
    # Not a number is equal to nothing, itself included: such a record would seem new at each reading.
    if not 0 <= record.time < _INFINITE:
        raise _malformed(f"time {record.time!r}")
    record.lockspaces, record.leases = tuple(lockspaces), tuple(leases)
    if fields:
        raise _malformed(f"unknown {_named(next(iter(fields)))}")
    if record.action not in ("poweroff", "pause", "restart") or record.mark not in MARKS:
        raise _malformed(f"action {shown(record.action, 10)}, mark {shown(record.mark, 10)}")
    if record.cause not in CAUSES:
        raise _malformed(f"cause {shown(record.cause, 10)}")
    return record


def _value(key: str, kind: Callable[[str], Any], word: str) -> Any:
    """WORD as KIND; what it is not in the error, for it may be another field's, and that the XML."""
    try:
        return kind(word)
    except ValueError:
        raise _malformed(f"{key} is not of its kind") from None


def check(record: Record) -> None:
    """Refuse a RECORD with a value that libvirt's and sanlock's calls do not take: RecordError names it.

    decode() has checked the format itself.
    """
    _check_number("run", record.run, -1, _INT)
    _check_number("pid", record.pid, 0, _INT)
    _check_number("pid_start", record.pid_start, 0, _LONG)
    _check_number("priority", record.priority, *PRIORITIES)
    _check_number("delay", record.delay, *DELAYS)
    _check_number("tries", record.tries, 0, _INT)
    # As strict as with sanlock's own arguments: see invocation.py.
    if ":" not in record.uri or not record.uri.isprintable():
        raise RecordError(f"its uri is {record.uri[:60]!r}, which names no libvirtd")
    for key, (kind, _) in _FIELDS.items():
        if kind is str and not _is_bytes(getattr(record, key)):
            raise RecordError(f"its {key} has half a character")
    for lockspace in record.lockspaces:
        _check_text("lockspace name", lockspace.name, _NAME_BYTES)
        _check_text("lockspace path", lockspace.path, _PATH_BYTES)
        _check_number("host_id", lockspace.host_id, 0, _ULONG)
        _check_number("lockspace offset", lockspace.offset, 0, _LONG)
        _check_number("io_timeout", lockspace.io_timeout, 0, _UINT)
        _check_number("generation", lockspace.generation, 0, _ULONG)
    for lease in record.leases:
        _check_text("lockspace", lease.lockspace, _NAME_BYTES)
        _check_text("resource", lease.resource, _NAME_BYTES)
        if lease.path:
            _check_text("lease path", lease.path, _PATH_BYTES)
        _check_number("lease offset", lease.offset, 0, _LONG)
        _check_number("version", lease.version, 0, _ULONG)


def _check_number(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise RecordError(f"its {what} is {str(value)[:40]}, which is not from {least} to {most}")


def _is_bytes(text: str) -> bool:
    """Whether TEXT is what bytes were decoded to: half a pair of surrogates is not."""
    try:
        raw(text)
    except UnicodeEncodeError:
        return False
    return True


def _check_text(what: str, text: str, most: int) -> None:
    if not text or "\0" in text or not _is_bytes(text) or len(raw(text)) > most:
        raise RecordError(f"its {what} is {text[:60]!r}, which is not 1 to {most} bytes long")


def _line(key: str, *words: object) -> str:
    return f"{key} {' '.join([_word(word) for word in words])}\n"


def _word(value: object) -> str:
    # A number as Python reads it again: each digit of a time, and 0 or 1 for a truth.
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bool):
        return str(int(value))
    # The functions behind the codec "unicode_escape": to find that by its name would read the disk.
    return unicode_escape_encode(str(value))[0].decode("ascii").replace(" ", "\\x20")


def _words(line: bytes) -> list[str]:
    """The words of a LINE.  Raises RecordError for an escape that _line() does not write.

    Python would take it for the characters as they stand, and warn, or load the database of their names.
    """
    letters = {part[:1] for part in line.replace(rb"\\", b"").split(b"\\")[1:]}
    if not letters <= _ESCAPES:
        raise _malformed("an escape that is none")
    return [unicode_escape_decode(word)[0] for word in line.split(b" ")]
