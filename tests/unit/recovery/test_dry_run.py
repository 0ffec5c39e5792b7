# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dry run in a world of one domain: what it finds is what recovery does, and it does nothing."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("libvirt")

from hypothesis import given, settings
from hypothesis import strategies as st

from sanlock_helper.leases.held import Lease
from sanlock_helper.leases.lockspaces import JOINED
from sanlock_helper.records.record import Record
from sanlock_helper.recovery.domain import DomainRecovery
from sanlock_helper.recovery.dry_run import DryRun, PlannedDomain, ReadOnlyStore, Step
from sanlock_helper.virt.host_conf import HostConf

from ..examples import part_of
from ..fakes import RecordedJournal
from ..recovery_world import OFF, PID, SPACE, URI, FakeSanlock, RecoveryWorld


def plan(world: RecoveryWorld, record: Record, seconds: float = 5.0) -> PlannedDomain:
    store = ReadOnlyStore(RecordedJournal(), "/nowhere/run", "/nowhere/state")  # type: ignore[arg-type]
    dry_run = DryRun(
        world.connect,  # type: ignore[arg-type]
        FakeSanlock(world),  # type: ignore[arg-type]
        store,
        lambda: None,
        HostConf(),
        lambda: record.time + 10.0,
        **seams(world),
    )
    (found,) = dry_run.plan([record], seconds).domains
    return found


def seams(world: RecoveryWorld) -> dict[str, Any]:
    return {
        "boot": lambda: "boot",
        "process_started": lambda pid: 99 if pid == world.pid else 0,
        "pid_of": lambda uuid: world.pid if world.vm != OFF and world.is_process_known else None,
        "ended": lambda name, since: world.log,
    }


class Store:
    """Takes each mark."""

    def mark(self, record: Record, mark: str, why: str = "") -> bool:
        record.mark, record.why = mark, why
        return True


FIELDS = ("vm", "run", "version", "owner", "state", "held", "started", "resumed", "pid", "generation")


@settings(max_examples=part_of(300))
@given(st.sampled_from(["poweroff", "pause"]), st.lists(st.sampled_from(range(14)), max_size=5), st.data())
def test_it_finds_what_recovery_does_and_does_nothing(
    action: str, happens: list[int], data: st.DataObject
) -> None:
    world = RecoveryWorld()
    record = world.record(action)

    def start() -> None:
        if world.vm == OFF and world.state == JOINED and world.storage and world.owner is None:
            world.start()

    steps: list[Any] = [
        lambda: setattr(world, "state", None),
        lambda: setattr(world, "state", JOINED),
        world.other_takes,
        world.other_gives_back,
        lambda: setattr(world, "policy", data.draw(st.sampled_from([True, False, "true"]))),
        lambda: setattr(world, "registered", False),
        lambda: setattr(world, "storage", False),
        lambda: setattr(world, "is_process_known", False),
        lambda: setattr(world, "known", world.known and world.vm != OFF),
        lambda: setattr(record, "mark", data.draw(st.sampled_from(["", "starting", "resuming", "refused"]))),
        start,
        lambda: setattr(record, "unknown", "not known"),
        lambda: setattr(world, "answers", False),
        lambda: setattr(record, "leases", (Lease("LS", "disk", 1, "/storage/disk", 0, True),)),
    ]  # fmt: skip
    for number in happens:
        steps[number]()
    before = {name: getattr(world, name) for name in FIELDS}
    noted = record.encode()
    found = plan(world, record)
    assert {name: getattr(world, name) for name in FIELDS} == before
    assert record.encode() == noted
    if found.lockspaces:
        assert found.step in (Step.START, Step.RESUME)
        return
    real = DomainRecovery(
        world.connect,  # type: ignore[arg-type]
        FakeSanlock(world),  # type: ignore[arg-type]
        Store(),  # type: ignore[arg-type]
        default_lockspace=lambda: None,
        host_conf=HostConf,
        **seams(world),
    )
    paused: list[str] = []
    world.before_call = lambda name: paused.append(name) if name == "suspend" else None
    result = real.visit(copy.copy(record), world.state == JOINED and world.answers, 10.0)
    acted = (world.started > before["started"], world.resumed > before["resumed"])
    if found.step is Step.START:
        assert acted == (True, False) or result.verdict.value == "again", result
    elif found.step is Step.RESUME:
        assert acted == (False, True) or result.verdict.value == "again", result
    elif found.step is Step.PAUSE:
        assert paused
    else:
        assert acted == (False, False), (found, result)
        assert not paused


def test_one_that_does_not_answer_is_reported(tmp_path: Path) -> None:
    world = RecoveryWorld()
    record = world.record("pause")
    end = threading.Event()

    def hang(name: str) -> None:
        if name == "connect":
            end.wait()

    world.before_call = hang
    found = plan(world, record, 0.3)
    end.set()
    assert (found.step, found.why) == (Step.RETRY, "no answer from libvirtd or sanlock within 0.3 s")


def test_the_lockspace_that_would_be_joined() -> None:
    world = RecoveryWorld()
    record = world.record("poweroff")
    world.state = None
    store = ReadOnlyStore(RecordedJournal(), "/nowhere/run", "/nowhere/state")  # type: ignore[arg-type]
    connect: Any = world.connect
    sanlock: Any = FakeSanlock(world)
    found = DryRun(connect, sanlock, store, lambda: None, HostConf(), **seams(world)).plan([record])
    assert found.joins == {"LS": f"LS:{SPACE.host_id}:{SPACE.path}:0"}
    record.lockspaces = ()
    found = DryRun(connect, sanlock, store, lambda: None, HostConf(), **seams(world)).plan([record])
    assert "neither qemu-sanlock.conf nor a record gives its path" in found.joins["LS"]
    assert (record.uri, record.pid) == (URI, PID)
