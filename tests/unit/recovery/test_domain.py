# SPDX-License-Identifier: LGPL-2.1-or-later
"""One domain's way back: each decision, and what must never happen whatever the order of events."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest

libvirt = pytest.importorskip("libvirt")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from sanlock_helper.leases.held import Lease, Lockspace  # noqa: E402
from sanlock_helper.leases.lockspaces import JOINED  # noqa: E402
from sanlock_helper.records.directory import RecordDirectory  # noqa: E402
from sanlock_helper.recovery.domain import DomainRecovery  # noqa: E402
from sanlock_helper.recovery.verdict import Verdict  # noqa: E402
from sanlock_helper.virt.host_conf import HostConf, parse_host_conf  # noqa: E402

from ..examples import part_of  # noqa: E402
from ..libvirt_errors import libvirt_error  # noqa: E402
from ..recovery_world import OFF, PAUSED, RUNNING, SPACE, UUID, FakeSanlock, Killed, RecoveryWorld  # noqa: E402
from .scene import Scene  # noqa: E402


@pytest.fixture
def paused(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def off(tmp_path: Path) -> Scene:
    return Scene(tmp_path, "poweroff")


# Resume


def test_a_paused_domain_is_resumed(paused: Scene) -> None:
    finding = paused.visit()
    assert finding == (Verdict.DONE, "found paused, resumed, verified running, 1 lease held", frozenset())
    assert (paused.world.resumed, paused.world.version) == (1, 2)


def test_a_lockspace_that_is_not_joined_is_waited_for(paused: Scene) -> None:
    assert paused.visit(ready=False).verdict is Verdict.WAIT
    assert paused.world.vm == PAUSED


def test_a_lease_that_another_host_held_forbids_the_resume(paused: Scene) -> None:
    paused.world.other_takes()
    paused.world.other_gives_back()
    finding = paused.visit()
    assert finding.verdict is Verdict.REFUSED
    assert "its lease LS:disk was version 1 when it was paused and is 2 now" in finding.text
    assert paused.world.resumed == 0


def test_a_lease_held_elsewhere_is_dropped(paused: Scene) -> None:
    paused.world.other_takes()
    finding = paused.visit()
    assert (finding.verdict, "held by host_id 2" in finding.text) == (Verdict.DROPPED, True)


@pytest.mark.parametrize(("state", "verdict"), [("unknown", Verdict.AGAIN), ("dead", Verdict.REFUSED)])
def test_a_holder_that_may_be_dead(paused: Scene, state: str, verdict: Verdict) -> None:
    paused.world.other_takes()
    paused.world.host_states[2] = state
    assert paused.visit().verdict is verdict
    assert paused.world.resumed == 0


def test_a_lease_that_cannot_be_read_is_no_for_now(paused: Scene) -> None:
    paused.world.storage = False
    finding = paused.visit()
    assert (finding.verdict, "it stays paused" in finding.text) == (Verdict.AGAIN, True)
    paused.world.storage = True
    assert paused.visit().verdict is Verdict.DONE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unknown": "sanlock hangs"}, "not known: sanlock hangs"),
        ({"leases": ()}, "it held none"),
        ({"leases": (Lease("LS", "disk", 1, "/storage/disk", 0, True),)}, "is shared"),
    ],
)
def test_versions_that_prove_nothing_forbid_the_resume(tmp_path: Path, changes: Any, words: str) -> None:
    scene = Scene(tmp_path, **changes)
    finding = scene.visit()
    assert (finding.verdict, words in finding.text) == (Verdict.REFUSED, True)
    assert scene.world.resumed == 0


def test_a_process_that_sanlock_does_not_know_is_not_resumed(paused: Scene) -> None:
    paused.world.registered = False
    assert paused.visit().verdict is Verdict.REFUSED
    assert paused.visit(anyway=True).verdict is Verdict.REFUSED
    assert paused.world.resumed == 0


def test_a_lease_taken_at_the_last_moment_pauses_it_again(paused: Scene) -> None:
    def take(name: str) -> None:
        if name == "resume":
            paused.world.other_takes()
            paused.world.other_gives_back()

    paused.world.before_call = take
    finding = paused.visit()
    assert finding.verdict is Verdict.REFUSED
    assert "version 1 when it was paused and 3 after the resume, not 2" in finding.text
    assert (paused.world.vm, paused.world.resumed) == (PAUSED, 1)


def test_leases_that_cannot_be_read_after_the_resume_pause_it_again(paused: Scene) -> None:
    def silence(name: str) -> None:
        if name == "resumed":
            paused.world.answers = False

    paused.world.before_call = silence
    assert paused.visit().verdict is Verdict.REFUSED
    assert paused.world.vm == PAUSED


def test_a_refusal_lasts(paused: Scene) -> None:
    paused.store.mark(paused.record, "refused", "because")
    assert paused.visit() == (Verdict.REFUSED, "because", frozenset())
    assert paused.visit(anyway=True).verdict is Verdict.DONE


def test_the_administrator_may_know_better(paused: Scene) -> None:
    paused.world.other_takes()
    paused.world.other_gives_back()
    paused.world.guest_version = None
    assert paused.visit(anyway=True).verdict is Verdict.DONE
    assert paused.world.vm == RUNNING


def test_a_missing_lease_forbids_even_the_administrators_resume(paused: Scene) -> None:
    def lose(name: str) -> None:
        if name == "resumed":
            paused.world.held = None

    paused.world.before_call = lose
    finding = paused.visit(anyway=True)
    assert (finding.verdict, "went on without its lease" in finding.text) == (Verdict.REFUSED, True)
    assert paused.world.vm == PAUSED


def test_killed_right_after_the_resume_the_lease_is_read_later(paused: Scene) -> None:
    def take_and_kill(name: str) -> None:
        if name == "resume":
            paused.world.other_takes()
            paused.world.other_gives_back()
        if name == "resumed":
            raise Killed

    paused.world.before_call = take_and_kill
    with pytest.raises(Killed):
        paused.visit()
    assert paused.mark() == "resuming"
    paused.world.before_call = lambda name: None
    assert paused.visit().verdict is Verdict.REFUSED
    assert paused.world.vm == PAUSED


@pytest.mark.parametrize("action", ["pause", "poweroff", "restart"])
def test_a_hold_that_comes_during_a_visit(tmp_path: Path, action: str) -> None:
    scene = Scene(tmp_path, action)
    scene.is_held = True
    result = scene.visit()
    assert (result.verdict, scene.mark()) == (Verdict.WAIT, "")
    assert (scene.world.started, scene.world.resumed) == (0, 0)
    scene.is_held = False
    assert scene.visit().verdict is Verdict.DONE
    assert scene.world.started + scene.world.resumed == 1


def test_an_administrator_resumed_it(paused: Scene) -> None:
    paused.world.other_takes()
    paused.world.other_gives_back()
    paused.world.resume()
    assert paused.visit() == (
        Verdict.DONE,
        "found running, nothing to do, verified running; an administrator or another process resumed it",
        frozenset(),
    )
    assert paused.world.vm == RUNNING


def test_an_administrator_powered_it_off(paused: Scene) -> None:
    paused.world.destroy()
    assert paused.visit().verdict is Verdict.DROPPED
    assert paused.world.started == 0


def test_sanlock_or_a_crash_ended_it(paused: Scene) -> None:
    paused.world.destroy()
    paused.world.reason = libvirt.VIR_DOMAIN_SHUTOFF_CRASHED
    assert paused.visit().verdict is Verdict.DONE
    assert paused.world.started == 1


def test_it_crashed_after_an_administrator_resumed_it(paused: Scene) -> None:
    paused.world.resume()
    paused.world.destroy()
    paused.world.reason = libvirt.VIR_DOMAIN_SHUTOFF_CRASHED
    assert "it ran since" in paused.visit().text
    assert paused.world.started == 0


def test_it_crashed_after_it_was_refused(paused: Scene) -> None:
    paused.store.mark(paused.record, "refused", "because")
    paused.world.destroy()
    paused.world.reason = libvirt.VIR_DOMAIN_SHUTOFF_CRASHED
    assert paused.visit().verdict is Verdict.DROPPED
    assert paused.world.started == 0


def test_a_reset_of_the_host_ended_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, boot="an earlier one")
    scene.world.destroy()
    assert scene.visit().verdict is Verdict.DONE
    assert scene.world.started == 1


@pytest.mark.parametrize(
    "changes", [{"run": 6}, {"pid_start": 98}, {"pid_start": 0, "boot": "an earlier one"}]
)
def test_another_run_is_not_ours(tmp_path: Path, changes: Any) -> None:
    scene = Scene(tmp_path, **changes)
    assert scene.visit().text == (
        "found paused, nothing to do, verified paused; an administrator or another process started it"
    )
    assert scene.world.vm == PAUSED


def test_it_is_the_same_run_where_only_the_boot_proves_it(tmp_path: Path) -> None:
    assert Scene(tmp_path, pid_start=0).visit().text.startswith("found paused, resumed")


def test_other_states_are_waited_for(paused: Scene) -> None:
    paused.world.vm = libvirt.VIR_DOMAIN_SHUTDOWN
    assert paused.visit() == (Verdict.AGAIN, "it is in shutdown", frozenset())


# Start


def test_a_domain_that_is_off_is_started(off: Scene) -> None:
    assert off.visit() == (Verdict.DONE, "found off, started, verified running, 1 lease held", frozenset())


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_without_a_policy_it_is_left(tmp_path: Path, action: str) -> None:
    scene = Scene(tmp_path, action)
    scene.world.policy = False
    assert scene.visit().verdict is Verdict.LEFT_ALONE
    assert (scene.world.started, scene.world.resumed) == (0, 0)


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_without_a_policy_the_hosts_default_counts(tmp_path: Path, action: str) -> None:
    scene = Scene(tmp_path, action)
    scene.world.policy = False
    scene.conf = HostConf(default=True)
    assert scene.visit().verdict is Verdict.DONE


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_a_default_that_is_not_known_loses_no_record(tmp_path: Path, action: str) -> None:
    scene = Scene(tmp_path, action)
    scene.world.policy = False
    scene.conf = parse_host_conf("[recover]\ndefault = yse\n")
    result = scene.visit()
    assert result.verdict is Verdict.UNDECIDED
    assert result.text.startswith(
        "it has no recovery policy, and the host's default is not known: /etc/virt-sanlock-helper.conf: "
        "line 2: default is 'yse', not yes or no ("
    )
    # As the loop marks it; once the file is mended it is brought back, or left as it says.
    scene.store.mark(scene.store.gather()[UUID], "refused", result.text)
    scene.conf = HostConf()
    assert scene.visit().verdict is Verdict.LEFT_ALONE
    scene.conf = HostConf(default=True)
    assert scene.visit().verdict is Verdict.DONE


def test_a_policy_of_its_own_needs_no_default(paused: Scene) -> None:
    paused.conf = parse_host_conf("nonsense")
    assert paused.visit().verdict is Verdict.DONE


def test_restart_needs_no_policy(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "restart")
    scene.world.policy = False
    assert scene.visit().verdict is Verdict.DONE


RECOVER = '<metadata><lockfailure xmlns="urn:virt-sanlock-helper:1" recover="yes"/></metadata>'


def definition(recover: str) -> str:
    element = f'<lockfailure xmlns="urn:virt-sanlock-helper:1" recover="{recover}"/>'
    return f"<domain><metadata>{element}</metadata></domain>"


@pytest.mark.parametrize(
    ("xml", "verdict"),
    [
        (definition("yes"), Verdict.DONE),
        ("<domain/>", Verdict.LEFT_ALONE),
        ("", Verdict.DROPPED),
        ("<domain", Verdict.UNUSABLE),
        ("<domain>\udcff</domain>", Verdict.UNUSABLE),
        ("<domain>\0</domain>", Verdict.UNUSABLE),
        (f"<domain>{RECOVER}<uuid>{UUID.upper()}</uuid></domain>", Verdict.DONE),
        (f"<domain>{RECOVER}<uuid>716b3698-0ee7-4e8f-8b5c-a2c619edc268</uuid></domain>", Verdict.UNUSABLE),
        (definition("1"), Verdict.REFUSED),
    ],
)  # fmt: skip
def test_a_transient_domain(tmp_path: Path, xml: str, verdict: Verdict) -> None:
    scene = Scene(tmp_path, "poweroff", xml=xml)
    scene.world.known = False
    assert scene.visit().verdict is verdict
    assert scene.world.started == (verdict is Verdict.DONE)


@pytest.mark.parametrize("action", ["pause", "poweroff"])
@pytest.mark.parametrize("value", ["true", "", "YES"])
def test_a_malformed_policy_is_left_to_the_administrator(tmp_path: Path, action: str, value: str) -> None:
    scene = Scene(tmp_path, action)
    scene.world.policy = value
    finding = scene.visit()
    assert finding.verdict is Verdict.REFUSED
    assert f"recover is {value!r}, neither yes nor no" in finding.text
    # What recovery notes of a refusal.
    scene.store.mark(scene.store.gather()[UUID], "refused", finding.text)
    assert scene.visit() == finding
    assert (scene.world.started, scene.world.resumed) == (0, 0)
    # Once the policy is set, the record is as good as any.
    scene.world.policy = True
    assert scene.visit().verdict is Verdict.DONE
    assert scene.world.started + scene.world.resumed == 1


def test_what_ran_since_its_policy_was_malformed(off: Scene) -> None:
    off.world.policy = "true"
    off.store.mark(off.store.gather()[UUID], "refused", off.visit().text)
    off.world.policy = True
    off.world.start()
    off.world.destroy()
    assert off.visit().verdict is Verdict.DROPPED


def test_it_ran_since(off: Scene) -> None:
    off.world.start()
    off.world.destroy()
    finding = off.visit()
    assert (finding.verdict, "was version 1 and is 2 now" in finding.text) == (Verdict.DROPPED, True)


def test_a_start_of_ours_that_failed_is_tried_again(off: Scene) -> None:
    def fail_late(name: str) -> None:
        if name == "created":
            off.world.destroy()
            raise libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, message="QEMU ended")

    off.world.before_call = fail_late
    assert "start the domain: QEMU ended" in off.visit().text
    off.world.before_call = lambda name: None
    # Its lease was taken and given back, by ourselves.
    assert off.world.version == 2
    assert off.visit().verdict is Verdict.DONE


def test_a_start_that_is_refused_is_tried_again(off: Scene) -> None:
    off.world.state = None
    assert off.visit().verdict is Verdict.AGAIN
    assert off.world.vm == OFF


def kill_after_the_start(off: Scene) -> None:
    """A recovery is killed as soon as libvirtd has started the domain."""

    def kill(name: str) -> None:
        if name == "created":
            raise Killed

    off.world.before_call = kill
    with pytest.raises(Killed):
        off.visit()
    off.world.before_call = lambda name: None


def test_killed_right_after_the_start(off: Scene) -> None:
    kill_after_the_start(off)
    assert off.visit().text.startswith("found off, started by an earlier recovery, verified running")
    assert off.world.started == 1


def without_lease(scene: Scene) -> None:
    """Have libvirt take no lease at a start, as with another lock_manager."""
    scene.world.xml = (
        "<domain><devices><lease><lockspace>LS</lockspace><key>disk</key></lease></devices></domain>"
    )

    def lose(name: str) -> None:
        if name == "created":
            scene.world.held = None

    scene.world.before_call = lose


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("action", ["poweroff", "restart"])
def test_a_run_that_has_no_lease_is_ended_at_once(tmp_path: Path, action: str, persistent: bool) -> None:
    scene = Scene(tmp_path, action)
    if not persistent:
        scene.world.persistent = scene.world.known = False
        scene.record.xml = f"<domain><uuid>{UUID}</uuid>{RECOVER}</domain>"
        RecordDirectory(f"{tmp_path}/state").write(scene.record)
    without_lease(scene)
    found = scene.visit()
    assert found.verdict is Verdict.REFUSED
    assert "started without a lease, and powered off again at once" in found.text
    assert (scene.world.vm, scene.world.started) == (OFF, 1)
    # Not once more by itself, and not after it was noted.
    scene.record.mark, scene.record.why = "refused", found.text
    RecordDirectory(f"{tmp_path}/state").write(scene.record)
    assert scene.visit() == found
    assert scene.world.started == 1
    # By the administrator: that run is not recovery's.
    scene.world.known = True
    scene.world.start()
    assert scene.visit().verdict is Verdict.DONE
    assert scene.world.vm == RUNNING


def test_a_run_of_another_recovery_that_has_no_lease_is_left_alone(off: Scene) -> None:
    """It may be an administrator's, started after a recovery that had noted its start was killed."""
    without_lease(off)
    kill_after_the_start(off)
    off.world.held = None
    found = off.visit()
    assert found.verdict is Verdict.AGAIN
    assert "runs without a lease" in found.text
    assert off.world.vm == RUNNING


def test_a_run_whose_definition_asks_for_no_lease_any_more_is_left_alone(off: Scene) -> None:
    without_lease(off)
    off.world.xml = "<domain><devices/></domain>"
    found = off.visit()
    assert found.verdict is Verdict.AGAIN
    assert "runs without a lease" in found.text
    assert off.world.vm == RUNNING


def test_a_run_without_a_lease_that_cannot_be_ended(off: Scene) -> None:
    without_lease(off)
    off.world.refuses["destroy"] = libvirt_error(libvirt.VIR_ERR_OPERATION_FAILED, message="no")
    found = off.visit()
    assert found.verdict is Verdict.AGAIN
    assert "power it off again" in found.text


def test_it_is_still_being_powered_off(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "poweroff")
    world = scene.world
    world.vm, world.run, world.held = RUNNING, 7, 1
    assert scene.visit() == (Verdict.EARLY, "its poweroff is not done yet", frozenset())
    assert scene.visit(age=121).verdict is Verdict.DROPPED


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_it_is_just_being_destroyed(tmp_path: Path, action: str) -> None:
    """libvirt has answered the lookup, and the process ends."""
    scene = Scene(tmp_path, action)
    world = scene.world
    world.run, world.vm = 7, OFF
    assert scene.visit() == (Verdict.EARLY, "it is just ending", frozenset())
    world.vm, world.held = RUNNING, 1
    gone = DomainRecovery(
        world.connect,  # type: ignore[arg-type]
        FakeSanlock(world),  # type: ignore[arg-type]
        scene.store,
        process_started=lambda pid: 0,
        pid_of=lambda name: None,
    )
    assert gone.visit(scene.record, ready=True).verdict is Verdict.EARLY


def test_it_is_still_being_paused(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    world = scene.world
    # The record was written, and the suspend is still to come.
    world.vm, world.held = RUNNING, 1
    assert scene.visit() == (Verdict.EARLY, "its pause is not done yet", frozenset())
    assert scene.visit(age=121).verdict is Verdict.DROPPED
    world.pause()
    assert scene.visit().verdict is Verdict.DONE
    assert world.resumed == 1


def test_it_is_still_being_paused_and_its_leases_are_not_known(tmp_path: Path) -> None:
    scene = Scene(tmp_path, unknown="sanlock hangs", leases=())
    scene.world.vm, scene.world.held = RUNNING, 1
    assert scene.visit().verdict is Verdict.EARLY


def test_a_record_that_was_forgotten_stops_the_start(off: Scene) -> None:
    def forget(name: str) -> None:
        if name == "version":
            off.store.forget(UUID)

    off.world.before_call = forget
    assert off.visit().verdict is Verdict.DROPPED
    assert off.world.started == 0


def test_a_record_that_cannot_be_marked_stops_the_start(off: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(off.store, "mark", full)
    assert off.visit().verdict is Verdict.AGAIN
    assert off.world.started == 0


@pytest.mark.parametrize("name", ["connect", "lookup", "XMLDesc", "lockspaces", "version", "create"])
def test_whatever_fails_is_tried_again(off: Scene, name: str) -> None:
    off.world.refuses[name] = libvirt_error(
        libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, message="broken"
    )
    finding = off.visit()
    assert (finding.verdict, "broken" in finding.text) == (Verdict.AGAIN, True)


def test_the_lockspaces_of_a_domain_whose_leases_are_not_known(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "restart", leases=())
    assert scene.visit(ready=False).lockspaces == {"LS"}


# A domain's process


@pytest.mark.parametrize("action", ["pause", "poweroff"])
def test_a_process_is_searched_for_by_uuid(tmp_path: Path, action: str) -> None:
    scene = Scene(tmp_path, action)
    asked: list[str] = []
    domain_recovery = DomainRecovery(
        scene.world.connect,  # type: ignore[arg-type]
        FakeSanlock(scene.world),  # type: ignore[arg-type]
        scene.store,
        boot=lambda: "boot",
        process_started=lambda pid: 99,
        pid_of=lambda uuid: (asked.append(uuid), scene.world.pid)[1],  # type: ignore[func-returns-value]
        default_lockspace=lambda: None,
    )
    assert domain_recovery.visit(scene.record, ready=True).verdict is Verdict.DONE
    assert set(asked) == {UUID}


def test_a_process_that_is_not_found_is_no_restart_of_sanlock(paused: Scene) -> None:
    paused.world.is_process_known = False
    finding = paused.visit()
    assert finding.verdict is Verdict.AGAIN
    assert "its process could not be found" in finding.text
    assert "sanlock was restarted" not in finding.text
    # Not without end; and what is proven later counts.
    refused = paused.visit(age=121)
    assert (refused.verdict, "its process could not be found" in refused.text) == (Verdict.REFUSED, True)
    assert paused.world.resumed == 0
    paused.world.is_process_known = True
    assert paused.visit(age=121).verdict is Verdict.DONE


def test_a_started_domain_whose_process_is_not_found_is_not_asked_about_without_end(off: Scene) -> None:
    off.world.is_process_known = False
    finding = off.visit()
    assert (finding.verdict, "its process could not be found" in finding.text) == (Verdict.AGAIN, True)
    finding = off.visit(age=121)
    assert finding.verdict is Verdict.DONE
    assert "started by an earlier recovery, verified running; its process could not be found" in finding.text
    assert off.world.started == 1


def test_processes_that_cannot_be_read_are_tried_again(paused: Scene) -> None:
    def fail(uuid: str) -> int:
        raise OSError(24, "Too many open files")

    sanlock: Any = FakeSanlock(paused.world)
    domain_recovery = DomainRecovery(paused.world.connect, sanlock, paused.store, pid_of=fail)  # type: ignore[arg-type]
    finding = domain_recovery.visit(paused.record, ready=True)
    assert (finding.verdict, "find its process: " in finding.text) == (Verdict.AGAIN, True)
    assert "Too many open files" in finding.text


# States that end by themselves

PASSING = {
    "migrating": libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
    "saving": libvirt.VIR_DOMAIN_PAUSED_SAVE,
    "dumping": libvirt.VIR_DOMAIN_PAUSED_DUMP,
    "shutting down": libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN,
    "creating snapshot": libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT,
    "starting up": libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
}


@pytest.mark.parametrize("words", PASSING)
def test_a_start_that_is_under_way_is_not_the_end(off: Scene, words: str) -> None:
    """An administrator starts it, or an earlier recovery did; it may yet fail."""
    for mark in ("", "starting"):
        off.store.mark(off.record, mark)
        off.world.vm, off.world.run, off.world.reason = PAUSED, 8, PASSING[words]
        finding = off.visit()
        assert finding.verdict is Verdict.AGAIN
        assert f"paused ({words})" in finding.text
    off.world.destroy()
    assert off.visit().verdict is Verdict.DONE
    assert off.world.started == 1


@pytest.mark.parametrize(
    ("reason", "verdict", "words"),
    [
        (libvirt.VIR_DOMAIN_PAUSED_USER, Verdict.DONE, "an administrator has paused it since"),
        (libvirt.VIR_DOMAIN_PAUSED_IOERROR, Verdict.DROPPED, "it is paused (I/O error) now"),
        (libvirt.VIR_DOMAIN_PAUSED_WATCHDOG, Verdict.DROPPED, "it is paused (watchdog) now"),
        (14, Verdict.DROPPED, "it is paused (api error) now"),
    ],
)
def test_a_start_that_ends_in_a_pause(off: Scene, reason: int, verdict: Verdict, words: str) -> None:
    def pause(name: str) -> None:
        if name == "created":
            off.world.vm, off.world.reason = PAUSED, reason

    off.world.before_call = pause
    finding = off.visit()
    assert (finding.verdict, words in finding.text) == (verdict, True), finding.text


@pytest.mark.parametrize("words", PASSING)
def test_a_pause_of_a_job_is_not_resumed_while_the_job_runs(paused: Scene, words: str) -> None:
    paused.world.reason, paused.world.job = PASSING[words], libvirt.VIR_DOMAIN_JOB_UNBOUNDED
    finding = paused.visit()
    assert (finding.verdict, f"paused ({words})" in finding.text) == (Verdict.AGAIN, True)
    assert paused.world.resumed == 0
    # The job's end could not resume it, for its lockspace was gone: libvirt keeps the reason.
    paused.world.job = libvirt.VIR_DOMAIN_JOB_NONE
    assert paused.visit().verdict is Verdict.DONE


# What ended a paused run


@pytest.mark.parametrize("transient", [False, True])
@pytest.mark.parametrize(
    ("log", "verdict"),
    [
        ("crashed", Verdict.DONE),
        ("daemon", Verdict.DONE),
        ("failed", Verdict.DONE),
        ("unknown", Verdict.DONE),
        ("", Verdict.DONE),
        ("destroyed", Verdict.DROPPED),
        ("shutdown", Verdict.DROPPED),
        ("saved", Verdict.DROPPED),
        ("migrated", Verdict.DROPPED),
    ],
)
def test_why_it_ended_is_in_libvirts_log(tmp_path: Path, transient: bool, log: str, verdict: Verdict) -> None:
    """Of a transient domain, and once libvirtd was restarted, libvirtd itself does not know any more."""
    scene = Scene(tmp_path, "pause", xml=definition("yes") if transient else "")
    scene.world.persistent = not transient
    scene.world.destroy()
    scene.world.reason = libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN
    scene.world.log = log
    assert scene.visit().verdict is verdict
    assert scene.world.started == (verdict is Verdict.DONE)


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        (libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, Verdict.DONE),
        (libvirt.VIR_DOMAIN_SHUTOFF_DAEMON, Verdict.DONE),
        (libvirt.VIR_DOMAIN_SHUTOFF_FAILED, Verdict.DONE),
        (libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED, Verdict.DROPPED),
        (libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN, Verdict.DROPPED),
        (libvirt.VIR_DOMAIN_SHUTOFF_SAVED, Verdict.DROPPED),
        (libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED, Verdict.DROPPED),
        (libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT, Verdict.DROPPED),
    ],
)
def test_why_it_ended_as_libvirtd_reports(paused: Scene, reason: int, verdict: Verdict) -> None:
    paused.world.destroy()
    paused.world.reason = reason
    paused.world.log = "destroyed" if verdict is Verdict.DONE else "crashed"
    assert paused.visit().verdict is verdict


@pytest.mark.parametrize("action", ["pause", "poweroff", "restart"])
@pytest.mark.parametrize("transient", [False, True])
@pytest.mark.parametrize("boot", ["boot", "an earlier one"])
@pytest.mark.parametrize("mark", ["", "starting"])
def test_what_has_migrated_is_started_by_no_record(
    tmp_path: Path, action: str, transient: bool, boot: str, mark: str
) -> None:
    """A record of another action, or of before a reset of the host, was not asked why the run had ended."""
    scene = Scene(tmp_path, action, boot=boot, mark=mark, xml=definition("yes") if transient else "")
    scene.world.persistent = not transient
    scene.world.destroy()
    scene.world.reason = libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN
    scene.world.log = "migrated"
    finding = scene.visit()
    assert (finding.verdict, finding.text) == (Verdict.DROPPED, "it was migrated to another host")
    assert not scene.world.started


def test_a_start_of_ours_that_failed_after_a_crash_is_tried_again(paused: Scene) -> None:
    paused.world.destroy()
    paused.world.reason = libvirt.VIR_DOMAIN_SHUTOFF_CRASHED
    paused.world.refuses["create"] = libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, message="not now")
    assert paused.visit().verdict is Verdict.AGAIN
    paused.world.refuses.clear()
    paused.world.reason = libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED
    assert paused.visit().verdict is Verdict.DONE


# The XML that the helper noted without libvirtd


@pytest.mark.parametrize("action", ["pause", "poweroff", "restart"])
def test_the_definition_of_a_persistent_domain_is_libvirts(tmp_path: Path, action: str) -> None:
    scene = Scene(tmp_path, action, xml=definition("yes"))
    assert scene.visit(ready=False).verdict is Verdict.WAIT
    assert scene.store.gather()[UUID].xml == ""
    # Undefined since: that counts.
    scene.world.vm, scene.world.known = OFF, False
    scene.world.run = -1
    assert scene.visit().verdict is Verdict.DROPPED
    assert scene.world.started == 0


def test_the_definition_of_a_transient_domain_is_kept(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "pause", xml=definition("yes"))
    scene.world.persistent = False
    scene.visit(ready=False)
    assert scene.store.gather()[UUID].xml == definition("yes")


# Another machine with the same UUID


def machine(*disks: str, lease: str = "") -> str:
    parts = [f"<disk type='file'><source file='{disk}'/></disk>" for disk in disks]
    if lease:
        parts.append(f"<lease><lockspace>LS</lockspace><key>{lease}</key></lease>")
    return f"<domain>{RECOVER}<devices>{''.join(parts)}</devices></domain>"


AUTO = Lease("__LIBVIRT__DISKS__", hashlib.md5(b"/images/a.img").hexdigest(), 1, "/leases/a", 0)
OWN = Lease("LS", "disk", 1, "/storage/disk", 0)


@pytest.mark.parametrize(
    ("leases", "noted", "name", "now", "same"),
    [
        ((OWN,), "", "vm1", machine(lease="disk"), True),
        ((OWN,), "", "renamed", machine(lease="disk"), True),
        ((OWN,), "", "vm1", machine("/images/new.img", lease="disk"), True),
        ((OWN,), "", "vm1", machine(), True),
        ((AUTO,), "", "vm1", machine("/images/a.img"), True),
        ((AUTO,), "", "renamed", machine("/images/b.img", "/images/a.img"), True),
        ((), machine("/a.img", "/b.img"), "renamed", machine("/b.img", "/c.img"), True),
        ((AUTO,), machine("/images/a.img"), "vm1", machine("/mounted/elsewhere/a.img"), True),
        ((), "", "vm1", machine("/images/x.img"), True),
        ((OWN,), "", "other", machine(lease="another"), False),
        ((OWN,), "", "other", machine("/images/x.img"), False),
        ((OWN,), "", "other", machine(), False),
        ((AUTO,), "", "other", machine("/images/x.img"), False),
        ((AUTO,), "", "vm1", machine("/images/x.img"), False),
        ((AUTO,), machine("/one/disk.img"), "other", machine("/two/disk.img"), False),
        ((), machine("/a.img"), "other", machine("/b.img"), False),
        ((), "", "other", machine("/images/x.img"), False),
    ],
)
@pytest.mark.parametrize("action", ["poweroff", "restart"])
def test_a_uuid_that_another_machine_has_now(
    tmp_path: Path, action: str, leases: Any, noted: str, name: str, now: str, same: bool
) -> None:
    scene = Scene(tmp_path, action, leases=leases, xml=noted)
    # As the helper notes it of any domain; recovery has not seen it yet.
    scene.world.name, scene.world.xml = name, now
    scene.world.persistent = not noted
    scene.world.known = True
    finding = scene.visit(ready=False)
    assert finding.verdict is (Verdict.WAIT if same else Verdict.DROPPED), finding.text
    if not same:
        assert "UUID" in finding.text
        assert f"virsh start {name}" in finding.text
    assert scene.world.started == 0


# A volume of a pool: its path, and so its lease, is in no definition.

FILE, NETWORK = libvirt.VIR_STORAGE_VOL_FILE, libvirt.VIR_STORAGE_VOL_NETWORK


def volume(more: str = "") -> str:
    disk = f"<disk type='volume'><source pool='p' volume='a'{more}/></disk>"
    return f"<domain>{RECOVER}<devices>{disk}</devices></domain>"


@pytest.mark.parametrize("action", ["poweroff", "restart"])
@pytest.mark.parametrize(
    ("name", "now", "volumes", "verdict"),
    [
        ("vm1", volume(), {("p", "a"): ("/images/a.img", FILE)}, Verdict.WAIT),
        ("renamed", volume(), {("p", "a"): ("/images/a.img", FILE)}, Verdict.WAIT),
        ("vm1", volume(), {("p", "a"): ("/images/b.img", FILE)}, Verdict.DROPPED),
        ("other", volume(), {("p", "a"): ("/images/b.img", FILE)}, Verdict.DROPPED),
        ("other", volume(), {("p", "a"): ("images/a", NETWORK)}, Verdict.DROPPED),
        # The pool is not there yet, as after an outage: unknown is no other machine.
        ("vm1", volume(), {}, Verdict.WAIT),
        ("other", volume(), {}, Verdict.AGAIN),
        ("vm1", volume(" mode='direct'"), {}, Verdict.DROPPED),
    ],
)
def test_a_machine_whose_disk_is_a_volume(
    tmp_path: Path, action: str, name: str, now: str, volumes: Any, verdict: Verdict
) -> None:
    scene = Scene(tmp_path, action, leases=(AUTO,))
    scene.world.name, scene.world.xml, scene.world.volumes = name, now, volumes
    finding = scene.visit(ready=False)
    assert finding.verdict is verdict, finding.text
    if verdict is Verdict.AGAIN:
        assert "volume a of pool p is not known (virsh pool-start p)" in finding.text
    assert scene.world.started == 0


@pytest.mark.parametrize("anyway", [False, True])
@pytest.mark.parametrize(
    ("now", "is_back"),
    [
        (machine("/images/top.img", lease="disk"), True),
        (machine("/images/a.img", lease="disk"), False),
        (machine("/images/top.img", "/images/a.img"), False),
        # It may be the volume's.
        (volume(), False),
    ],
)
def test_a_resume_without_a_lease_that_the_definition_asks_for(
    tmp_path: Path, now: str, is_back: bool, anyway: bool
) -> None:
    """A block job has had another one."""
    scene = Scene(tmp_path, "pause", leases=(OWN, AUTO))
    scene.world.xml = now
    joined = {"LS": (SPACE, JOINED), AUTO.lockspace: (Lockspace(AUTO.lockspace, 1, "/leases/l", 0), JOINED)}
    scene.world.lockspaces = lambda: joined  # type: ignore[method-assign]
    finding = scene.visit(anyway=anyway)
    assert scene.world.resumed == 1
    assert finding.verdict is (Verdict.DONE if is_back else Verdict.REFUSED), finding.text
    assert scene.world.vm == (RUNNING if is_back else PAUSED)


@pytest.mark.parametrize("anyway", [False, True])
def test_a_definition_that_cannot_be_read(tmp_path: Path, anyway: bool) -> None:
    scene = Scene(tmp_path, "pause", leases=(OWN, AUTO))
    scene.world.xml = "<domain"
    joined = {"LS": (SPACE, JOINED), AUTO.lockspace: (Lockspace(AUTO.lockspace, 1, "/leases/l", 0), JOINED)}
    scene.world.lockspaces = lambda: joined  # type: ignore[method-assign]
    finding = scene.visit(anyway=anyway)
    # Without --anyway, whether to resume it is not known; with it, what it has no lease for is not known.
    assert scene.world.resumed == anyway
    assert finding.verdict is (Verdict.REFUSED if anyway else Verdict.AGAIN)
    assert scene.world.vm == PAUSED


def test_a_run_on_a_volume_that_has_no_lease_is_ended_at_once(off: Scene) -> None:
    off.world.xml = volume()
    without_lease(off)
    found = off.visit()
    assert found.verdict is Verdict.REFUSED
    assert "started without a lease, and powered off again at once" in found.text
    assert off.world.vm == OFF


# A lease that has moved


def conf(path: str, name: str = "LS") -> Lockspace:
    return Lockspace(name, 1, path, 0, 1)


@pytest.mark.parametrize(
    ("default", "xml", "now"),
    [
        (conf("/new/LS"), "", "/new/disk"),
        (None, "<lease><lockspace>LS</lockspace><key>disk</key><target path='/x/y'/></lease>", "/x/y"),
        (None, "", "/joined/disk"),
    ],
)
def test_a_lease_is_found_again(tmp_path: Path, default: Any, xml: str, now: str) -> None:
    scene = Scene(tmp_path, "poweroff")
    scene.world.lease_path = now
    scene.world.xml = f"<domain><devices>{xml}</devices></domain>"
    joined = conf("/joined/LS")
    scene.world.lockspaces = lambda: {"LS": (joined, JOINED)}  # type: ignore[method-assign]
    scene.default = default
    assert scene.domain_recovery().visit(scene.record, ready=True).verdict is Verdict.DONE


def test_a_lease_that_is_nowhere_is_reported_with_a_remedy(off: Scene) -> None:
    off.world.lease_path = "/gone"
    finding = off.visit()
    assert finding.verdict is Verdict.AGAIN
    assert "/storage/disk (there is no such file" in finding.text
    assert (
        "bring its storage back to /storage/disk, or start the domain by hand: virsh start vm1"
        in finding.text
    )
    assert off.world.started == 0


def test_a_place_that_does_not_answer_is_not_passed_over(off: Scene) -> None:
    """Where libvirt has the lease now there is an error: an old copy elsewhere proves nothing."""
    off.world.lease_path = "/storage/disk"
    off.world.path_errors["/new/disk"] = errno.EIO
    off.default = conf("/new/LS")
    finding = off.domain_recovery().visit(off.record, ready=True)
    assert (finding.verdict, "input or output error" in finding.text) == (Verdict.AGAIN, True)
    assert off.world.started == 0


def test_a_paused_domain_whose_lease_has_moved(paused: Scene) -> None:
    """libvirt takes it where it was: see lease_places."""
    paused.world.lease_path = "/new/disk"
    paused.default = conf("/new/LS")
    finding = paused.domain_recovery().visit(paused.record, ready=True)
    assert finding.verdict is Verdict.AGAIN
    assert "is at /new/disk now, and libvirt takes it at /storage/disk" in finding.text
    assert "make /storage/disk lead to it again, or destroy and start the domain" in finding.text
    assert paused.world.resumed == 0


@pytest.mark.parametrize(
    "uuid", ["vm1", "", UUID.replace("-", ""), f"{{{UUID}}}", f"urn:uuid:{UUID}", "\udcff"]
)
def test_a_uuid_that_is_none(off: Scene, uuid: str) -> None:
    off.record.uuid = uuid
    finding = off.domain_recovery().visit(off.record, ready=True)
    assert (finding.verdict, "is no UUID" in finding.text) == (Verdict.UNUSABLE, True)


# By hand, or at another host's request


@pytest.fixture
def asked(tmp_path: Path) -> Scene:
    """A domain that was paused while its lockspace was healthy."""
    return Scene(tmp_path, lockspaces=(RecoveryWorld().healthy(),))


@pytest.mark.parametrize("action", ["pause", "poweroff"])
@pytest.mark.parametrize("ready", [True, False])
def test_what_lost_nothing_is_left(tmp_path: Path, action: str, ready: bool) -> None:
    scene = Scene(tmp_path, action, lockspaces=(RecoveryWorld().healthy(),))
    finding = scene.visit(ready=ready)
    assert (finding.verdict, "no lockspace was lost" in finding.text) == (Verdict.LEFT_ALONE, True)
    assert (scene.world.started, scene.world.resumed) == (0, 0)


def test_a_transient_domain_that_lost_nothing_is_left(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "poweroff", xml=definition("yes"), lockspaces=(RecoveryWorld().healthy(),))
    scene.world.known = False
    assert scene.visit().verdict is Verdict.LEFT_ALONE


def test_a_restart_that_lost_nothing_is_started(tmp_path: Path) -> None:
    assert Scene(tmp_path, "restart", lockspaces=(RecoveryWorld().healthy(),)).visit().verdict is Verdict.DONE


def test_the_administrator_may_resume_what_lost_nothing(asked: Scene) -> None:
    assert asked.visit(anyway=True).verdict is Verdict.DONE


def test_what_recovery_has_begun_it_ends(asked: Scene) -> None:
    asked.store.mark(asked.record, "resuming")
    assert asked.visit().verdict is Verdict.DONE


def test_a_lockspace_that_was_lost_and_joined_again(asked: Scene) -> None:
    asked.world.lose()
    asked.world.storage = True
    assert asked.visit(ready=False).verdict is Verdict.WAIT
    asked.world.join(SPACE)
    assert asked.visit().verdict is Verdict.DONE


def test_a_lockspace_that_is_still_being_lost(asked: Scene) -> None:
    """The storage is back, and renewals succeed: sanlock leaves it all the same."""
    asked.world.losing = True
    assert asked.visit(ready=False).verdict is Verdict.WAIT
    assert asked.visit().verdict is Verdict.AGAIN
    asked.world.state = None
    asked.world.join(SPACE)
    assert asked.visit().verdict is Verdict.DONE


@pytest.mark.parametrize(
    "changes",
    [
        {"lockspaces": (SPACE,)},
        {"lockspaces": ()},
        {"lockspaces": (RecoveryWorld().healthy(), Lockspace("other", 1, "/other", 0, 1, 0))},
        {"action": "poweroff", "unknown": "sanlock: the name of a lease could not be read"},
        {"boot": "an earlier one"},
        {"action": "poweroff", "lockspaces": ()},
        {"action": "poweroff", "leases": ()},
    ],
)
def test_in_doubt_it_was_lost(tmp_path: Path, changes: dict[str, Any]) -> None:
    scene = Scene(tmp_path, **{"lockspaces": (RecoveryWorld().healthy(),), **changes})
    assert scene.visit().verdict is Verdict.DONE


def test_a_sanlock_that_does_not_answer_proves_no_loss(asked: Scene) -> None:
    asked.world.answers = False
    assert asked.visit(ready=False).verdict is Verdict.WAIT
    asked.world.answers = True
    assert asked.visit().verdict is Verdict.LEFT_ALONE


# Whatever happens


class Luck:
    """A scene in which things happen; each method but check() is an event."""

    def __init__(self, scene: Scene, lost: bool) -> None:
        self.scene = scene
        self.world = scene.world
        # Whether the lockspace was lost, before or since.
        self.lost = lost
        self.our_resumes = 0
        # An administrator has decided about the domain, here or on another host.
        self.others = False
        self.our_version: int | None = None

    def take(self, number: int) -> None:
        self.world.other_takes()

    def give_back(self, number: int) -> None:
        self.world.other_gives_back()

    def lose(self, number: int) -> None:
        if self.world.vm != RUNNING:
            self.world.lose()
            self.lost = True

    def leave(self, number: int) -> None:
        """What sanlock does with a lockspace that is lost, though its storage be back."""
        if self.world.losing:
            self.world.state = None

    def come_back(self, number: int) -> None:
        self.world.storage = True

    def join(self, number: int) -> None:
        if self.world.storage:
            self.world.join(SPACE)

    def suspend(self, number: int) -> None:
        if self.world.vm == RUNNING:
            self.world.pause()
            self.others = True

    def resume(self, number: int) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self.world.resume()
            self.others = True

    def start(self, number: int) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self.world.start()
            self.others = True

    def visit(self, number: int, trouble: BaseException | None = None) -> None:
        """Recovery visits the domain; at its call NUMBER there is TROUBLE."""
        if not self.scene.store.gather():
            return
        calls = 0

        def interfere(name: str) -> None:
            nonlocal calls
            calls += 1
            if calls == number and trouble:
                raise trouble

        before, lost = self.world.resumed, self.lost
        self.world.before_call = interfere
        finding = None
        with contextlib.suppress(Killed):
            finding = self.scene.visit(ready=self.world.state == JOINED)
        self.world.before_call = lambda name: None
        if self.world.resumed > before:
            self.our_version = self.world.version
            self.our_resumes += 1
        record = self.scene.store.gather()[UUID]
        if finding and finding.verdict in (Verdict.DONE, Verdict.DROPPED, Verdict.LEFT_ALONE):
            self.scene.store.remove(record)
            self.others = self.others or finding.verdict in (Verdict.DROPPED, Verdict.LEFT_ALONE)
            assert finding.verdict is not Verdict.LEFT_ALONE or not lost
        if finding and finding.verdict is Verdict.REFUSED:
            self.scene.store.mark(record, "refused", finding.text)

    def kill(self, number: int) -> None:
        self.visit(number, Killed())

    def libvirtd(self, number: int) -> None:
        self.visit(number, libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, message="the connection broke"))

    def check(self) -> None:
        """Nothing runs without its lease, no guest goes on over a disk that others had, no record is lost."""
        world = self.world
        if world.vm == RUNNING:
            assert world.held == world.version
            assert world.owner == 1
            if world.guest_version is not None and not self.others:
                assert world.version == world.guest_version + 1 == self.our_version
        if not self.lost:
            assert self.our_resumes == 0
        if not self.others:
            assert world.started <= self.lost
            assert UUID in self.scene.store.gather() or world.vm == RUNNING


EVENTS = sorted(name for name in vars(Luck) if not name.startswith("_") and name != "check")


@settings(max_examples=part_of(300))
@given(
    action=st.sampled_from(["pause", "poweroff"]),
    noted=st.sampled_from(["lost", "late", "healthy"]),
    events=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 14)), max_size=25),
)
def test_no_order_of_events_does_harm(
    tmp_path_factory: pytest.TempPathFactory, action: str, noted: str, events: list[tuple[str, int]]
) -> None:
    """NOTED: a lockspace that the helper found lost, or lost with its storage back already, or healthy."""
    scene = Scene(tmp_path_factory.mktemp("scene"), action)
    scene.world.losing = noted == "late"
    if noted != "lost":
        scene.record.lockspaces = (scene.world.healthy(),)
        assert scene.store.mark(scene.record, "")
    luck = Luck(scene, noted != "healthy")
    for name, number in events:
        getattr(luck, name)(number)
        luck.check()


def test_the_fake_has_the_methods_of_the_real_one() -> None:
    from sanlock_helper.leases.lockspaces import Sanlock

    real = {name for name in vars(Sanlock) if not name.startswith("_")}
    assert set(vars(FakeSanlock(RecoveryWorld()))) == real
