# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was seen of a run, from outside: pure data.  All times are of CLOCK_MONOTONIC, one for both hosts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# What a Disturbance is in.  "ours" are the helper and the agent that stands, "agent" is it alone.  A "touch"
# is an administrator's, of one machine; a "job" one of libvirt's.  The "disk" is the second one of a machine,
# which fails in any way: in "errors" its server gives one for each read, in "space" one for want of space.
LIBVIRTD, SANLOCK, OURS, QEMU, STORAGE, TOUCH, JOB = (
    *("libvirtd", "sanlock", "ours", "qemu", "storage", "touch", "job"),
)
AGENT, RECOVERY, DISK, ERRORS, SPACE = "agent", "recovery", "disk", "errors", "space"

# QEMU's word for a guest that an I/O error has stopped (RunState in QEMU qapi/run-state.json).
IO_ERROR = "io-error"


class Vm(NamedTuple):
    """A QEMU process of a domain.

    start: of the process, in clock ticks (proc(5)).  before, after: QEMU's own word for its state, before and
    after sanlock was read; None when it did not answer.  leases: LOCKSPACE:RESOURCE:PATH:OFFSET of each that
    sanlock has of it.
    """

    uuid: str
    pid: int
    start: int
    before: str | None
    after: str | None
    leases: tuple[str, ...]

    @property
    def process(self) -> tuple[int, int]:
        """What is the same for one process, and for no two."""
        return self.pid, self.start

    @property
    def runs(self) -> bool:
        """Whether the guest ran all the time that the sample took."""
        return self.before == self.after == "running"

    @property
    def has_io_error(self) -> bool:
        """Whether the guest was seen stopped by an I/O error."""
        return self.before == self.after == IO_ERROR

    @property
    def stands(self) -> bool:
        """Whether the guest was seen standing still."""
        return None not in (self.before, self.after) and "running" not in (self.before, self.after)


class Sample(NamedTuple):
    """One host at one time.  leases_known: sanlock answered.  others: leases of processes that are no VM's.

    records: the UUIDs that there is a record of.  is_held: recovery is held.
    """

    begin: float
    end: float
    vms: tuple[Vm, ...]
    leases_known: bool
    others: tuple[str, ...]
    records: frozenset[str]
    is_held: bool = False

    def vm(self, uuid: str, process: tuple[int, int] | None = None) -> Vm | None:
        """The QEMU process of that domain, or only if it is that PROCESS."""
        found = (vm for vm in self.vms if vm.uuid == uuid and process in (None, vm.process))
        return next(found, None)


class Call(NamedTuple):
    """One call of the executable, by sanlock or by hand."""

    at: float
    uuid: str
    action: str
    by_hand: bool = False


class Outcome(NamedTuple):
    """One line of the journal about how so many requests ended.

    is_repeat: it has the mark of one over whose logging an agent died, which may have been logged then.
    """

    at: float
    uuid: str
    action: str
    kind: str
    requests: int = 1
    is_repeat: bool = False


class Disturbance(NamedTuple):
    """A fault, or what an administrator does, in one thing; uuid: of one machine, "" for the whole host."""

    begin: float
    end: float
    thing: str
    uuid: str = ""


class Host(NamedTuple):
    """All that was seen of one host.

    failures: when the journal had which machine's UUID as one that recovery tried in vain, or does not bring
    back.  stands: whether an agent stands there.
    """

    samples: list[Sample]
    calls: list[Call]
    outcomes: list[Outcome]
    disturbances: list[Disturbance]
    failures: Sequence[tuple[float, str]] = ()
    stands: bool = False

    def disturbed(self, begin: float, end: float, things: tuple[str, ...], uuid: str | None) -> bool:
        """Whether one of THINGS was disturbed in that time, for the machine, None for any, or for all."""
        return any(
            d.thing in things and (uuid is None or d.uuid in ("", uuid)) and d.begin <= end and d.end >= begin
            for d in self.disturbances
        )


class Run(NamedTuple):
    """A whole run.  leases: by UUID, how many a machine has; recover: those whose policy is yes throughout.

    is_over: all helpers have ended, so that no further outcome comes.  priorities: by UUID, those that are
    not 0.
    """

    hosts: dict[int, Host]
    leases: dict[str, int]
    recover: frozenset[str]
    is_over: bool = True
    priorities: Mapping[str, int] = {}


def read_sample(line: str) -> Sample:
    """One line of what sampler.py writes."""
    data = json.loads(line)
    return Sample(
        data["begin"],
        data["end"],
        tuple(
            Vm(uuid, pid, start, before, after, tuple(leases))
            for uuid, pid, start, before, after, leases in data["vms"]
        ),
        data["known"],
        tuple(data["others"]),
        frozenset(data["records"]),
        data["held"],
    )
