# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which parts of a remedy are commands: those are pasted, and so are not broken between two lines.

A remedy is a command for a shell, what the command cannot know behind it as a comment; or prose, in which
commands may stand.
"""

from __future__ import annotations

import re

from .wrapping import Piece

# What a remedy of this program may begin a command with.  "mount" and "sanlock" are words of prose, too.
_COMMAND = re.compile(
    r"(?:! )?(?:(?:apt|apt-get|dnf|zypper) (?:install|reinstall|remove|update)\b"
    r"|(?:systemctl|udevadm|virsh|virt-sanlock-helper) [a-z]|sanlock (?:client|direct) "
    r"|(?:dpkg-divert|exportfs|findmnt|install|iscsiadm|journalctl|lsattr|restorecon|rpm|semodule) -"
    r"|(?:setsebool|sysctl|systemd-tmpfiles|usermod|virt-admin|wdmd) -|(?:u?mount) [/-]"
    r"|multipathd? (?:show|reconf|-)"
    r"|(?:chattr|chgrp|chmod|chown|cp|echo|grep|ln|ls|mkdir|mv|printf|rm|rmdir|sed|tee|touch|truncate) [^ ]"
    r"|virt-sanlock-cleanup(?= |$))"
)

# Where a clause begins: at the start, and behind these.
_LEADS = r"(?:see|or|then|and|run) "
_BEGINS = re.compile(rf"(?:^|[;,:] |\(|\b(?={_LEADS}))(?:{_LEADS})*")

# What a shell's comment begins with, and where a command has one.
COMMENT = "# "
_COMMENT = re.compile(r" +# ")

# What ends a command: further prose.
_ENDS = re.compile(
    r"; |, |: |\)| +# | (?:has the reason|on (?:one|the|that)\b|with no VM|and restart|and then|\()"
)


def pieces_of(text: str, colour: str = "") -> list[Piece]:
    """TEXT, a remedy or an error that ends with one, as prose and commands in COLOUR."""
    pieces = []
    at = done = 0
    while begin := _BEGINS.search(text, at):
        start = begin.end()
        if _COMMAND.match(text, start):
            command = text[start : _end_of(text, start)].rstrip()
            pieces += [Piece(text[done:start], colour), Piece(command, colour, True)]
            # The blanks before a further piece are of that one.
            at = done = start + len(command)
            if _COMMENT.match(text, done):
                break
        else:
            at = max(start, begin.start() + 1)
        if at >= len(text):
            break
    pieces.append(Piece(text[done:], colour))
    return [piece for piece in pieces if piece.text]


def _end_of(text: str, start: int) -> int:
    """Where the command that begins at START ends: before prose, but not within quotation marks."""
    quote, depth = "", 0
    for index in range(start, len(text)):
        char = text[index]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif depth == 0 and _ENDS.match(text, index):
            return index
        elif char in "()":
            depth += 1 if char == "(" else -1
    return len(text)


def steps_of(pieces: list[Piece]) -> list[list[Piece]]:
    """PIECES as paragraphs: each command in one of its own, without what separates it from the prose."""
    steps: list[list[Piece]] = []
    for piece in pieces:
        text = piece.text if piece.is_command else piece.text.strip(" ;,").removeprefix(": ").strip("()")
        if text.strip(" .:#"):
            steps.append([piece._replace(text=text)])
    return steps
