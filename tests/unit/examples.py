# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many inputs the tests try that have many: all with SANLOCK_HELPER_EXAMPLES=full, else a part.

`make test` and CI set it.  `make unit`, which is run after each edit, tries a fifth.  Both try the same ones
each time: what they find is of the change.  SANLOCK_HELPER_EXAMPLES=random tries others in each run, as `make
model` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import pytest

Item = TypeVar("Item")

VARIABLE = "SANLOCK_HELPER_EXAMPLES"
RANDOM = os.environ.get(VARIABLE) == "random"
FULL = RANDOM or os.environ.get(VARIABLE) == "full"

# What is left of them: one in so many.
SHARE = 5


def part_of(number: int) -> int:
    """NUMBER of examples, or the share of it that is tried here; at least one."""
    return number if FULL else max(number // SHARE, 1)


def some_of(items: Iterable[Item]) -> Iterator[Item]:
    """ITEMS, or each fifth of them, the first among those."""
    return iter(items) if FULL else islice(items, None, None, SHARE)


def pairs(first: int, second: int) -> Iterator[tuple[int, int]]:
    """Each pair of numbers below FIRST and SECOND, or a part in which each number still comes."""
    for one in range(first):
        for other in range(second):
            if FULL or (one + other) % SHARE == 0:
                yield one, other


def load_profile(config: pytest.Config) -> None:
    """Have hypothesis try so many examples where a test does not name a number of its own.

    Not in the process that hands the tests of CONFIG's run out to pytest-xdist's workers: the import takes
    half a second, in which no worker is there yet.
    """
    if config.getoption("dist", "no") != "no":
        return
    from hypothesis import settings

    # The time of one example is the machine's load as much as it is the code's.
    settings.register_profile("this run", max_examples=part_of(100), derandomize=not RANDOM, deadline=None)
    settings.load_profile("this run")
