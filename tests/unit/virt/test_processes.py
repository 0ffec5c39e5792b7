# SPDX-License-Identifier: LGPL-2.1-or-later
"""No process is taken for a domain's without proof; real processes, with the command lines of others."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path

import pytest

from sanlock_helper.virt import processes
from sanlock_helper.virt.processes import Process, Processes, process_start, prove, uuid_in
from sanlock_helper.virt.status_files import StatusFiles

from ..fake_host import OTHER, UUID, Start, status_xml

pytestmark = pytest.mark.pure


def test_a_process_with_the_uuid_is_the_domains(start: Start) -> None:
    qemu = start("-name", "guest=vm1", "-uuid", UUID, "-m", "16")
    process = prove(qemu.pid, UUID)
    assert process == Process(qemu.pid, process_start(qemu.pid))
    assert process is not None
    assert not process.is_over()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-uuid",),
        ("-uuid", OTHER),
        (UUID,),
        ("-name", f"guest=-uuid {UUID}"),
        ("-name", UUID),
        # What a domain's owner may add comes behind libvirt's own.
        ("-uuid", OTHER, "-uuid", UUID),
        ("-append", "-uuid", UUID[:-1]),
    ],
)
def test_a_process_with_another_command_line_is_not(start: Start, words: tuple[str, ...]) -> None:
    assert prove(start(*words).pid, UUID) is None


def test_the_case_of_a_uuid_does_not_count() -> None:
    assert uuid_in(b"qemu\0-uuid\0" + UUID.upper().encode() + b"\0") == UUID


def test_there_is_no_process_where_none_runs(start: Start) -> None:
    qemu = start("-uuid", UUID)
    process = prove(qemu.pid, UUID)
    qemu.kill()
    qemu.wait()
    assert prove(qemu.pid, UUID) is None
    assert process is not None
    assert process.is_over()


def test_a_zombie_is_over_but_not_while_one_of_its_threads_lives(start: Start) -> None:
    program = """
import ctypes, os, sys, threading
threading.Thread(target=sys.stdin.read).start()
print(flush=True)
ctypes.CDLL(None).syscall(60, 0)  # exit(2), of this thread alone
"""
    if os.uname().machine != "x86_64":
        pytest.skip("the number of exit(2) is that of x86_64")
    qemu = start("-uuid", UUID, program=program)
    process = Process(qemu.pid, process_start(qemu.pid))
    stat = Path(f"/proc/{qemu.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert process_start(qemu.pid) == process.start
    assert not process.is_over()
    os.kill(qemu.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not process.is_over() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.is_over()


def test_a_process_that_cannot_be_read_is_not_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_arguments: object) -> object:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("builtins.open", no_descriptor)
    with pytest.raises(OSError, match="Too many"):
        Process(1, 1).is_over()


def test_a_process_id_that_was_given_again_is_another_process(start: Start) -> None:
    qemu = start("-uuid", UUID)
    assert Process(qemu.pid, process_start(qemu.pid) - 1).is_over()


def test_a_process_is_younger_than_what_came_before_it(start: Start) -> None:
    before = time.monotonic()
    time.sleep(0.02)
    qemu = start("-uuid", UUID)
    time.sleep(0.02)
    process = Process(qemu.pid, process_start(qemu.pid))
    assert process.started_after(before)
    assert not process.started_after(time.monotonic())


def test_the_status_file_and_the_command_line_agree(start: Start, tmp_path: Path) -> None:
    qemu, other = start("-uuid", UUID), start("-uuid", OTHER)
    found = Processes(StatusFiles(str(tmp_path)))
    assert found.find(UUID) is None
    (tmp_path / "a.xml").write_bytes(status_xml("a&b", UUID, qemu.pid))
    assert found.find(UUID) == Process(qemu.pid, process_start(qemu.pid))
    # A file that names another domain's process, by whatever mistake.
    (tmp_path / "a.xml").write_bytes(status_xml("a&b", UUID, other.pid))
    assert found.find(UUID) is None


def test_a_qemu_that_is_ending_is_still_the_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no command line any more; a status file from before it started is about an earlier process."""
    monkeypatch.setattr(processes, "command_line", lambda pid: b"")
    (tmp_path / "a.xml").write_bytes(status_xml(pid=os.getpid()))
    found = Processes(StatusFiles(str(tmp_path)))
    assert found.find(UUID) == Process(os.getpid(), process_start(os.getpid()))
    os.utime(tmp_path / "a.xml", (0, 0))
    assert found.find(UUID) is None


def test_without_a_status_file_all_processes_that_may_be_it_are_found(start: Start) -> None:
    # Only of this test: others run at the same time, and all processes are read.
    mine = str(uuid.uuid4())
    found = [start("-uuid", mine), start("-uuid", mine)]
    start("-uuid", OTHER)
    assert {process.pid for process in Processes().scan(mine)} == {process.pid for process in found}
