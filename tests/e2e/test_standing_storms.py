# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storms during which the agent that stands is killed, stopped, ended and begun anew, or updated, by chance.

SANLOCK_HELPER_STORMS: how many, each from a seed of its own; a failure names the seed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from .calls import SPOOL, helpers, storm
from .lease_loss import HELPER, outcomes
from .stack import CommandError, Stack
from .standing import StandingAgent, update
from .testdriver import URI, TestDomains
from .waiting import wait_for

# Half of an hour for all of them: `make e2e` runs them, `make modular` those that are marked so.
pytestmark = pytest.mark.long

STORMS = int(os.environ.get("SANLOCK_HELPER_STORMS", "6"))
DOMAINS = 100

FAULTS = ("kill", "stop", "restart", "update")


@pytest.fixture
def stack(monolithic: Stack) -> Stack:
    return monolithic


def strike(stack: Stack, agent: StandingAgent, fault: str, program: Path) -> None:
    if fault == "update":
        update(program)
    number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}.get(fault, signal.SIGTERM)
    pid = agent.pid
    if pid:
        try:
            stack.signal(pid, number)
        except CommandError:
            pass  # it has just ended


def test_storms(stack: Stack) -> None:
    program = stack.path("/run/program")
    shutil.copytree(HELPER.parents[1] / "helper", program / "helper")
    shutil.copytree(HELPER.parents[1] / "auth", program / "auth")
    helper = Path("/run/program/helper/libvirt_sanlock_helper")
    vms = TestDomains(stack, DOMAINS)
    agent = StandingAgent(stack, URI, restarts=True, command=Path("/run/program/helper/virt-sanlock-helper"))
    logged: dict[str, int] = {}
    for seed in range(STORMS):
        chance = random.Random(seed)
        faults = [(chance.uniform(0, 0.8), chance.choice(FAULTS)) for _ in range(chance.randint(1, 3))]
        what = f"seed {seed}: {faults}"
        agent.wait_ready()
        vms.start()
        began = time.monotonic()
        storm(stack, vms.uuids, chance.choice(("pause", "poweroff")), helper)
        for after, fault in sorted(faults):
            time.sleep(max(0.0, began + after - time.monotonic()))
            strike(stack, agent, fault, program)
        wait_for(vms.safe, 25, f"all VMs to be safe, {what}")
        wait_for(lambda: not helpers(stack), 20, f"all helpers to end, {what}")
        wait_for(lambda: not list(stack.path(SPOOL).iterdir()), 10, f"an empty spool, {what}")
        time.sleep(0.3)
        for uuid, lines in outcomes(stack).items():
            new = lines[logged.get(uuid, 0) :]
            # An agent that is killed between its claim to log a line and the line itself has logged nothing.
            own = [line for line in new if "(repeated: " not in line] or new
            assert len(own) == 1, (what, new)
            logged[uuid] = len(lines)
        assert set(logged) == set(vms.uuids), what
