# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was sent to syslog inside a stack."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from . import namespace

# Kept in step with init.py, which writes it.
PATH = "/run/stack/journal"

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp", "ntp", "audit", "alert", "clock"),
    *(f"local{number}" for number in range(8)),
)

# syslog(3) of glibc: <priority>Mon dd hh:mm:ss ident[pid]: message
_LINE = re.compile(
    r"(?:<(?P<priority>\d{1,3})>)?"
    r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?"
    r"(?:(?P<ident>[^\s:\[]+)(?:\[\d+\])?: )?"
    r"(?P<message>.*)",
    re.DOTALL | re.ASCII,
)
# user.notice: what syslogd takes a message for that has no level, or none that exists.
_DEFAULT = 13


class JournalLine(NamedTuple):
    """One message: its numbers by name, the kernel's word for the pid, and the time it came."""

    priority: int
    facility: str
    level: str
    ident: str
    pid: int
    message: str
    time: float


def parse(line: str) -> JournalLine:
    """Turn one line of init.py's record into a JournalLine."""
    entry = json.loads(line)
    # Some senders end the message with a NUL or a newline.
    match = _LINE.fullmatch(entry["raw"].rstrip("\0\n"))
    assert match is not None, "every part may be missing"
    priority = int(match["priority"] or _DEFAULT)
    if priority >= len(FACILITIES) << 3:
        priority = _DEFAULT
    return JournalLine(
        priority=priority,
        facility=FACILITIES[priority >> 3],
        level=LEVELS[priority & 7],
        ident=match["ident"] or "",
        pid=entry["pid"],
        message=match["message"],
        time=entry["time"],
    )


def read(space: namespace.Namespace) -> list[JournalLine]:
    """All messages so far, oldest first."""
    text = space.path(PATH).read_text()
    # What is behind the last end of line is being written.
    return [parse(line) for line in text.split("\n")[:-1]]
