# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that stopped by an I/O error is resumed when its storage is back, and not without proof."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.errors import TransientError  # noqa: E402
from sanlock_helper.leases.held import Lease  # noqa: E402
from sanlock_helper.records.record import IO_ERROR  # noqa: E402
from sanlock_helper.recovery import disk_reads  # noqa: E402
from sanlock_helper.recovery.stopped_guests import MOST_BLIND_TRIES, MOST_TRIES, wait_before  # noqa: E402
from sanlock_helper.recovery.verdict import Verdict  # noqa: E402

from ..libvirt_errors import libvirt_error  # noqa: E402
from ..recovery_world import RUNNING, UUID  # noqa: E402
from .scene import Scene  # noqa: E402


def stopped(path: Path, **changes: Any) -> Scene:
    scene = Scene(path, cause=IO_ERROR, **changes)
    scene.world.stop()
    return scene


def test_no_lockspace_need_have_been_lost(tmp_path: Path) -> None:
    scene = stopped(tmp_path)
    scene.record.lockspaces = (scene.world.healthy(),)
    result = scene.visit()
    assert (result.verdict, scene.world.vm, scene.world.version) == (Verdict.DONE, RUNNING, 2)


def test_a_lockspace_that_was_not_renewed_since(tmp_path: Path) -> None:
    scene = stopped(tmp_path)
    scene.world.renewed_at = -1e12
    result = scene.visit()
    assert result.verdict is Verdict.AGAIN
    assert "lockspace LS was not renewed since it stopped" in result.text
    assert scene.world.resumed == 0
    scene.world.renewed_at = 1e9
    assert scene.visit().verdict is Verdict.DONE


def test_a_disk_that_cannot_be_read(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch.object(disk_reads, "_PRIVATE", ())
    scene = stopped(tmp_path)
    missing = f"<disk type='file'><source file='{tmp_path}/gone'/></disk>"
    scene.world.xml = f"<domain><devices>{missing}</devices></domain>"
    result = scene.visit()
    assert result.verdict is Verdict.AGAIN
    assert result.text.endswith(f"it stays paused: {tmp_path}/gone: No such file or directory")
    (tmp_path / "gone").write_bytes(b"x")
    assert scene.visit().verdict is Verdict.DONE


def test_a_disk_without_space_is_no_outage(tmp_path: Path) -> None:
    scene = stopped(tmp_path)
    scene.world.disk_errors = {"vdb": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE}
    result = scene.visit()
    assert result.verdict is Verdict.DROPPED
    assert "for want of space on vdb" in result.text
    assert scene.world.resumed == 0


def test_other_errors_of_disks_are_what_it_stopped_by(tmp_path: Path) -> None:
    scene = stopped(tmp_path)
    scene.world.disk_errors = {"vdb": libvirt.VIR_DOMAIN_DISK_ERROR_UNSPEC}
    assert scene.visit().verdict is Verdict.DONE


@pytest.mark.parametrize(
    "reason", ["USER", "WATCHDOG", "FROM_SNAPSHOT", "CRASHED", "MIGRATION", "POSTCOPY_FAILED"]
)
def test_a_pause_for_another_reason_is_another_pause(tmp_path: Path, reason: str) -> None:
    scene = stopped(tmp_path)
    scene.world.reason = getattr(libvirt, f"VIR_DOMAIN_PAUSED_{reason}")
    assert scene.visit().verdict is Verdict.DROPPED
    assert scene.world.resumed == 0


@pytest.mark.parametrize("reason", [libvirt.VIR_DOMAIN_PAUSED_UNKNOWN, 14])
def test_a_pause_that_libvirt_names_otherwise_since(tmp_path: Path, reason: int) -> None:
    scene = stopped(tmp_path)
    scene.world.reason = reason
    assert scene.visit().verdict is Verdict.DONE


def test_a_guest_that_runs_again_is_done_with_at_once(tmp_path: Path) -> None:
    scene = stopped(tmp_path, unknown="sanlock: no answer", leases=())
    scene.world.resume()
    result = scene.visit()
    assert result.verdict is Verdict.DONE
    assert "an administrator or another process resumed it" in result.text


def test_a_guest_that_stops_again_at_once_is_tried_again(tmp_path: Path) -> None:
    scene = stopped(tmp_path)
    scene.world.stops = 2
    for tries in (1, 2):
        result = scene.visit()
        assert result == (Verdict.AGAIN, "it was resumed, and stopped again by an I/O error", frozenset())
        record = scene.store.gather()[UUID]
        assert (record.tries, record.mark, record.leases[0].version) == (tries, "", 1 + tries)
    assert scene.visit().verdict is Verdict.DONE
    assert scene.world.version == 4


def test_a_guest_that_has_its_leases_still_gives_them_up_first(tmp_path: Path) -> None:
    # libvirtd was away when it stopped, or a resume had not returned.
    scene = stopped(tmp_path)
    scene.world.held = scene.world.owner = 1
    result = scene.visit()
    assert result == (Verdict.DONE, "found paused, resumed, verified running, 1 lease held", frozenset())
    assert (scene.world.vm, scene.world.version) == (RUNNING, 2)


def test_a_guest_that_has_held_its_lease_all_the_while(tmp_path: Path) -> None:
    # libvirt cannot give up what has a blank in its name, and does not take it again.
    scene = stopped(tmp_path)

    def keep(call: str) -> None:
        if call == "resumed":
            scene.world.held = scene.world.version = 1

    scene.world.before_call = keep
    assert scene.visit().verdict is Verdict.DONE


def test_a_resume_that_fails_for_another_reason_gives_nothing_up(tmp_path: Path) -> None:
    scene = stopped(tmp_path)
    scene.world.refuses["resume"] = libvirt_error(libvirt.VIR_ERR_OPERATION_FAILED)
    assert scene.visit().verdict is Verdict.AGAIN
    # Nor where it runs by then.
    scene.world.resume()
    scene.world.refuses["release"] = AssertionError()
    assert scene.visit().verdict is Verdict.DONE


def test_what_the_killpath_paused_may_stop_so_as_well(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.world.stops = 1
    assert scene.visit().verdict is Verdict.AGAIN
    assert scene.store.gather()[UUID].cause == IO_ERROR
    assert scene.visit().verdict is Verdict.DONE


def test_another_host_between_two_tries_is_found(tmp_path: Path) -> None:
    scene = stopped(tmp_path)
    scene.world.stops = 1
    assert scene.visit().verdict is Verdict.AGAIN
    assert scene.world.other_takes()
    scene.world.other_gives_back()
    result = scene.visit()
    assert (result.verdict, scene.world.resumed) == (Verdict.REFUSED, 1)
    assert "was version 2 when it was paused and is 3 now" in result.text


def test_it_is_given_up_in_the_end(tmp_path: Path) -> None:
    scene = stopped(tmp_path, tries=MOST_TRIES)
    result = scene.visit()
    assert result.verdict is Verdict.REFUSED
    assert f"given up after {MOST_TRIES} tries" in result.text
    assert scene.visit(anyway=True).verdict is Verdict.DONE


RBD = "<domain><devices><disk type='network'><source protocol='rbd' name='p/i'/></disk></devices></domain>"


def test_one_whose_disks_cannot_be_asked_is_tried_for_an_hour(tmp_path: Path) -> None:
    # Each resume finds out whether its storage is back, and an outage lasts longer than half a minute.
    scene = stopped(tmp_path, tries=MOST_TRIES)
    record, waits = copy.copy(scene.record), 0.0
    for record.tries in range(MOST_BLIND_TRIES):
        waits += wait_before(record)
    assert 3000 < waits < 4000
    scene.world.xml = RBD
    scene.world.stops = MOST_BLIND_TRIES - MOST_TRIES
    for tries in range(MOST_TRIES + 1, MOST_BLIND_TRIES + 1):
        assert scene.visit().verdict is Verdict.AGAIN
        assert scene.store.gather()[UUID].tries == tries
    result = scene.visit()
    assert result.verdict is Verdict.REFUSED
    assert f"given up after {MOST_BLIND_TRIES} tries" in result.text


def test_one_whose_disks_cannot_be_asked_comes_back_after_many_tries(tmp_path: Path) -> None:
    scene = stopped(tmp_path, tries=MOST_BLIND_TRIES - 1)
    scene.world.xml = RBD
    assert scene.visit().verdict is Verdict.DONE


def test_a_volume_is_read_before_the_resume(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch.object(disk_reads, "_PRIVATE", ())
    scene = stopped(tmp_path)
    scene.world.xml = (
        "<domain><devices><disk type='volume'><source pool='p' volume='v'/></disk></devices></domain>"
    )
    scene.world.volumes = {("p", "v"): (f"{tmp_path}/v", libvirt.VIR_STORAGE_VOL_FILE)}
    result = scene.visit()
    assert result.verdict is Verdict.AGAIN
    assert result.text.endswith(f"it stays paused: {tmp_path}/v: No such file or directory")
    assert scene.world.resumed == 0
    (tmp_path / "v").write_bytes(b"x")
    assert scene.visit().verdict is Verdict.DONE


def test_a_volume_of_a_pool_that_is_gone_is_left_to_the_guest(tmp_path: Path) -> None:
    scene = stopped(tmp_path, tries=MOST_TRIES)
    scene.world.xml = (
        "<domain><devices><disk type='volume'><source pool='p' volume='v'/></disk></devices></domain>"
    )
    assert scene.visit().verdict is Verdict.DONE


@pytest.mark.parametrize("version", [None, 1])
def test_unknown_versions_forbid_it_and_an_administrator_may(tmp_path: Path, version: int | None) -> None:
    leases = () if version is None else (Lease("LS", "disk", version, "/storage/disk"),)
    scene = stopped(tmp_path, leases=leases, unknown="the agent began later")
    result = scene.visit()
    assert (result.verdict, scene.world.resumed) == (Verdict.REFUSED, 0)
    assert "not known: the agent began later" in result.text
    assert scene.visit(anyway=True).verdict is Verdict.DONE


def test_a_guest_without_policy_is_left_alone(tmp_path: Path) -> None:
    scene = stopped(tmp_path)
    scene.world.policy = False
    assert scene.visit().verdict is Verdict.LEFT_ALONE


def test_the_wait_grows_and_has_an_end(tmp_path: Path) -> None:
    waits = [wait_before(Scene(tmp_path, tries=tries).record) for tries in (0, 1, 10, 15, 20, 2**31 - 1)]
    assert waits == sorted(waits)
    assert waits[:3] == [0.0, 1.0, 1.0]
    assert waits[-1] <= 30.0


def test_disks_that_do_not_answer_are_not_waited_for(tmp_path: Path) -> None:
    scene = stopped(tmp_path)
    scene.world.refuses["diskErrors"] = TransientError("ask QEMU", "no answer")
    assert scene.visit().verdict is Verdict.AGAIN
