# SPDX-License-Identifier: LGPL-2.1-or-later
"""One run of a schedule: its steps in their time, and the invariants checked meanwhile and at the end."""

from __future__ import annotations

import time
from typing import Callable, NamedTuple

from .invariants import violations
from .observations import Run
from .recovery_invariants import stops
from .schedule import Schedule
from .steps import Steps
from .violation import Violation
from .world import World

# How often all invariants are checked over what was seen until then.
CHECK_SECONDS = 5.0
# What is found must still be so when both hosts have been sampled again.
CONFIRM_SECONDS = 3.0
# How long the machines may take to come back after all.
SETTLE_SECONDS = 45.0


class Result(NamedTuple):
    """What came of a run.  report: the logs after a violation, else ""."""

    violations: list[Violation]
    summary: str
    report: str


def play(
    schedule: Schedule,
    log: Callable[[str], None] = lambda _line: None,
    make_world: Callable[[Schedule], World] = World,
    settle: float = SETTLE_SECONDS,
) -> Result:
    """Play SCHEDULE.  A violation ends it early."""
    with make_world(schedule) as world:
        begin = time.monotonic()

        def stamped(line: str) -> None:
            log(f"{time.monotonic() - begin:7.2f} {line}")

        steps = Steps(world, stamped)
        found = _steps(schedule, world, steps, begin)
        steps.close()
        if not found:
            world.settle(settle)
        run = world.run()
        found = violations(run if not found else run._replace(is_over=False))
        return Result(
            [violation._replace(at=violation.at - begin) for violation in found],
            summary(run),
            f"begin: {begin:.2f}\n{world.report()}" if found else "",
        )


def _steps(schedule: Schedule, world: World, steps: Steps, begin: float) -> list[Violation]:
    """Do the steps in their time, and wait until it is over; the violations that end that early."""
    left = list(schedule.steps)
    check = begin + CHECK_SECONDS
    while time.monotonic() < begin + schedule.seconds or left:
        now = time.monotonic()
        while left and begin + left[0].at <= now:
            steps.begin(left.pop(0))
        if now >= check:
            found = violations(world.run()._replace(is_over=False))
            if found:
                time.sleep(CONFIRM_SECONDS)
                found = violations(world.run()._replace(is_over=False))
            if found:
                return found
            check = time.monotonic() + CHECK_SECONDS
        time.sleep(0.02)
    return []


def summary(run: Run) -> str:
    """What the run was worth: how much was seen and asked for."""
    parts = []
    for number, host in run.hosts.items():
        calls = sum(not call.by_hand for call in host.calls)
        kinds: dict[str, int] = {}
        for outcome in host.outcomes:
            kinds[outcome.kind] = kinds.get(outcome.kind, 0) + outcome.requests
        ends = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        parts.append(
            f"host {number}: {len(host.samples)} samples, {calls} calls by sanlock and "
            f"{len(host.calls) - calls} by hand, outcomes: {ends or 'none'}; {_stops_text(run, number)}"
        )
    return "\n".join(parts)


def _stops_text(run: Run, number: int) -> str:
    """How many guests that an I/O error stopped are back, and how long the slowest took."""
    seen = [stop for stop in stops(run) if stop.host == number]
    back = [stop.calm for stop in seen if stop.is_back]
    slowest = f", the slowest after {max(back):.1f} undisturbed seconds" if back else ""
    return f"{len(back)} of {len(seen)} guests back that had stopped by an I/O error{slowest}"
