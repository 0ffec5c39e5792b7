# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options for sanlock in files that its unit does not read on this distribution.

libvirt's page has SANLOCKOPTS in /etc/sysconfig/sanlock, which an init script read.  Debian's unit reads
sanlock_opts in /etc/default/sanlock; that of Fedora and RHEL reads neither.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import HelperError
from ..leases.grace import read_small
from .finding import Finding, not_checked, passed, warned
from .registry import check
from .remedies import RESTART
from .unit_files import UnitFiles

if TYPE_CHECKING:
    from .facts import Facts

_FILES = ("default/sanlock", "sysconfig/sanlock")

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(?P<name>\w*(?:opt|arg)\w*)=(?P<value>.*)", re.IGNORECASE)

_VARIABLE = re.compile(r"\$\{?(\w+)\}?")

# The unit of these has no options: what it had is in sanlock.conf.
_BY_FILE = (4,)


@dataclass(frozen=True)
class Options:
    """The options in one variable of a file."""

    path: Path
    name: str
    words: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each option with its value, "" where it has none."""
        found: list[tuple[str, str]] = []
        for word in self.words:
            if word.startswith("-") and not word[1:].isdecimal():
                found.append((word[:2], word[2:]))
            elif found and not found[-1][1]:
                found[-1] = found[-1][0], word
        return found


_Lacking = tuple[Options, list[tuple[str, str]]]


@dataclass(frozen=True)
class UnitOptions:
    """What sanlock.service reads: each file with the variables that its command has; and that command."""

    read: tuple[tuple[Path, str], ...]
    command: str


def written(etc: Path) -> Iterator[Options]:
    """The options in the files of ETC that one distribution or another reads.

    Of a name that comes again the last one counts.
    """
    for name in _FILES:
        found: dict[str, Options] = {}
        for line in read_small(str(etc / name)).decode("utf-8", "replace").split("\n"):
            match = _ASSIGNMENT.fullmatch(line)
            if match is None:
                continue
            try:
                # The value is one word of a shell's, and its content is words again.
                words = tuple(shlex.split(" ".join(shlex.split(match["value"], comments=True))))
            except ValueError:
                words = ()
            found[match["name"]] = Options(etc / name, match["name"], words)
        yield from found.values()


def unit_options(files: UnitFiles) -> UnitOptions:
    """What the unit of sanlock reads."""
    command = (files.values("sanlock.service", "ExecStart") or [""])[-1].lstrip("-@:+!")
    names = _VARIABLE.findall(command)
    paths = [Path(value.lstrip("-")) for value in files.values("sanlock.service", "EnvironmentFile")]
    return UnitOptions(tuple((path, name) for path in paths for name in names), command)


def _options(facts: Facts) -> tuple[list[Options], UnitOptions, list[str] | None, bool, bool]:
    try:
        status, line = facts.sanlock, facts.command_line
    except (HelperError, OSError):
        return list(written(facts.host.etc)), unit_options(UnitFiles(facts.host)), None, False, False
    unused = status.number("use_watchdog") == 0
    by_file = status.version >= _BY_FILE
    return list(written(facts.host.etc)), unit_options(UnitFiles(facts.host)), line, unused, by_file


@check("sanlock options", "each option for sanlock where its unit reads it, and in force", reads=_options)
def check_options(
    given: Sequence[Options],
    unit: UnitOptions,
    command_line: Sequence[str] | None,
    no_watchdog: bool = False,
    by_file: bool = False,
) -> Finding:
    """Whether the options that are GIVEN in files reach sanlock by its UNIT.

    COMMAND_LINE is the running daemon's, None where none runs; NO_WATCHDOG: it uses none.  BY_FILE:
    sanlock.conf has what options were.
    """
    if unit.command and "daemon" not in unit.command:
        return not_checked(f"sanlock.service runs {unit.command}, which may read any file")
    unread: list[_Lacking] = []
    late: list[_Lacking] = []
    for options in given:
        is_read = (options.path, options.name) in unit.read
        if command_line is None:
            lacking = [] if is_read else options.pairs
        else:
            lacking = [pair for pair in options.pairs if not _in_force(pair, command_line, no_watchdog)]
        if lacking:
            (late if is_read else unread).append((options, lacking))
    if unread:
        found = ", ".join(f"{one.name} = {_text(pairs)} in {one.path}" for one, pairs in unread)
        missing = list(dict.fromkeys(pair for _, pairs in unread for pair in pairs))
        remedy = f"{_moved(missing, given, unit, by_file)} && {RESTART}"
        return warned(f"{found}: sanlock.service does not read it, and it is not in force", remedy)
    if late:
        found = ", ".join(f"{_text(pairs)} in {one.path}" for one, pairs in late)
        return warned(f"{found}: not in force until sanlock is started again", RESTART)
    return passed(", ".join(f"{_text(one.pairs)} in {one.path}" for one in given if one.pairs) or "none")


def with_option(facts: Facts, option: str, value: str) -> str:
    """The command that has sanlock.service give OPTION with VALUE to sanlock, beside the options of now."""
    given, unit = list(written(facts.host.etc)), unit_options(UnitFiles(facts.host))
    return _moved([(option, value)], given, unit, False)


def _in_force(pair: tuple[str, str], command_line: Sequence[str], no_watchdog: bool) -> bool:
    option, value = pair
    if pair == ("-w", "0"):
        return no_watchdog
    return f"{option}{value}" in command_line or pair in zip(command_line, command_line[1:])


def _text(pairs: Sequence[tuple[str, str]]) -> str:
    return " ".join(f"{option} {value}".strip() for option, value in pairs)


def _moved(
    missing: Sequence[tuple[str, str]], given: Sequence[Options], unit: UnitOptions, by_file: bool
) -> str:
    """The command that writes the MISSING options where the UNIT reads them, beside what is there."""
    if by_file and list(missing) == [("-w", "0")]:
        return "printf '%s\\n' 'use_watchdog = 0' >> /etc/sanlock/sanlock.conf"
    if unit.read:
        path, name = unit.read[-1]
        names = {option for option, _ in missing}
        there = next((one.pairs for one in given if (one.path, one.name) == (path, name)), [])
        pairs = [*(pair for pair in there if pair[0] not in names), *missing]
        # Of two assignments the last one counts.
        line = shlex.quote(f'{name}="{_text(pairs)}"')
        return f"printf '%s\\n' {line} >> {path}"
    command = unit.command or "/usr/sbin/sanlock daemon"
    lines = shlex.join(["[Service]", "ExecStart=", f"ExecStart={command} {_text(missing)}"])
    folder = "/etc/systemd/system/sanlock.service.d"
    file = f"{folder}/options.conf"
    return f"mkdir -p {folder} && printf '%s\\n' {lines} > {file} && systemctl daemon-reload"
