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
  carriage return and backslash. Other escapes stay as they are; a lone backslash at the end
  is dropped (by GLib 2.74, which this follows). "%" is plain.
- In the first group "Encoding", if given, must be UTF-8. A value that is not UTF-8 cannot be
  had, but makes no other value unreadable.

What counts as a letter in a locale is decided by Python's Unicode tables, not GLib's. They
can differ by letters that one of the two does not know yet; that is the only difference.
"""

from __future__ import annotations

import configparser
import re
from typing import TYPE_CHECKING

from .errors import AuthSyntaxError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

BLANKS = " \t\f\r"

# GLib steps over UTF-8 continuation bytes without asking what they continue. Where they
# continue nothing, the "surrogateescape" error handler makes them these characters.
_STRAY = "[\udc80-\udcbf]*"

_ENCODING = re.compile(rf"\0Encoding[{BLANKS}]*=[{BLANKS}]*(?![{BLANKS}]|(?i:UTF-8)\0\Z)", re.ASCII)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\", "": ""}


class Escapes(configparser.Interpolation):
    """What happens to a value when it is asked for: escapes are decoded."""

    def before_get(
        self,
        parser: MutableMapping[str, Mapping[str, str]],
        section: str,
        option: str,
        value: str,
        defaults: Mapping[str, str],
    ) -> str:
        """Return value as g_key_file_get_string() does.

        Raises UnicodeEncodeError if it is not UTF-8.
        """
        text = value[1:].lstrip(BLANKS).partition("\0")[0]
        text.encode("utf-8")
        return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), text)


class KeyFile(configparser.RawConfigParser):
    """A RawConfigParser that reads what GKeyFile reads, and refuses what it refuses.

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

    def __init__(self) -> None:
        super().__init__(
            default_section="",  # a name that no group can have
            empty_lines_in_values=False,
            interpolation=Escapes(),
            strict=False,
        )
        self.lines: dict[str, int] = {}  # group -> the line that names it first

    def optionxform(self, optionstr: str) -> str:
        """Return the name as it is, without the "=" that OPTCRE left on it."""
        return optionstr.rstrip("=").rstrip(BLANKS)

    def read_bytes(self, data: bytes, path: str) -> None:
        """Read data, the content of the file path.

        Raises AuthSyntaxError for the first line that is not in the grammar.
        """
        try:
            self.read_file(self._read_lines(data, path), path)
            return
        except configparser.MissingSectionHeaderError as err:
            line, reason = err.lineno, "the first line must be a group, [NAME]"
        except configparser.ParsingError as err:
            line, reason = err.errors[0][0], "neither a group, [NAME], nor NAME=VALUE"
        # Outside of the handlers, for configparser's errors quote the line: a password, maybe.
        raise AuthSyntaxError(
            path, reason, line=line, hint="a comment needs a line of its own, starting with #"
        )

    def _read_lines(self, data: bytes, path: str) -> Iterator[str]:
        """Yield each line between two NULs, blank lines and comments as empty."""
        group = None
        lines = data.replace(b"\r\n", b"\n").split(b"\n")
        for number, line in enumerate(lines, start=1):
            text = line.decode("utf-8", "surrogateescape").lstrip(BLANKS)
            if not text or text[0] in "#\0":
                yield ""
                continue
            text = f"\0{text}\0"
            header = self.SECTCRE.match(text)
            if header:
                group = header["header"]
                self.lines.setdefault(group, number)
            elif group and group == next(iter(self.lines)) and _ENCODING.match(text):
                raise AuthSyntaxError(
                    path,
                    "Encoding can only be UTF-8",
                    line=number,
                    group=group,
                    hint="remove the line",
                )
            yield text
