# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for administrators: tables, colour at a terminal, names that are safe to print; and JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ..errors import UsageError
from ..escapes import printable

# As it was at the start: `check` replaces it.
_ENVIRON = dict(os.environ)

# The end of the year 9998 in UTC, and so of the years of four digits in any time zone.
LAST_TIME = 253370764799.0

# Names and messages of other programs, as what is printed here has them.
plain = printable

_CODES = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}


def is_colourful(stream: TextIO, environ: Mapping[str, str] = _ENVIRON) -> bool:
    """Whether STREAM is a terminal that shows colour, and NO_COLOR is not set (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """TEXT in COLOUR, if the STREAM (default: stdout) shows it."""
    if not colour or not is_colourful(stream or sys.stdout):
        return text
    return f"\033[{_CODES[colour]}m{text}\033[0m"


def warn(problem: str) -> None:
    """Print a PROBLEM; what else there is to print follows."""
    print(f"{paint('warning', 'yellow', sys.stderr)}: {plain(problem)}", file=sys.stderr, flush=True)


def ask(what: str, explanation: str = "") -> bool:
    """Ask at the terminal whether to do WHAT.  Raises UsageError where there is no terminal."""
    if not sys.stdin.isatty():
        raise UsageError(what, "there is no terminal to ask at", "use --yes")
    print(f"{explanation}{plain(what)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as they need to be, two blanks between them."""
    lines = [tuple(head), *(tuple(map(plain, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]


def moment(seconds: float) -> str:
    """SECONDS since the epoch as local date and time of day."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_on_calendar(seconds)))


def iso(seconds: float) -> str:
    """SECONDS since the epoch as ISO 8601 in UTC, with milliseconds, for programs."""
    seconds = _on_calendar(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"


def _on_calendar(seconds: float) -> float:
    """SECONDS, or the nearest time that both calendars above have; 0 for what is no number."""
    return min(max(0.0, seconds), LAST_TIME)


def print_json(verb: str, version: int, data: Mapping[str, Any], indent: int | None = 2) -> None:
    """Print DATA as one JSON document that names its schema; see packaging/schema."""
    document = {"schema": f"urn:virt-sanlock-helper:{verb}:{version}", **data}
    # ASCII: a lone surrogate of a name that is not UTF-8 is escaped, and every locale can print it.
    print(json.dumps(document, indent=indent), flush=True)
