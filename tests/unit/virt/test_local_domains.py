# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which process is the run that lost its leases, and that no wait for an answer is without end."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.errors import TransientError  # noqa: E402
from sanlock_helper.leases import held as leases  # noqa: E402
from sanlock_helper.virt import local_domains, processes  # noqa: E402
from sanlock_helper.virt.local_domains import LocalDomains  # noqa: E402
from sanlock_helper.virt.processes import Process, Processes, process_start  # noqa: E402
from sanlock_helper.virt.status_files import StatusFiles  # noqa: E402

from ..fake_host import Start, status_xml  # noqa: E402

# Of this process: the processes of another worker's tests are found in /proc too.
UUID = f"6695eb01-f6a4-8304-79aa-{os.getpid():012x}"
OTHER = f"11111111-2222-3333-4444-{os.getpid():012x}"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def local(files: Path) -> LocalDomains:
    return LocalDomains(Processes(StatusFiles(str(files))))


def process_of(pid: int) -> Process:
    return Process(pid, process_start(pid))


def now() -> float:
    """After all that has started, in the kernel's ticks."""
    time.sleep(0.02)
    return time.monotonic()


def test_the_run_is_found_by_its_status_file(local: LocalDomains, files: Path, start: Start) -> None:
    qemu = start("-uuid", UUID)
    assert local.run(UUID, now()) == (None, None, False)
    (files / "a.xml").write_bytes(status_xml("R&D", UUID, qemu.pid))
    run = local.run(UUID, now())
    assert run.status is not None
    assert (run.status.name, run.process, run.is_over) == ("R&D", process_of(qemu.pid), False)


def test_a_process_that_began_after_the_request_is_another_run(
    local: LocalDomains,
    files: Path,
    start: Start,
) -> None:
    since = now()
    time.sleep(0.02)
    qemu = start("-uuid", UUID)
    (files / "a.xml").write_bytes(status_xml("a", UUID, qemu.pid))
    assert local.run(UUID, since)[1:] == (None, True)
    assert local.is_another_run(UUID, 3, since)
    assert not local.is_another_run(UUID, 4, since)
    assert not local.is_another_run(UUID, 3, now())
    assert local.processes(UUID, since) == []
    assert local.processes(UUID, now()) == [process_of(qemu.pid)]


def test_a_job_is_read_anew_each_time(local: LocalDomains, files: Path) -> None:
    path = files / "a.xml"
    assert not local.has_no_job(UUID, 3)  # nothing is known of it
    path.write_bytes(status_xml("a", UUID))
    assert local.has_no_job(UUID, 3)
    assert not local.has_no_job(UUID, 4)
    path.write_bytes(status_xml("a", UUID).replace(b"  <domain type", b"  <job async='dump'/>  <domain type"))
    assert not local.has_no_job(UUID, 3)
    path.unlink()
    assert not local.has_no_job(UUID, 3)


def test_block_jobs_are_read_anew_each_time(local: LocalDomains, files: Path) -> None:
    path = files / "a.xml"
    assert local.block_jobs(UUID, 3) is None
    path.write_bytes(status_xml("a", UUID))
    assert local.block_jobs(UUID, 3) == set()
    assert local.block_jobs(UUID, 4) is None
    job = b"<blockjobs active='yes'><blockjob name='p'><disk dst='vda'/></blockjob></blockjobs>  <domain type"
    path.write_bytes(status_xml("a", UUID).replace(b"  <domain type", job))
    assert local.block_jobs(UUID, 3) == {"vda"}
    path.unlink()
    assert local.block_jobs(UUID, 3) is None


def test_a_process_that_sanlock_passed_is_proven_first(
    local: LocalDomains,
    files: Path,
    start: Start,
) -> None:
    old, new, other = start("-uuid", UUID), start("-uuid", UUID), start("-uuid", OTHER)
    since = now()
    assert local.run(UUID, since, old.pid).process == process_of(old.pid)
    assert local.run(UUID, since, other.pid).process is None
    (files / "a.xml").write_bytes(status_xml("a", UUID, new.pid))
    # The domain has been started anew, and the run that lost its leases is still there.
    assert local.run(UUID, since, old.pid)[1:] == (process_of(old.pid), True)
    assert local.run(UUID, since, other.pid)[1:] == (process_of(new.pid), False)
    assert local.run(UUID, since, new.pid)[1:] == (process_of(new.pid), False)


def test_what_is_another_domains_is_not_released(
    local: LocalDomains,
    start: Start,
    mocker: MockerFixture,
) -> None:
    release = mocker.patch.object(leases, "release")
    qemu = start("-uuid", UUID)
    with pytest.raises(TransientError, match="over or another's"):
        local.release(process_of(qemu.pid), OTHER)
    with pytest.raises(TransientError, match="over or another's"):
        local.release(Process(qemu.pid, 1), UUID)
    release.assert_not_called()
    local.release(process_of(qemu.pid), UUID)
    release.assert_called_once_with(qemu.pid)


def test_no_wait_is_without_end(files: Path, mocker: MockerFixture) -> None:
    """A process whose memory hangs keeps the reader of its command line; a sanlock may not answer."""
    local = LocalDomains(Processes(StatusFiles(str(files))), seconds=0.05)
    release = threading.Event()
    mocker.patch.object(leases, "held_by", side_effect=lambda pid: release.wait())
    mocker.patch.object(leases, "release", side_effect=lambda pid: release.wait())
    mocker.patch.object(local_domains, "prove", side_effect=lambda pid, uuid: release.wait())
    begin = time.monotonic()
    for call in (
        lambda: local.held_by(Process(1, 1)),
        lambda: local.release(Process(1, 1), UUID),
        lambda: local.run(UUID, 0.0, 1),
    ):
        with pytest.raises(TransientError, match="no answer within"):
            call()
    release.set()
    assert time.monotonic() - begin < 5


def test_a_process_whose_memory_hangs_is_known_by_its_status_file(
    files: Path, start: Start, mocker: MockerFixture
) -> None:
    """Its command line could not be read: no name, no record, and it was never brought back."""
    local = LocalDomains(Processes(StatusFiles(str(files))), seconds=0.05)
    qemu = start("-uuid", UUID)
    (files / "a.xml").write_bytes(status_xml("R&D", UUID, qemu.pid))
    release = threading.Event()
    mocker.patch.object(processes, "command_line", side_effect=lambda pid: [b""] * release.wait())
    since = now()
    for pid in (None, qemu.pid):
        run = local.run(UUID, since, pid)
        assert run.status is not None
        assert (run.status.name, run.process, run.is_over) == ("R&D", process_of(qemu.pid), False)
    assert local.run(UUID, 0.0)[1:] == (None, True)
    # A process id that was given again is younger than the file.
    os.utime(files / "a.xml", (1, 1))
    assert local.run(UUID, since)[1:] == (None, False)
    release.set()


def test_a_copy_of_a_status_file_hides_no_process(local: LocalDomains, files: Path, start: Start) -> None:
    """A newer file about an earlier run: no record was written without libvirtd."""
    qemu = start("-uuid", UUID)
    (files / "a.xml").write_bytes(status_xml("a", UUID, qemu.pid))
    (files / "copy.xml").write_bytes(status_xml("a", UUID, 2**22))
    os.utime(files / "copy.xml", (2**32, 2**32))
    assert local.run(UUID, now()).process == process_of(qemu.pid)
    assert local.is_another_run(UUID, 3, 0.0)


def test_what_cannot_be_read_is_not_known(local: LocalDomains, mocker: MockerFixture) -> None:
    mocker.patch.object(local_domains, "prove", side_effect=OSError(24, "Too many open files"))
    with pytest.raises(TransientError, match="Too many open files"):
        local.run(UUID, 0.0, 1)
