# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long multipath queues I/O without a path: what is written later may meet another host's writes."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..command import Answer, run
from ..leases.grace import read_small
from ..leases.timeline import Timeline
from ..numbers import whole_number
from .finding import Finding, failed, passed, warned
from .registry import check

# multipath.conf(5)
DEFAULT_POLLING = 5

COMMAND_SECONDS = 10.0

# The file with all devices of its manual has some 60 KB.
_MOST_BYTES = 1 << 20

CONF = "/etc/multipath.conf"
_OURS = "/etc/multipath/conf.d/virt-sanlock-helper.conf"

_QUEUES = "queue_if_no_path"


@dataclass(frozen=True)
class Section:
    """A section of multipath.conf: its name, and its settings, of which the last one of a name counts."""

    name: str
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Queueing:
    """How long I/O without a path is queued, in seconds, infinite for ever; and what has it so."""

    seconds: float
    text: str


@dataclass(frozen=True)
class Multipath:
    """What is in force: CONFIG, of the running daemon or of its files, and the queueing of its maps."""

    config: str
    is_running: bool = False
    maps: tuple[tuple[str, str], ...] = ()


def parse_sections(config: str) -> list[Section]:
    """The sections of CONFIG, those within others too."""
    found: list[Section] = []
    within: list[Section] = []
    for line in config.split("\n"):
        words = _words(line)
        if not words:
            continue
        if "{" in words:
            within.append(Section(words[0]))
            found.append(within[-1])
            words = words[words.index("{") + 1 :]
        if len(words) >= 2 and within:
            within[-1].values[words[0]] = words[1]
        if "}" in words and within:
            within.pop()
    return found


def _words(line: str) -> list[str]:
    """The words of a line: quoted text is one, and # or ! begins a comment."""
    found = re.findall(r"\"([^\"]*)\"?|([{}])|([#!].*)|([^\s{}\"#!]+)", line)
    return [quoted or brace or word for quoted, brace, comment, word in found if not comment]


def queueing(config: str) -> Queueing:
    """The longest queueing that CONFIG allows, whichever devices there are.

    In libmultipath/propsel.c a setting is taken from multipaths, then overrides, devices, defaults;
    no_path_retry wins over queue_if_no_path in features wherever it stands.
    """
    sections = parse_sections(config)

    def named(name: str) -> list[Section]:
        return [section for section in sections if section.name == name]

    defaults, overrides = _merged(named("defaults")), _merged(named("overrides"))
    polling = whole_number(defaults.values.get("polling_interval", "")) or DEFAULT_POLLING
    devices = [*named("device"), Section("no device")]
    chains = [
        [*multipath, overrides, device, defaults]
        for multipath in ([], *([one] for one in named("multipath")))
        for device in devices
    ]
    return max((_queueing(chain, polling) for chain in chains), key=lambda one: one.seconds)


def _merged(sections: Iterable[Section]) -> Section:
    values: dict[str, str] = {}
    name = ""
    for section in sections:
        name = section.name
        values.update(section.values)
    return Section(name, values)


def _queueing(chain: Sequence[Section], polling: int) -> Queueing:
    retry = next((one for one in chain if "no_path_retry" in one.values), None)
    if retry is not None:
        value = retry.values["no_path_retry"]
        if value == "queue":
            return Queueing(math.inf, f"no_path_retry queue: for ever ({retry.name})")
        tries = whole_number(value) or 0
        text = f"no_path_retry {value} every {polling} s: {tries * polling} s ({retry.name})"
        return Queueing(tries * polling, text if tries else f"no_path_retry {value} ({retry.name})")
    features = next((one for one in chain if "features" in one.values), None)
    if features is not None and _QUEUES in features.values["features"].split():
        text = f'features "{features.values["features"]}" without no_path_retry: for ever ({features.name})'
        return Queueing(math.inf, text)
    return Queueing(0, "no_path_retry is not set: I/O fails at once")


def map_queueing(maps: Iterable[tuple[str, str]], polling: int) -> Queueing:
    """The longest queueing of MAPS, each with what multipathd prints of it (%Q): on, off, N chk, N sec, -."""

    def one(name: str, state: str) -> Queueing:
        words = state.split()
        if state == "on":
            return Queueing(math.inf, f"{name} queues: for ever")
        number = whole_number(words[0]) if len(words) == 2 else None
        seconds = 0 if number is None else number * polling if words[1] == "chk" else number
        return Queueing(seconds, f"{name} queues for {seconds} s")

    found = [one(name, state) for name, state in maps]
    longest = max(found, key=lambda queue: queue.seconds)
    return longest if longest.seconds else Queueing(0, f"no map of {len(found)} queues")


@check("multipath", reads=lambda facts: (multipath_in_force(facts.host.etc), facts.timeline))
def check_multipath(found: Multipath | None, clock: Timeline) -> Finding:
    """How long multipath queues I/O without a path; None where it is not installed."""
    wanted = f"I/O without a path fails within {clock.lost} s: what is queued longer may be written too late"
    if found is None:
        return passed("not installed", wanted=wanted)
    defaults = _merged(one for one in parse_sections(found.config) if one.name == "defaults")
    polling = whole_number(defaults.values.get("polling_interval", "")) or DEFAULT_POLLING
    longest = map_queueing(found.maps, polling) if found.maps else queueing(found.config)
    if longest.seconds <= clock.lost:
        return passed(longest.text, wanted=wanted)
    least = max(1, clock.lost // polling - 1)
    # A setting for one map wins over all that a command could add.
    is_maps = "(multipath)" in queueing(found.config).text
    remedy = "" if is_maps else f"{_overrides(least, found.is_running)}  # or "
    remedy += f"no_path_retry {least} in {CONF}"
    judged = failed if math.isinf(longest.seconds) else warned
    return judged(longest.text, remedy, wanted=wanted)


def _overrides(retries: int, is_running: bool) -> str:
    lines = shlex.join(["overrides {", f"    no_path_retry {retries}", "}"])
    folder = _OURS.rpartition("/")[0]
    command = f"mkdir -p {folder} && printf '%s\\n' {lines} > {_OURS}"
    return f"{command} && multipathd reconfigure" if is_running else command


def multipath_in_force(etc: Path, program: str = "multipathd") -> Multipath | None:
    """What the running multipathd has, else its files; None without multipath."""
    answer = _ask(program, "show", "config", "local")
    if answer.status == 0 and answer.stdout.strip():
        maps = tuple(_maps(_ask(program, "show", "maps", "raw", "format", "%n|%Q|%f")))
        return Multipath(answer.stdout, True, maps)
    paths = [etc / "multipath.conf", *sorted((etc / "multipath/conf.d").glob("*.conf"))]
    texts = [read_small(str(path), _MOST_BYTES).decode("utf-8", "replace") for path in paths if path.exists()]
    return Multipath("\n".join(texts)) if texts else None


def _ask(program: str, *words: str) -> Answer:
    return run([program, *words], COMMAND_SECONDS)


def _maps(answer: Answer) -> Iterator[tuple[str, str]]:
    """Each map with its queueing; where multipathd has none set, that of the kernel's map."""
    for line in answer.stdout.split("\n") if answer.status == 0 else ():
        match = re.fullmatch(r"\s*(\S+?)\s*\|\s*(on|off|-|\d+ chk|\d+ sec)\s*\|\s*(.*?)\s*", line)
        if match is not None:
            name, state, features = match.groups()
            yield name, "on" if state == "-" and _QUEUES in features.split() else state
