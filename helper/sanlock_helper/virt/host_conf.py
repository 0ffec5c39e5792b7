# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's own settings: /etc/virt-sanlock-helper.conf, for recovery.

    [recover]
    default = no
    side_by_side = 8
    order = priority

The grammar is configparser's, with "=" and without interpolation.  No file is as good as an empty one.  What
is wrong is named with its line, and counts as not given: recovery goes on with the built-in value.

The agent does not read it: before a domain is safe nothing may wait for the disk that has /etc.  It writes a
record of every domain, and recovery, which has the time, decides by the file as it is then.
"""

from __future__ import annotations

import configparser
import io
import os
import re
from collections.abc import Iterator
from typing import Callable, NamedTuple

from ..errors import PermanentError, hint_for
from ..escapes import shown
from ..numbers import number_within
from ..regular_file import read_regular

PATH = "/etc/virt-sanlock-helper.conf"

# Many times what all settings and their comments take.
MAX_SIZE = 64 * 1024

SECTION = "recover"

PRIORITY, TIME = "priority", "time"

_SIDE_BY_SIDE = (1, 64)

# A name that no line can have: configparser gives the values of the section of that name to all others.
_NO_SECTION = "\n"


class HostConf(NamedTuple):
    """The settings, with the built-in ones where none is given.

    default: whether a domain without a policy of its own is brought back; None where the file cannot be read,
    or what is wrong with it may have been meant for that. side_by_side: starts and resumes at a time. order:
    PRIORITY or TIME. given: the keys that the file has. problems: what is wrong with it, each with its line;
    remedy ends that.
    """

    default: bool | None = False
    side_by_side: int = 8
    order: str = PRIORITY
    given: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def text(self) -> str:
        """The settings in one line, as the file would have them."""
        default = {True: "yes", False: "no", None: "not known"}[self.default]
        return f"default = {default}, side_by_side = {self.side_by_side}, order = {self.order}"

    @property
    def problem(self) -> str:
        """What is wrong with the file, and what to do about it; "" where nothing is."""
        return f"{'; '.join(self.problems)} ({self.remedy})" if self.problems else ""


# Where the file is explained.
_SEE = "see CONFIGURATION in man virt-sanlock-helper"


def _truth(text: str) -> bool | None:
    return {"yes": True, "no": False}.get(text)


def _count(text: str) -> int | None:
    return number_within(text, _SIDE_BY_SIDE)


def _order(text: str) -> str | None:
    return text if text in (PRIORITY, TIME) else None


# Each key of SECTION: what reads its value, None for what is none, and what it takes.
KEYS: dict[str, tuple[Callable[[str], object], str]] = {
    "default": (_truth, "yes or no"),
    "side_by_side": (_count, f"a whole number from {_SIDE_BY_SIDE[0]} to {_SIDE_BY_SIDE[1]}"),
    "order": (_order, f"{PRIORITY} or {TIME}"),
}


# What configparser cuts off before it reads a line, with inline_comment_prefixes.
_COMMENT = re.compile(r"(?:^|\s)[#;].*", re.DOTALL)


class _Parser(configparser.ConfigParser):
    # Its own pattern takes a section's head for one whatever follows it in the line, and drops that.
    SECTCRE = re.compile(r"\[(?P<header>.+)\]\Z")


def read_host_conf(path: str = PATH) -> HostConf:
    """The settings in the file at PATH.  Raises nothing; takes as long as its disk does."""
    try:
        text = _read(path)
    except PermanentError as error:
        return unread(f"{error.what}: {error.why}", error.hint)
    return HostConf() if text is None else parse_host_conf(text, path)


def unread(why: str, remedy: str) -> HostConf:
    """The settings of a file that cannot be used for the reason WHY: all of them are built in."""
    return HostConf(default=None, problems=(why,), remedy=remedy)


def parse_host_conf(text: str, path: str = PATH) -> HostConf:
    """The settings in the TEXT of the file at PATH."""
    parser = _Parser(
        interpolation=None,
        delimiters=("=",),
        inline_comment_prefixes=("#", ";"),
        default_section=_NO_SECTION,
    )
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        line, why = _described(error)
        return unread(f"{path}: line {line}: {why}", f"correct that line: {_SEE}")
    values = dict(parser[SECTION]) if parser.has_section(SECTION) else {}
    read = {key: KEYS[key][0](value) for key, value in values.items() if key in KEYS}
    problems = sorted(_problems(parser, text))
    found = {key: value for key, value in read.items() if value is not None}
    if "default" not in found and _may_give_default(parser):
        found["default"] = None
    return HostConf(
        **found,  # type: ignore[arg-type]
        given=frozenset(key for key, value in read.items() if value is not None),
        problems=tuple(f"{path}: line {line}: {why}" for line, why in problems),
        remedy=f"correct what is named: {_SEE}" if problems else "",
    )


def _may_give_default(parser: configparser.ConfigParser) -> bool:
    """Whether what PARSER has read may have been meant to give a default, as a name that is unknown."""
    keys = set(parser[SECTION]) if parser.has_section(SECTION) else set()
    return "default" in keys or not keys <= KEYS.keys() or not set(parser.sections()) <= {SECTION}


def _problems(parser: configparser.ConfigParser, text: str) -> Iterator[tuple[int, str]]:
    """What does not count of what PARSER has read of TEXT: its line, and why."""
    for section in parser.sections():
        if section != SECTION:
            yield _line_of(text, section), f"unknown section {shown(section)}; the only one is [{SECTION}]"
            continue
        for key, value in parser[section].items():
            if key not in KEYS:
                why = f"unknown key {shown(key)}; [{SECTION}] takes {', '.join(KEYS)}"
                yield _line_of(text, section, key), why
            elif KEYS[key][0](value) is None:
                yield _line_of(text, section, key), f"{key} is {shown(value)}, not {KEYS[key][1]}"


def _line_of(text: str, section: str, key: str = "") -> int:
    """The line of TEXT that has the head of SECTION, or KEY in it; each is there once."""
    here = ""
    for number, line in enumerate(io.StringIO(text), 1):
        bare = _COMMENT.sub("", line).strip()
        head = _Parser.SECTCRE.match(bare)
        if head:
            here = head["header"]
        if here == section and (bare.partition("=")[0].strip() == key if key else head):
            return number
    return 0


def _described(error: configparser.Error) -> tuple[int, str]:
    """The line of a syntax ERROR, and what is wrong in it."""
    if isinstance(error, configparser.DuplicateSectionError):
        return error.lineno or 0, f"section {shown(error.section)} is there twice"
    if isinstance(error, configparser.DuplicateOptionError):
        return error.lineno or 0, f"{shown(error.option)} is there twice"
    if isinstance(error, configparser.MissingSectionHeaderError) and not error.line.lstrip().startswith("["):
        return error.lineno, f"a setting before the first section, [{SECTION}]"
    errors = getattr(error, "errors", None)
    line = errors[0][0] if errors else getattr(error, "lineno", 0)
    return line, f"neither [{SECTION}] nor KEY = VALUE"


def _read(path: str) -> str | None:
    """The text of the file at PATH, None where there is none.  Raises PermanentError for what is no text."""
    what = f"read {path}"
    try:
        data = read_regular(path, MAX_SIZE)
    except FileNotFoundError:
        if os.path.islink(path):
            raise PermanentError(
                what, "it is a symbolic link to a file that is not there", f"ls -l {path}"
            ) from None
        return None
    except OSError as error:
        raise PermanentError(
            what, error.strerror or str(error), hint_for(error) or f"ls -l {path}"
        ) from error
    if len(data) > MAX_SIZE:
        raise PermanentError(what, f"it is larger than {MAX_SIZE // 1024} KiB", f"shorten it: {_SEE}")
    try:
        # Some editors put a byte order mark before the first line.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PermanentError(what, f"line {line} is not UTF-8", f"correct that line: {_SEE}") from None
