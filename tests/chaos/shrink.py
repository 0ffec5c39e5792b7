# SPDX-License-Identifier: LGPL-2.1-or-later
"""A schedule that violates an invariant, with all that is not needed for that taken out."""

from __future__ import annotations

from typing import Callable

from .schedule import Schedule, Step


def shrink(schedule: Schedule, violates: Callable[[Schedule], bool]) -> Schedule:
    """The smallest schedule found that still violates: no single step of it can be left out.

    Ever smaller parts of the steps are dropped, as in Zeller's ddmin.  VIOLATES replays a schedule, and is
    asked once for each.  The times of the steps that stay are not changed.
    """
    steps = list(schedule.steps)
    size = max(1, len(steps) // 2)
    while steps:
        smaller = _without_a_part(schedule, steps, size, violates)
        if smaller is not None:
            steps = smaller
            size = min(size, max(1, len(steps)))
        elif size == 1:
            break
        else:
            size = max(1, size // 2)
    return _with(schedule, steps)


def _without_a_part(
    schedule: Schedule, steps: list[Step], size: int, violates: Callable[[Schedule], bool]
) -> list[Step] | None:
    """STEPS without one part of SIZE that is not needed, the last such; None when each is."""
    for end in range(len(steps), 0, -size):
        left = steps[: max(0, end - size)] + steps[end:]
        if violates(_with(schedule, left)):
            return left
    return None


def _with(schedule: Schedule, steps: list[Step]) -> Schedule:
    """SCHEDULE with these steps, and no longer than they take."""
    end = max((step.at + step.lasts for step in steps), default=0.0)
    return schedule._replace(steps=tuple(steps), seconds=min(schedule.seconds, end + 1.0))
