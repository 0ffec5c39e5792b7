# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that correct libvirt's configuration files where it is plain what was meant.

That is a value without its quotation marks, with those of a text processor or with one alone, another sign
than "=", a section's heading, a byte order mark; and a value of a type that libvirt does not take there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..numbers import whole_number
from ..virt.libvirt_conf import ConfSyntaxError, Setting, Value, parse_settings
from .remedies import give

_BOM = b"\xef\xbb\xbf"

# So many lines are corrected, in files of so many bytes; what is larger or has more is no file of settings.
_MOST = 16
_MOST_BYTES = 1 << 20
# The expressions below take the square of a line's length at worst.
_MOST_LINE = 512

_LINE = re.compile(r"\s*(?P<name>[A-Za-z]\w*)\s*(?:[=:]|\s)\s*(?P<value>[^\s#=:][^#]*?)[\s;]*(?P<rest>#.*)?")
_HEADING = re.compile(r"\s*\[[\w ./-]*\]\s*")
_QUOTES = "\"'`\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\u00ab\u00bb\u2039\u203a\u2032\u2033"

_TRUTH = {"yes": 1, "true": 1, "on": 1, "1": 1, "no": 0, "false": 0, "off": 0, "0": 0}

_TRUTHS = ("auto_disk_leases", "require_lease_for_disks", "check_disk_lease_owner")
_TEXTS = ("disk_lease_dir", "user", "group")


def corrected(path: str | Path, data: bytes) -> tuple[str, bytes]:
    """The command that makes libvirt's file PATH, which has DATA and is refused, one that libvirt reads.

    And what it has then; "" where it is not plain what was meant.
    """
    if not data.strip():
        return f"truncate -s 0 {shlex.quote(str(path))}", b""
    if len(data) > _MOST_BYTES:
        return "", data
    edits = []
    if data.startswith(_BOM):
        edits.append(r"1s/^\xef\xbb\xbf//")
        data = data[len(_BOM) :]
    lines = data.split(b"\n")
    at = 0
    for _ in range(_MOST):
        text = b"\n".join(lines)
        error = _error_in(text)
        if error is None:
            script = " ".join(f"-e {shlex.quote(edit)}" for edit in edits)
            return f"sed -i {script} {shlex.quote(str(path))}", text
        # An error that does not move was not mended, or is not where it is noticed.
        if error.line <= at or error.line > len(lines):
            break
        at = error.line
        line = _meant(lines[at - 1].decode("utf-8", "surrogateescape"))
        if not line:
            break
        edits.append(f"{at}c {line}")
        lines[at - 1] = line.encode("utf-8", "surrogateescape")
    return "", data


def _error_in(data: bytes) -> ConfSyntaxError | None:
    try:
        parse_settings(data)
    except ConfSyntaxError as error:
        return error
    return None


def _meant(line: str) -> str:
    """What LINE was meant to be, "" where that is not plain; a heading becomes a comment."""
    if len(line) > _MOST_LINE:
        return ""
    if _HEADING.fullmatch(line):
        return f"# {line.strip()}"
    match = _LINE.fullmatch(line)
    if match is None:
        return ""
    word = match["value"].strip(_QUOTES).strip()
    # sed takes a backslash for itself, and a list may be half of one.
    # A tripled quote begins what goes on in further lines.
    if not word.isprintable() or set('"\\[],') & set(word) or match["value"].startswith('"""'):
        return ""
    bare = match["value"] == word
    value = _TRUTH.get(word.lower(), whole_number(word)) if bare else None
    text = f'"{word}"' if value is None else str(value)
    return f"{match['name']} = {text}{f' {rest}' if (rest := match['rest']) else ''}"


def retyped(path: str | Path, settings: Sequence[Setting], own_number: int) -> str:
    """The command that gives those SETTINGS of qemu-sanlock.conf, PATH, that have a wrong type the right one.

    OWN_NUMBER is a host_id that this host may have.  "" where it is not plain what was meant.
    """
    values: dict[str, Value] = {}
    for setting in settings:
        values.setdefault(setting.name, setting.value)
    changed = dict(_retyped(values, own_number))
    if None in changed.values():
        return ""
    return give(path, settings, [(name, value) for name, value in changed.items() if value is not None])


def _retyped(values: Mapping[str, Value], own_number: int) -> Iterator[tuple[str, Value | None]]:
    for name, value in values.items():
        text = str(value).strip() if isinstance(value, (int, str)) else ""
        number = whole_number(text)
        if name in _TRUTHS and value not in (0, 1):
            yield name, _TRUTH.get(text.lower(), 1 if number else None)
        elif name == "host_id" and (isinstance(value, str) or number is None):
            yield name, number or own_number
        elif name == "io_timeout" and (isinstance(value, str) or number is None):
            yield name, number
        elif name in _TEXTS and not isinstance(value, str):
            yield name, text or None
