# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records: what is written is read, and nothing else is."""

from __future__ import annotations

import binascii
import os
import stat
import warnings
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from hypothesis import example, given
from hypothesis import strategies as st

from sanlock_helper.invocation import Invocation
from sanlock_helper.leases.held import Lease, Lockspace
from sanlock_helper.records.directory import RecordDirectory
from sanlock_helper.records.record import CAUSES, MARKS, Record, RecordError, check, decode

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

texts = st.text(st.characters(codec=None), max_size=20)
numbers = st.integers(0, 2**64)

lockspaces = st.builds(Lockspace, texts, numbers, texts, numbers, numbers, numbers)
leases = st.builds(Lease, texts, texts, numbers, texts, numbers, st.booleans())
all_records = st.builds(
    Record,
    uuid=texts,
    name=texts,
    uri=texts,
    action=st.sampled_from(["poweroff", "pause", "restart"]),
    found=texts,
    run=st.integers(-1, 2**31),
    pid=numbers,
    pid_start=numbers,
    boot=texts,
    time=st.floats(0, 2e9),
    lockspaces=st.lists(lockspaces, max_size=3).map(tuple),
    leases=st.lists(leases, max_size=3).map(tuple),
    unknown=texts,
    xml=texts,
    mark=st.sampled_from(MARKS),
    why=texts,
    priority=st.integers(-(2**31), 2**31),
    delay=numbers,
    cause=st.sampled_from(CAUSES),
    tries=numbers,
)


def fields(thing: object) -> object:
    if isinstance(thing, tuple):
        return [fields(item) for item in thing]
    slots = getattr(type(thing), "__slots__", None)
    return {name: fields(getattr(thing, name)) for name in slots} if slots else thing


def record(**changes: object) -> Record:
    found = Record(UUID, "vm1", "qemu:///system", "pause")
    for key, value in changes.items():
        setattr(found, key, value)
    return found


def sealed(data: bytes) -> bytes:
    """DATA with the checksum that belongs to it."""
    head = data.rpartition(b"crc32 ")[0]
    return head + b"crc32 %d\n" % binascii.crc32(head)


# What version 2 has had on disk since its first day: an update may meet it during an outage.
ON_DISK = (
    b"virt-sanlock-helper-record 2\n"
    b"uuid 6695eb01-f6a4-8304-79aa-97f2502e193f\n"
    b"name vm\\x201\n"
    b"uri qemu:///system\n"
    b"action pause\n"
    b"found paused\\x20(I/O\\x20error)\n"
    b"boot b-1\n"
    b"unknown \n"
    b"xml <domain>\\n</domain>\n"
    b"mark refused\n"
    b"why ein\\x20Grund:\\x20\\xe4\n"
    b"run 7\n"
    b"pid 4711\n"
    b"pid_start 99\n"
    b"time 1764000000.25\n"
    b"lockspace LS 1 /a\\x20b/LS 0 10 3\n"
    b"lease LS disk 5 /a\\x20b/disk 1048576 1\n"
    b"lease LS two 1  0 0\n"
    b"crc32 3302057706\n"
)


def test_the_bytes_on_disk_are_those_of_version_2() -> None:
    found = record(name="vm 1", found="paused (I/O error)", boot="b-1", xml="<domain>\n</domain>")
    found.mark, found.why, found.run, found.pid, found.pid_start = "refused", "ein Grund: ä", 7, 4711, 99
    found.time = 1764000000.25
    found.lockspaces = (Lockspace("LS", 1, "/a b/LS", 0, 10, 3),)
    found.leases = (Lease("LS", "disk", 5, "/a b/disk", 1048576, True), Lease("LS", "two", 1))
    assert found.encode() == ON_DISK
    assert fields(decode(ON_DISK)) == fields(found)


def test_a_record_without_an_order_is_as_earlier_versions_read_it() -> None:
    assert b"priority" not in record().encode()
    assert b"delay" not in record().encode()
    found = decode(ON_DISK)
    assert (found.priority, found.delay) == (0, 0)
    with_order = record(priority=-5, delay=30)
    lines = with_order.encode().split(b"\n")
    assert lines[-4:-2] == [b"priority -5", b"delay 30"]
    assert [line for line in lines if line.split()[:1] not in ([b"priority"], [b"delay"])][:-2] == (
        record().encode().split(b"\n")[:-2]
    )
    assert fields(decode(with_order.encode())) == fields(with_order)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"priority 1e9", "priority is not of its kind"),
        (b"priority high", "priority is not of its kind"),
        (b"delay NaN", "delay is not of its kind"),
        (b"delay ", "delay is not of its kind"),
        (b"priority 1000001", "its priority is 1000001, which is not from -1000000 to 1000000"),
        (b"priority -1000001", "its priority is"),
        (b"delay -1", "its delay is -1, which is not from 0 to 3600"),
        (b"delay 3601", "its delay is"),
        (b"priority 1\npriority 2", "'priority' twice"),
    ],
)
def test_an_order_that_no_domain_can_have_is_refused(line: bytes, why: str) -> None:
    text = record().encode().replace(b"\ncrc32", b"\n" + line + b"\ncrc32")
    with pytest.raises(RecordError, match=why):
        check(decode(sealed(text)))


@pytest.mark.parametrize(
    "word",
    [
        rb"a\q",
        rb"\'",
        rb"\"a",
        rb"\141",
        rb"\400",
        rb"\N{BULLET}",
        rb"a\a",
        rb"\v",
        b"a\\",
        rb"\\\ ",
        rb"\xg",
    ],
)
def test_an_escape_that_no_record_has_is_refused(word: bytes) -> None:
    text = record(why="reason").encode().replace(b"why reason", b"why " + word)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RecordError, match="malformed: an escape that is none"):
            decode(sealed(text))


@pytest.mark.parametrize("uri", ["qemu+unix:///system?socket=/run/b\u00fcro/sock", "qemu://\u4e2d/system"])
def test_a_uri_that_the_killpath_takes_can_be_read_again(uri: str) -> None:
    assert Invocation.parse([uri, UUID, "pause"]).uri == uri
    found = decode(record(uri=uri).encode())
    check(found)
    assert found.uri == uri


def test_a_field_that_no_record_has_is_refused() -> None:
    with pytest.raises(TypeError, match="a record has no pids, names"):
        Record(UUID, "vm1", "qemu:///system", "pause", pids=3, names=4)


@given(all_records)
def test_what_is_written_is_read(found: Record) -> None:
    assert fields(decode(found.encode())) == fields(found)


@given(all_records, st.data())
def test_one_changed_byte_is_detected(found: Record, data: st.DataObject) -> None:
    text = bytearray(found.encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RecordError):
        decode(bytes(text))


@given(all_records, st.integers(0, 10**6))
def test_one_cut_off_is_detected(found: Record, length: int) -> None:
    text = found.encode()
    with pytest.raises(RecordError):
        decode(text[: length % len(text)])


@given(st.binary())
@example(b"\ncrc32 ")
@example(b"")
def test_anything_else_is_no_record(data: bytes) -> None:
    with pytest.raises(RecordError):
        decode(data)


def test_a_record_is_lines_a_person_can_read() -> None:
    lines = record(name="a b\nc", leases=(Lease("LS", "disk", 3, "/p", 0),)).encode().decode("ascii")
    assert "name a\\x20b\\nc\n" in lines
    assert "lease LS disk 3 /p 0 0\n" in lines


def test_another_version_is_no_record_of_ours() -> None:
    text = record().encode().replace(b"record 2\n", b"record 3\n")
    with pytest.raises(
        RecordError, match="it is virt-sanlock-helper-record 3, not virt-sanlock-helper-record 2"
    ):
        decode(sealed(text))


def test_a_record_of_version_1_is_read() -> None:
    """It may have waited on the disk for a host that got this program meanwhile."""
    text = record(lockspaces=(Lockspace("LS", 1, "/LS", 0, 10, 7),)).encode()
    old = text.replace(b"record 2\n", b"record 1\n").replace(b"/LS 0 10 7\n", b"/LS 0 10\n")
    (lockspace,) = decode(sealed(old)).lockspaces
    assert (lockspace.path, lockspace.io_timeout, lockspace.generation) == ("/LS", 10, 0)
    # Each version has its own words, and no others.
    for version, words in ((b"1", b"/LS 0 10 7\n"), (b"2", b"/LS 0 10\n")):
        mixed = text.replace(b"record 2\n", b"record %s\n" % version).replace(b"/LS 0 10 7\n", words)
        with pytest.raises(RecordError, match="malformed"):
            decode(sealed(mixed))


# Directories


def test_written_for_its_owner_alone(tmp_path: Path) -> None:
    records = RecordDirectory(f"{tmp_path}/run/records")
    umask = os.umask(0)
    try:
        records.write(record())
    finally:
        os.umask(umask)
    assert records.uuids() == [UUID]
    assert stat.S_IMODE(os.stat(records.file(UUID)).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(records.path).st_mode) == 0o700
    found = records.read(UUID)
    assert found is not None
    assert found.name == "vm1"
    assert records.remove(UUID)
    assert not records.remove(UUID)
    assert records.read(UUID) is None
    assert os.listdir(records.path) == []


def test_no_directory_is_no_records(tmp_path: Path) -> None:
    assert RecordDirectory(f"{tmp_path}/nowhere").uuids() == []


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    records = RecordDirectory(f"{tmp_path}/records")
    os.mkdir(records.path)
    os.chmod(records.path, mode)
    with pytest.raises(PermissionError):
        records.write(record())


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = RecordDirectory(f"{tmp_path}/records")
    records.write(record(name="first"))

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        records.write(record(name="second"))
    found = records.read(UUID)
    assert found is not None
    assert found.name == "first"
    assert os.listdir(records.path) == [f"{UUID}.record"]


def test_only_what_we_alone_can_have_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = RecordDirectory(f"{tmp_path}/records")
    records.write(record())
    file = Path(records.file(UUID))
    file.chmod(0o622)
    with pytest.raises(RecordError, match="not ours alone"):
        records.read(UUID)
    file.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(RecordError, match="is owned by user"):
            records.read(UUID)
    os.link(file, tmp_path / "link")
    with pytest.raises(RecordError, match="not ours alone"):
        records.read(UUID)
    (tmp_path / "link").unlink()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match="cannot be opened"):
        records.read(UUID)
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(RecordError, match="no regular file"):
        records.read(UUID)
    file.unlink()
    (tmp_path / "elsewhere").rename(records.file("another"))
    with pytest.raises(RecordError, match="it is the record of"):
        records.read("another")


def test_what_is_set_aside_is_kept(tmp_path: Path) -> None:
    records = RecordDirectory(f"{tmp_path}/records")
    places = set()
    for _ in range(2):
        records.write(record())
        places.add(records.set_aside(UUID))
        assert records.uuids() == []
    assert all(os.path.exists(place) for place in places)
    assert len(places) == 2
