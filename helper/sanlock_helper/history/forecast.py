# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `status` shows: each domain, its leases, and what would happen if they were lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..leases.sanlock_status import SanlockStatus
from ..leases.timeline import Timeline, timeline_of
from ..records.record import Record
from ..virt.inventory import DomainConfig, KnownDomain
from .outages import OutageEvent

# What the helper does, as a past participle, and what recovery does later.
_DONE = {"poweroff": "powered off", "restart": "powered off", "pause": "paused"}
_RECOVERED = {"poweroff": "started again", "restart": "started again", "pause": "resumed"}


# The kinds of what would happen: an action of the helper, a signal by sanlock, nothing, or not known.
AT_LOSS = ("poweroff", "restart", "pause", "sigkill", "sigterm", "nothing", "unknown")


@dataclass(frozen=True)
class AtLoss:
    """What would happen, one of AT_LOSS, and in words.

    Times are in seconds after the last good renewal, None for what would not happen.
    """

    text: str
    helper_seconds: int | None = None
    sigkill_seconds: int | None = None
    kind: str = "unknown"


@dataclass(frozen=True)
class Row:
    """One domain.  `leases` counts those held by lockspace, and is None when they could not be read.

    `waiting` is the record that recovery has of it.
    """

    domain: KnownDomain
    leases: dict[str, int] | None
    lost: tuple[str, ...]
    at_loss: AtLoss
    last: OutageEvent | None
    waiting: Record | None = None


def make_rows(
    domains: Iterable[KnownDomain],
    sanlock: SanlockStatus | None,
    last: Mapping[str, OutageEvent],
    waiting: Mapping[str, Record] | None = None,
) -> list[Row]:
    """The rows for DOMAINS; SANLOCK is None when it could not be asked.

    By UUID, LAST is the last event and WAITING the record that recovery has.
    """
    rows = []
    for domain in domains:
        held = None if sanlock is None else _leases(domain, sanlock)
        lost = tuple(space for space in held or () if _is_lost(space, sanlock))
        record = (waiting or {}).get(domain.uuid)
        rows.append(Row(domain, held, lost, at_loss(domain, held, sanlock), last.get(domain.uuid), record))
    return rows


def _leases(domain: KnownDomain, sanlock: SanlockStatus) -> dict[str, int] | None:
    if domain.pid is None:
        return None if domain.is_active else {}
    return dict(Counter(lease.lockspace for lease in sanlock.held_by(domain.pid)))


def _is_lost(name: str, sanlock: SanlockStatus | None) -> bool:
    space = sanlock.lockspace(name) if sanlock else None
    return space is not None and space.lost


def at_loss(domain: KnownDomain, held: Mapping[str, int] | None, sanlock: SanlockStatus | None) -> AtLoss:
    """What would happen to DOMAIN if the leases it HELD were lost."""
    if not domain.is_active:
        return _at_loss_of_forgotten(domain, held, sanlock)
    if sanlock is None:
        return AtLoss("not known, sanlock does not answer")
    if held is None:
        return AtLoss("not known, it is no process of this host that could be found")
    if not held:
        return AtLoss("nothing, it holds no lease", kind="nothing")
    if domain.config is None:
        return AtLoss("not known, its XML could not be read")
    return _foretell(domain.config, timeline_of(sanlock, held), domain.state == "pmsuspended")


def _at_loss_of_forgotten(
    domain: KnownDomain, held: Mapping[str, int] | None, sanlock: SanlockStatus | None
) -> AtLoss:
    """The same for a DOMAIN that libvirtd has as off, while a process of it may hold leases."""
    if not held or sanlock is None:
        return AtLoss("nothing, it is off", kind="nothing")
    sigkill = timeline_of(sanlock, held).sigkill
    why = f"libvirtd has it as off, and its process {domain.pid} runs"
    return AtLoss(f"SIGKILL at {sigkill} s: {why}", None, sigkill, "sigkill")


def _foretell(config: DomainConfig, clock: Timeline, sleeps: bool) -> AtLoss:
    """With the CONFIG and the CLOCK of a domain; libvirt suspends no guest that SLEEPS."""
    action = config.on_lockfailure
    kill = f"SIGKILL at {clock.sigkill} s"
    if clock.grace == 0:
        return AtLoss(f"{kill}, without the helper", None, clock.sigkill, "sigkill")
    if action == "ignore":
        return AtLoss(kill, clock.lost, clock.sigkill, "sigkill")
    if action not in _DONE:
        # No killpath is registered, so sanlock begins with SIGTERM (src/main.c, kill_pids()).
        return AtLoss(f"SIGTERM at {clock.lost} s, {kill}", None, clock.sigkill, "sigterm")
    text = f"{_DONE[action]} at {clock.lost} s, else {kill}"
    if sleeps and action == "pause":
        text = f"woken up, then {text}"
    if config.recover or action == "restart":
        text = f"{text}; {_RECOVERED[action]} later"
    return AtLoss(text, clock.lost, clock.sigkill, action)
