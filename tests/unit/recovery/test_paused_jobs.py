# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains that a job has paused, before their lockspace is joined: what is ended, waited for and noted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.errors import TransientError  # noqa: E402
from sanlock_helper.leases.held import Lockspace  # noqa: E402
from sanlock_helper.records.directory import RecordDirectory  # noqa: E402
from sanlock_helper.records.record import Record  # noqa: E402
from sanlock_helper.records.store import RecordStore  # noqa: E402
from sanlock_helper.recovery.paused_jobs import SETTLE_SECONDS, PausedJobs  # noqa: E402
from sanlock_helper.virt.processes import Process  # noqa: E402

from ..fakes import RecordedJournal  # noqa: E402
from ..libvirt_errors import libvirt_error  # noqa: E402
from ..recovery_world import OFF, PAUSED, RUNNING, SPACE, UUID  # noqa: E402

DUMP = libvirt.VIR_DOMAIN_PAUSED_DUMP
XML = "<domain><devices><lease><lockspace>{}</lockspace><key>disk</key></lease></devices></domain>"


class Domain:
    """A domain with a job, and its libvirtd."""

    def __init__(self, reason: int = DUMP, state: int = PAUSED) -> None:
        self.now = 0.0
        self.reported = (state, reason)
        self.job = libvirt.VIR_DOMAIN_JOB_UNBOUNDED
        self.lockspace = "LS"
        # What an abort does, and what time does.
        self.abort: Callable[[], None] = self.end_job
        self.tick: Callable[[], None] = lambda: None
        self.aborts = 0
        self.uris: list[str] = []
        self.error: Exception | None = None
        self.job_error: Exception | None = None

    def end_job(self) -> None:
        """libvirt keeps the reason of a pause that it could not end."""
        self.job = libvirt.VIR_DOMAIN_JOB_NONE

    def connect(self, uri: str) -> Domain:
        self.uris.append(uri)
        return self

    def close(self) -> None:
        pass

    def listAllDomains(self, flags: int) -> list[Domain]:
        return [self]

    def state(self) -> list[int]:
        if self.error:
            raise self.error
        return list(self.reported)

    def jobInfo(self) -> list[int]:
        if self.job_error:
            raise self.job_error
        return [self.job]

    def abortJob(self) -> None:
        self.aborts += 1
        self.abort()

    def XMLDesc(self, flags: int) -> str:
        return XML.format(self.lockspace)

    def name(self) -> str:
        return "vm1"

    def UUIDString(self) -> str:
        return UUID

    def ID(self) -> int:
        return 7

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.tick()


class Scene:
    """PausedJobs on one domain."""

    def __init__(self, path: Path, domain: Domain) -> None:
        self.journal = RecordedJournal()
        self.domain = domain
        self.run = f"{path}/run/records"
        self.store = RecordStore(self.journal, self.run, f"{path}/state")  # type: ignore[arg-type]
        self.jobs = PausedJobs(
            domain.connect,  # type: ignore[arg-type]
            self.store,
            self.journal,  # type: ignore[arg-type]
            find=lambda uuid: Process(4711, 99),
            boot=lambda: "boot",
            clock=lambda: domain.now,
            sleep=domain.sleep,
        )

    def settle(self, lockspace: Lockspace = SPACE) -> Record | None:
        self.jobs.settle(lockspace)
        return self.store.gather().get(UUID)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (DUMP, "dumping"),
        (libvirt.VIR_DOMAIN_PAUSED_SAVE, "saving"),
        (libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT, "creating snapshot"),
    ],
)
def test_a_job_is_ended_and_its_domain_left_to_the_administrator(
    tmp_path: Path, reason: int, words: str
) -> None:
    scene = Scene(tmp_path, Domain(reason))
    record = scene.settle()
    assert record is not None
    assert scene.domain.aborts == 1
    assert (record.action, record.mark, record.found) == ("pause", "refused", f"paused ({words})")
    assert (record.run, record.pid, record.pid_start, record.boot) == (7, 4711, 99, "boot")
    assert [lockspace.name for lockspace in record.lockspaces] == ["LS"]
    (line,) = [line for level, line in scene.journal.lines if level == "error"]
    assert f"paused ({words})" in line
    assert "virt-sanlock-helper recover --resume-anyway vm1" in line
    # Once.
    scene.settle()
    assert len([line for level, line in scene.journal.lines if level == "error"]) == 1


def test_a_job_that_is_over_already(tmp_path: Path) -> None:
    domain = Domain()
    domain.end_job()
    record = Scene(tmp_path, domain).settle()
    assert record is not None
    assert domain.aborts == 0


def test_a_job_that_ended_before_the_first_call_or_between_two_tries(tmp_path: Path) -> None:
    """From libvirt 9.2 on the reason is no longer the job's: libvirt could not let the domain run on."""
    scene = Scene(tmp_path, Domain(14))
    record = scene.settle()
    assert record is not None
    assert (record.mark, record.found) == ("refused", "paused (api error)")
    assert (scene.domain.aborts, scene.domain.now) == (0, 0.0)
    (line,) = [line for level, line in scene.journal.lines if level == "error"]
    assert "NOT DONE: it stays paused: it was paused (api error)" in line
    scene.settle()
    assert len(scene.journal.lines) == 1


def test_a_job_that_ended_so_in_another_lockspace(tmp_path: Path) -> None:
    domain = Domain(14)
    domain.lockspace = "other"
    assert Scene(tmp_path, domain).settle() is None


def test_a_job_that_takes_a_while(tmp_path: Path) -> None:
    domain = Domain()
    domain.abort = lambda: None
    domain.tick = lambda: domain.end_job() if domain.now > 5 else None
    assert Scene(tmp_path, domain).settle() is not None
    assert domain.now < 6


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(
    "after",
    [
        (OFF, libvirt.VIR_DOMAIN_SHUTOFF_SAVED),
        (OFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED),
        (RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED),
    ],
)
@pytest.mark.parametrize("reason", [DUMP, libvirt.VIR_DOMAIN_PAUSED_MIGRATION])
def test_a_job_that_ends_between_two_calls(
    tmp_path: Path, reason: int, after: tuple[int, int], at: int
) -> None:
    """Its domain is off, for which libvirt gives an error, or runs on: neither stays paused."""

    class Ends(Domain):
        asked = 0

        def jobInfo(self) -> list[int]:
            self.asked += 1
            if self.asked == at:
                self.end_job()
                self.reported = after
            if self.reported[0] == OFF:
                raise libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID, message="domain is not running")
            return super().jobInfo()

    domain = Ends(reason)
    domain.abort = lambda: None
    scene = Scene(tmp_path, domain)
    assert scene.settle() is None
    assert (domain.asked >= at, domain.now < 1, scene.journal.lines) == (True, True, [])


@pytest.mark.parametrize("refuses", [True, False])
def test_a_job_that_does_not_end_keeps_the_lockspace_out(tmp_path: Path, refuses: bool) -> None:
    def refuse() -> None:
        if refuses:
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID, message="cannot abort memory-only dump")

    domain = Domain()
    domain.abort = refuse
    with pytest.raises(TransientError, match=r"vm1: it is paused \(dumping\), which does not end") as caught:
        Scene(tmp_path, domain).settle()
    assert "virsh destroy vm1" in caught.value.hint
    assert SETTLE_SECONDS <= domain.now < SETTLE_SECONDS + 1


def test_a_migration_is_left_to_end(tmp_path: Path) -> None:
    domain = Domain(libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
    domain.tick = lambda: setattr(domain, "reported", (OFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED))
    assert Scene(tmp_path, domain).settle() is None
    assert domain.aborts == 0


def test_a_migration_to_this_host_keeps_nothing_out(tmp_path: Path) -> None:
    """The other host holds its leases; libvirtd has no statistics of it, and the lockspace was not joined."""
    domain = Domain(libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
    domain.job_error = libvirt_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED)
    assert Scene(tmp_path, domain).settle() is None
    assert (domain.aborts, domain.now) == (0, 0)


def test_a_job_that_cannot_be_read_keeps_the_lockspace_out(tmp_path: Path) -> None:
    domain = Domain(libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
    domain.job_error = libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR)
    with pytest.raises(TransientError):
        Scene(tmp_path, domain).settle()


@pytest.mark.parametrize(
    "reason", [libvirt.VIR_DOMAIN_PAUSED_POSTCOPY, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED]
)
def test_a_guest_that_runs_on_another_host_keeps_nothing_out(tmp_path: Path, reason: int) -> None:
    domain = Domain(reason)
    assert Scene(tmp_path, domain).settle() is None
    assert (domain.aborts, domain.now) == (0, 0)


def test_a_start_is_waited_for_and_keeps_nothing_out(tmp_path: Path) -> None:
    domain = Domain(libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
    assert Scene(tmp_path, domain).settle() is None
    assert (domain.aborts, domain.now >= SETTLE_SECONDS) == (0, True)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (PAUSED, libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN),
        (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTDOWN_USER),
    ],
)
def test_a_guest_that_shuts_down_is_waited_for(tmp_path: Path, state: int, reason: int) -> None:
    domain = Domain(reason, state)
    with pytest.raises(TransientError):
        Scene(tmp_path, domain).settle()
    domain.now = 0.0
    domain.tick = lambda: setattr(domain, "error", libvirt_error(libvirt.VIR_ERR_NO_DOMAIN))
    assert Scene(tmp_path, domain).settle() is None


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER),
        (PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR),
        (PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT),
        (PAUSED, 12),  # post-copy: it never runs here again
        (PAUSED, 13),
        (RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED),
        (libvirt.VIR_DOMAIN_PMSUSPENDED, 0),
        (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED),
    ],
)
def test_what_lasts_is_none_of_its_business(tmp_path: Path, state: int, reason: int) -> None:
    domain = Domain(reason, state)
    scene = Scene(tmp_path, domain)
    assert scene.settle() is None
    assert (domain.aborts, domain.now, scene.journal.lines) == (0, 0.0, [])


def test_another_lockspace(tmp_path: Path) -> None:
    domain = Domain()
    domain.lockspace = "other"
    assert Scene(tmp_path, domain).settle() is None
    assert domain.aborts == 0


@pytest.mark.parametrize(
    ("source", "lockspace", "is_concerned"),
    [
        ("file='/a.img'", "__LIBVIRT__DISKS__", True),
        ("file='/a.img'", "LS", False),
        # libvirt locks a volume by its path, which only its pool has.
        ("pool='p' volume='a'", "__LIBVIRT__DISKS__", True),
        ("pool='p' volume='a' mode='host'", "__LIBVIRT__DISKS__", True),
        ("pool='p' volume='a' mode='direct'", "__LIBVIRT__DISKS__", False),
        ("pool='p' volume='a'", "LS", False),
    ],
)
def test_the_lockspace_of_the_disks(
    tmp_path: Path, source: str, lockspace: str, is_concerned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = Domain()
    xml = f"<domain><devices><disk><source {source}/></disk></devices></domain>"
    monkeypatch.setattr(domain, "XMLDesc", lambda flags: xml)
    found = Scene(tmp_path, domain).settle(Lockspace(lockspace, 1, "/l", 0))
    assert (found is not None) is is_concerned
    assert bool(domain.aborts) is is_concerned


@pytest.mark.parametrize("xml", ["<domain", ""])
def test_leases_that_cannot_be_read_count(tmp_path: Path, xml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Domain()
    monkeypatch.setattr(domain, "XMLDesc", lambda flags: xml)
    assert Scene(tmp_path, domain).settle() is not None


def test_a_record_of_the_helper_is_kept(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Domain())
    RecordDirectory(scene.run).write(Record(UUID, "vm1", "qemu:///system", "pause", time=5.0))
    record = scene.settle()
    assert record is not None
    assert (record.time, record.mark) == (5.0, "")
    assert scene.domain.aborts == 1
    assert scene.journal.lines == []


def test_the_uris_of_the_records_are_read(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Domain())
    other = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"
    RecordDirectory(scene.run).write(Record(other, "vm2", "qemu:///session", "pause", time=5.0))
    scene.settle()
    assert scene.domain.uris == ["qemu:///session", "qemu:///system"]


@pytest.mark.parametrize("uri", ["qemu:///bogus", "qemu:///embed?root=/r", "qemu:///system?x=y", "test:///x"])
def test_a_uri_that_sanlock_is_not_given_keeps_nothing_out(tmp_path: Path, uri: str) -> None:
    scene = Scene(tmp_path, Domain())
    other = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"
    RecordDirectory(scene.run).write(Record(other, "vm2", uri, "pause", time=5.0))
    scene.settle()
    assert scene.domain.uris == ["qemu:///system"]


@pytest.mark.parametrize(
    "name", ["a;b", "7", "-v", "", "716b3698-0ee7-4e8f-8b5c-a2c619edc268", "R&D", "$(x)"]
)
def test_a_remedy_never_names_another_domain(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = Domain()
    monkeypatch.setattr(domain, "name", lambda: name)
    scene = Scene(tmp_path, domain)
    domain.abort = lambda: None
    with pytest.raises(TransientError) as caught:
        scene.settle()
    assert caught.value.hint.startswith(f"virsh domjobinfo {UUID}; virsh destroy {UUID} lets")
    domain.abort = domain.end_job
    scene.settle()
    (line,) = [line for level, line in scene.journal.lines if level == "error"]
    assert f"recover --resume-anyway {UUID}, or" in line


def test_a_libvirtd_that_does_not_answer_keeps_the_lockspace_out(tmp_path: Path) -> None:
    domain: Any = Domain()
    domain.error = libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, message="broken")
    with pytest.raises(TransientError, match="broken"):
        Scene(tmp_path, domain).settle()


def test_a_record_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "records").write_text("no directory")
    scene = Scene(tmp_path, Domain())
    scene.jobs.settle(SPACE)
    assert [level for level, _ in scene.journal.lines] == ["warning", "error"]
