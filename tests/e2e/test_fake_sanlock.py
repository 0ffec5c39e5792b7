# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sanlock of the unit tests answers as the real one does, through an outage and a second host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sanlock_helper.leases.held import Lease

from ..unit.recovery_world import FakeSanlock, RecoveryWorld
from .conftest import StackFactory
from .namespace import PYTHON
from .recovery import TOP, leave_lockspace
from .sanlock_steps import answers
from .waiting import wait_for

STEPS = Path(__file__).with_name("sanlock_steps.py")
ALL = ["lockspaces", "version", "holders", "is_registered", "held_by", "still_joined_since"]


def test_the_fake_answers_as_the_real_one(stacks: StackFactory) -> None:
    # With 1 s one late renewal makes a lockspace failing.
    stack = stacks(io_timeout=2)
    domain = stack.domain("vm1").start()
    pid = domain.qemu_pid()
    (lease,) = domain.leases()
    world = RecoveryWorld()
    world.generation = 1

    def real(*steps: str) -> Any:
        program = (PYTHON, str(STEPS), str(TOP / "helper"), str(pid), lease.resource, lease.path)
        found = json.loads(stack.run(*program, *steps).stdout)
        found["lockspaces"] = {
            name.replace(lease.lockspace, "LS"): state for name, state in found.get("lockspaces", {}).items()
        }
        return found

    def fake(*steps: str) -> Any:
        return answers(FakeSanlock(world), world.pid, Lease("LS", "disk", 0, "/storage/disk"), list(steps))

    # Running.
    assert real(*ALL) == fake(*ALL)
    # Paused: the lease is given up, the process stays registered.
    domain.suspend()
    world.pause()
    assert real(*ALL) == fake(*ALL)
    # Another host takes it and gives it back.
    other = stack.second_host()
    other.join()
    other.take(lease)
    world.other_takes()
    wait_for(lambda: real("holders")["holders"] == {"2": "live"}, 20, "host 2 to be seen alive")
    assert real(*ALL) == fake(*ALL)
    other.give_back()
    world.other_gives_back()
    assert real(*ALL) == fake(*ALL)
    # The storage is gone; the lockspace was left.
    leave_lockspace(stack)
    stack.storage.fail(resources=True)
    world.lose()
    assert real("join", *ALL) == fake("join", *ALL)
    # It is back.
    stack.storage.restore()
    world.storage = True
    assert real("join", *ALL) == fake("join", *ALL)
    # The machine is off.
    domain.destroy()
    world.destroy()
    assert real(*ALL) == fake(*ALL)
