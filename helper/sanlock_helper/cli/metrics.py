# SPDX-License-Identifier: LGPL-2.1-or-later
"""The text format of OpenMetrics 1.0, for a textfile of node_exporter.

That reads the older format of Prometheus, too: only gauges are written, which both have, and no timestamps.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from ..agent_state import AgentState
from ..checks.finding import FAIL, PASS, WARN, Finding
from ..history.current_outage import LockspaceRow
from ..history.forecast import AT_LOSS, Row
from ..history.outages import OutageEvent
from ..leases.renewals import LOST

PREFIX = "virt_sanlock_helper"

# A metric that has one ends with it.
UNITS = ("bytes", "seconds")

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


def family(name: str, what: str, samples: Iterable[Sample]) -> list[str]:
    """The lines of one gauge: its NAME behind PREFIX, WHAT it is, and its SAMPLES, labels and value."""
    full = f"{PREFIX}_{name}"
    lines = [f"# TYPE {full} gauge"]
    unit = full.rpartition("_")[2]
    if unit in UNITS:
        lines.append(f"# UNIT {full} {unit}")
    lines.append(f"# HELP {full} {_escaped(what)}")
    return lines + [f"{full}{_labels(labels)} {_number(value)}" for labels, value in samples]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    """TEXT as a label's value: of UTF-8, with a backslash, a quotation mark and a line break escaped.

    Other control characters, which move a terminal's cursor, and bytes of a name that is not UTF-8 stand
    there as in a Python string literal.
    """
    safe = "".join(_visible(char) for char in text)
    return safe.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _visible(char: str) -> str:
    is_odd = char != "\n" and unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
    return ascii(char)[1:-1] if is_odd else char


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def check_lines(findings: list[Finding], is_ready: bool) -> list[str]:
    """What `check` found; IS_READY as its exit status has it."""
    names = [{"check": finding.name} for finding in findings]
    pairs = list(zip(names, findings))
    counts = [
        ({"verdict": verdict}, sum(finding.verdict == verdict for finding in findings))
        for verdict in (PASS, WARN, FAIL)
    ]
    return [
        *family("ready", "1 if this host is ready to lose its storage, else 0.", [({}, is_ready)]),
        *family("checks", "The number of checks by verdict.", counts),
        *family(
            "check_failed",
            "1 if this check failed, else 0.",
            [(labels, finding.verdict == FAIL) for labels, finding in pairs],
        ),
        *family(
            "check_warned",
            "1 if this check warns or could not be made, else 0.",
            [(labels, finding.verdict == WARN) for labels, finding in pairs],
        ),
    ]


def lockspace_metrics(rows: Iterable[LockspaceRow], now: float) -> list[str]:
    """What `status` shows of the lockspaces in ROWS at NOW, seconds of CLOCK_MONOTONIC."""
    joined = [(row.name, row.renewals) for row in rows if row.renewals is not None]
    named = [({"lockspace": name}, renewals) for name, renewals in joined]
    return [
        *family(
            "lockspace_renewal_age_seconds",
            "Seconds since this host's lease of the lockspace was renewed.",
            [(labels, renewals.age(now)) for labels, renewals in named],
        ),
        *family(
            "lockspace_loss_age_seconds",
            "The age of the last renewal at which the lockspace is lost; none where that is never.",
            [(labels, renewals.timeline.lost) for labels, renewals in named if renewals.has_timeout],
        ),
        *family(
            "lockspace_lost",
            "1 if the lockspace is lost and not left yet, else 0.",
            [(labels, renewals.stage(now) == LOST) for labels, renewals in named],
        ),
    ]


def status_lines(
    rows: list[Row], records_waiting: int | None, events: Iterable[OutageEvent] | None, problems: int
) -> list[str]:
    """What `status` shows of the domains in ROWS; None where RECORDS_WAITING or EVENTS are not known.

    PROBLEMS is how many things could not be read.
    """
    lines = _domain_lines(rows)
    if records_waiting is not None:
        lines += family(
            "records_waiting",
            "Domains that wait for recovery, or were refused by it.",
            [({}, records_waiting)],
        )
    if events is not None:
        lines += _last_outage(events)
    return lines + family("problems", "What could not be read.", [({}, problems)])


def _domain_lines(rows: list[Row]) -> list[str]:
    by_action = [({"at_loss": kind}, sum(row.at_loss.kind == kind for row in rows)) for kind in AT_LOSS]
    held: dict[str, int] = {}
    for row in rows:
        for space, number in (row.leases or {}).items():
            held[space] = held.get(space, 0) + number
    return [
        *family("domains", "Domains by what would happen to them at a loss of their leases.", by_action),
        *family(
            "leases",
            "Leases held by lockspace.",
            [({"lockspace": name}, held[name]) for name in sorted(held)],
        ),
        *family(
            "domain_leases",
            "Leases held by domain; none where that is not known.",
            [
                ({"domain": row.domain.name, "uuid": row.domain.uuid}, sum(row.leases.values()))
                for row in rows
                if row.leases is not None
            ],
        ),
        *family(
            "domain_leases_lost",
            "1 if leases of this domain are lost, else 0.",
            [({"domain": row.domain.name, "uuid": row.domain.uuid}, bool(row.lost)) for row in rows],
        ),
    ]


def _last_outage(events: Iterable[OutageEvent]) -> list[str]:
    losses = [event.time for event in events if event.kind == "lost"]
    what = "When sanlock last lost a lockspace, since the epoch; none in the last seven days without it."
    return family("last_outage_timestamp_seconds", what, [({}, max(losses))] if losses else [])


def agent_lines(agent: AgentState | None) -> list[str]:
    """Whether an AGENT stands, since when, and what it has in memory; None where none does."""
    there = [] if agent is None else [agent]
    return [
        *family("agent_stands", "1 if an agent stands ready, else 0.", [({}, agent is not None)]),
        *family(
            "agent_stopped",
            "1 if the agent that stands is stopped, by a signal, a debugger or a frozen control group.",
            [({}, one.is_stopped) for one in there],
        ),
        *family(
            "agent_start_timestamp_seconds",
            "When the agent that stands was started, since the epoch.",
            [({}, one.since) for one in there],
        ),
        *family(
            "agent_resident_memory_bytes",
            "What the agent that stands has in memory.",
            [({}, one.resident << 20) for one in there],
        ),
        *family(
            "agent_locked_memory_bytes",
            "The address space of the agent that stands which is locked in memory; 0 where it may lock none.",
            [({}, one.locked << 20) for one in there],
        ),
    ]


def print_metrics(lines: Iterable[str]) -> None:
    """Print LINES, and the one that marks the end."""
    print("\n".join([*lines, "# EOF"]), flush=True)
