# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's daemon configuration files: libvirtd.conf, qemu.conf, qemu-sanlock.conf.

The grammar is that of virConfParse() in libvirt ``src/util/virconf.c``: NAME = VALUE, one a line or parted by
";"; a value is a whole number, a string in single, double or tripled double quotes (no escapes), or a list in
brackets; "#" starts a comment at the start of a line and behind a value.  Of a name that comes twice the
first one counts (virConfGetValue()), whatever the type of its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from ..errors import PermanentError, SanlockHelperError
from ..regular_file import read_regular

Value = Union[int, str, list["Value"]]

# MAX_CONFIG_FILE_SIZE
MAX_SIZE = 10 * 1024 * 1024

_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
_NUMBER = re.compile(rb"[-+]?[0-9]+")
_QUOTES = (re.compile(rb'"([^"\r\n]*)"'), re.compile(rb"'([^'\r\n]*)'"))
_TRIPLE = b'"""'
_BLANKS = re.compile(rb"[ \t]*")
_BLANKS_AND_EOL = re.compile(rb"[ \t\r\n]*")
_COMMENT = re.compile(rb"#[^\r\n]*")


class ConfSyntaxError(SanlockHelperError):
    """A line that libvirt would not read; `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Setting:
    """One setting of a file, and the line that it begins in."""

    name: str
    value: Value
    line: int


def parse_settings(text: str | bytes) -> list[Setting]:
    """All settings in TEXT, in its order.  Raises ConfSyntaxError for what libvirt refuses."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return list(_Parser(data).settings())


def in_force(settings: Iterable[Setting]) -> dict[str, Value]:
    """The values that count, by name."""
    found: dict[str, Value] = {}
    for setting in settings:
        found.setdefault(setting.name, setting.value)
    return found


def given_again(settings: Iterable[Setting]) -> list[tuple[Setting, Setting]]:
    """The settings that do not count, each behind the one that does."""
    first: dict[str, Setting] = {}
    found = []
    for setting in settings:
        counts = first.setdefault(setting.name, setting)
        if counts is not setting:
            found.append((counts, setting))
    return found


def read_settings(path: Path) -> list[Setting]:
    """All settings in libvirt's configuration file PATH, in its order; none when it is not there.

    Raises PermanentError, with the line, when libvirt would not read it either.
    """
    try:
        data = read_regular(path, MAX_SIZE)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PermanentError(f"read {path}", error.strerror or str(error)) from error
    if len(data) > MAX_SIZE:
        raise PermanentError(
            f"read {path}", "it is larger than 10 MiB", "libvirt refuses the file: shorten it"
        )
    try:
        return parse_settings(data)
    except ConfSyntaxError as error:
        raise PermanentError(
            f"read {path}", str(error), "libvirt refuses the file: correct that line"
        ) from error


def read_conf(path: Path) -> dict[str, Value]:
    """The settings in libvirt's configuration file PATH by name: see read_settings()."""
    return in_force(read_settings(path))


class _Parser:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        # Lines are counted as far as this.
        self._counted = 0
        self._line = 1

    def settings(self) -> Iterator[Setting]:
        while self._at < len(self._data):
            self._take(_BLANKS_AND_EOL)
            if not self._take(_COMMENT):
                yield self._setting()
            self._separator()

    def _setting(self) -> Setting:
        line = self._line_number()
        name = self._take(_NAME)
        if not name:
            # Also at the end: libvirt refuses a file of nothing but blank lines.
            empty = self._at >= len(self._data)
            raise self._error("expecting a name" + ", the file holds only blank lines" * empty)
        self._take(_BLANKS)
        if not self._starts(b"="):
            raise self._error("expecting an assignment")
        self._at += 1
        try:
            value = self._value()
        except RecursionError:
            raise ConfSyntaxError(line, "lists in too many lists") from None
        self._take(_BLANKS)
        self._take(_COMMENT)
        return Setting(name.decode("ascii"), value, line)

    def _value(self) -> Value:
        self._take(_BLANKS)
        if self._starts(b"["):
            return self._list()
        if self._starts(_TRIPLE) and self._at + 6 < len(self._data):
            end = self._data.find(_TRIPLE, self._at + 3)
            if end < 0:
                raise self._error("unterminated string")
            start, self._at = self._at + 3, end + 3
            return _text(self._data[start:end])
        for quoted in _QUOTES:
            match = quoted.match(self._data, self._at)
            if match:
                self._at = match.end()
                return _text(match[1])
        number = self._take(_NUMBER)
        if not number:
            quote = self._starts(b"'") or self._starts(b'"')
            raise self._error("unterminated string" if quote else "expecting a value")
        if len(number) > 20:
            raise self._error("a number of more than 64 bits")
        return int(number)

    def _list(self) -> list[Value]:
        values: list[Value] = []
        self._at += 1
        self._take(_BLANKS_AND_EOL)
        while not self._starts(b"]"):
            values.append(self._value())
            self._take(_BLANKS_AND_EOL)
            if self._starts(b","):
                self._at += 1
                self._take(_BLANKS_AND_EOL)
            elif not self._starts(b"]"):
                raise self._error("list is not closed with ]")
        self._at += 1
        return values

    def _separator(self) -> None:
        self._take(_BLANKS)
        if self._starts(b";"):
            self._at += 1
        elif self._data[self._at : self._at + 1] not in (b"", b"\n", b"\r"):
            raise self._error("expecting a separator")
        self._take(_BLANKS_AND_EOL)

    def _starts(self, text: bytes) -> bool:
        return self._data.startswith(text, self._at)

    def _take(self, pattern: re.Pattern[bytes]) -> bytes:
        match = pattern.match(self._data, self._at)
        if match is None:
            return b""
        self._at = match.end()
        return match[0]

    def _line_number(self) -> int:
        self._line += self._data.count(b"\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _error(self, reason: str) -> ConfSyntaxError:
        return ConfSyntaxError(self._line_number(), reason)


def _text(data: bytes) -> str:
    # It becomes a C string.
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
