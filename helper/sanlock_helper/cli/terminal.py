# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for administrators: colours and lines that fit a terminal, names that are safe to print; and JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from ..errors import UsageError
from ..escapes import printable
from .remedy_parts import pieces_of
from .text_width import ENVIRON, cells, columns_of
from .wrapping import Line, Piece, wrap

# Names and messages of other programs, as what is printed here has them.
plain = printable

_CODES = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}


def is_colourful(stream: TextIO, environ: Mapping[str, str] = ENVIRON) -> bool:
    """Whether STREAM is a terminal that shows colour, and NO_COLOR is not set (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """TEXT in COLOUR, if the STREAM (default: stdout) shows it."""
    if not colour or not is_colourful(stream or sys.stdout):
        return text
    return f"\033[{_CODES[colour]}m{text}\033[0m"


def painted(line: Line, stream: TextIO | None = None) -> str:
    """LINE in its colours, if the STREAM (default: stdout) shows them."""
    return "".join(paint(piece.text, piece.colour, stream) for piece in line)


def print_pieces(
    head: Line, body: Iterable[Piece] = (), indent: int = 4, stream: TextIO | None = None
) -> None:
    """Print HEAD and BODY on STREAM (default: stdout) as lines that fit.

    The further ones begin with INDENT blanks.  Where HEAD leaves the body less than half of a line, the body
    begins on one of its own.
    """
    width, body = columns_of(stream), list(body)
    lines = wrap([*head, *body], width, indent)
    if width is not None and body and len(lines) > 1:
        used = sum(cells(piece.text) for piece in head)
        if used > width // 2:
            first, *others = wrap(body, width, 4, 4)
            lines = [*wrap(head, width, 4), [Piece("    "), *first], *others]
    for line in lines:
        print(painted(line, stream), file=stream or sys.stdout)


def print_error(text: str) -> None:
    """Print TEXT, the one line about what went wrong, on stderr; at a terminal as lines that fit.

    Where that cannot be written, the exit status alone has it; Python would end with one of its own when it
    writes the rest at exit.
    """
    try:
        print_pieces(pieces_of(plain(text)), stream=sys.stderr)
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def prompt(question: str, stream: TextIO) -> None:
    """Print a QUESTION on STREAM, for an answer behind it."""
    text = question.rstrip(" ")
    lines = [painted(line) for line in wrap([Piece(plain(text))], columns_of(stream))]
    print("\n".join(lines) + question[len(text) :], end="", file=stream, flush=True)


def warn(problem: str) -> None:
    """Print a PROBLEM; what else there is to print follows."""
    print_pieces([Piece("warning", "yellow"), Piece(": "), *pieces_of(plain(problem))], stream=sys.stderr)
    sys.stderr.flush()


def ask(what: str, explanation: str = "") -> bool:
    """Ask at the terminal whether to do WHAT.  Raises UsageError where there is no terminal."""
    if not sys.stdin.isatty():
        raise UsageError(what, "there is no terminal to ask at", "use --yes")
    for line in explanation.splitlines():
        print_pieces(pieces_of(plain(line)), stream=sys.stderr)
    prompt(f"{what}? [y/N] ", sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def print_json(verb: str, version: int, data: Mapping[str, Any], indent: int | None = 2) -> None:
    """Print DATA as one JSON document that names its schema; see packaging/schema."""
    document = {"schema": f"urn:virt-sanlock-helper:{verb}:{version}", **data}
    # ASCII: a lone surrogate of a name that is not UTF-8 is escaped, and every locale can print it.
    print(json.dumps(document, indent=indent), flush=True)
