# SPDX-License-Identifier: LGPL-2.1-or-later
"""Chaos from a seed, or a schedule replayed or shrunk.

    python -m tests.chaos [--seconds N] [--seed N] [--schedule FILE] [--shrink] [--directory DIR]

prints the seed, each step and each violation, and leaves the schedule in DIR, and after a
violation all logs.  Ends with 1 after a violation.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from .run import Result, play
from .schedule import Schedule, generate
from .shrink import shrink


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with ARGUMENTS, or the command line's; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--schedule", type=Path, help="replay this one")
    parser.add_argument("--shrink", action="store_true", help="drop the steps that a violation does not need")
    parser.add_argument("--directory", type=Path, default=Path("build/chaos"))
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    if options.schedule:
        try:
            schedule = Schedule.from_json(options.schedule.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"{options.schedule}: no schedule that can be replayed: {_why(error)}")
    else:
        seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
        schedule = generate(seed, options.seconds)
    result = _play(schedule, options.directory)
    if options.shrink and result.violations:
        names = {violation.invariant for violation in result.violations}
        smaller = shrink(schedule, lambda tried: _violates(tried, names, options.directory))
        file = options.directory / f"{schedule.seed}-shrunk.json"
        file.write_text(smaller.to_json(), encoding="utf-8")
        print(f"{len(smaller.steps)} of {len(schedule.steps)} steps are needed: {file}")
    return 1 if result.violations else 0


def _why(error: Exception) -> str:
    """Why a file is no schedule, in words."""
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _play(schedule: Schedule, directory: Path) -> Result:
    file = directory / f"{schedule.seed}.json"
    file.write_text(schedule.to_json(), encoding="utf-8")
    print(
        f"seed {schedule.seed}, {schedule.seconds:g} s, {len(schedule.steps)} steps: "
        f"make chaos SCHEDULE={file} replays it",
        flush=True,
    )
    result = play(schedule, log=lambda line: print(line, flush=True))
    for violation in result.violations:
        print(f"VIOLATION at {violation.at:.1f} s, host {violation.host}, {violation.uuid}: "
              f"{violation.invariant}: {violation.text}")  # fmt: skip
    if result.violations:
        log = directory / f"{schedule.seed}.log"
        log.write_text(result.report, encoding="utf-8", errors="backslashreplace")
        print(f"the logs of both hosts: {log}")
    print(result.summary, flush=True)
    return result


def _violates(schedule: Schedule, names: set[str], directory: Path) -> bool:
    """Whether one of the same invariants is violated again."""
    found = _play(schedule, directory).violations
    return any(violation.invariant in names for violation in found)


if __name__ == "__main__":
    sys.exit(main())
