# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text of several colours, with commands in it, as lines that a terminal does not break.

A text is a list of pieces.  Prose is broken between words.  A command is one piece: it works when it is
pasted, so it is never broken within a line; one that is longer than a line gets backslashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .text_width import cells, cells_of

# What a line behind the first one of a command begins with.
_FURTHER = " " * 8


class Piece(NamedTuple):
    """A part of a text in a colour of terminal.paint(); is_command: it is not broken."""

    text: str
    colour: str = ""
    is_command: bool = False


# A line: texts and their colours.
Line = list[Piece]


class _Token(NamedTuple):
    """What is not broken between two lines: a word or a command, and the blanks before it."""

    gap: str
    text: str
    colour: str
    is_command: bool


def wrap(pieces: Iterable[Piece], width: int | None, indent: int = 0, used: int = 0) -> list[Line]:
    """The lines of PIECES, WIDTH columns wide: all but the first begin with INDENT blanks.

    USED columns of the first one are taken.  Without a WIDTH there is one line.
    """
    if width is None:
        return [list(pieces)]
    return _Wrapping(width, min(indent, width // 2), used).lines(_tokens(pieces))


class _Wrapping:
    """Lines that grow."""

    def __init__(self, width: int, indent: int, used: int) -> None:
        self._width = width
        self._indent = indent
        self._used = used
        self._lines: list[Line] = [[]]
        # Whether the line has more than its indentation; the blanks before the first word of all are kept.
        self._has_text = used > 0
        self._is_first = True

    def lines(self, tokens: Iterable[_Token]) -> list[Line]:
        """All lines, with TOKENS added."""
        for together in _clusters(tokens):
            length = cells(together[0].gap) + sum(cells(token.text) for token in together)
            if len(together) > 1 and self._used + length > self._width >= self._indent + length:
                # A bracket stays with what it stands before.
                self._begin()
            for token in together:
                self._add(token)
        return self._lines

    def _add(self, token: _Token) -> None:
        gap = token.gap if self._has_text or self._is_first else ""
        length = cells(token.text)
        if self._used + cells(gap) + length <= self._width:
            self._append(f"{gap}{token.text}", token.colour)
        elif length <= self._width - self._indent:
            self._begin()
            self._append(token.text, token.colour)
        elif token.is_command:
            if self._has_text:
                self._begin(min(self._indent, len(_FURTHER) // 2))
            self._continue(token)
        else:
            self._break(gap, token)

    def _append(self, text: str, colour: str) -> None:
        if text:
            self._lines[-1].append(Piece(text, colour))
            self._used += cells(text)
            self._has_text, self._is_first = True, False

    def _begin(self, indent: int | None = None) -> None:
        blanks = self._indent if indent is None else indent
        self._lines.append([Piece(" " * blanks)] if blanks else [])
        self._used = blanks
        self._has_text = self._is_first = False

    def _break(self, gap: str, token: _Token) -> None:
        """Add a word that is longer than a line."""
        if self._has_text and self._used + cells(gap) + 8 > self._width:
            self._begin()
            gap = ""
        self._append(gap, token.colour)
        part = ""
        for char in token.text:
            if self._used + cells(part) + cells_of(char) > self._width:
                self._append(part, token.colour)
                self._begin()
                part = ""
            part += char
        self._append(part, token.colour)

    def _continue(self, token: _Token) -> None:
        """Add a command that is longer than a line, from where the line is: a shell reads it as one."""
        first, *others = continued(token.text, self._width, self._used)
        self._append(first, token.colour)
        for line in others:
            self._begin(0)
            self._append(line, token.colour)


def _clusters(tokens: Iterable[_Token]) -> Iterator[list[_Token]]:
    """TOKENS in lists of those with no blank between them."""
    found: list[_Token] = []
    for token in tokens:
        if token.gap and found:
            yield found
            found = []
        found.append(token)
    if found:
        yield found


def _tokens(pieces: Iterable[Piece]) -> Iterator[_Token]:
    gap = ""
    for piece in pieces:
        if piece.is_command:
            yield _Token(gap, piece.text, piece.colour, True)
            gap = ""
            continue
        for blanks, word in re.findall(r"( *)([^ ]*)", piece.text):
            gap += blanks
            if word:
                yield _Token(gap, word, piece.colour, False)
                gap = ""


def continued(command: str, width: int, used: int) -> list[str]:
    """COMMAND on lines WIDTH wide that a shell takes for one; USED columns of the first line are taken.

    Broken between words where that can be; within a word, and a quoted text is one, where it is longer than a
    line: then the next line begins at its first column.
    """
    lines = [""]
    at = used
    words = _shell_words(command)
    for number, word in enumerate(words):
        # Room for " \" unless nothing follows.
        spare = 0 if number == len(words) - 1 else 2
        gap = " " if lines[-1].strip() else ""
        if at + len(gap) + cells(word) + spare <= width:
            lines[-1] += f"{gap}{word}"
            at += len(gap) + cells(word)
            continue
        if gap:
            lines[-1] += " \\"
            lines.append(_FURTHER)
            at = len(_FURTHER)
        if at + cells(word) + spare <= width:
            lines[-1] += word
            at += cells(word)
        else:
            at = _add_long_word(lines, word, width, at)
    return lines


def _add_long_word(lines: list[str], word: str, width: int, at: int) -> int:
    """Add WORD to LINES, the last of which is AT columns long; returns how long the last one is then."""
    for quote, unit in _shell_units(word):
        # Within single quotes a backslash is one: they are closed before it, and opened again behind.
        mark = "'" if quote == "'" else ""
        # Room for such a mark and the backslash, and for the " \" behind the word.
        if at + cells(unit) + 3 > width:
            lines[-1] += f"{mark}\\"
            lines.append(mark)
            at = len(mark)
        lines[-1] += unit
        at += cells(unit)
    return at


def _shell_words(command: str) -> list[str]:
    """The words of COMMAND as they are written, quotation marks and all."""
    words = [""]
    for quote, unit in _shell_units(command):
        if unit == " " and not quote:
            words.append("")
        else:
            words[-1] += unit
    return [word for word in words if word]


def _shell_units(text: str) -> Iterator[tuple[str, str]]:
    """The parts of TEXT, a shell's, between which a line may end, each behind the quotation mark it is in."""
    quote = ""
    index = 0
    while index < len(text):
        char = text[index]
        unit = text[index : index + 2] if char == "\\" and quote != "'" else char
        yield quote, unit
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        index += len(unit)


def plain_text(lines: Sequence[Line]) -> list[str]:
    """LINES without their colours."""
    return ["".join(piece.text for piece in line) for line in lines]
