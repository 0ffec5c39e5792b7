# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole host's virtual machines at once: this helper beside libvirt's C helper, in turn."""

from __future__ import annotations

import json
import statistics
import sys
import uuid
from pathlib import Path
from typing import NamedTuple

from ..e2e.preconditions import missing
from ..e2e.stack import Stack
from .one_call import compile_packages
from .report import NOT_MEASURED

TOP = Path(__file__).resolve().parents[2]
OURS = str(TOP / "helper" / "libvirt_sanlock_helper")
STORM = str(Path(__file__).with_name("storm.py"))

TEST_URI = "test+unix:///default"
QEMU_URI = "qemu:///system"
AUTH_CONF = """\
[auth-libvirt-localhost]
credentials=sanlock

[credentials-sanlock]
authname=sanlock
password=open sesame
"""


class Storm(NamedTuple):
    """One storm.

    Seconds until all are off, and until all pauses are done; CPU seconds of the helpers and libvirtd; the
    most processes and connections at one time; seconds until all helpers have ended.
    """

    off: float
    paused: float
    cpu: float
    processes: int
    connections: int
    ended: float


def storm(stack: Stack, uri: str, helper: str, requests: list[tuple[str, str]]) -> Storm:
    """Run one storm of REQUESTS, pairs of UUID and action."""
    lines = "".join(f"{domain} {action}\n" for domain, action in requests)
    result = stack.run("/usr/bin/python3", STORM, uri, helper, input=lines, timeout=180)
    measured = Storm(**json.loads(result.stdout))
    if not measured.off:
        raise RuntimeError(f"{helper} did not power everything off")
    return measured


def median(storms: list[Storm]) -> Storm:
    return Storm(*(statistics.median(values) for values in zip(*storms)))


def in_turn(helpers: list[str], turn: int) -> list[str]:
    """HELPERS, each the first in its turn: what one leaves behind must not always meet the same other."""
    first = turn % len(helpers)
    return [*helpers[first:], *helpers[:first]]


def on_test_driver(stack: Stack, number: int, rounds: int, helpers: list[str]) -> list[Storm]:
    """The medians of storms of NUMBER poweroffs, for each of HELPERS."""
    storms: dict[str, list[Storm]] = {helper: [] for helper in helpers}
    for turn in range(rounds):
        for helper in in_turn(helpers, turn):
            requests = [(str(uuid.uuid4()), "poweroff") for _ in range(number)]
            storms[helper].append(storm(stack, TEST_URI, helper, requests))
    return [median(storms[helper]) for helper in helpers]


def on_qemu(stack: Stack, number: int, rounds: int, helpers: list[str], mixed: bool) -> list[Storm]:
    """The same on NUMBER real virtual machines; MIXED pauses every other one."""
    domains = [stack.domain(f"vm{n}{'m' if mixed else ''}") for n in range(number)]
    storms: dict[str, list[Storm]] = {helper: [] for helper in helpers}
    for turn in range(rounds):
        for helper in in_turn(helpers, turn):
            for domain in domains:
                if domain.state().name not in ("absent", "shut off"):
                    domain.destroy()
            stack.start_all(domains)
            actions = ("pause", "poweroff") if mixed else ("poweroff", "poweroff")
            requests = [(domain.uuid, actions[n % 2]) for n, domain in enumerate(domains)]
            storms[helper].append(storm(stack, QEMU_URI, helper, requests))
    for domain in domains:
        if domain.state().name != "shut off":
            domain.destroy()
    return [median(storms[helper]) for helper in helpers]


def row(what: str, ours: float, theirs: float, limit: float | None, unit: str = "s") -> bool:
    """Print one row; True when the ratio is within its limit."""
    ratio = ours / theirs
    asked = f"{limit:10.2f}" if limit is not None else ""
    print(f"{what:58}{ours:8.2f} {unit:2}{theirs:8.2f} {unit:2}{ratio:8.2f}{asked}")
    return limit is None or ratio <= limit


def main() -> int:
    """Print the tables; the exit status is 1 when a ratio is over its limit, 77 where no stack can run."""
    reasons = missing()
    if reasons:
        print("no storm can be run here; missing: " + ", ".join(reasons))
        return NOT_MEASURED
    compile_packages()
    good = True
    print(f"{'':58}{'ours':>11}{'C helper':>11}{'ratio':>8}{'at most':>10}")
    with Stack() as stack:
        helpers = [OURS, stack.stock_helper]
        stack.use_stock_helper(record=False)
        ours, theirs = on_test_driver(stack, 300, 10, helpers)
        good &= row("300 poweroffs, test driver: all off", ours.off, theirs.off, 0.75)
        good &= row("    CPU of helpers and libvirtd", ours.cpu, theirs.cpu, 0.75)
        print(f"    most processes at one time: {ours.processes:.0f}, C helper {theirs.processes:.0f}")
        print(f"    most connections at one time: {ours.connections:.0f}, C helper {theirs.connections:.0f}")
        grown = {n: on_test_driver(stack, n, 3, [OURS])[0] for n in (30, 100, 300, 1000)}
        for mixed in (False, True):
            ours, theirs = on_qemu(stack, 40, 8, helpers, mixed)
            if not mixed:
                good &= row("40 QEMU VMs, poweroff: all dead", ours.off, theirs.off, 1.0)
            else:
                good &= row("40 QEMU VMs, half pause: no lease held", ours.paused, theirs.paused, 0.85)
                row("    the other half dead", ours.off, theirs.off, None)
        stack.write_auth_conf(AUTH_CONF)
        stack.enable_sasl("sanlock", "open sesame")
        ours, theirs = on_test_driver(stack, 300, 10, helpers)
        good &= row("300 poweroffs, test driver, SASL SCRAM-SHA-256: all off", ours.off, theirs.off, 0.40)
        good &= row("    CPU of helpers and libvirtd", ours.cpu, theirs.cpu, 0.40)
    print(f"\n{'how it grows: requests':30}{'ms per request':>16}{'CPU ms per request':>22}")
    for number, result in grown.items():
        print(f"{number:30}{result.off / number * 1000:16.2f}{result.cpu / number * 1000:22.2f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
