# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's daemon configuration files: libvirtd.conf, qemu.conf, qemu-sanlock.conf.

The grammar is that of virConfParse() in libvirt ``src/util/virconf.c``: NAME = VALUE, one a line or parted by
";"; a value is a whole number, a string in single, double or tripled double quotes (no escapes), or a list in
brackets; "#" starts a comment at the start of a line and behind a value.  A name that comes twice counts the
last time.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Union

from .errors import FinalError

Value = Union[int, str, list["Value"]]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[-+]?[0-9]+")
_QUOTES = (
    re.compile(r'"""(.*?)"""', re.DOTALL),
    re.compile(r'"([^"\r\n]*)"'),
    re.compile(r"'([^'\r\n]*)'"),
)
_BLANKS = re.compile(r"[ \t]*")
_BLANKS_AND_EOL = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"[^\n]*")
_GAP = re.compile(r"(?:[ \t\r\n]|(?<![^\s])#[^\n]*)*")


class ConfSyntaxError(Exception):
    """A line that libvirt would not read; `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def parse_conf(text: str) -> dict[str, Value]:
    """The settings in TEXT by name.  Raises ConfSyntaxError for what libvirt refuses."""
    return _Parser(text).settings()


def read_conf(path: Path) -> dict[str, Value]:
    """The settings in libvirt's configuration file PATH; none when it is not there.

    Raises FinalError, with the line, when libvirt would not read it either.
    """
    try:
        return parse_conf(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FinalError(f"read {path}", error.strerror or str(error)) from error
    except ConfSyntaxError as error:
        raise FinalError(f"read {path}", str(error), "libvirt refuses the file: correct that line") from error


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def settings(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        self._take(_GAP)
        while self._at < len(self._text):
            name = self._take(_NAME)
            if not name:
                raise self._error("expecting a name")
            self._take(_BLANKS)
            if not self._text.startswith("=", self._at):
                raise self._error("expecting an assignment")
            self._at += 1
            found[name] = self._value()
            self._end_of_statement()
        return found

    def _value(self) -> Value:
        self._take(_BLANKS)
        if self._text.startswith("[", self._at):
            return self._list()
        for quoted in _QUOTES:
            match = quoted.match(self._text, self._at)
            if match:
                self._at = match.end()
                return match[1]
        number = self._take(_NUMBER)
        if not number:
            quote = self._text[self._at : self._at + 1] in ("'", '"')
            raise self._error("unterminated string" if quote else "expecting a value")
        return int(number)

    def _list(self) -> list[Value]:
        values: list[Value] = []
        self._at += 1
        self._take(_BLANKS_AND_EOL)
        while not self._text.startswith("]", self._at):
            values.append(self._value())
            self._take(_BLANKS_AND_EOL)
            if self._text.startswith(",", self._at):
                self._at += 1
                self._take(_BLANKS_AND_EOL)
            elif not self._text.startswith("]", self._at):
                raise self._error("list is not closed with ]")
        self._at += 1
        return values

    def _end_of_statement(self) -> None:
        self._take(_BLANKS)
        rest = self._text[self._at : self._at + 1]
        if rest == ";":
            self._at += 1
        elif rest not in ("", "\n", "\r", "#"):
            raise self._error("expecting a separator")
        elif rest == "#":
            self._take(_COMMENT)
        self._take(_GAP)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _error(self, reason: str) -> ConfSyntaxError:
        return ConfSyntaxError(self._text.count("\n", 0, self._at) + 1, reason)
