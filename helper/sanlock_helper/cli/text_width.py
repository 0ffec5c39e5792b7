# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many columns a text takes at a terminal, and how many there are.

A terminal shows East Asian wide characters over two columns and combining marks over none; a name may have
any of them.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping
from typing import TextIO

# As it was at the start: `check` replaces it.
ENVIRON = dict(os.environ)

# A terminal that does not report its width, as over a serial line.
USUAL = 80

# What is narrower is taken for so many: nothing could be read there.
LEAST = 20

_WIDE = ("F", "W")
_COMBINING = ("Mn", "Me")


def cells(text: str) -> int:
    """The columns that TEXT takes, which has been escaped: see escapes.printable()."""
    return len(text) if text.isascii() else sum(map(cells_of, text))


def cells_of(char: str) -> int:
    """The columns that one character takes: 0, 1 or 2."""
    # The vowels and finals of Hangul's alphabet join the syllable before them.
    if unicodedata.category(char) in _COMBINING or "\u1160" <= char <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(char) in _WIDE else 1


def cut(text: str, width: int) -> str:
    """As much of TEXT as WIDTH columns have."""
    if cells(text) <= width:
        return text
    used = 0
    for place, char in enumerate(text):
        used += cells_of(char)
        if used > width:
            return text[:place]
    return text


def columns_of(stream: TextIO | None = None, environ: Mapping[str, str] = ENVIRON) -> int | None:
    """The width of lines on STREAM (default: stdout); None where lines are as long as they are.

    That is so in a pipe or a file, whatever COLUMNS is: a program that reads lines gets whole ones.  At a
    terminal it is the terminal's own; COLUMNS of ENVIRON where that reports none; USUAL where COLUMNS is no
    number above 0.
    """
    stream = stream or sys.stdout
    try:
        if not stream.isatty():
            return None
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        # A terminal that has gone, or a stream that is no file.
        found = 0
    return max(LEAST, found or _number(environ.get("COLUMNS", "")) or USUAL)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else 0
