# SPDX-License-Identifier: LGPL-2.1-or-later
"""With an agent that stands: one call and a whole host's, beside libvirt's C helper, in turn, in one run."""

from __future__ import annotations

import re
import sys
import time
import uuid
from pathlib import Path

from ..e2e.preconditions import missing
from ..e2e.stack import Stack
from ..e2e.standing import COMMAND, StandingAgent
from .one_call import compile_packages
from .report import NOT_MEASURED
from .storms import (
    AUTH_CONF,
    OURS,
    QEMU_URI,
    TEST_URI,
    TOP,
    Storm,
    in_turn,
    median,
    on_qemu,
    on_test_driver,
    row,
    storm,
)

# What only starts and ends: the least that any helper in Python costs.
BARE = "#!/usr/bin/python3 -ISB\n"

# How often each kind of row is measured.
ROUNDS = {"one": 25, "poweroff": 6, "mixed": 6, "test-driver": 8}


def one_call(stack: Stack, rounds: int, helpers: list[str]) -> list[Storm]:
    """The medians of one pause of a running virtual machine, for each of HELPERS: until it holds no lease."""
    domain = stack.domain("one")
    storms: dict[str, list[Storm]] = {helper: [] for helper in helpers}
    for turn in range(rounds):
        for helper in in_turn(helpers, turn):
            domain.start()
            time.sleep(0.3)
            storms[helper].append(storm(stack, QEMU_URI, helper, [(domain.uuid, "pause")]))
            domain.destroy()
    domain.undefine()
    return [median(storms[helper]) for helper in helpers]


def bare_interpreters(stack: Stack, number: int, rounds: int) -> Storm:
    """The median of NUMBER interpreters that do nothing: the time until all have ended, and their CPU."""
    stack.write("/run/bare", BARE, 0o755)
    found = []
    for _ in range(rounds):
        requests = [(str(uuid.uuid4()), "ignore") for _ in range(number)]
        found.append(storm(stack, TEST_URI, "/run/bare", requests))
    return median(found)


def as_its_unit(stack: Stack) -> Path:
    """The command that runs the agent with the scheduling priority that its unit gives it."""
    unit = (TOP / "packaging/virt-sanlock-helper-agent.service").read_text()
    (niceness,) = re.findall(r"^Nice=(-?\d+)$", unit, re.MULTILINE)
    path = "/run/agent"
    stack.write(path, f'#!/bin/sh\nexec nice -n {niceness} {COMMAND} "$@"\n', 0o755)
    return Path(path)


def one_row(label: str, limit: float, stack: Stack, helpers: list[str], rounds: dict[str, int]) -> bool:
    if not (number := rounds.get("one")):
        return True
    ours, theirs = one_call(stack, number, helpers)
    return row(label, ours.paused * 1000, theirs.paused * 1000, limit, "ms")


def rows_without_login(stack: Stack, helpers: list[str], rounds: dict[str, int]) -> bool:
    good = one_row("one VM, pause: no lease held", 1.0, stack, helpers, rounds)
    if number := rounds.get("poweroff"):
        ours, theirs = on_qemu(stack, 40, number, helpers, mixed=False)
        good &= row("40 QEMU VMs, poweroff: all dead", ours.off, theirs.off, 0.95)
    if number := rounds.get("mixed"):
        ours, theirs = on_qemu(stack, 40, number, helpers, mixed=True)
        good &= row("40 QEMU VMs, half pause: no lease held", ours.paused, theirs.paused, 0.75)
        row("    the other half dead", ours.off, theirs.off, None)
    if number := rounds.get("test-driver"):
        ours, theirs = on_test_driver(stack, 300, number, helpers)
        good &= row("300 poweroffs, test driver: all off", ours.off, theirs.off, 0.70)
        good &= row("    CPU of helpers, agent and libvirtd", ours.cpu, theirs.cpu, 0.70)
        bare = bare_interpreters(stack, 300, min(number, 5))
        row("    300 bare interpreters: all ended", bare.ended, theirs.off, None)
        row("    their CPU", bare.cpu, theirs.cpu, None)
    return good


def rows_with_login(stack: Stack, helpers: list[str], rounds: dict[str, int]) -> bool:
    good = one_row("one VM, pause, SASL: no lease held", 0.6, stack, helpers, rounds)
    if number := rounds.get("test-driver"):
        ours, theirs = on_test_driver(stack, 300, number, helpers)
        good &= row("300 poweroffs, test driver, SASL SCRAM-SHA-256: all off", ours.off, theirs.off, 0.33)
        good &= row("    CPU of helpers, agent and libvirtd", ours.cpu, theirs.cpu, 0.33)
    return good


def main(rounds: dict[str, int] = ROUNDS) -> int:
    """Print the rows that ROUNDS names, each measured so often.

    The exit status is 1 when a ratio is over its limit, 77 where no stack can run.
    """
    reasons = missing()
    if reasons:
        print("no storm can be run here; missing: " + ", ".join(reasons))
        return NOT_MEASURED
    compile_packages()
    print(f"{'':58}{'ours':>11}{'C helper':>11}{'ratio':>8}{'at most':>10}")
    # libvirt's test driver is in libvirtd alone.
    with Stack(daemon="libvirtd") as stack:
        helpers = [OURS, stack.stock_helper]
        stack.use_stock_helper(record=False)
        agent = StandingAgent(stack, restarts=True, command=as_its_unit(stack))
        pid = agent.wait_ready()
        good = rows_without_login(stack, helpers, rounds)
        stack.write_auth_conf(AUTH_CONF)
        stack.enable_sasl("sanlock", "open sesame")
        time.sleep(2)
        good &= rows_with_login(stack, helpers, rounds)
        if agent.pid != pid:
            raise RuntimeError("the agent did not stand for all of the time")
        status = stack.path(f"/proc/{pid}/status").read_text()
        resident = int(status.partition("\nVmRSS:")[2].split()[0]) >> 10
        print(f"\nthe agent has {resident} MiB in memory (at most 64)")
    return 0 if good and resident <= 64 else 1


if __name__ == "__main__":
    sys.exit(main())
