# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the helper writes down before it touches a domain, and that this never costs the domain anything."""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import resource
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Callable

import pytest
from pytest_mock import MockerFixture

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.agent import actions, preparation, recorder  # noqa: E402
from sanlock_helper.agent.attempt import Attempt, Progress  # noqa: E402
from sanlock_helper.agent.descriptors import Descriptors  # noqa: E402
from sanlock_helper.agent.outcomes import Outcome  # noqa: E402
from sanlock_helper.agent.recorder import RecoveryRecorder  # noqa: E402
from sanlock_helper.errors import LeasesUnknownError, TransientError  # noqa: E402
from sanlock_helper.leases import held as leases  # noqa: E402
from sanlock_helper.leases.held import Lease, Lockspace  # noqa: E402
from sanlock_helper.records.directory import RecordDirectory  # noqa: E402
from sanlock_helper.records.record import Record  # noqa: E402
from sanlock_helper.threads import NoAnswerError, call_with_timeout  # noqa: E402
from sanlock_helper.virt.processes import (  # noqa: E402
    Process,
    boot_id,
    process_start,
)

from ..fake_local import URI, UUID, FakeLocal, FakeProcess, make_request  # noqa: E402
from ..fakes import Clock, FakeHost, RecordedJournal  # noqa: E402
from ..libvirt_errors import libvirt_error  # noqa: E402

SELF = Process(os.getpid(), process_start(os.getpid()))
OTHER = "503dddaa-64c3-46db-a13a-5a6b57b2cd38"
HELD = ((Lockspace("LS", 1, "/LS", 0, 1),), (Lease("LS", "disk", 3, "/disk"),))


class Recording:
    """A FakeHost, and notes on it in a directory."""

    def __init__(self, path: Path) -> None:
        self.host = FakeHost()
        self.journal = RecordedJournal()
        self.records = RecordDirectory(f"{path}/records")
        self.asked: list[int] = []
        # What was written when the domain was touched.
        self.then: list[Record | None] = []
        self.recorder = RecoveryRecorder(self.records, self.journal, lambda: 5.0, self.ask)  # type: ignore[arg-type]
        for name in ("off", "pause"):
            effect = getattr(self.host, name)
            setattr(self.host, name, lambda effect=effect: self.record_before(effect))

    def ask(self, pid: int) -> Any:
        self.asked.append(pid)
        return HELD

    def record_before(self, effect: Callable[[], None]) -> None:
        try:
            self.then.append(self.records.read(UUID))
        except PermissionError:
            self.then.append(None)  # a directory that others can write to has no record to go by
        effect()

    def that_starts_no_more(self, action: str, persistent: bool) -> Progress:
        """What is known before ACTION on a domain, PERSISTENT or not; each start of it fails."""
        error = libvirt_error(libvirt.VIR_ERR_SYSTEM_ERROR)
        self.host.persistent = persistent
        self.host.raises["create"] = self.host.raises["createXML"] = error
        progress = Progress()
        self.local_record(progress, action)
        return progress

    def local_record(self, progress: Progress, action: str) -> None:
        """The record that is written before the first try, from the status file."""
        progress.record_tried = True
        progress.record = Record(UUID, "vm1", "qemu:///system", action, run=7, xml="<domain/>")
        progress.recorded = self.recorder.write(progress.record, SELF)
        progress.set_run(7)

    def act(self, action: str, progress: Progress | None = None) -> Outcome:
        progress = progress or Progress()
        progress.process = Process(os.getpid(), process_start(os.getpid()))
        local, request = FakeLocal(), make_request(action)
        # The test's own process stands for QEMU, and does not end.
        attempt = Attempt(self.host.connection, request, progress, lambda: False, local, self.recorder)
        return actions.ACTIONS[action](attempt)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


@pytest.mark.parametrize("action", ["poweroff", "pause", "restart"])
def test_the_record_is_there_before_the_domain_is_touched(recording: Recording, action: str) -> None:
    assert recording.act(action).reached
    (record,) = recording.then
    assert record is not None
    assert (record.name, record.action, record.found, record.run) == ("vm1", action, "running", 7)
    assert (record.pid, record.pid_start) == (os.getpid(), process_start(os.getpid()))
    assert (record.boot, record.time, record.unknown) == (boot_id(), 5.0, "")
    assert [(lease.resource, lease.version) for lease in record.leases] == [("disk", 3)]
    assert [(lockspace.path, lockspace.io_timeout) for lockspace in record.lockspaces] == [("/LS", 1)]
    # A restart that has succeeded leaves nothing to recover.
    assert (recording.records.uuids() == []) == (action == "restart")


def test_a_restart_whose_start_failed_names_what_starts_it(recording: Recording) -> None:
    recording.host.raises["create"] = libvirt_error(libvirt.VIR_ERR_SYSTEM_ERROR, message="No space left")
    outcome = recording.act("restart")
    assert "recovery (virt-sanlock-helper recover) starts it once its leases can be had" in outcome.remark
    assert recording.records.uuids() == [UUID]


@pytest.mark.parametrize("action", ["poweroff", "pause"])
@pytest.mark.parametrize(
    ("state", "reason", "comes_back"),
    [
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER, False),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT, False),
        (libvirt.VIR_DOMAIN_SHUTDOWN, 0, False),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN, True),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR, True),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG, True),
        (libvirt.VIR_DOMAIN_PMSUSPENDED, 0, True),
    ],
)
def test_what_its_administrator_paused_is_not_brought_back(
    recording: Recording, action: str, state: int, reason: int, comes_back: bool
) -> None:
    recording.host.state, recording.host.reason = state, reason
    with contextlib.suppress(TransientError):  # a guest that sleeps is woken up first
        recording.act(action)
    assert (recording.records.uuids() == [UUID]) == comes_back


def test_the_record_of_our_own_pause_stays(recording: Recording) -> None:
    recording.act("pause")
    before = recording.records.read(UUID)
    recording.recorder = RecoveryRecorder(recording.records, recording.journal, lambda: 6.0, recording.ask)  # type: ignore[arg-type]
    recording.act("pause")
    after = recording.records.read(UUID)
    assert before is not None
    assert after is not None
    assert after.time == before.time


def following(recording: Recording, first: str, second: str) -> tuple[Outcome, Record | None]:
    """What SECOND, asked for while FIRST was served, comes to, and the record then."""
    earlier, progress = Progress(), Progress()
    recording.local_record(earlier, first)
    assert recording.act(first, earlier).reached
    progress.follow(earlier)
    return recording.act(second, progress), recording.records.read(UUID)


def test_a_poweroff_after_our_own_pause_is_what_recovery_undoes(recording: Recording) -> None:
    _, record = following(recording, "pause", "poweroff")
    assert record is not None
    assert record.action == "poweroff"


@pytest.mark.parametrize("persistent", [True, False])
def test_a_restart_after_a_poweroff_starts_the_domain(recording: Recording, persistent: bool) -> None:
    """A transient one was off for good: "libvirt does not know it"."""
    recording.host.persistent = persistent
    outcome, record = following(recording, "poweroff", "restart")
    assert (outcome.reached, outcome.verified, record) == (True, "running again", None)


def test_a_restart_after_a_poweroff_is_recoverys_when_it_fails(recording: Recording) -> None:
    recording.host.raises["create"] = libvirt_error(libvirt.VIR_ERR_SYSTEM_ERROR)
    outcome, record = following(recording, "poweroff", "restart")
    assert not outcome.reached
    assert record is not None
    assert record.action == "restart"


def test_the_leases_are_noted_where_libvirt_has_no_status_file(recording: Recording) -> None:
    """The process that has the UUID on its command line and holds leases is the domain's."""
    other = FakeProcess(1, 1)
    process = Process(os.getpid(), process_start(os.getpid()))
    local = FakeLocal()
    local.found = [other, process]
    local.held = {process: [Lease("LS", "disk", 3)]}
    attempt = Attempt(
        recording.host.connection,
        make_request("poweroff"),
        Progress(),
        lambda: False,
        local,
        recording.recorder,
    )
    with pytest.raises(TransientError, match="it holds LS:disk"):
        actions.poweroff(attempt)
    record = recording.records.read(UUID)
    assert record is not None
    assert (record.pid, record.unknown, len(record.leases)) == (process.pid, "", 1)


def test_it_is_noted_once_for_all_tries(recording: Recording) -> None:
    progress = Progress()
    recording.host.raises["destroy"] = libvirt_error(libvirt.VIR_ERR_OPERATION_TIMEOUT)
    for _ in range(2):
        with pytest.raises(TransientError):
            recording.act("poweroff", progress)
    assert len(recording.asked) == 1


def test_a_transient_domain_leaves_its_xml(recording: Recording) -> None:
    recording.host.persistent = False
    recording.act("poweroff")
    (record,) = recording.then
    assert record is not None
    assert record.xml == "<domain/>"


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("action", ["poweroff", "restart"])
def test_whether_a_domain_is_persistent_shows_once_it_is_off(
    recording: Recording, action: str, persistent: bool
) -> None:
    """libvirtd is not asked before the destroy, and the XML of a persistent domain goes after it."""
    progress = recording.that_starts_no_more(action, persistent)
    recording.act(action, progress)
    (then,) = recording.then
    assert then is not None
    assert then.xml == "<domain/>"
    record = recording.records.read(UUID)
    assert record is not None
    assert (record.action, record.xml) == (action, "" if persistent else "<domain/>")
    assert recording.host.asked_persistent == 0
    assert "xml" not in recording.host.calls
    if action == "restart":
        assert ("create" if persistent else "createXML") in recording.host.calls


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("action", ["poweroff", "restart"])
def test_whether_a_domain_is_persistent_shows_where_the_answer_to_a_destroy_was_lost(
    recording: Recording, action: str, persistent: bool
) -> None:
    progress = recording.that_starts_no_more(action, persistent)
    recording.host.raises["destroy"] = libvirt_error(libvirt.VIR_ERR_OPERATION_TIMEOUT)
    with pytest.raises(TransientError):
        recording.act(action, progress)
    record = recording.records.read(UUID)
    assert record is not None
    assert record.xml == "<domain/>"
    # It ends after that try.
    recording.host.off()
    recording.act(action, progress)
    record = recording.records.read(UUID)
    assert record is not None
    assert (record.action, record.xml) == (action, "" if persistent else "<domain/>")
    if action == "restart":
        assert ("create" if persistent else "createXML") in recording.host.calls


def test_the_record_of_another_run_that_is_active_by_now_stays(recording: Recording) -> None:
    """Whether the run that is over was of a persistent domain, recovery asks."""
    recording.host.answer_lost["destroy"] = libvirt_error(libvirt.VIR_ERR_OPERATION_TIMEOUT)
    off = recording.host.off

    def start_again() -> None:
        off()
        recording.host.start()

    recording.host.off = start_again  # type: ignore[method-assign]
    progress = Progress()
    recording.local_record(progress, "poweroff")
    assert recording.act("poweroff", progress).verified == "over, another run was started since"
    record = recording.records.read(UUID)
    assert record is not None
    assert record.xml == "<domain/>"


@pytest.mark.parametrize("persistent", [True, False])
def test_a_domain_that_is_paused_is_asked_whether_it_is_persistent(
    recording: Recording, persistent: bool
) -> None:
    recording.host.persistent = persistent
    progress = Progress()
    recording.local_record(progress, "pause")
    recording.act("pause", progress)
    (then,) = recording.then
    assert then is not None
    # No answer of libvirtd's is waited for while it runs.
    assert then.xml == "<domain/>"
    now = recording.records.read(UUID)
    assert now is not None
    assert now.xml == ("" if persistent else "<domain/>")
    assert recording.host.asked_persistent == 1


def test_a_paused_domain_is_not_asked_for_its_xml(recording: Recording) -> None:
    recording.host.persistent = False
    recording.act("pause")
    assert "xml" not in recording.host.calls


def test_a_record_that_cannot_be_written_is_logged_and_stops_nothing(recording: Recording) -> None:
    folder = Path(recording.records.path)
    folder.mkdir()
    folder.chmod(0o777)
    assert recording.act("poweroff").reached
    ((level, line),) = recording.journal.lines
    assert level == "warning"
    assert line.startswith(f"poweroff vm1 {UUID}: no recovery record: ")
    assert "the VM is made safe all the same" in line


def test_a_record_that_cannot_be_written_is_logged_once(recording: Recording) -> None:
    """Before the first try, and then again once libvirtd had shown the domain."""
    folder = Path(recording.records.path)
    folder.mkdir()
    folder.chmod(0o777)
    progress = Progress()
    recording.local_record(progress, "pause")
    assert recording.act("pause", progress).reached
    ((_, line),) = recording.journal.lines
    assert "no recovery record: [Errno 1] others may write to it" in line


def test_a_file_in_the_records_place_is_no_directory(recording: Recording) -> None:
    """No other user may write to it."""
    Path(recording.records.path).write_text("")
    assert not recording.recorder.write(Record(UUID, "vm1", "qemu:///system", "pause"), SELF)
    ((_, line),) = recording.journal.lines
    assert "no recovery record: [Errno 20] it is no directory" in line


def test_a_sanlock_that_hangs_is_asked_three_times(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "SANLOCK_SECONDS", 0.05)
    release = threading.Event()

    def hang(pid: int) -> Any:
        recording.asked.append(pid)
        release.wait()

    recording.recorder = RecoveryRecorder(recording.records, recording.journal, ask_sanlock=hang)  # type: ignore[arg-type]
    start = time.monotonic()
    found = []
    for _ in range(5):
        assert recording.recorder.write(Record(UUID, "vm1", "qemu:///system", "pause"), SELF)
        record = recording.records.read(UUID)
        assert record is not None
        found.append(record.unknown)
    assert time.monotonic() - start < 1
    release.set()
    assert len(recording.asked) == 3
    assert found[2] == "sanlock: no answer within 0.05 s"
    assert found[3] == "sanlock did not answer for other domains, and was not asked for this one"


def test_a_sanlock_that_was_slow_is_asked_again(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "SANLOCK_SECONDS", 0.05)
    slow = [True, True, False, True, True, False]

    def answer(pid: int) -> Any:
        if slow.pop(0):
            time.sleep(0.1)
        return HELD

    recording.recorder = RecoveryRecorder(recording.records, recording.journal, ask_sanlock=answer)  # type: ignore[arg-type]
    for _ in range(6):
        assert recording.recorder.write(Record(UUID, "vm1", "qemu:///system", "pause"), SELF)
    record = recording.records.read(UUID)
    assert record is not None
    assert record.unknown == ""


def test_a_sanlock_that_refuses_is_noted(recording: Recording) -> None:
    def refuse(pid: int) -> Any:
        raise LeasesUnknownError("sanlock is down")

    recording.recorder = RecoveryRecorder(recording.records, recording.journal, ask_sanlock=refuse)  # type: ignore[arg-type]
    assert recording.act("pause").reached
    record = recording.records.read(UUID)
    assert record is not None
    assert record.unknown == "sanlock is down"


@pytest.mark.parametrize("known", [(), (Lease("LS", "disk", 3, "/p", 0),)])
def test_a_lease_whose_name_is_not_known_is_no_lockspace_to_wait_for(
    recording: Recording, known: tuple[Lease, ...]
) -> None:
    def answer(_pid: int) -> Any:
        return (), (*known, Lease(leases.UNKNOWN, leases.UNKNOWN, 0))

    recording.recorder = RecoveryRecorder(recording.records, recording.journal, ask_sanlock=answer)  # type: ignore[arg-type]
    assert recording.act("pause").reached
    record = recording.records.read(UUID)
    assert record is not None
    assert list(map(str, record.leases)) == list(map(str, known))
    # So a pause is not undone without its administrator.
    assert record.unknown == "sanlock: the name of a lease could not be read"
    assert all(lease.lockspace != leases.UNKNOWN for lease in record.leases)


def test_xml_that_does_not_come_makes_the_others_wait_less(recording: Recording) -> None:
    recording.host.persistent = False
    recording.recorder.xml_seconds = 0.05
    release = threading.Event()
    recording.host.xml = lambda flags: str(release.wait())  # type: ignore[method-assign]
    assert recording.act("poweroff").reached
    release.set()
    assert recording.recorder.xml_seconds == recorder.IMPATIENT_XML_SECONDS
    recording.host.xml = lambda flags: "<domain/>"  # type: ignore[method-assign]
    FakeHost.start(recording.host)
    assert recording.act("poweroff").reached
    assert recording.recorder.xml_seconds == preparation.XML_SECONDS


def test_libvirts_embedded_test_driver_is_not_noted(recording: Recording) -> None:
    assert not recording.recorder.write(Record(UUID, "test", "test:///default", "poweroff"), SELF)
    assert recording.records.uuids() == []


def test_a_process_that_is_not_known_is_recorded_as_such(recording: Recording) -> None:
    assert recording.recorder.write(Record(UUID, "vm1", "qemu:///system", "poweroff"), None)
    record = recording.records.read(UUID)
    assert record is not None
    assert record.unknown == "its process was not found"


def test_a_process_that_sanlock_is_busy_with_is_asked_again(mocker: MockerFixture) -> None:
    binding = leases.load()
    busy = binding.SanlockException(errno.EBUSY, "Inquire error", "Device or resource busy")
    inquire = mocker.patch.object(binding, "inquire", side_effect=[busy, busy, [{}]])
    assert leases.inquire(7) == [{}]
    assert inquire.call_count == 3


class FakeSanlock:
    """sanlock's answers, counted by their names."""

    def __init__(self, mocker: MockerFixture) -> None:
        self.held = {7: ["A"], 8: ["A"], 9: ["B", "A"], 10: ["C"]}
        self.joined = ["A", "B"]
        self.hosts = [{"io_timeout": 10, "generation": 3, "timestamp": int(time.monotonic())}]
        self.calls: list[str] = []
        binding = leases.load()
        mocker.patch.object(binding, "inquire", side_effect=self.inquire)
        mocker.patch.object(binding, "get_lockspaces", side_effect=self.get_lockspaces)
        mocker.patch.object(binding, "get_hosts", side_effect=self.get_hosts)

    def inquire(self, pid: int) -> Any:
        flags = {"flags": 0, "version": 1, "disks": []}
        return [{"lockspace": name.encode(), "resource": b"r", **flags} for name in self.held[pid]]

    def get_lockspaces(self) -> Any:
        self.calls.append("lockspaces")
        place = {"host_id": 1, "path": "/p", "offset": 0}
        return [{"lockspace": name.encode(), **place} for name in self.joined]

    def get_hosts(self, name: bytes, host_id: int) -> Any:
        self.calls.append(name.decode())
        return self.hosts


@pytest.fixture
def sanlock(mocker: MockerFixture) -> FakeSanlock:
    try:
        return FakeSanlock(mocker)
    except LeasesUnknownError:
        pytest.skip("no sanlock library is installed")


def test_sanlock_is_asked_for_a_lockspace_once_for_many_processes(sanlock: FakeSanlock) -> None:
    clock = Clock()
    noted = leases.CachedLeases(clock)
    for pid in (7, 8):
        spaces, held = noted.of(pid)
        assert [(space.name, space.io_timeout, space.generation) for space in spaces] == [("A", 10, 3)]
        assert [str(lease) for lease in held] == ["A:r"]
    assert sanlock.calls == ["lockspaces", "A"]
    # One that was not asked for yet.
    assert sorted(space.name for space in noted.of(9)[0]) == ["A", "B"]
    assert sanlock.calls[2:] == ["lockspaces", "A", "B"]
    assert sorted(space.name for space in noted.of(9)[0]) == ["A", "B"]
    assert len(sanlock.calls) == 5


def test_what_sanlock_answered_about_a_lockspace_holds_for_a_second(sanlock: FakeSanlock) -> None:
    clock = Clock()
    noted = leases.CachedLeases(clock)
    noted.of(7)
    sanlock.hosts[0]["generation"] = 4
    clock.now += 0.9
    assert noted.of(7)[0][0].generation == 3
    clock.now += 0.2
    assert noted.of(7)[0][0].generation == 4
    sanlock.joined = []
    clock.now += 1.1
    assert noted.of(7)[0] == ()


def test_what_sanlock_does_not_know_is_asked_for_again(sanlock: FakeSanlock) -> None:
    noted = leases.CachedLeases(Clock())
    assert noted.of(10)[0] == ()
    sanlock.joined.append("C")
    sanlock.hosts = []
    assert [(space.name, space.io_timeout) for space in noted.of(10)[0]] == [("C", 0)]
    sanlock.hosts = [{"io_timeout": 10, "generation": 3, "timestamp": int(time.monotonic())}]
    assert [(space.name, space.io_timeout) for space in noted.of(10)[0]] == [("C", 10)]


def test_the_calls_of_one_after_the_other_share_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = _thread.start_new_thread

    def count(*arguments: Any) -> int:
        started.append(1)
        return start(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", count)
    for number in range(20):
        assert call_with_timeout(partial(int, number), 5) == number
        time.sleep(0.002)
    assert len(started) < 5


def test_a_call_that_hangs_keeps_no_other_from_its_answer() -> None:
    release = threading.Event()
    for _ in range(3):
        with pytest.raises(NoAnswerError):
            call_with_timeout(release.wait, 0.02)
        assert call_with_timeout(lambda: 7, 5) == 7
    release.set()


def test_bounded() -> None:
    assert call_with_timeout(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        call_with_timeout(lambda: 1 // 0, 5)
    release = threading.Event()
    with pytest.raises(NoAnswerError):
        call_with_timeout(release.wait, 0.02)
    release.set()


def test_a_call_that_fails_with_a_timeout_has_answered() -> None:
    def fail() -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    with pytest.raises(TimeoutError):
        call_with_timeout(fail, 5)


def test_the_start_of_a_process() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 0 < process_start(os.getpid()) / ticks <= uptime
    assert process_start(2**22) == 0
    assert boot_id("/nowhere") == ""


# Few descriptors


@contextlib.contextmanager
def no_descriptor_free() -> Iterator[None]:
    """This process may open no further file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class NoDescriptorError(Exception):
    """As sanlock-python raises it."""

    errno = errno.EMFILE


@pytest.mark.parametrize("asks", [False, True])
def test_a_record_has_the_descriptors_that_are_kept_back(recording: Recording, asks: bool) -> None:
    """Also for the question to sanlock, whose error is that of another class."""
    kept = Descriptors()
    recording.records.write(Record(OTHER, "other", URI, "pause"))  # makes the directory

    def ask(_pid: int) -> Any:
        if asks:
            try:
                os.close(os.open("/dev/null", os.O_RDONLY))
            except OSError as error:
                raise LeasesUnknownError(str(error)) from NoDescriptorError()
        return HELD

    made = RecoveryRecorder(
        recording.records,
        recording.journal,  # type: ignore[arg-type]
        ask_sanlock=ask,
        free_descriptors=kept.free_reserve,
    )
    record = Record(UUID, "vm1", URI, "pause")
    with no_descriptor_free():
        assert made.write(record, SELF)
    written = recording.records.read(UUID)
    assert written is not None
    assert (written.unknown, written.boot) == ("", boot_id())
    assert list(map(str, written.leases)) == list(map(str, HELD[1]))
    assert recording.journal.lines == []


def test_without_any_descriptor_the_loss_is_logged(recording: Recording) -> None:
    recording.records.write(Record(OTHER, "other", URI, "pause"))
    record = Record(UUID, "vm1", URI, "pause")
    with no_descriptor_free():
        assert not recording.recorder.write(record, SELF)
    assert "no recovery record: [Errno 24]" in str(recording.journal.lines)
