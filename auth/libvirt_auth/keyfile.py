# SPDX-License-Identifier: LGPL-2.1-or-later
"""The grammar of libvirt's authentication file, as an extension of configparser.

libvirt reads the file with GLib's GKeyFile (src/util/virauthconfig.c), without flags, and
ignores errors inside a value. So this is GKeyFile's grammar (glib/gkeyfile.c), and differs
from configparser's own in this:

- The file is bytes. A line ends with "\\n" or "\\r\\n"; a "\\r" at the end of the file, without
  "\\n", belongs to its line. Nothing after a NUL in a line counts.
- Blanks are space, tab, form feed and carriage return, and nothing else. They are dropped
  at the start of a line, around "=", and before the end of a group's line (there only space
  and tab); those at the end of a value belong to it.
- A comment is a line of its own and starts with "#". ";" starts no comment. An indented line
  continues nothing: it is a line like any other.
- A group's name holds no brackets and no control characters, and nothing may follow it.
- "=" is the only delimiter. Names are case-sensitive and hold no brackets, but for a locale at
  their end, as in "password[de]", which makes them another name, "password[de]".
- Groups and names may come again: groups are merged, the last value wins.
- No group is special: [DEFAULT] is a group like any other.
- In a value, backslash with s, n, t, r or a backslash stands for space, newline, tab,
  carriage return and backslash. "%" is plain. With other escapes, or a lone backslash at the
  end, there is no value, or it is kept; that depends on GLib's version, see glib.py.
- In the first group "Encoding", if given, must be UTF-8. A value that is not UTF-8 cannot be
  had, but makes no other value unreadable.

The file is gone through line by line, once to check it and once for each group that is asked for, and
nothing of other groups is kept: what a file of many groups takes is its own size.

What counts as a letter in a locale is decided by Python's Unicode tables, not GLib's. They
can differ by letters that one of the two does not know yet; that is the only difference.
"""

from __future__ import annotations

import configparser
import re
from typing import TYPE_CHECKING

from .errors import AuthSyntaxError
from .glib import Version

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping

BLANKS = " \t\f\r"

# GLib steps over UTF-8 continuation bytes without asking what they continue. Where they
# continue nothing, the "surrogateescape" error handler makes them these characters.
_STRAY = "[\udc80-\udcbf]*"

_ENCODING = re.compile(rf"\0Encoding[{BLANKS}]*=[{BLANKS}]*(?![{BLANKS}]|(?i:UTF-8)\0\Z)", re.ASCII)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\", "": ""}


class NoValueError(ValueError):
    """GLib takes the value for none; the message is the reason, and shows nothing of the value."""


class Escapes(configparser.Interpolation):
    """What happens to a value when it is asked for: escapes are decoded as glib does it."""

    def __init__(self, glib: Version) -> None:
        super().__init__()
        self._glib = glib

    def before_get(
        self,
        parser: MutableMapping[str, Mapping[str, str]],
        section: str,
        option: str,
        value: str,
        defaults: Mapping[str, str],
    ) -> str:
        """Return value as g_key_file_get_string() does.

        Raises NoValueError if it gives none.
        """
        text = _text_of(value)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise NoValueError("it is not UTF-8") from None
        why = self._refused(text) if has_odd_escape(text) else ""
        if why:
            raise NoValueError(f"{why}, and {self._glib} takes that for no value")
        return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), text)

    def _refused(self, text: str) -> str:
        """Return which escape in text there is that GLib does not take, "" if it takes them all."""
        for found in _ESCAPE.finditer(text):
            if not found[1] and not self._glib.drops_last_backslash():
                return "it ends with a lone backslash"
            if found[1] not in _ESCAPED and not self._glib.keeps_invalid_escapes():
                return "it has a backslash that begins no escape"
        return ""


def _text_of(value: str) -> str:
    """Return what stands behind the "=" of a value that OPTCRE left it on."""
    return value[1:].lstrip(BLANKS).partition("\0")[0]


def has_odd_escape(text: str) -> bool:
    """Return whether versions of GLib read text differently."""
    return "\\" in text and any(found[1] not in _ESCAPED or not found[1] for found in _ESCAPE.finditer(text))


class _Group(configparser.RawConfigParser):
    """A RawConfigParser that reads one group as GKeyFile reads it.

    configparser strips a line, a name and a value of whatever str.isspace() calls a blank,
    which would change passwords. So each line is handed to it between two NUL characters (a
    C string ends with one anyway), OPTCRE leaves the "=" on both the name and the value, and
    optionxform() and Escapes take that off again.
    """

    SECTCRE = re.compile(
        rf"""\0
        \[(?P<header>[^][\x00-\x1f\x7f]+)\]
        {_STRAY}(?:[ \t]{_STRAY})*
        \0[^]]*\Z  # not even after a NUL: the last "]" of the line ends the name
        """,
        re.VERBOSE,
    )
    OPTCRE = re.compile(
        rf"""\0
        (?=(?P<option>
            [^=[\]\0]+                                       # blanks before "=" included
            (?:(?<![ ])\[(?:[\w.@-]{_STRAY})*\][{BLANKS}]*)?  # locale
            =))
        (?P<vi>)[^=]*(?P<value>=.*)
        """,
        re.VERBOSE | re.DOTALL,
    )

    def __init__(self, name: str, lines: Iterable[str], path: str, glib: Version) -> None:
        super().__init__(
            default_section="",  # a name that no group can have
            empty_lines_in_values=False,
            interpolation=Escapes(glib),
            strict=False,
        )
        self._name = name
        self.read_file(lines, path)

    def optionxform(self, optionstr: str) -> str:
        """Return the name as it is, without the "=" that OPTCRE left on it."""
        return optionstr.rstrip("=").rstrip(BLANKS)

    def value(self, name: str) -> str | None:
        """Return the value of name, or None if there is none.

        Raises NoValueError if GLib takes it for none.
        """
        return self.get(self._name, name, fallback=None)

    def is_odd(self, name: str) -> bool:
        """Return whether versions of GLib read the value of name differently."""
        value = self.get(self._name, name, raw=True, fallback=None)
        return value is not None and has_odd_escape(_text_of(value))


class KeyFile:
    """A file that GKeyFile would read; it refuses what GKeyFile refuses.

    names  the names whose values can be asked for
    glib   the version of GLib to read as
    """

    def __init__(self, names: Collection[str], glib: Version) -> None:
        self._names = names
        self._glib = glib
        self._data = b""
        self._path = ""
        self._found: dict[str, tuple[_Group, int] | None] = {}

    def read_bytes(self, data: bytes, path: str) -> None:
        """Read data, the content of the file path.

        Raises AuthSyntaxError for the first line that is not in the grammar.
        """
        self._data, self._path = data, path
        self._found = {}
        first = group = None
        for number, text in self._lines():
            header = _Group.SECTCRE.match(text)
            if header:
                group = header["header"]
                first = first or group
            elif group is None:
                raise self._error(number, "the first line must be a group, [NAME]")
            elif not _Group.OPTCRE.match(text):
                raise self._error(number, "neither a group, [NAME], nor NAME=VALUE")
            elif group == first and _ENCODING.match(text):
                raise AuthSyntaxError(
                    path,
                    "Encoding can only be UTF-8",
                    line=number,
                    group=group,
                    hint="remove the line",
                )

    def has_group(self, name: str) -> bool:
        """Return whether there is a group of that name."""
        return self._group(name) is not None

    def line(self, group: str) -> int:
        """Return the line, counted from 1, that names the group first; 0 if there is none."""
        found = self._group(group)
        return 0 if found is None else found[1]

    def value(self, group: str, name: str) -> str | None:
        """Return the value of name in group, or None if there is none, or GLib takes it for none."""
        found = self._group(group)
        try:
            return None if found is None else found[0].value(name)
        except NoValueError:
            return None

    def why_none(self, group: str, name: str) -> str:
        """Return why the value of name in group, which is there, is taken for none; "" if it is not."""
        found = self._group(group)
        try:
            if found is not None:
                found[0].value(name)
        except NoValueError as error:
            return str(error)
        return ""

    def is_odd(self, group: str, name: str) -> bool:
        """Return whether versions of GLib read the value of name in group differently."""
        found = self._group(group)
        return found is not None and found[0].is_odd(name)

    def _group(self, name: str) -> tuple[_Group, int] | None:
        """Return the group with that name, and its line."""
        if name not in self._found:
            numbered = list(self._lines_of(name))
            lines = [text for _, text in numbered]
            self._found[name] = (
                (_Group(name, lines, self._path, self._glib), numbered[0][0]) if lines else None
            )
        return self._found[name]

    def _lines_of(self, group: str) -> Iterator[tuple[int, str]]:
        """Yield the first line that names the group, then the last value for each of the names."""
        last: dict[str, tuple[int, str]] = {}
        head = None
        inside = False
        for number, text in self._lines():
            if text[1] == "[":
                header = _Group.SECTCRE.match(text)
                inside = header is not None and header["header"] == group
                head = head or ((number, text) if inside else None)
            elif inside:
                option = _Group.OPTCRE.match(text)
                name = option["option"].rstrip("=").rstrip(BLANKS) if option else ""
                if name in self._names:
                    last[name] = (number, text)
        if head is not None:
            yield head
            yield from last.values()

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield each line between two NULs, with its number, but for comments and blank lines."""
        data, start, number = self._data, 0, 0
        while start < len(data):
            end = data.find(b"\n", start)
            next_start = end + 1
            if end < 0:
                end = next_start = len(data)
            elif data[end - 1 : end] == b"\r" and end > start:
                end -= 1
            number += 1
            text = data[start:end].decode("utf-8", "surrogateescape").lstrip(BLANKS)
            start = next_start
            if text and text[0] not in "#\0":
                yield number, f"\0{text}\0"

    def _error(self, line: int, reason: str) -> AuthSyntaxError:
        # It quotes nothing: a line that cannot be read may be a password.
        return AuthSyntaxError(
            self._path, reason, line=line, hint="a comment needs a line of its own, starting with #"
        )
