# SPDX-License-Identifier: LGPL-2.1-or-later
"""The four actions on libvirt objects that answer as libvirt would."""

from __future__ import annotations

import _thread
import threading
from typing import Any

import pytest
from pytest_mock import MockerFixture

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.agent import actions, preparation  # noqa: E402
from sanlock_helper.agent.attempt import Attempt, Progress  # noqa: E402
from sanlock_helper.agent.outcomes import Outcome  # noqa: E402
from sanlock_helper.agent.recorder import RecoveryRecorder  # noqa: E402
from sanlock_helper.errors import GivenUpError, LeasesUnknownError, PermanentError, TransientError  # noqa: E402
from sanlock_helper.leases import held as leases  # noqa: E402
from sanlock_helper.virt.domain_state import describe  # noqa: E402
from sanlock_helper.virt.processes import Process  # noqa: E402

from ..fake_local import UUID, FakeLocal, FakeProcess, make_request  # noqa: E402
from ..fakes import BROKEN, NO_DOMAIN, FakeHost  # noqa: E402
from ..libvirt_errors import libvirt_error  # noqa: E402


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def local() -> FakeLocal:
    return FakeLocal()


def attempt(host: FakeHost, action: str, progress: Progress | None = None, **options: Any) -> Attempt:
    given_up = options.pop("given_up", False)
    return Attempt(host.connection, make_request(action), progress or Progress(), lambda: given_up, **options)


def run(host: FakeHost, action: str, progress: Progress | None = None, **options: Any) -> Outcome:
    return actions.ACTIONS[action](attempt(host, action, progress, **options))


def changes(host: FakeHost) -> list[str]:
    return [name for name in host.calls if name not in ("lookup", "state", "xml", "job", "block job")]


# poweroff


def test_the_slot_for_a_destroy_is_waited_for_with_everything_else_done(host: FakeHost) -> None:
    def await_slot() -> bool:
        assert host.calls == ["lookup", "state"]
        return False

    run(host, "poweroff", await_slot=await_slot)
    assert host.calls == ["lookup", "state", "destroy", "lookup"]


def test_after_a_long_wait_a_domain_is_read_again(host: FakeHost) -> None:
    def await_slot() -> bool:
        return True

    run(host, "poweroff", await_slot=await_slot)
    assert host.calls == ["lookup", "state", "lookup", "state", "destroy", "lookup"]


def test_a_run_that_began_during_a_long_wait_is_left_alone(host: FakeHost) -> None:
    def await_slot() -> bool:
        host.start()
        return True

    outcome = run(host, "poweroff", await_slot=await_slot)
    assert str(outcome) == "found running, it ended meanwhile, verified over, another run was started since"
    assert changes(host) == []


class Preparing:
    """A preparation that ends when libvirtd is asked for the state: RUN is the run that lost its leases."""

    def __init__(self, host: FakeHost, run: int) -> None:
        self.progress = Progress()
        self.lock = _thread.allocate_lock()
        self.lock.acquire()
        self._host, self._run, self._get_state = host, run, host.get_state
        host.get_state = self.get_state  # type: ignore[method-assign]

    def get_state(self) -> list[int]:
        if self.lock.locked():
            self.progress.set_run(self._run)
            self.lock.release()
        return self._get_state()


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_libvirtd_is_asked_while_the_domain_is_prepared(
    host: FakeHost, local: FakeLocal, action: str
) -> None:
    local.no_job = True
    preparing = Preparing(host, host.run)
    outcome = run(host, action, preparing.progress, local=local, preparation=preparing.lock)
    assert outcome.found == "running"
    assert host.calls[:3] == ["lookup", "state", {"poweroff": "destroy", "pause": "suspend"}[action]]


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_what_the_preparation_finds_counts_though_libvirtd_was_asked_before(
    host: FakeHost, local: FakeLocal, action: str
) -> None:
    preparing = Preparing(host, host.run - 1)
    outcome = run(host, action, preparing.progress, local=local, preparation=preparing.lock)
    assert outcome.verified.startswith("over, another run was started since")
    assert changes(host) == []


def test_poweroff(host: FakeHost) -> None:
    assert str(run(host, "poweroff")) == "found running, destroyed, verified off"
    assert changes(host) == ["destroy"]


def test_poweroff_of_a_domain_that_is_off_is_success(host: FakeHost) -> None:
    host.off()
    assert str(run(host, "poweroff")) == "found off, nothing to do, verified off"
    assert changes(host) == []


def test_poweroff_of_a_transient_domain(host: FakeHost) -> None:
    host.persistent = False
    assert run(host, "poweroff").verified == "off, libvirt no longer knows it"


def test_poweroff_of_an_unknown_domain_fails_for_good(host: FakeHost) -> None:
    host.known = False
    with pytest.raises(PermanentError, match="look up the domain"):
        run(host, "poweroff")


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_OPERATION_INVALID, NO_DOMAIN])
def test_poweroff_of_a_domain_that_ends_meanwhile_is_success(host: FakeHost, code: int) -> None:
    host.answer_lost["destroy"] = libvirt_error(code)
    assert str(run(host, "poweroff")) == "found running, it ended meanwhile, verified off"


def test_destroy_that_fails_is_tried_again(host: FakeHost) -> None:
    host.raises["destroy"] = libvirt_error(libvirt.VIR_ERR_OPERATION_TIMEOUT)
    with pytest.raises(TransientError, match="destroy the domain"):
        run(host, "poweroff")


def test_a_domain_still_active_after_the_call_is_no_success(host: FakeHost) -> None:
    host.off = lambda: None  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="still active"):
        run(host, "poweroff")


def test_unknown_is_never_off(host: FakeHost) -> None:
    def break_lookup() -> None:
        host.raises["lookup"] = libvirt_error(BROKEN, libvirt.VIR_FROM_RPC)

    host.off = break_lookup  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="look up the domain"):
        run(host, "poweroff")


def test_the_first_error_is_raised_when_the_lookup_after_it_fails_too(host: FakeHost) -> None:
    host.answer_lost["destroy"] = libvirt_error(BROKEN, message="the connection broke")
    progress = Progress()
    host.off = lambda: host.raises.update(lookup=libvirt_error(BROKEN))  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="the connection broke"):
        run(host, "poweroff", progress)
    # The next try finds what the first one did.
    host.raises.clear()
    FakeHost.off(host)
    assert run(host, "poweroff", progress).verified == "off"
    assert changes(host) == ["destroy"]


def test_another_run_is_left_alone(host: FakeHost) -> None:
    progress = Progress()
    host.raises["destroy"] = libvirt_error(BROKEN)
    with pytest.raises(TransientError):
        run(host, "poweroff", progress)
    host.start()
    assert "another run" in run(host, "poweroff", progress).verified
    assert changes(host) == ["destroy"]


def test_a_try_that_was_given_up_touches_nothing(host: FakeHost) -> None:
    with pytest.raises(GivenUpError):
        run(host, "poweroff", given_up=True)
    assert changes(host) == []


# restart


def test_restart(host: FakeHost) -> None:
    assert str(run(host, "restart")) == "found running, destroyed, started again, verified running again"
    assert changes(host) == ["destroy", "create"]


def test_restart_of_a_transient_domain_uses_its_xml_with_secrets(host: FakeHost) -> None:
    host.persistent = False
    assert run(host, "restart").reached
    assert changes(host) == ["destroy", "createXML"]


def test_restart_of_a_domain_that_is_off(host: FakeHost) -> None:
    host.off()
    assert run(host, "restart").reached
    assert changes(host) == ["create"]


def test_a_refused_start_leaves_the_domain_safe_and_has_the_reason(host: FakeHost) -> None:
    host.raises["create"] = libvirt_error(
        libvirt.VIR_ERR_SYSTEM_ERROR, message="Failed to acquire lock: No space left on device"
    )
    progress = Progress()
    outcome = run(host, "restart", progress)
    assert not outcome.reached
    assert progress.safe
    assert outcome.verified == "off"
    assert "safe" in outcome.remark
    assert "No space left on device" in outcome.remark


def test_the_start_is_tried_once(host: FakeHost) -> None:
    progress = Progress()
    host.raises["create"] = libvirt_error(BROKEN, message="refused")
    run(host, "restart", progress)
    assert "refused" in run(host, "restart", progress).remark
    assert changes(host) == ["destroy", "create"]


def test_after_a_start_whose_answer_was_lost_the_domain_is_read(host: FakeHost) -> None:
    host.answer_lost["create"] = libvirt_error(BROKEN)
    assert run(host, "restart").verified == "running again"


def test_no_start_while_an_earlier_call_has_not_returned(host: FakeHost) -> None:
    progress = Progress()
    progress.calling.add(attempt(host, "restart", progress, given_up=True))
    with pytest.raises(TransientError, match="has not returned"):
        run(host, "restart", progress)
    assert changes(host) == ["destroy"]
    assert progress.safe


def test_xml_that_does_not_come_does_not_hold_up_the_poweroff(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "XML_SECONDS", 0.05)
    host.persistent = False
    release = threading.Event()
    host.xml = lambda flags: str(release.wait())  # type: ignore[method-assign]
    outcome = run(host, "restart")
    release.set()
    assert (outcome.reached, outcome.verified) == (False, "off, libvirt no longer knows it")
    assert "did not give its XML" in outcome.remark


def test_xml_that_cannot_be_read_is_reported(host: FakeHost) -> None:
    host.persistent = False
    host.raises["xml"] = libvirt_error(libvirt.VIR_ERR_OPERATION_DENIED, message="no secrets for you")
    assert "no secrets for you" in run(host, "restart").remark


# pause


def test_pause(host: FakeHost, local: FakeLocal) -> None:
    outcome = run(host, "pause", local=local)
    assert str(outcome) == "found running, suspended, verified paused, no lease held"
    assert changes(host) == ["suspend"]


def test_pause_of_a_paused_domain(host: FakeHost, local: FakeLocal) -> None:
    host.pause()
    outcome = run(host, "pause", local=local)
    assert str(outcome) == "found paused, nothing to do, verified paused, no lease held"
    assert changes(host) == []


def test_pause_of_a_domain_that_is_off_is_success_and_reported(host: FakeHost) -> None:
    host.off()
    outcome = run(host, "pause")
    assert (outcome.reached, outcome.verified) == (True, "off")
    assert "nothing to pause" in outcome.remark
    assert changes(host) == []


def test_pause_of_a_domain_that_ends_meanwhile(host: FakeHost) -> None:
    host.pause = host.off  # type: ignore[method-assign]
    assert "nothing to pause" in run(host, "pause").remark


def test_pause_whose_answer_was_lost(host: FakeHost, local: FakeLocal) -> None:
    host.answer_lost["suspend"] = libvirt_error(libvirt.VIR_ERR_OPERATION_TIMEOUT)
    assert run(host, "pause", local=local).reached


@pytest.mark.parametrize("state", [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PMSUSPENDED, 99])
def test_any_other_state_after_the_call_is_no_success(host: FakeHost, state: int) -> None:
    host.pause = lambda: setattr(host, "state", state)  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="after the call"):
        run(host, "pause")


def test_a_domain_of_another_host_is_paused_with_its_leases_unread(host: FakeHost) -> None:
    outcome = run(host, "pause")
    assert (outcome.reached, outcome.verified) == (True, "paused")
    assert outcome.remark == "its leases were not read: it is no QEMU process of this host"


# pauses that end by themselves

JOBS = {
    libvirt.VIR_DOMAIN_PAUSED_SAVE: libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE,
    libvirt.VIR_DOMAIN_PAUSED_DUMP: libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP,
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT,
}


@pytest.mark.parametrize("reason", JOBS)
def test_a_job_that_would_let_the_domain_run_on_is_aborted(
    host: FakeHost, local: FakeLocal, reason: int
) -> None:
    host.begin_job(reason, JOBS[reason])
    progress = Progress()
    with pytest.raises(TransientError, match="that job was aborted"):
        run(host, "pause", progress, local=local)
    outcome = run(host, "pause", progress, local=local)
    words = describe(libvirt.VIR_DOMAIN_PAUSED, reason)
    assert str(outcome) == (
        f"found {words}, aborted the job of a domain {words}, suspended, verified paused, no lease held"
    )
    assert changes(host) == ["abort", "suspend"]


def test_a_job_that_cannot_be_aborted_is_waited_for(host: FakeHost, local: FakeLocal) -> None:
    host.begin_job(libvirt.VIR_DOMAIN_PAUSED_DUMP, libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP)
    host.raises["abort"] = libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID, message="cannot be aborted")
    with pytest.raises(TransientError, match=r"dumping.*cannot be aborted"):
        run(host, "pause", local=local)
    host.end_job()
    assert run(host, "pause", local=local).reached


@pytest.mark.parametrize("reason", JOBS)
def test_a_reason_that_outlived_its_job_is_a_pause_that_lasts(
    host: FakeHost, local: FakeLocal, reason: int
) -> None:
    host.state, host.reason = libvirt.VIR_DOMAIN_PAUSED, reason
    assert run(host, "pause", local=local).reached


@pytest.mark.parametrize(
    "reason", [libvirt.VIR_DOMAIN_PAUSED_STARTING_UP, libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN, 99]
)
def test_a_pause_without_a_job_that_ends_by_itself_is_waited_for(
    host: FakeHost, local: FakeLocal, reason: int
) -> None:
    host.state, host.reason = libvirt.VIR_DOMAIN_PAUSED, reason
    with pytest.raises(TransientError, match="ends by itself"):
        run(host, "pause", local=local)


def test_a_job_that_cannot_be_read_is_waited_for(host: FakeHost, local: FakeLocal) -> None:
    host.begin_job(libvirt.VIR_DOMAIN_PAUSED_SAVE, libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE)
    host.raises["job"] = libvirt_error(libvirt.VIR_ERR_NO_SUPPORT)
    with pytest.raises(TransientError, match="its job cannot be read"):
        run(host, "pause", local=local)


@pytest.mark.parametrize("persistent", [True, False])
def test_a_migration_is_left_to_end(host: FakeHost, local: FakeLocal, persistent: bool) -> None:
    host.persistent = persistent
    host.begin_job(libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)
    progress = Progress()
    with pytest.raises(TransientError, match="migrated to another host, which is left to end"):
        run(host, "pause", progress, local=local)
    host.off()
    host.reason = libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED
    local.found.clear()
    outcome = run(host, "pause", progress, local=local)
    assert (outcome.reached, outcome.remark) == (True, "it was migrated to another host")
    assert changes(host) == []


def test_a_migration_to_this_host_has_no_statistics(host: FakeHost, local: FakeLocal) -> None:
    host.begin_job(libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN)
    host.raises["job"] = libvirt_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED)
    with pytest.raises(TransientError, match="migrated to this host, which is left to end"):
        run(host, "pause", local=local)
    assert changes(host) == []


@pytest.mark.parametrize("action", ["pause", "poweroff", "restart"])
def test_a_domain_that_has_migrated_is_brought_back_by_nothing(
    host: FakeHost, local: FakeLocal, mocker: MockerFixture, action: str
) -> None:
    """restart started it again, beside the one on the other host."""
    recorder, progress = mocker.create_autospec(RecoveryRecorder, instance=True), Progress(run=7)
    progress.record_tried = progress.recorded = True
    host.off()
    host.reason = libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED
    local.found.clear()
    outcome = run(host, action, progress, local=local, recorder=recorder)
    assert (outcome.reached, outcome.verified) == (True, "off")
    assert outcome.remark == "it was migrated to another host"
    assert changes(host) == []
    recorder.drop.assert_called_once_with(UUID)


def test_a_transient_domain_that_was_gone_before_its_restart_is_left_to_recovery(host: FakeHost) -> None:
    """It was started again, whatever had ended it."""
    host.persistent = False
    host.answer_lost["destroy"] = libvirt_error(NO_DOMAIN)
    outcome = run(host, "restart")
    assert not outcome.reached
    assert "may have been migrated" in outcome.remark
    assert changes(host) == ["destroy"]


MOVED = (libvirt.VIR_DOMAIN_PAUSED_POSTCOPY, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)


@pytest.mark.parametrize("action", ["pause", "poweroff", "restart"])
@pytest.mark.parametrize("reason", MOVED)
def test_a_guest_that_runs_on_another_host_is_left_alone(
    host: FakeHost, local: FakeLocal, mocker: MockerFixture, action: str, reason: int
) -> None:
    """A destroy of the source kills it there: it has the rest of its memory from here."""
    recorder, progress = mocker.create_autospec(RecoveryRecorder, instance=True), Progress()
    progress.record_tried = progress.recorded = True
    host.begin_job(reason, libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)
    outcome = run(host, action, progress, local=local, recorder=recorder)
    assert (outcome.reached, outcome.verified) == (True, "paused, no lease held")
    assert "runs on another host" in outcome.remark
    assert changes(host) == []
    recorder.drop.assert_called_once_with(UUID)
    recorder.make_record.assert_not_called()


@pytest.mark.parametrize("action", ["pause", "poweroff", "restart"])
def test_a_guest_that_moves_during_the_action_is_left_alone(
    host: FakeHost, local: FakeLocal, action: str
) -> None:
    """The switch comes after the first lookup: before the suspend, or during the wait for a slot."""

    def switch() -> bool:
        host.begin_job(MOVED[0], libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)
        return True

    host.pause = switch  # type: ignore[method-assign,assignment]
    outcome = run(host, action, local=local, await_slot=switch)
    assert (outcome.reached, outcome.verified) == (True, "paused, no lease held")
    assert "destroy" not in host.calls


@pytest.mark.parametrize("action", ["pause", "poweroff"])
def test_the_leases_of_a_guest_that_runs_elsewhere_are_given_up(
    host: FakeHost, local: FakeLocal, action: str
) -> None:
    host.begin_job(MOVED[0], libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)
    progress = Progress()
    assert local.process is not None
    local.held[local.process] = [LEFT]
    with pytest.raises(TransientError, match="still holds"):
        run(host, action, progress, local=local)
    outcome = run(host, action, progress, local=local)
    assert "runs on another host" in outcome.remark
    assert "released" in outcome.remark
    assert changes(host) == []


LASTING = (
    libvirt.VIR_DOMAIN_PAUSED_UNKNOWN,
    libvirt.VIR_DOMAIN_PAUSED_IOERROR,
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG,
)


@pytest.mark.parametrize("reason", LASTING)
@pytest.mark.parametrize(
    "operation", [libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP, libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT]
)
def test_a_pause_that_lasts_does_not_with_a_job_under_way(
    host: FakeHost, local: FakeLocal, reason: int, operation: int
) -> None:
    """QEMU pauses a guest for a live memory-only dump by itself, and libvirt knows no reason."""
    host.begin_job(reason, operation)
    with pytest.raises(TransientError, match="with a job under way: that job was aborted"):
        run(host, "pause", local=local)
    assert run(host, "pause", local=local).verified == "paused, no lease held"
    assert changes(host) == ["abort", "suspend"]


@pytest.mark.parametrize("reason", LASTING)
def test_a_backup_lets_no_paused_domain_run_on(host: FakeHost, local: FakeLocal, reason: int) -> None:
    host.begin_job(reason, libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP)
    assert run(host, "pause", local=local).verified == "paused, no lease held"
    assert changes(host) == []


def test_a_live_dump_is_aborted_before_the_suspend(host: FakeHost, local: FakeLocal) -> None:
    host.begin_job(0, libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP)
    host.state = libvirt.VIR_DOMAIN_RUNNING
    progress = Progress()
    with pytest.raises(TransientError, match="being dumped: that was aborted"):
        run(host, "pause", progress, local=local)
    assert run(host, "pause", progress, local=local).did == "aborted its dump, suspended"
    assert changes(host) == ["abort", "suspend"]


def test_a_domain_without_a_job_is_suspended_without_another_question(
    host: FakeHost, local: FakeLocal
) -> None:
    local.no_job = True
    run(host, "pause", local=local)
    assert host.calls[:3] == ["lookup", "state", "suspend"]


# Block jobs

PULL, COPY, COMMIT, ACTIVE_COMMIT = (
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL,
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT,
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT,
)


@pytest.mark.parametrize("kind", [PULL, COPY, COMMIT, ACTIVE_COMMIT])
def test_a_block_job_is_aborted_before_the_suspend(host: FakeHost, local: FakeLocal, kind: int) -> None:
    """The leases are held until then: where it does not end, sanlock kills the process."""
    local.no_job = True
    host.block_jobs, local.noted_block_jobs = {"vda": kind, "vdc": kind}, {"vda", "vdb", "vdc"}
    progress = Progress()
    with pytest.raises(TransientError, match="QEMU had a block job on vda, vdc: it was aborted"):
        run(host, "pause", progress, local=local)
    assert host.state == libvirt.VIR_DOMAIN_RUNNING
    assert str(run(host, "pause", progress, local=local)) == (
        "found running, aborted the block job of vda, vdc, suspended, verified paused, no lease held"
    )
    assert changes(host) == ["abort vda", "abort vdc", "suspend"]


@pytest.mark.parametrize("noted", [{"vda"}, None])
@pytest.mark.parametrize("reason", LASTING)
def test_a_paused_domain_with_a_block_job_is_not_safe(
    host: FakeHost, local: FakeLocal, reason: int, noted: set[str] | None
) -> None:
    """QEMU goes on writing, whatever has paused the guest, and whether libvirt's status file is there."""
    host.state, host.reason = libvirt.VIR_DOMAIN_PAUSED, reason
    host.block_jobs, local.noted_block_jobs = {"vda": PULL}, noted
    progress = Progress()
    with pytest.raises(TransientError, match="it was aborted, and its end is waited for"):
        run(host, "pause", progress, local=local)
    outcome = run(host, "pause", progress, local=local)
    assert (outcome.did, outcome.verified) == ("aborted the block job of vda", "paused, no lease held")


def test_a_block_job_that_begins_beside_the_suspend(host: FakeHost, local: FakeLocal) -> None:
    local.no_job = True
    host.block_jobs = {"vda": COPY}
    suspended = host.pause

    def pause() -> None:
        suspended()
        local.noted_block_jobs = {"vda"}

    host.pause = pause  # type: ignore[method-assign]
    progress = Progress()
    with pytest.raises(TransientError, match="QEMU had a block job on vda"):
        run(host, "pause", progress, local=local)
    assert run(host, "pause", progress, local=local).did == "suspended, aborted the block job of vda"


@pytest.mark.parametrize("failing", ["abort vda", "block job"])
def test_a_block_job_that_does_not_end_is_no_success(host: FakeHost, local: FakeLocal, failing: str) -> None:
    local.no_job = True
    host.block_jobs, local.noted_block_jobs = {"vda": PULL}, {"vda"}
    # What would end all tries, were it about the domain.
    host.raises[failing] = libvirt_error(libvirt.VIR_ERR_INVALID_ARG, message="not that")
    with pytest.raises(TransientError, match="not that"):
        run(host, "pause", local=local)
    assert host.state == libvirt.VIR_DOMAIN_RUNNING


def test_a_backup_writes_to_a_file_of_its_own(host: FakeHost, local: FakeLocal) -> None:
    local.no_job = True
    local.noted_block_jobs = {"vda"}
    host.block_jobs = {"vda": libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP}
    assert run(host, "pause", local=local).did == "suspended"


def test_the_block_jobs_of_a_migration_are_left_to_it(host: FakeHost, local: FakeLocal) -> None:
    host.begin_job(0, libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)
    host.state = libvirt.VIR_DOMAIN_RUNNING
    host.block_jobs, local.noted_block_jobs = {"vda": COPY}, {"vda"}

    def pause() -> None:
        host.state, host.reason = libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION

    host.pause = pause  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="being migrated to another host"):
        run(host, "pause", local=local)
    assert changes(host) == ["suspend"]


def test_a_live_dump_that_cannot_be_aborted_is_waited_for(host: FakeHost, local: FakeLocal) -> None:
    host.begin_job(0, libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP)
    host.state = libvirt.VIR_DOMAIN_RUNNING
    host.raises["abort"] = libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID, message="cannot abort")
    with pytest.raises(TransientError, match=r"being dumped, which has to end first.*cannot abort"):
        run(host, "pause", local=local)
    assert changes(host) == ["abort"]


@pytest.mark.parametrize(
    "operation",
    [
        libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP,
        libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
        libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT,
    ],
)
def test_a_running_domain_with_another_job_is_suspended(
    host: FakeHost, local: FakeLocal, operation: int
) -> None:
    host.begin_job(0, operation)
    host.state = libvirt.VIR_DOMAIN_RUNNING
    assert run(host, "pause", local=local).reached
    assert changes(host) == ["suspend"]


def test_a_guest_that_sleeps_is_woken_up_and_suspended(host: FakeHost, local: FakeLocal) -> None:
    """It holds its leases, may run on at any time, and libvirt suspends none that sleeps."""
    host.state = libvirt.VIR_DOMAIN_PMSUSPENDED
    progress = Progress()
    with pytest.raises(TransientError, match="woken up"):
        run(host, "pause", progress, local=local)
    outcome = run(host, "pause", progress, local=local)
    assert str(outcome) == "found pmsuspended, woken up, suspended, verified paused, no lease held"


def test_a_crash_that_is_preserved_is_as_good_as_a_pause(host: FakeHost, local: FakeLocal) -> None:
    host.state, host.on_crash = libvirt.VIR_DOMAIN_CRASHED, "preserve"
    outcome = run(host, "pause", local=local)
    assert str(outcome) == "found crashed, nothing to do, verified crashed, no lease held"
    assert changes(host) == []


@pytest.mark.parametrize("on_crash", ["restart", "coredump-restart", "destroy"])
def test_a_crash_that_libvirt_ends_is_waited_for(host: FakeHost, local: FakeLocal, on_crash: str) -> None:
    host.state, host.on_crash = libvirt.VIR_DOMAIN_CRASHED, on_crash
    with pytest.raises(TransientError, match="its on_crash is waited for"):
        run(host, "pause", local=local)
    # The administrator's own text is no answer.
    host.on_crash = f"{on_crash}</on_crash><metadata><on_crash>preserve</on_crash></metadata><on_crash>"
    with pytest.raises(TransientError, match="its on_crash is waited for"):
        run(host, "pause", local=local)


def test_an_end_between_two_tries_is_reported(host: FakeHost) -> None:
    """libvirtd was killed in the middle of a destroy: that was "nothing to do"."""
    progress = Progress(7)
    progress.found = "running"
    host.off()
    assert str(run(host, "poweroff", progress)) == "found running, it ended meanwhile, verified off"
    progress = Progress(7)
    progress.found = "running"
    assert run(host, "pause", progress).did == "it ended meanwhile"


# leases

LEFT = leases.Lease("__LIBVIRT__DISKS__", "abc", 3)
UNKNOWN = LeasesUnknownError("sanlock does not answer")


@pytest.fixture
def holding(local: FakeLocal) -> FakeLocal:
    """The process of the domain holds a lease until that is released."""
    assert local.process is not None
    local.held[local.process] = [LEFT]
    return local


def test_leases_still_held_are_no_success_and_named(host: FakeHost, holding: FakeLocal) -> None:
    progress = Progress()
    with pytest.raises(TransientError, match="4711 still holds __LIBVIRT__DISKS__:abc"):
        run(host, "pause", progress, local=holding)
    assert not progress.safe


def pause_again(host: FakeHost, local: FakeLocal) -> Outcome:
    """A pause whose first try found the leases still held, tried again."""
    progress = Progress()
    with pytest.raises(TransientError, match="still holds"):
        run(host, "pause", progress, local=local)
    return run(host, "pause", progress, local=local)


def test_leases_that_libvirtd_left_are_given_up_at_the_second_reading(
    host: FakeHost, holding: FakeLocal
) -> None:
    outcome = pause_again(host, holding)
    assert holding.released == [4711]
    assert (outcome.reached, outcome.verified) == (True, "paused, no lease held")
    assert "libvirtd had left __LIBVIRT__DISKS__:abc" in outcome.remark


def test_a_release_that_sanlock_refuses_is_tried_again(host: FakeHost, holding: FakeLocal) -> None:
    holding.raises["release"] = LeasesUnknownError("sanlock does not release them: busy")
    with pytest.raises(TransientError, match="abc: sanlock does not release them"):
        pause_again(host, holding)


def test_leases_that_stay_after_a_release_are_no_success(host: FakeHost, holding: FakeLocal) -> None:
    holding.release = lambda process, uuid: None  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="release the leases"):
        pause_again(host, holding)


def test_a_domain_resumed_while_its_leases_were_given_up_is_paused_again(
    host: FakeHost, holding: FakeLocal
) -> None:
    def release(process: Process, uuid: str) -> None:
        holding.held.clear()
        host.state = libvirt.VIR_DOMAIN_RUNNING

    holding.release = release  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="it was resumed meanwhile"):
        pause_again(host, holding)


def test_leases_that_cannot_be_read_are_no_success(host: FakeHost, local: FakeLocal) -> None:
    local.raises["held_by"] = UNKNOWN
    with pytest.raises(TransientError, match="it is paused, but sanlock does not answer"):
        run(host, "pause", local=local)


def test_a_host_without_sanlock_holds_no_lease(host: FakeHost, local: FakeLocal) -> None:
    absent = LeasesUnknownError("the sanlock daemon does not run")
    absent.absent = True
    local.raises["held_by"] = absent
    outcome = run(host, "pause", local=local)
    assert (outcome.reached, outcome.verified) == (True, "paused")
    assert outcome.remark == "its leases were not read: the sanlock daemon does not run"


def test_a_process_that_is_not_found_is_no_proof(host: FakeHost, local: FakeLocal) -> None:
    local.found.clear()
    with pytest.raises(TransientError, match="its process was not found"):
        run(host, "pause", local=local)


def test_the_process_of_the_run_that_lost_its_leases_counts(host: FakeHost, local: FakeLocal) -> None:
    progress = Progress()
    progress.process = FakeProcess(12)
    local.held[progress.process] = [LEFT]
    with pytest.raises(TransientError, match="12 still holds"):
        run(host, "pause", progress, local=local)


# what libvirtd has as off


@pytest.mark.parametrize("action", ["poweroff", "restart", "pause"])
@pytest.mark.parametrize("known", [True, False])
def test_off_is_not_off_while_its_process_holds_a_lease(
    host: FakeHost, holding: FakeLocal, action: str, known: bool
) -> None:
    host.off()
    host.known = known
    with pytest.raises(TransientError, match=r"4711 .*it holds __LIBVIRT__DISKS__:abc"):
        run(host, action, local=holding)
    assert changes(host) == []
    holding.held.clear()
    assert "off" in run(host, action, local=holding).verified or action == "restart"


def test_off_is_not_off_while_the_leases_of_its_process_cannot_be_read(
    host: FakeHost, local: FakeLocal
) -> None:
    host.off()
    local.raises["held_by"] = UNKNOWN
    with pytest.raises(TransientError, match="cannot be read: sanlock does not answer"):
        run(host, "poweroff", local=local)
    assert local.process is not None
    local.process.over = True
    assert run(host, "poweroff", local=local).verified == "off"


def test_a_domain_that_libvirtd_knows_again_is_powered_off(host: FakeHost, holding: FakeLocal) -> None:
    host.known = False
    progress = Progress()
    with pytest.raises(TransientError):
        run(host, "poweroff", progress, local=holding)
    host.known = True
    holding.held.clear()
    assert str(run(host, "poweroff", progress, local=holding)) == "found off, destroyed, verified off"


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_a_domain_that_neither_libvirt_nor_the_host_knows_is_off(
    host: FakeHost, local: FakeLocal, action: str
) -> None:
    host.known = False
    local.found.clear()
    verified = run(host, action, local=local).verified
    assert verified == "off, libvirt does not know it, and no process of this host runs it"


# another run


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_a_run_that_began_after_the_request_is_left_alone(
    host: FakeHost, local: FakeLocal, action: str
) -> None:
    local.another = host.run
    local.found.clear()
    assert run(host, action, local=local).verified == "over, another run was started since"
    assert changes(host) == []


def test_a_restart_of_a_domain_that_was_started_since_is_done(host: FakeHost, local: FakeLocal) -> None:
    local.another = host.run
    local.found.clear()
    assert run(host, "restart", local=local).verified == "running again"
    assert changes(host) == []


def test_the_id_of_the_old_run_may_be_the_new_one_s(host: FakeHost, local: FakeLocal) -> None:
    progress = Progress()
    progress.set_run(host.run)
    local.another = host.run
    local.found.clear()
    assert "another run" in run(host, "poweroff", progress, local=local).verified
    assert changes(host) == []


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_the_next_action_on_the_domain_is_about_the_same_run(host: FakeHost, action: str) -> None:
    earlier, progress = Progress(), Progress()
    run(host, "restart", earlier)
    progress.follow(earlier)
    assert "another run" in run(host, action, progress).verified
    assert changes(host) == ["destroy", "create"]


# a restart whose start is under way


def test_a_start_under_way_is_waited_for(host: FakeHost) -> None:
    def start() -> None:
        FakeHost.start(host)
        host.state, host.reason = libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP

    host.start = start  # type: ignore[method-assign]
    progress = Progress()
    with pytest.raises(TransientError, match="starting up"):
        run(host, "restart", progress)
    assert progress.safe
    # It may fail, too.
    host.off()
    assert not run(host, "restart", progress).reached


def test_a_start_that_failed_after_a_while_is_no_restart(host: FakeHost) -> None:
    host.answer_lost["create"] = libvirt_error(BROKEN, message="it failed after a while")
    host.start = lambda: setattr(host, "run", -1)  # type: ignore[method-assign]
    assert "it failed after a while" in run(host, "restart").remark
