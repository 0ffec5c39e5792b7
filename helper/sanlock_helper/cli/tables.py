# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables whose lines fit the terminal: what has no room in a row stands below it."""

from __future__ import annotations

from collections.abc import Sequence

from .terminal import plain
from .text_width import cells
from .wrapping import Line, Piece, wrap

_GAP = "  "
_BELOW = 4


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> list[list[Line]]:
    """The lines of HEAD and of each of ROWS: columns as wide as they need to be, two blanks between them.

    Where that is more than WIDTH, the last columns are left out of the table: each row has them below it, as
    "head: value".  A first cell that is longer than a third of the line stands on a line of its own.
    """
    texts = [[plain(cell) for cell in row] for row in rows]
    if width is None:
        widths = _widths([head, *texts])
        return [[[Piece(_joined(line, widths))]] for line in [head, *texts]]
    most = max(width // 3, len(head[0]))
    widths = _widths([head, *([_short(row[0], most), *row[1:]] for row in texts)])
    number = len(head)
    while number > 1 and sum(widths[:number]) + len(_GAP) * (number - 1) > width:
        number -= 1
    lines = [wrap([Piece(_joined(head[:number], widths))], width)]
    return lines + [_row(head, row, widths[:number], most, width) for row in texts]


def _short(text: str, most: int) -> str:
    """TEXT if it is no wider than MOST columns."""
    return text if cells(text) <= most else ""


def _row(head: Sequence[str], row: Sequence[str], widths: Sequence[int], most: int, width: int) -> list[Line]:
    number = len(widths)
    lines: list[Line] = []
    first = _short(row[0], most)
    if not first:
        lines += wrap([Piece(row[0])], width, _BELOW)
    if first or number > 1:
        lines += wrap([Piece(_joined([first, *row[1:number]], widths))], width)
    for name, cell in zip(head[number:], row[number:]):
        if cell != "-":
            below = [Piece(f"{' ' * _BELOW}{name.lower()}: {cell}")]
            lines += wrap(below, width, 2 * _BELOW)
    return lines


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cells, column)) for column in zip(*lines)]


def _joined(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cells(cell)) for cell, width in zip(row, widths))
    return _GAP.join(padded).rstrip()
