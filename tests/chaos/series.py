# SPDX-License-Identifier: LGPL-2.1-or-later
"""Samples made by hand, of one machine, for the tests of invariants."""

from __future__ import annotations

from collections.abc import Sequence

from .observations import Call, Disturbance, Host, Outcome, Sample, Vm

UUID = "f807214e-f32f-4f10-bc97-79298a77fac2"
LEASE = "__LIBVIRT__DISKS__:key:/path:0"
EVERY = 0.2


def vm(state: str | None = "running", leases: int = 1, pid: int = 7, after: str | None = "") -> Vm:
    return Vm(UUID, pid, 100, state, state if after == "" else after, (LEASE,) * leases)


RUNS, PAUSED, HELD, UNSEEN, BARE = (
    vm(),
    vm("paused", 0),
    vm("paused"),
    vm(None, 1),
    vm("running", 0),
)


def series(
    *parts: tuple[Vm | None, float],
    others: Sequence[str] = (),
    record: bool = False,
    known: bool = True,
    held: bool = False,
) -> list[Sample]:
    """A sample every 0.2 s: the process, and for how many seconds."""
    samples: list[Sample] = []
    for process, seconds in parts:
        for _ in range(round(seconds / EVERY)):
            begin = len(samples) * EVERY
            samples.append(
                Sample(
                    begin,
                    begin + EVERY / 2,
                    (process,) if process else (),
                    known,
                    tuple(others),
                    frozenset({UUID} if record else ()),
                    held,
                )
            )
    return samples


def host(
    samples: list[Sample],
    calls: Sequence[Call] = (),
    outcomes: Sequence[Outcome] = (),
    disturbances: Sequence[Disturbance] = (),
    failures: Sequence[tuple[float, str]] = (),
    stands: bool = False,
) -> Host:
    return Host(samples, list(calls), list(outcomes), list(disturbances), failures, stands)


def after_one_another(*parts: list[Sample]) -> list[Sample]:
    """One series behind the other."""
    samples: list[Sample] = []
    for part in parts:
        begin = len(samples) * EVERY
        samples += [sample._replace(begin=sample.begin + begin, end=sample.end + begin) for sample in part]
    return samples
