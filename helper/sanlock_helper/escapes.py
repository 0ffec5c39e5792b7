# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names and messages of other programs as text of one line: for the journal, a terminal, a table.

Nothing that moves a cursor, breaks a line, changes the direction of writing or is invisible stays in it:
str.isprintable() is false for Unicode's categories Cc, Cf, Cs, Co, Cn, Zl, Zp, and Zs but for the blank.  No
module is imported here: the agent loads this one before the first virtual machine is safe.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

# libvirt names files after a domain, so its name has 255 bytes at most, each of ten characters here at most.
# Any user may log a longer line, and history does not take that apart.
_MAX_LENGTH = 20_000

_LETTERS = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}


def printable(text: str) -> str:
    """TEXT with each such character as in a Python string literal: \\n, \\x9b, \\u202e.

    What is escaped already stays as it is: to escape twice does no harm.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shown(value: object, most: int = 60) -> str:
    """VALUE as a message quotes it, as repr() does: of more than MOST characters the first ones."""
    if isinstance(value, str):
        return repr(value) if len(value) <= most else f"{value[:most]!r}… ({len(value)} characters)"
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def quoted(name: str) -> str:
    """A domain's NAME as a journal line has it between the action and the UUID: see outages.parse_line().

    There the first ": " ends what a line is about, and "-" is a domain whose name is not known, so neither is
    left in a name.  A backslash is doubled, so that each name has a text of its own.
    """
    if name == "-":
        return "\\x2d"
    text = printable(name.replace("\\", "\\\\"))
    # The blank is the one that follows the name in the line.
    return f"{text} ".replace(": ", "\\x3a ")[:-1]


def unquoted(text: str) -> str:
    """The name that quoted() made TEXT of; TEXT itself where another program or version wrote it."""
    if "\\" not in text or len(text) > _MAX_LENGTH:
        return text
    import re

    try:
        name = re.sub(r"\\(?:[\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})", _character, text)
    except ValueError:
        return text
    return name if quoted(name) == text else text


def _character(escape: re.Match[str]) -> str:
    word = escape[0][1:]
    return _LETTERS.get(word) or chr(int(word[1:], 16))
