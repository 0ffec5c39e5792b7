# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file that sanlock has open against the one at its path, and a lockspace found beside its leases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.lockspace_files import LockspaceFile, check_files, find_open
from sanlock_helper.leases.lockspace_places import find_lockspace, read_name
from sanlock_helper.leases.sanlock_status import HeldLease, JoinedLockspace, SanlockStatus

# The start of a leader_record as `sanlock direct init -s LSX:0:PATH:0` writes it, up to the name.
HEADER = bytes.fromhex("10202112040003001000000000020000") + bytes(8) + b"\1" + bytes(31)


def write_lockspace(path: Path, name: str) -> None:
    path.write_bytes(HEADER + name.encode().ljust(48, b"\0") + bytes(512))


def opened(tmp_path: Path, path: Path) -> LockspaceFile:
    """PATH as a process that is a folder here has it; its root is the real one."""
    proc = tmp_path / "proc"
    if not proc.exists():
        proc.mkdir()
        (proc / "root").symlink_to("/")
    return find_open(str(path), proc)


def test_a_file_that_is_open(tmp_path: Path) -> None:
    path, other = tmp_path / "ids", tmp_path / "other"
    path.write_text("x")
    other.write_text("y")
    fd = tmp_path / "proc/fd"
    opened_by = tmp_path / "proc"
    opened_by.mkdir()
    (opened_by / "root").symlink_to("/")
    fd.mkdir()
    (fd / "1").symlink_to(other)
    # A socket, or what is gone.
    (fd / "2").symlink_to("/nowhere")
    assert opened(tmp_path, path) == LockspaceFile(True, False)
    (fd / "3").symlink_to(path)
    assert opened(tmp_path, path) == LockspaceFile(True, True)
    # By another name it is the same file.
    os.link(path, tmp_path / "again")
    assert opened(tmp_path, tmp_path / "again") == LockspaceFile(True, True)
    assert opened(tmp_path, tmp_path / "gone") == LockspaceFile(False, False)
    assert opened(tmp_path, path / "below a file") == LockspaceFile(False, False)
    with pytest.raises(FileNotFoundError):
        find_open(str(path), tmp_path / "no process")


def found(is_there: bool, name: str = "__LIBVIRT__DISKS__", *holders: int) -> tuple[str, str]:
    space = JoinedLockspace(name, 3, "/le ases/a:b", 0, {"io_timeout": "10", "align_size": "8388608"})
    leases = tuple(HeldLease(name, "r", "/r", 0, pid) for pid in holders)
    status = SanlockStatus({}, (space,), leases)
    finding = check_files(status, "virtqemud", {name: LockspaceFile(is_there, False)}, {7: "vm1"})
    assert finding.verdict == "fail"
    return finding.found, finding.remedy


def test_what_is_done_about_it() -> None:
    ask = "! sanlock client status | grep '^r __LIBVIRT__DISKS__:'"
    leave = "sanlock client rem_lockspace -s '__LIBVIRT__DISKS__:3:/le ases/a\\:b:0'"
    text, remedy = found(False)
    assert text.startswith("/le ases/a:b was deleted while sanlock has it joined")
    assert remedy == f"{ask} && {leave} && systemctl restart virtqemud"
    text, remedy = found(True, "__LIBVIRT__DISKS__", 7, 8)
    assert "was replaced" in text
    assert remedy.endswith("  # it does nothing while a lease is held: first shut down process 8, vm1")


def test_a_lockspace_of_lease_elements_is_made_again() -> None:
    _, remedy = found(False, "mine")
    make = "truncate -s 8388608 '/le ases/a:b' && sanlock direct init -s 'mine:0:/le ases/a\\:b:0'"
    assert f" && {make} && sanlock client add_lockspace -s 'mine:3:/le ases/a\\:b:0' -o 10" in remedy
    _, remedy = found(True, "mine")
    assert "init" not in remedy


def test_a_file_that_is_the_one_that_is_renewed() -> None:
    space = JoinedLockspace("mine", 3, "/ids", 0)
    status = SanlockStatus({}, (space,), ())
    assert check_files(status, "libvirtd", {"mine": LockspaceFile(True, True)}, {}).verdict == "pass"
    # One that is not joined is not checked.
    assert check_files(status, "libvirtd", {}, {}).verdict == "pass"


def test_a_lockspace_is_found_beside_its_leases(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.write_bytes(bytes(4096))
    assert find_lockspace("mine", str(leases)) is None
    write_lockspace(tmp_path / "ids", "mine")
    write_lockspace(tmp_path / "an other", "another")
    assert find_lockspace("mine", str(leases)) == f"{tmp_path}/ids"
    # In one file with its leases.
    write_lockspace(leases, "mine")
    assert find_lockspace("mine", str(leases)) == str(leases)
    assert find_lockspace("mine", f"{tmp_path}/gone/leases") is None
    assert find_lockspace("min", str(leases)) is None


def test_what_is_no_lockspace(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "short").write_bytes(HEADER[:10])
    (tmp_path / "nameless").write_bytes(HEADER + bytes(600))
    (tmp_path / "resource").write_bytes(b"\x10\x20\x15\x06" + HEADER[4:] + b"mine" + bytes(600))
    for name in ("fifo", "short", "nameless", "resource", "gone", "."):
        assert read_name(f"{tmp_path}/{name}") is None
