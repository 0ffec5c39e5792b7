# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rest of the host: recovery units, clean-up of leases."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..agent_state import AgentState, agent_state, described_state
from ..command import run
from ..distribution import DEBIAN
from ..regular_file import read_regular
from ..timestamps import moment
from .finding import Finding, failed, not_checked, passed, warned
from .hindered_units import freed
from .registry import check

# Started by a record that appears, and at boot.
RECOVERY_UNITS = ("virt-sanlock-helper-recover.path", "virt-sanlock-helper-recover.service")

AGENT_UNIT = "virt-sanlock-helper-agent.service"

CLEANUP = "virt-sanlock-cleanup"

COMMAND_SECONDS = 10.0

# Of what cron runs, which may be a program of any size, the beginning is read.
_MOST_BYTES = 1024 * 1024

# A line that ends a shell script: not one in a branch, which is indented or behind a condition.
_QUESTION = re.compile(r"(?:\[+|\btest)\s+!?\s*-\w\s+\S+")
_ENDS = re.compile(r"(?:exit|return)(?:\s+\d+)?\s*(?:;.*|#.*)?$")

# What run-parts(8) of debianutils takes without --regex, and cron(8) there in cron.d.
_DEBIANS = re.compile(r"[A-Za-z0-9_-]+")


@check("recovery units", f"{', '.join(RECOVERY_UNITS)} enabled", reads=lambda facts: (unit_states(),))
def check_recovery_units(states: Mapping[str, str] | None) -> Finding:
    """STATES of the units as systemctl prints them; None where systemd does not answer."""
    if states is None:
        return not_checked("systemctl does not answer")
    found = ", ".join(f"{unit} {state}" for unit, state in states.items())
    remedy = f"systemctl enable --now {RECOVERY_UNITS[0]}; systemctl enable {RECOVERY_UNITS[1]}"
    if "not-found" in states.values():
        return failed(found, "reinstall virt-sanlock-helper, which brings them")
    masked = {unit: state for unit, state in states.items() if state.startswith("masked")}
    if masked:
        return failed(found, f"{freed(masked)}{remedy}")
    if not all(state.startswith("enabled") or state == "static" for state in states.values()):
        return warned(f"{found}: the VMs do not come back by themselves", remedy)
    return passed(found)


def unit_states(units: Iterable[str] = RECOVERY_UNITS, program: str = "systemctl") -> dict[str, str] | None:
    """What `systemctl is-enabled` prints for each of UNITS; None where systemd does not answer."""
    states = {}
    for unit in units:
        answer = run([program, "is-enabled", unit], COMMAND_SECONDS)
        if answer.problem:
            return None
        if not answer.stdout.strip() and "No such file or directory" not in answer.stderr:
            return None
        states[unit] = answer.stdout.strip() or "not-found"
    return states


@check(
    "agent",
    f"{AGENT_UNIT} runs: ready in memory before the storage is gone",
    reads=lambda facts: (agent_state(facts.host.runtime_dir, facts.host.proc), unit_states((AGENT_UNIT,))),
)
def check_agent(agent: AgentState | None, states: Mapping[str, str] | None) -> Finding:
    """The AGENT that stands, None where none does; STATES as in check_recovery_units()."""
    if agent is not None and agent.is_stopped:
        return warned(described_state(agent), f"kill -CONT {agent.pid}")
    if agent is not None:
        return passed(f"ready since {moment(agent.since)}: {described_state(agent)}")
    found = "no agent stands ready: the first process of an outage becomes the agent, and starts from disk"
    if states is None or states[AGENT_UNIT] in ("not-found", "masked", "disabled"):
        return passed(found)
    return warned(found, f"systemctl enable --now {AGENT_UNIT}")


@check(
    CLEANUP,
    "run once a week on one of the hosts",
    reads=lambda facts: (
        schedules(facts.host.etc, facts.host.var, facts.host.lib, facts.distribution.family == DEBIAN),
    ),
)
def check_cleanup(places: Mapping[str, str]) -> Finding:
    """Whether a file of PLACES (path to text) runs virt-sanlock-cleanup."""
    named = [path for path, text in places.items() if CLEANUP in text]
    found = [path for path in named if CLEANUP in _reached(places[path])]
    if found:
        return passed(f"scheduled: {', '.join(found)}")
    if named:
        # As Debian ships it.
        ends = r"sed -i -E '0,/^(exit|return)\b.*/s//# &/'"
        remedy = f"{ends} {shlex.quote(named[0])}  # on one of the hosts, if none does it"
        return warned(f"{named[0]} is there, and ends before it runs it", remedy)
    remedy = f"ln -s /usr/sbin/{CLEANUP} /etc/cron.weekly/  # on one of the hosts, if none does it"
    return warned("not scheduled on this host", remedy)


def _reached(text: str) -> str:
    """The lines of a script before one that ends it whatever happens; a crontab has none such.

    A question whether the program is there does not run it.
    """
    lines = _QUESTION.sub("", text).splitlines()
    for number, line in enumerate(lines):
        if _ENDS.match(line):
            return "\n".join(lines[:number])
    return text


def schedules(etc: Path, var: Path, lib: Path, is_debian: bool = False) -> dict[str, str]:
    """What cron and systemd's timers would run: path to text; for a symbolic link, what it points to.

    Debian's cron and run-parts(8) leave out each file whose name has a dot or the like.
    """
    files: dict[str, str] = {}
    for when in ("hourly", "daily", "weekly", "monthly"):
        # run-parts runs what may be run, and leaves out what an editor or a package manager has put beside.
        parts = _texts(etc / f"cron.{when}").items()
        files.update({path: text for path, text in parts if _is_part(path)})
    files.update(_texts(etc / "cron.d"))
    if is_debian:
        files = {path: text for path, text in files.items() if _DEBIANS.fullmatch(os.path.basename(path))}
    for folder in (var / "spool/cron", var / "spool/cron/crontabs", etc / "systemd/system"):
        files.update(_texts(folder))
    # A timer that a package brings counts when it is enabled: then a link in etc names it.
    for timer in list((etc / "systemd/system").glob("*.wants/*.timer")):
        service = lib / "systemd/system" / f"{timer.stem}.service"
        files.update(_texts(service.parent, service.name))
    files.update(_texts(etc, "crontab"))
    return files


def _is_part(path: str) -> bool:
    if not os.path.islink(path) and not os.access(path, os.X_OK):
        return False
    return re.search(r"(?:~|,|\.(?:rpmsave|rpmorig|rpmnew|swp|bak|disabled|dpkg-\w+|cfsaved))$", path) is None


def _texts(folder: Path, pattern: str = "*") -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob(pattern)):
        if path.is_symlink():
            found[str(path)] = f"{path.name} {path.readlink()}"
        elif path.is_file():
            # The comments of a crontab schedule nothing.
            lines = read_regular(path, _MOST_BYTES).decode("utf-8", "replace").splitlines()
            found[str(path)] = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return found
