# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each invariant is red on real hosts for a program with a fault planted in it, and for no other machine."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path

import pytest

from tests.e2e.lease_loss import IDENTIFIER
from tests.e2e.leases import LOCKSPACE
from tests.e2e.namespace import CommandError
from tests.e2e.preconditions import require_machine
from tests.e2e.recovery import HELPER, RUN_RECORDS
from tests.e2e.storage import LEASES
from tests.e2e.waiting import wait_for

from .invariants import violations
from .recovery_invariants import UNDER_WAY
from .schedule import Machine, Schedule, Step
from .steps import Steps, wait_until_started
from .world import World

# The first host's lockspace, as sanlock's commands take it.
JOINED = f"{LOCKSPACE}:1:{LEASES}/{LOCKSPACE}:0"
# From the loss of a sector to the last violation.
SECONDS = 60.0


def machines(*actions: str) -> tuple[Machine, ...]:
    return tuple(
        Machine(number, f"vm{number}", str(uuid.uuid4()), action, "yes", False, (), str(uuid.uuid4()))
        for number, action in enumerate(actions)
    )


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return str(path)


class Scene:
    """A world whose machines run, and the steps in it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.steps = Steps(world, lambda _line: None)
        world.start_all()
        wait_until_started(world)

    def found(self) -> set[tuple[str, int]]:
        """The invariants that are violated, and by which machine."""
        numbers = {machine.uuid: machine.number for machine in self._world.schedule.machines}
        return {(found.invariant, numbers[found.uuid]) for found in violations(self._world.run())}

    def wait(self, *wanted: tuple[str, int]) -> None:
        wait_for(lambda: set(wanted) <= self.found(), SECONDS, f"{wanted} to be violated")

    def runs_there(self, machine: Machine) -> bool:
        """Whether it runs on the second host now."""
        sample = self._world.last(2)
        vm = sample.vm(machine.uuid) if sample else None
        return vm is not None and vm.runs

    def has_run_there(self, machine: Machine) -> bool:
        """Whether it ran there, and does not any more."""
        samples = self._world.run().hosts[2].samples
        return not samples[-1].vm(machine.uuid) and any(sample.vm(machine.uuid) for sample in samples)

    def close(self) -> None:
        """End all machines, so that sanlock leaves its lockspace at once, and then the steps."""
        for machine in self._world.schedule.machines:
            with contextlib.suppress(CommandError):
                self._world.hosts[1].virsh("destroy", machine.uuid)
        self.steps.close()


def outcome(action: str, name: str) -> str:
    """A command that logs a success."""
    return (
        f"logger -t {IDENTIFIER} '{action} {name} '$2': done after 0.1 s: found running, verified paused'\n"
    )


@pytest.mark.long
def test_faults_of_the_helper(tmp_path: Path) -> None:
    require_machine()
    idle, liar, twice, right = made = machines("pause", "pause", "poweroff", "pause")
    helper = program(
        tmp_path / "helper",
        f"[ $2 = {idle.uuid} ] && exit 0\n"
        f"[ $2 = {liar.uuid} ] && {{ {outcome('pause', 'vm1').strip()}; exit 0; }}\n"
        f'{HELPER} "$@"\n[ $2 = {twice.uuid} ] && {outcome("poweroff", "vm2")}',
    )
    with World(Schedule(0, 0.0, made, ()), helper) as world:
        scene = Scene(world)
        scene.steps.begin(Step(0.0, "sector", lasts=30.0))
        scene.wait(("true outcome", 1), ("one outcome", 2), ("one outcome", 0))
        scene.wait(("not safe in time", 0), ("not safe in time", 1))
        assert not [number for _, number in scene.found() if number == right.number]
        scene.close()


@pytest.mark.long
def test_faults_of_recovery(tmp_path: Path) -> None:
    """It loses a record; it does not compare versions; it lets a guest run past libvirt, without leases."""
    require_machine()
    forgotten, moved, bare, both, right = made = machines("poweroff", "pause", "pause", "pause", "poweroff")
    recovery = program(
        tmp_path / "recovery",
        f"while sleep 0.1; do rm -f {RUN_RECORDS}/{forgotten.uuid}.record; done &\n"
        f"until sanlock client add_lockspace -s {JOINED} -o 1; do sleep 0.5; done\n"
        f"until [ -e {tmp_path}/started ]; do sleep 0.1; done\n"
        f"for uuid in {bare.uuid} {both.uuid}; do\n"
        "    virsh -q -c qemu:///system qemu-monitor-command $uuid --hmp cont\n"
        "done\n"
        f"virsh -q -c qemu:///system resume {moved.uuid}\n"
        "sleep 1000\n",
    )
    with World(Schedule(0, 0.0, made, ()), recovery=recovery) as world:
        scene = Scene(world)
        scene.steps.begin(Step(0.0, "sector", lasts=4.0))
        wait_for(lambda: len(world.run().hosts[1].outcomes) == len(made), 40, "all to be safe")
        wait_for(lambda: not world.hosts[1].lockspaces(), 40, "the end of the lockspace")
        wait_for(world.hosts[1].lockspaces, 40, "the lockspace")
        scene.steps.begin(Step(0.0, "start-there", 2, moved.number, 2.0))
        scene.steps.begin(Step(0.0, "start-there", 2, both.number, 90.0))
        wait_for(lambda: scene.runs_there(both) and scene.has_run_there(moved), 40, "two to be started there")
        (tmp_path / "started").touch()
        scene.wait(("record", 0), ("moved lease", 1), ("lease", 2), ("lease", 3), ("two hosts", 3))
        assert not [number for _, number in scene.found() if number == right.number]
        scene.close()


@pytest.mark.long
def test_faults_of_recovery_with_guests_that_stop(tmp_path: Path) -> None:
    """It passes a higher one over, and it does not mind that it is held."""
    require_machine()
    priorities = {"right": 20, "high": 10, "low": 0, "held": 0}
    right, high, low, held = made = tuple(
        machine._replace(priority=priority, stops=True)
        for machine, priority in zip(machines("pause", "poweroff", "pause", "pause"), priorities.values())
    )
    recovery = program(
        tmp_path / "recovery",
        # QEMU's first request over a new connection may fail once more.
        "goes_on() {\n"
        '    until [ "$(virsh -q -c qemu:///system domstate $1)" = running ]; do\n'
        "        virsh -q -c qemu:///system resume $1; sleep 0.5\n"
        "    done\n"
        "}\n"
        f"until [ -e {tmp_path}/order ]; do sleep 0.1; done\n"
        f"goes_on {right.uuid}; goes_on {low.uuid}\n"
        f"until [ -e {tmp_path}/held ]; do sleep 0.1; done\n"
        f"goes_on {held.uuid}\n"
        "sleep 1000\n",
    )
    with World(Schedule(0, 0.0, made, (), (1,)), recovery=recovery) as world:
        scene = Scene(world)
        failure = 2.0
        scene.steps.begin(Step(0.0, "disks", lasts=failure))
        uuids = {machine.uuid for machine in made}
        wait_for(lambda: (sample := world.last(1)) and sample.records == uuids, 20, "a record of each")
        # What is judged has had its record for so long, and its disk.
        time.sleep(failure + UNDER_WAY + 2)
        (tmp_path / "order").touch()
        scene.wait(("order", high.number))
        scene.steps.begin(Step(0.0, "hold", lasts=UNDER_WAY + 10))
        wait_for(lambda: (sample := world.last(1)) and sample.is_held, 20, "the hold")
        time.sleep(UNDER_WAY + 2)
        (tmp_path / "held").touch()
        scene.wait(("held", held.number))
        assert {number for _, number in scene.found()} == {high.number, held.number}
        scene.close()
