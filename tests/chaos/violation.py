# SPDX-License-Identifier: LGPL-2.1-or-later
"""An invariant that did not hold, and what several invariants ask of the samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple

from .observations import Host, Run, Sample

# Between two samples no more than this counts as time that has passed.
LONGEST_GAP = 0.3


class Violation(NamedTuple):
    """An invariant that did not hold: its name, the host, when (CLOCK_MONOTONIC), of what, and how."""

    invariant: str
    host: int
    at: float
    uuid: str
    text: str


Invariant = Callable[[Run], Iterator[Violation]]


def pairs(host: Host) -> Iterator[tuple[Sample, Sample]]:
    """Each sample of HOST with the one after it."""
    yield from zip(host.samples, host.samples[1:])


def moved(
    others: list[Host], uuid: str, leases: tuple[str, ...], since: float, until: float
) -> Iterator[str]:
    """What another host did with the machine or its leases in that time; one text at most."""
    for other in others:
        for sample in other.samples:
            if since < sample.begin and sample.end < until:
                there = sample.vm(uuid)
                if there is not None and there.runs:
                    yield f"it runs on after {until - since:.1f} s, and ran on another host meanwhile"
                    return
                if set(leases) & set(sample.others):
                    yield f"it runs on after {until - since:.1f} s, its lease was held elsewhere meanwhile"
                    return
