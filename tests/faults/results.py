# SPDX-License-Identifier: LGPL-2.1-or-later
"""What came of the cells, kept in a file, and the table of docs/reliability.md that is made of it.

    python -m tests.faults.results FILE
    python -m tests.faults.results --part FILE

writes the table between the page's markers, and prints it.  That of a part of the cells has a place of its
own, behind the one of all: a run of all empties it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.bench.report import PROGRAMS, TOP, distribution, version_of

from .cell import ACTIONS, OURS, STAGES, STOCK, Verdict
from .fault import LOGIN, NO_AGENT, RECOVERY, STANDING
from .faults import FAULTS

PAGE = TOP / "docs" / "reliability.md"
ALL, PART = "make faults", "make faults ONLY="

# The file to which verdicts are appended, a line of JSON each; none are kept where it is not set.
FILE = "SANLOCK_HELPER_FAULTS_RESULTS"


def keep(verdict: Verdict) -> None:
    """Append VERDICT to the file, in one write: several processes have it open."""
    path = os.environ.get(FILE)
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, json.dumps(verdict).encode() + b"\n")
        finally:
            os.close(descriptor)


def read(path: Path) -> list[Verdict]:
    """The verdicts of a file, the last one of each cell."""
    found = [Verdict(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({verdict[:6]: verdict for verdict in found}.values())


def _summary(verdicts: Iterable[Verdict]) -> str:
    """How many were safe of those that were tried, and the longest time that took; for ours, also if true."""
    tried = [verdict for verdict in verdicts if verdict.reached]
    if not tried:
        return "-"
    times = [verdict.seconds for verdict in tried if verdict.seconds is not None]
    text = f"{len(times)} of {len(tried)}"
    if times:
        text += f", {max(times):.1f} s"
    untrue = sum(not verdict.is_true for verdict in tried if verdict.helper == OURS)
    return text + (f", {untrue} untrue" if untrue else "")


def _stages(reached: set[str], agent: str) -> str:
    """The stages in words; recovery has its own faults, and an agent that stands has logged in before."""
    of_the_call = set(STAGES) - {RECOVERY} - ({LOGIN} if agent == STANDING else set())
    named = (
        ["all"] if of_the_call <= reached else [stage for stage in STAGES if stage in reached - {RECOVERY}]
    )
    return ", ".join(named + [RECOVERY] * (RECOVERY in reached))


def table(verdicts: list[Verdict]) -> str:
    """A row for each kind of daemon, fault and kind of agent, in Markdown."""
    rows = [
        f"| libvirt's driver | fault | agent | stages | {' | '.join(ACTIONS)} | C helper |",
        f"|{' --- |' * (len(ACTIONS) + 5)}",
    ]
    kinds = dict.fromkeys(verdict.kind for verdict in verdicts)
    for kind, fault, agent in itertools.product(kinds, FAULTS, (NO_AGENT, STANDING)):
        own = [v for v in verdicts if (v.kind, v.fault, v.agent) == (kind, fault.name, agent)]
        ours = [verdict for verdict in own if verdict.helper == OURS and verdict.reached]
        if not ours:
            continue
        stages = _stages({verdict.stage for verdict in ours}, agent)
        cells = [_summary(v for v in ours if v.action == action) for action in ACTIONS]
        # It does not know restart: that is no fault's doing.
        stock = _summary(v for v in own if v.helper == STOCK and v.action != "restart")
        rows.append(f"| {kind} | {fault.name} | {agent} | {stages} | {' | '.join(cells)} | {stock} |")
    return "\n".join(rows)


def replace(page: str, table_of: str, body: str) -> str:
    """PAGE with BODY between the markers of the table of ALL, or of PART.

    Raises ValueError when it has not each of them once, in order.
    """
    begin, end = (f"<!-- {table_of}: {word} -->\n" for word in ("begin", "end"))
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"no place for the table: wanted, once and in this order: {begin!r} and {end!r}")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{body}\n\n{end}{rest.partition(end)[2]}"


def main() -> None:
    """Write the page, and print the table."""
    *options, file = sys.argv[1:]
    verdicts = read(Path(file))
    ours = [verdict for verdict in verdicts if verdict.helper == OURS and verdict.reached]
    versions = ", ".join(f"{name} {version_of(*command)}" for name, command in PROGRAMS.items())
    heading = (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}; {distribution()}, {versions}. "
        f"{len(ours)} cells: {sum(v.is_safe for v in ours)} safe in the budget, "
        f"{sum(v.is_true for v in ours)} with exactly one outcome in the journal, and a true one."
    )
    text = f"{heading}\n\n{table(verdicts)}"
    page = PAGE.read_text(encoding="utf-8")
    if options == ["--part"]:
        page = replace(page, PART, text)
    else:
        page = replace(replace(page, ALL, text), PART, "None since.")
    PAGE.write_text(page, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
