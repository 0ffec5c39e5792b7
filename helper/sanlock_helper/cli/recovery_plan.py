# SPDX-License-Identifier: LGPL-2.1-or-later
"""What recovery would do, as text and as JSON; whether it is held, and the host's settings, for the verbs."""

from __future__ import annotations

import contextlib
from typing import Any

from libvirt_auth.uri import URI

from ..errors import TransientError
from ..records.record import Record
from ..records.recovery_hold import RELEASE, Hold
from ..recovery.dry_run import Plan, PlannedDomain, Step
from ..threads import within
from ..timestamps import moment
from ..virt.host_conf import PATH, TIME, HostConf, read_host_conf, unread
from .terminal import plain

CONF_SECONDS = 5.0

# What is done to a domain now, by its step.
_STEPS = {
    Step.START: "start",
    Step.RESUME: "resume",
    Step.PAUSE: "pause again, for it does not hold the leases that it should",
    Step.REMOVE: "nothing, and its record is removed",
    Step.LEAVE: "nothing, and its record is removed",
    Step.KEEP: "nothing, and its record is kept",
    Step.SET_ASIDE: "nothing, and its record is set aside",
    Step.RETRY: "nothing yet, it is tried again",
}


def held_since() -> float | None:
    """When recovery was held; None where it is not, or where that cannot be read: recovery goes on then."""
    with contextlib.suppress(OSError):
        return Hold().since()
    return None


def held_text(since: float) -> str:
    """That recovery was held at SINCE, and what ends that."""
    return f"recovery is held since {moment(since)}: nothing is brought back until {RELEASE}"


def read_conf(uri: str = "") -> HostConf:
    """The settings of the host of URI: this one's as far as their disk gives them in time, else not known."""
    if URI(uri).server:
        return unread(f"{PATH} of {URI(uri).server} is not read from here", "run this on that host")
    try:
        return within(CONF_SECONDS, f"read {PATH}", read_host_conf)
    except TransientError as error:
        return unread(f"{error.what}: {error.why}", f"findmnt -T {PATH}")


def order_text(record: Record) -> str:
    """What RECORD has beside the built-in order, in words."""
    words = f", priority {record.priority}" if record.priority else ""
    return f"{words}, delay {record.delay} s" if record.delay else words


def print_plan(plan: Plan, conf: HostConf, since: float | None) -> None:
    """Print PLAN, a line for each lockspace and domain; CONF are the settings, SINCE when it was held."""
    if since is not None:
        print(held_text(since))
    if conf.problem:
        print(plain(f"settings that do not count: {conf.problem}; going on with {conf.text}"))
    for name, place in plan.joins.items():
        print(plain(f"lockspace {name}: not joined: {place}"))
    for number, domain in enumerate(plan.domains, 1):
        print(plain(f"{number}. {domain.record} {_what(domain, conf.order)}"))


def _what(domain: PlannedDomain, order: str) -> str:
    text = _STEPS[domain.step]
    if domain.lockspaces:
        text = f"{text}, once {', '.join(domain.lockspaces)} is joined, if its leases allow it then"
    where = "" if order == TIME else order_text(domain.record)
    return f"({domain.record.action}{where}): {text}{f': {domain.why}' if domain.why else ''}"


def plan_as_dict(plan: Plan, conf: HostConf, since: float | None) -> dict[str, Any]:
    """The same for packaging/schema/recover-dry-run.json."""
    return {
        "held_since": since,
        "settings": {
            "default": conf.default,
            "side_by_side": conf.side_by_side,
            "order": conf.order,
            "problems": list(conf.problems),
        },
        "lockspaces": [{"name": name, "place": place} for name, place in plan.joins.items()],
        "domains": [
            {
                "uuid": domain.record.uuid,
                "name": domain.record.name,
                "uri": domain.record.uri,
                "action": domain.record.action,
                "priority": domain.record.priority,
                "delay": domain.record.delay,
                "step": domain.step.value,
                "why": domain.why,
                "lockspaces": list(domain.lockspaces),
            }
            for domain in plan.domains
        ],
    }
