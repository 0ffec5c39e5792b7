# SPDX-License-Identifier: LGPL-2.1-or-later
"""Warns before a lockspace is lost: reads sanlock's memory in a thread of its own, and logs what changes.

One line for each lockspace, not for each virtual machine: when renewals have failed for 3 io_timeouts, when
they have for 6, and when they are back.  A lockspace in which no virtual machine has a lease is warned of as
well: none that needs it starts on this host after its loss.  Nothing waits for this thread, and what it reads
is sanlock's socket and libvirt's status files on tmpfs.
"""

from __future__ import annotations

import gc
import time
from typing import Callable, NamedTuple

from ..events import Event
from ..leases.daemon_states import DaemonStates, daemon_states
from ..leases.renewals import FAILING, LOST, NEAR, REMOVED, RENEWED, Renewals, renewals_of
from ..leases.sanlock_daemon import join_sanlock_group, run_dir
from ..virt.lockfailure_action import lockfailure_action
from ..virt.status_files import StatusFiles
from . import renewal_events
from .renewal_events import Dependents

# sanlock answers in a millisecond; one that hangs is asked again later.
ASK_SECONDS = 2.0

# Where nothing can change before: a lockspace may be joined meanwhile.
IDLE_SECONDS = 10.0
# While renewals fail: they may be back, or sanlock may lose the lockspace for another reason.
FAILING_SECONDS = 1.0
# Behind the moment of a change, and between two questions at least.
LATER_SECONDS = 0.05


class _Known(NamedTuple):
    """A lockspace as it was read last: its renewals, and those that were warned of, with their stage."""

    renewals: Renewals
    warned: Renewals | None = None
    stage: str = RENEWED


class RenewalWatch:
    """The renewals of this host's lockspaces."""

    def __init__(
        self,
        ask: Callable[[bool], DaemonStates | None],
        report: Callable[[Event], None],
        find: Callable[[DaemonStates, str], Dependents],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """ASK has sanlock's states, with leases or without, None where it does not answer.

        FIND has what depends on a lockspace by them.  CLOCK is CLOCK_MONOTONIC, WALL the time of day, both in
        seconds.
        """
        self._ask = ask
        self._report = report
        self._find = find
        self._clock = clock
        self._wall = wall
        self._known: dict[str, _Known] = {}

    def run(self) -> None:
        """Watch until the process ends."""
        while True:
            time.sleep(self.check())

    def check(self) -> float:
        """Read the renewals once, and log what has changed; returns after how many seconds to do so again."""
        states = self._ask(False)
        now = self._clock()
        if states is None:
            return FAILING_SECONDS if any(known.warned for known in self._known.values()) else IDLE_SECONDS
        found = [
            renewals
            for name, values in states.lockspaces.items()
            if (renewals := renewals_of(name, values, states.settings))
        ]
        joins = {(renewals.lockspace, renewals.joined) for renewals in found}
        for name, known in list(self._known.items()):
            if (name, known.renewals.joined) not in joins:
                self._note_gone(self._known.pop(name), now)
        return min((self._note(renewals, now) for renewals in found), default=IDLE_SECONDS)

    def _note(self, renewals: Renewals, now: float) -> float:
        """Log what is new of RENEWALS; returns after how many seconds they have to be read again."""
        name, stage = renewals.lockspace, renewals.stage(now)
        known = self._known.get(name, _Known(renewals))
        warned = known.warned
        if stage in (FAILING, NEAR):
            # Without a timeout nothing else follows.
            if warned is None or (known.stage != stage and renewals.has_timeout):
                self._warn(renewals, now)
                warned = renewals
        elif stage == RENEWED and warned:
            self._report(renewal_events.back(name, renewals.last_success - warned.last_success))
            warned = None
        elif renewals.given_up:
            if stage == REMOVED and warned:
                self._report(renewal_events.gone(name, renewals.age(now)))
            warned = None
        self._known[name] = _Known(renewals, warned, stage)
        seconds = FAILING_SECONDS if warned else IDLE_SECONDS
        left = renewals.next_stage(now)
        return seconds if left is None else min(seconds, left + LATER_SECONDS)

    def _note_gone(self, known: _Known, now: float) -> None:
        """A lockspace is not joined any more; after its loss that is what follows."""
        renewals = known.renewals
        if known.warned and renewals.stage(now) != LOST:
            self._report(renewal_events.gone(renewals.lockspace, renewals.age(now)))

    def _warn(self, renewals: Renewals, now: float) -> None:
        states = self._ask(True)
        dependents = self._find(states, renewals.lockspace) if states else None
        # The moment of NOW, whatever it took to find them.
        wall = self._wall() - (self._clock() - now)
        self._report(renewal_events.warning(renewals, dependents, now, wall))
        # The agent that stands collects no garbage until the next request: what read the definitions of
        # hundreds of domains refers to itself, and would stay for as long as renewals fail and come back.
        gc.collect()


def find_dependents(states: DaemonStates, lockspace: str, files: StatusFiles | None = None) -> Dependents:
    """What has leases in LOCKSPACE: virtual machines by libvirt's status FILES, and other processes."""
    domains: dict[str, list[str]] = {}
    others = []
    # Not kept: the definitions of hundreds are some MiB.
    by_pid = {status.pid: status for status in (files or StatusFiles()).all()}
    for pid in sorted(set(states.holders.get(lockspace, ()))):
        status = by_pid.get(pid)
        if status is not None:
            domains.setdefault(lockfailure_action(status.xml), []).append(status.name)
        else:
            others.append(f"process {pid} {states.processes.get(pid, '')}".rstrip())
    return Dependents(domains, others)


def watch_host(report: Callable[[Event], None]) -> RenewalWatch:
    """The watch of this host's lockspaces."""
    directory = run_dir()

    def ask(leases: bool) -> DaemonStates | None:
        states = daemon_states(directory, ASK_SECONDS, leases)
        if states is None:
            # sanlock may have been started since the agent was: the next question is answered then.
            join_sanlock_group(directory)
        return states

    return RenewalWatch(ask, report, find_dependents)
