# SPDX-License-Identifier: LGPL-2.1-or-later
"""What may stand in a directory of records and is none: one bad entry costs one domain at most."""

from __future__ import annotations

import fcntl
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.leases.held import Lease, Lockspace
from sanlock_helper.records.directory import SET_ASIDE, SUFFIX, TAKEN, RecordDirectory
from sanlock_helper.records.record import Record, RecordError, decode
from sanlock_helper.records.store import RecordStore

from ..fakes import RecordedJournal

GOOD = "defc17ee-2773-427c-8210-136921a454d3"
BAD = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"
URI = "qemu:///system"

# FS_IOC_SETFLAGS and FS_IMMUTABLE_FL of linux/fs.h.
SET_FLAGS, IMMUTABLE = 0x40086602, 0x10


def make_record(uuid: str, **fields: object) -> Record:
    found = Record(uuid, f"vm-{uuid[:4]}", URI, "poweroff", time=1000.0)
    for key, value in fields.items():
        setattr(found, key, value)
    return found


def make_directory(path: bytes) -> None:
    os.mkdir(path)
    Path(os.fsdecode(path), "inside").write_text("x")


def make_socket(path: bytes) -> None:
    os.mknod(path, 0o600 | stat.S_IFSOCK)


def make_device(path: bytes) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this user cannot make a device")


def write(path: bytes, data: bytes, mode: int = 0o600) -> None:
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def make_hard_link(path: bytes) -> None:
    write(path, make_record(BAD).encode())
    os.link(path, path + b".2")


ENTRIES: dict[str, Callable[[bytes], None]] = {
    "directory": make_directory,
    "FIFO": lambda path: os.mkfifo(path, 0o600),
    "socket": make_socket,
    "device": make_device,
    "symlink": lambda path: os.symlink(b"/dev/zero", path),
    "symlink to nowhere": lambda path: os.symlink(b"nowhere", path),
    "symlink to itself": lambda path: os.symlink(path, path),
    "empty": lambda path: write(path, b""),
    "zeros": lambda path: write(path, bytes(4096)),
    "writable by others": lambda path: write(path, make_record(BAD).encode(), 0o666),
    "hard link": make_hard_link,
    "of another domain": lambda path: write(path, make_record(GOOD).encode()),
    "time nan": lambda path: write(path, make_record(BAD, time=math.nan).encode()),
    "run absurd": lambda path: write(path, make_record(BAD, run=10**30).encode()),
    "pid absurd": lambda path: write(path, make_record(BAD, pid=10**30).encode()),
    "no URI": lambda path: write(path, make_record(BAD, uri="").encode()),
}


class Places:
    """A RecordStore with one good record, and its directories."""

    def __init__(self, top: Path) -> None:
        self.run, self.state = f"{top}/run/records", f"{top}/state"
        for path in (self.run, self.state):
            os.makedirs(path, 0o700)
        self.journal = RecordedJournal()
        self.store = RecordStore(self.journal, self.run, self.state)  # type: ignore[arg-type]
        RecordDirectory(self.run).write(make_record(GOOD))

    def path(self, place: str, name: str = BAD) -> bytes:
        folder, suffix = {
            "new": (self.run, SUFFIX),
            "taken": (self.run, TAKEN),
            "state": (self.state, SUFFIX),
        }[place]
        return os.fsencode(f"{folder}/{name}{suffix}")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


@pytest.mark.parametrize("place", ["new", "taken", "state"])
@pytest.mark.parametrize("kind", ENTRIES)
def test_an_entry_that_is_no_record_is_set_aside_once(places: Places, place: str, kind: str) -> None:
    path = places.path(place)
    ENTRIES[kind](path)
    assert set(places.store.records()) == {GOOD}
    for _ in range(5):
        assert set(places.store.gather()) == {GOOD}
    assert not os.path.lexists(path)
    (line,) = [line for level, line in places.journal.lines if level == "error"]
    assert BAD in line
    assert f"set aside as {os.path.dirname(os.fsdecode(path))}/{SET_ASIDE}/{BAD}.1" in line


@pytest.mark.parametrize("place", ["new", "taken", "state"])
@pytest.mark.parametrize("name", [b"\xff\xfe", b"vm 1", b"a\nb", b"x" * 200, b"\xe2\x80\xae"])
def test_a_name_that_is_no_uuid_costs_nothing_else(places: Places, place: str, name: bytes) -> None:
    path = places.path(place).replace(BAD.encode(), name)
    write(path, make_record(BAD).encode())
    for _ in range(5):
        assert set(places.store.gather()) == {GOOD}
    assert not os.path.lexists(path)
    assert len([line for level, line in places.journal.lines if level == "error"]) == 1


@pytest.fixture
def immutable() -> Iterator[Callable[[bytes], None]]:
    """A function that makes a file immutable until the end of the test."""
    made: list[bytes] = []

    def set_flags(path: bytes, flags: int) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SET_FLAGS, flags.to_bytes(8, "little"))
        finally:
            os.close(descriptor)

    def make(path: bytes) -> None:
        try:
            set_flags(path, IMMUTABLE)
        except OSError as error:
            pytest.skip(f"no file can be made immutable here: {error}")
        made.append(path)

    yield make
    for path in made:
        set_flags(path, 0)


@pytest.mark.parametrize("place", ["new", "taken", "state"])
@pytest.mark.parametrize("good", [True, False])
def test_an_entry_that_cannot_be_moved_is_reported_once(
    places: Places, place: str, good: bool, immutable: Callable[[bytes], None]
) -> None:
    path = places.path(place)
    write(path, make_record(BAD).encode() if good else b"no record")
    immutable(path)
    for _ in range(5):
        assert GOOD in places.store.gather()
    lines = [line for level, line in places.journal.lines if level in ("error", "warning")]
    assert len(lines) <= 1, lines
    assert all(BAD in line for line in lines)
    assert good or "cannot be set aside" in lines[0]


def test_a_set_aside_that_is_no_directory(places: Places) -> None:
    write(places.path("new"), b"no record")
    write(os.fsencode(f"{places.run}/{SET_ASIDE}"), b"")
    for _ in range(5):
        assert set(places.store.gather()) == {GOOD}
    (line,) = [line for level, line in places.journal.lines if level == "error"]
    assert "cannot be set aside" in line


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf, -1.0])
def test_a_time_that_no_clock_has_is_no_record(time: float) -> None:
    with pytest.raises(RecordError, match="time"):
        decode(make_record(BAD, time=time).encode())


def test_a_time_to_come_is_the_clocks_fault(places: Places) -> None:
    write(places.path("new"), make_record(BAD, time=1e300).encode())
    assert set(places.store.gather()) == {GOOD, BAD}
    assert places.journal.lines == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"run": -2}, "run"),
        ({"run": 2**40}, "run"),
        ({"pid": -1}, "pid"),
        ({"pid": 2**31}, "pid"),
        ({"pid_start": -1}, "pid_start"),
        ({"pid_start": 2**64}, "pid_start"),
        ({"uri": ""}, "uri"),
        ({"uri": "qemu"}, "uri"),
        ({"uri": "a\0:///"}, "uri"),
        ({"uri": "qemu:///system\udcff"}, "uri"),
        ({"uri": "qemu:///sys\ntem"}, "uri"),
        ({"lockspaces": (Lockspace("LS", -1, "/p"),)}, "host_id"),
        ({"lockspaces": (Lockspace("LS", 2**70, "/p"),)}, "host_id"),
        ({"lockspaces": (Lockspace("LS", 1, "/p", -1),)}, "offset"),
        ({"lockspaces": (Lockspace("LS", 1, "/p", 0, 2**40),)}, "io_timeout"),
        ({"lockspaces": (Lockspace("LS", 1, "/p\0"),)}, "path"),
        ({"lockspaces": (Lockspace("L" * 49, 1, "/p"),)}, "name"),
        ({"leases": (Lease("LS", "disk", -1),)}, "version"),
        ({"leases": (Lease("LS", "disk", 2**70),)}, "version"),
        ({"leases": (Lease("LS", "disk", 1, "/p", 2**70),)}, "offset"),
        ({"leases": (Lease("LS", "d" * 49, 1),)}, "resource"),
        ({"leases": (Lease("", "disk", 1),)}, "lockspace"),
    ],
)
def test_values_that_no_call_would_take(places: Places, fields: dict[str, object], word: str) -> None:
    write(places.path("new"), make_record(BAD, **fields).encode())
    with pytest.raises(RecordError, match=word):
        RecordDirectory(places.run).read(BAD)


def test_the_lock_that_is_a_fifo_or_a_link(tmp_path: Path) -> None:
    places = Places(tmp_path)
    os.mkfifo(f"{places.run}.lock")
    assert set(places.store.gather()) == {GOOD}
