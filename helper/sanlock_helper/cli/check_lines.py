# SPDX-License-Identifier: LGPL-2.1-or-later
"""The findings of checks as text: in groups, written as soon as they are known, one line for one cause."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..checks.finding import FAIL, PASS, WARN, Finding
from ..escapes import printable
from .remedy_parts import COMMENT, pieces_of, steps_of
from .terminal import paint, painted, print_pieces
from .text_width import cells, columns_of
from .wrapping import Line, Piece, wrap

_COLOURS = {PASS: "green", WARN: "yellow", FAIL: "red"}


@dataclass
class Report:
    """Prints findings; `quiet`: those alone that did not pass.  `width` is that of the names."""

    width: int
    quiet: bool = False
    found: list[Finding] = field(default_factory=list)
    _group: str = ""
    _shown: int = 0

    def add(self, finding: Finding, group: str = "") -> None:
        """Print FINDING below the heading GROUP, unless it only follows from another one."""
        finding = self._with_cause(finding)
        self.found.append(finding)
        if _follows(finding) or (self.quiet and finding.verdict == PASS):
            return
        if group != self._group:
            # A heading stands above the first line of its group.
            if self._shown:
                print()
            print(paint(f"{group}:", "bold"))
            self._group = group
        self._shown += 1
        _print_finding(finding, self.width)
        # The next one may take its time.
        sys.stdout.flush()

    def end(self) -> None:
        """Print what was not checked, a line for each cause."""
        causes: dict[str, list[str]] = {}
        for finding in filter(_follows, self.found):
            causes.setdefault(self._cause_of(finding), []).append(finding.name)
        if self._shown:
            print()
        if causes:
            print(paint("Not checked:", "bold"))
        for cause, names in causes.items():
            # A name is not broken between two lines.
            commas = [Piece(f"{name}{',' if name != names[-1] else ''}", "", True) for name in names]
            print_pieces(
                [Piece(f"because of {cause}:")], [each for name in commas for each in (Piece(" "), name)]
            )

    def _cause_of(self, finding: Finding) -> str:
        """What FINDING follows from; with the reason, where the check of that name does not have it."""
        reported = any(
            other.name == finding.cause and (other.verdict != PASS or other.unread) for other in self.found
        )
        return finding.cause if reported else f"{finding.cause} ({printable(finding.unread)})"

    def _with_cause(self, finding: Finding) -> Finding:
        """FINDING with the first one that could not be made for the same reason as its cause."""
        if not finding.unread or finding.cause:
            return finding
        same = (other.name for other in self.found if other.unread == finding.unread and not other.cause)
        return replace(finding, cause=next(same, ""))


def _follows(finding: Finding) -> bool:
    """Whether FINDING has nothing that another one does not have."""
    return bool(finding.unread and finding.cause)


def print_findings(findings: Iterable[Finding], width: int) -> list[Finding]:
    """Print FINDINGS without groups, with names WIDTH wide; returns all of them."""
    found = list(findings)
    for finding in found:
        _print_finding(finding, width)
    return found


def summary(findings: Iterable[Finding]) -> tuple[str, bool]:
    """The last line of a report on FINDINGS, and whether this host is ready by them.

    It is not where something failed.  Where a check could not be made at all that is not known.
    """
    found = list(findings)
    number = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in (FAIL, WARN, PASS)}
    unread = sum(bool(finding.unread) for finding in found)
    warnings = f"{number[WARN]} warning{'' if number[WARN] == 1 else 's'}"
    text = f"{number[FAIL]} failed, {warnings}, {number[PASS]} passed"
    if number[FAIL]:
        return f"{text}: NOT READY", False
    if unread:
        return f"{text}: NOT KNOWN, {unread} not checked", False
    return f"{text}: READY", True


def print_summary(findings: Iterable[Finding]) -> None:
    """Print that line."""
    text, is_ready = summary(findings)
    counts, _, verdict = text.partition(": ")
    # In one piece also where the line is narrow.
    print_pieces([Piece(f"{counts}: "), Piece(verdict, "green" if is_ready else "red", is_command=True)])


def _print_finding(finding: Finding, name_width: int) -> None:
    width = columns_of()
    verdict = Piece(finding.verdict, _COLOURS[finding.verdict])
    head = [Piece(f"{finding.name}{' ' * (name_width - cells(finding.name))}  "), verdict, Piece("  ")]
    indent = name_width + 8
    if width is not None and indent > width // 2:
        head, indent = [Piece(f"{finding.name}  "), verdict, Piece("  ")], 4
    print_pieces(head, [Piece(printable(finding.found))], indent)
    if finding.verdict != PASS:
        _print_labelled("wanted: ", [[Piece(printable(finding.wanted))]], indent)
        _print_labelled("remedy: ", _remedy(finding.remedy, width), indent)


def _remedy(remedy: str, width: int | None) -> list[list[Piece]]:
    """The lines of a REMEDY: as one for a program that reads it, else each command on its own."""
    text = printable(remedy)
    return [[Piece(text)]] if width is None else steps_of(pieces_of(text))


def _print_labelled(label: str, paragraphs: list[list[Piece]], indent: int) -> None:
    for number, pieces in enumerate(paragraphs):
        if any(piece.text for piece in pieces):
            begin = Piece(" " * indent + (label if number == 0 else " " * len(label)))
            for line in _paragraph(begin, pieces, indent + len(label)):
                print(painted(line))


def _paragraph(begin: Piece, pieces: list[Piece], indent: int) -> list[Line]:
    """The lines of PIECES behind BEGIN; each line of a shell's comment is one."""
    width = columns_of()
    if width is None or not pieces[0].text.startswith(COMMENT):
        return wrap([begin, *pieces], width, indent)
    mark = Piece(COMMENT)
    indent = min(indent, width // 2)
    text = [pieces[0]._replace(text=pieces[0].text[len(COMMENT) :]), *pieces[1:]]
    first, *others = wrap(text, width - indent - len(COMMENT))
    blanks = Piece(" " * indent)
    return [
        [begin._replace(text=begin.text[:indent]), mark, *first],
        *([blanks, mark, *each] for each in others),
    ]
