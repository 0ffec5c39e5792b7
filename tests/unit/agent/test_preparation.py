# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host knows before libvirtd is asked: the domain's name, its process, and the record of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.agent.attempt import Progress  # noqa: E402
from sanlock_helper.agent.preparation import prepare  # noqa: E402
from sanlock_helper.agent.recorder import RecoveryRecorder  # noqa: E402
from sanlock_helper.errors import TransientError  # noqa: E402
from sanlock_helper.leases.held import Lease, Lockspace  # noqa: E402
from sanlock_helper.records.directory import RecordDirectory  # noqa: E402
from sanlock_helper.virt.status_files import Status  # noqa: E402

from ..fake_local import UUID, FakeLocal, make_request  # noqa: E402
from ..fakes import RecordedJournal  # noqa: E402

XML = "<domain type='kvm' id='3'><name>R&amp;D</name></domain>"


class Recording:
    """Requests, prepared with records in a directory of the test's own."""

    def __init__(self, path: Path) -> None:
        self.journal = RecordedJournal()
        self.records = RecordDirectory(f"{path}/records")
        self.asked: list[int] = []
        self.recorder = RecoveryRecorder(self.records, self.journal, lambda: 5.0, self.ask)  # type: ignore[arg-type]
        self.local = FakeLocal()
        self.local.status = Status("R&D", UUID, 3, "running", "booted", 4711, xml=XML)
        self.record_tried: list[int] = []

    def ask(self, pid: int) -> Any:
        self.asked.append(pid)
        return (Lockspace("LS", 1, "/LS", 0, 1),), (Lease("LS", "disk", 3, "/disk"),)

    def prepare(self, action: str = "poweroff", run: int | None = None) -> Progress:
        progress = Progress(run, self.record_tried.append)
        prepare(make_request(action), progress, self.local, self.recorder)
        return progress


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


@pytest.mark.parametrize("action", ["poweroff", "pause", "restart"])
def test_a_running_domain_is_named_and_on_record(recording: Recording, action: str) -> None:
    progress = recording.prepare(action)
    assert (progress.name, progress.run, progress.process) == ("R&D", 3, recording.local.process)
    record = recording.records.read(UUID)
    assert record is not None
    assert (record.name, record.action, record.found, record.run) == ("R&D", action, "running", 3)
    assert (record.pid, record.pid_start, record.time, record.xml) == (4711, 99, 5.0, XML)
    assert [str(lease) for lease in record.leases] == ["LS:disk"]
    assert recording.record_tried == [3]


@pytest.mark.parametrize(
    ("state", "reason", "comes_back"),
    [
        ("paused", "user", False),
        ("paused", "from snapshot", False),
        ("shutdown", "unknown", False),
        ("crashed", "panicked", False),
        ("paused", "ioerror", True),
        ("paused", "dump", True),
        ("paused", "unknown", True),
        ("blocked", "unknown", True),
        ("pmsuspended", "unknown", True),
        ("a state to come", "unknown", True),
    ],
)
def test_what_its_administrator_paused_has_no_record(
    recording: Recording, state: str, reason: str, comes_back: bool
) -> None:
    assert recording.local.status is not None
    recording.local.status.state, recording.local.status.reason = state, reason
    assert recording.prepare("pause").recorded == comes_back
    assert (recording.records.uuids() == [UUID]) == comes_back
    assert recording.prepare("restart").recorded


def test_another_run_has_no_record(recording: Recording) -> None:
    recording.local.another = 3
    progress = recording.prepare()
    assert (progress.name, progress.run, progress.process) == ("R&D", None, None)
    assert recording.records.uuids() == []


def test_a_process_that_is_not_proven_has_no_record(recording: Recording) -> None:
    recording.local.process = None
    progress = recording.prepare()
    assert (progress.name, progress.run) == ("R&D", None)
    assert recording.records.uuids() == []


def test_the_successor_of_an_agent_that_died_keeps_its_record(recording: Recording) -> None:
    """By now the domain may be paused, and its process without the leases that were noted."""
    recording.prepare("pause")
    recording.recorder = RecoveryRecorder(recording.records, recording.journal, lambda: 6.0, recording.ask)  # type: ignore[arg-type]
    progress = recording.prepare("pause", run=3)
    assert (progress.name, progress.recorded) == ("R&D", True)
    record = recording.records.read(UUID)
    assert record is not None
    assert record.time == 5.0
    assert len(recording.asked) == 1


def test_without_an_answer_the_tries_go_on(recording: Recording) -> None:
    recording.local.raises["run"] = TransientError("find its process", "no answer within 1 s")
    progress = recording.prepare()
    assert (progress.name, progress.record_tried, progress.run) == ("", False, None)


def test_without_a_status_file_libvirtd_is_asked(recording: Recording) -> None:
    recording.local.status = None
    progress = recording.prepare()
    assert (progress.name, progress.record_tried) == ("", False)
