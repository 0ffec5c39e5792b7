# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verb recover, its lock, and what it reads of libvirt's and sanlock's."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("libvirt")


from sanlock_helper.cli.live_lines import LiveLines
from sanlock_helper.cli.main import main
from sanlock_helper.cli.verbs import policy, recover
from sanlock_helper.errors import PermanentError, TransientError
from sanlock_helper.leases import error_texts as sanlock_errors
from sanlock_helper.leases.held import Lease
from sanlock_helper.records.directory import RecordDirectory
from sanlock_helper.records.record import Record
from sanlock_helper.records.single_instance import only_instance
from sanlock_helper.records.store import RecordStore
from sanlock_helper.threads import within
from sanlock_helper.virt import qemu_sanlock_conf

from ..fakes import RecordedJournal
from ..recovery_world import SPACE, UUID

OTHER = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    record = Record(UUID, "vm1", "qemu:///system", "pause", time=1e9)
    record.lockspaces, record.leases = (SPACE,), (Lease("LS", "disk", 3, "/p", 7),)
    RecordDirectory(f"{tmp_path}/run").write(record)
    return RecordStore(RecordedJournal(), f"{tmp_path}/run", f"{tmp_path}/state")  # type: ignore[arg-type]


def test_list(store: RecordStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover._list(store, as_json=False) == 0
    assert re.fullmatch(rf"vm1 {UUID} resume since 2001-09-\d\d [\d:]+: waiting\n", capsys.readouterr().out)


@pytest.mark.parametrize("option", ["--hold", "--release"])
def test_the_whole_host_is_held_or_nothing(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recover", option, "-c", "qemu:///session"]) == 2
    assert "--connect: --hold and --release are for the whole host" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "why", "hint"),
    [
        (
            OSError(30, "Read-only file system", "/var/lib/x"),
            "/var/lib/x: Read-only file system",
            "findmnt -T /var/lib",
        ),
        (
            OSError(28, "No space left on device", "/a/hold"),
            "/a/hold: No space left on device",
            "df -h /a; df -i /a",
        ),
        (OSError(20, "Not a directory", "/a/hold"), "/a/hold: Not a directory", "ls -ld /a/hold"),
        (OSError(40, "Too many levels", "/a"), "/a: Too many levels", "ls -ld /a"),
        (OSError(39, "Directory not empty", "/a/hold"), "/a/hold: Directory not empty", "rm -r /a/hold"),
        (OSError(13, "Permission denied", "/run/x"), "/run/x: Permission denied", "run this as root"),
        (OSError(28, "No space left on device"), "No space left on device", ""),
        (OSError("a reason"), "a reason", ""),
    ],
)
def test_an_error_of_the_system_names_its_file(error: OSError, why: str, hint: str) -> None:
    assert recover._why(error) == (why, hint)


def test_no_name_and_no_reason_moves_the_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a\nb\x9b2J\u202e: x"
    record = Record(UUID, name, "qemu:///system", "pause", mark="refused", why="x\x1b[2J\ny", time=1e300)
    RecordDirectory(f"{tmp_path}/run").write(record)
    recover._list(RecordStore(RecordedJournal(), f"{tmp_path}/run", f"{tmp_path}/state"), as_json=False)  # type: ignore[arg-type]
    first, why = capsys.readouterr().out.splitlines()
    assert first.startswith(f"a\\nb\\x9b2J\\u202e: x {UUID} resume since ")
    assert why == "    x\\x1b[2J\\ny"
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    with pytest.raises(PermanentError, match="not confirmed"):
        recover._ask(record)
    assert capsys.readouterr().out.splitlines()[0] == (
        "a\\nb\\x9b2J\\u202e: x was paused when its leases were lost: x\\x1b[2J\\ny"
    )
    written: list[str] = []
    LiveLines(True, written.append, lambda: 80).show([f"{name}: start: y\n"])
    assert written == ["a\\nb\\x9b2J\\u202e: x: start: y\\n"]


def test_only_the_records_of_one_connection(
    store: RecordStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RecordDirectory(f"{tmp_path}/run").write(Record(OTHER, "vm2", "qemu:///session", "poweroff", time=1e9))
    for uri, names in ((None, ["vm1", "vm2"]), ("qemu:///system", ["vm1"]), ("qemu:///session", ["vm2"])):
        assert recover._list(store, as_json=False, uri=uri) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names
        one = RecordStore(RecordedJournal(), f"{tmp_path}/run", f"{tmp_path}/state", uri)  # type: ignore[arg-type]
        assert sorted(record.name for record in one.gather().values()) == names
    with pytest.raises(PermanentError, match="there is no record of it"):
        recover._find(store, "vm2", "qemu:///system")
    assert recover._forget(store, RecordedJournal(), "vm2", "qemu:///session") == 0  # type: ignore[arg-type]
    # What is left out is left as it is.
    assert set(store.records()) == {UUID}


def test_list_json(store: RecordStore, capsys: pytest.CaptureFixture[str]) -> None:
    recover._list(store, as_json=True)
    # Not in a package's %check: it needs jsonschema.
    found = pytest.importorskip("tests.schemas").validated(capsys.readouterr().out, "recover-list")
    assert found == {
        "schema": "urn:virt-sanlock-helper:recover-list:1",
        "records": [
            {
                "uuid": UUID,
                "name": "vm1",
                "uri": "qemu:///system",
                "action": "pause",
                "todo": "resume",
                "time": 1e9,
                "why": "",
                "unknown": "",
                "state": "waiting",
                "lockspaces": [
                    {"name": "LS", "host_id": 1, "path": "/storage/LS", "offset": 0, "io_timeout": 1}
                ],
                "leases": [
                    {
                        "lockspace": "LS",
                        "resource": "disk",
                        "version": 3,
                        "path": "/p",
                        "offset": 7,
                        "shared": False,
                    }
                ],
            }
        ],
    }


def test_list_changes_nothing(store: RecordStore, tmp_path: Path) -> None:
    (tmp_path / "run" / "bad.record").write_text("")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    recover._list(store, as_json=False)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("text", [UUID, "vm1"])
@pytest.mark.parametrize("gathered", [False, True])
def test_forget(store: RecordStore, text: str, gathered: bool) -> None:
    if gathered:
        store.gather()
    assert recover._forget(store, RecordedJournal(), text) == 0  # type: ignore[arg-type]
    assert store.records() == {}


# What cannot be read


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Be another user than root, as far as files are concerned."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def hidden(store: RecordStore, tmp_path: Path) -> RecordStore:
    """Directories as they are on a host: for root alone."""
    store.gather()
    write_another(tmp_path)
    for path in (tmp_path / "run", tmp_path / "state"):
        path.chmod(0o700)
    # pytest's own directories are for root alone, too.
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o711)
    return store


def write_another(tmp_path: Path) -> None:
    RecordDirectory(f"{tmp_path}/run").write(Record(OTHER, "vm2", "qemu:///system", "poweroff", time=1e9))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
@pytest.mark.parametrize("as_json", [False, True])
def test_list_as_another_user_is_an_error(
    hidden: RecordStore, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with unprivileged():
        assert recover._list(hidden, as_json) == 1
    printed = capsys.readouterr()
    assert "run: Permission denied (run this as root)" in printed.err
    assert "state: Permission denied (run this as root)" in printed.err
    assert UUID not in printed.out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
@pytest.mark.parametrize("verb", ["forget", "resume"])
def test_what_cannot_be_read_is_not_reported_as_missing(hidden: RecordStore, verb: str) -> None:
    journal: Any = RecordedJournal()
    calls = {
        "forget": lambda: recover._forget(hidden, journal, "vm1"),
        "resume": lambda: recover._resume_anyway(hidden, journal, "vm1", yes=True),
    }
    with unprivileged(), pytest.raises(PermanentError) as caught:
        calls[verb]()
    assert "Permission denied (run this as root)" in caught.value.why
    assert "no record" not in caught.value.why
    assert set(hidden.records()) == {UUID, OTHER}


@pytest.mark.parametrize("broken", ["run", "state"])
@pytest.mark.parametrize("as_json", [False, True])
def test_list_prints_what_can_be_read(
    store: RecordStore, tmp_path: Path, broken: str, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    store.gather()
    write_another(tmp_path)
    shutil.rmtree(tmp_path / broken)
    (tmp_path / broken).write_text("no directory")
    left = {"run": UUID, "state": OTHER}[broken]
    assert recover._list(store, as_json) == 1
    printed = capsys.readouterr()
    assert left in printed.out
    assert "Not a directory" in printed.err
    if as_json:
        found = pytest.importorskip("tests.schemas").validated(printed.out, "recover-list")
        assert [problem for problem in found["problems"] if "Not a directory" in problem]


def test_list_prints_the_records_beside_a_bad_one(
    store: RecordStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / f"{OTHER}.record").write_text("no record")
    assert recover._list(store, as_json=False) == 1
    printed = capsys.readouterr()
    assert f"{OTHER}.record: its checksum is wrong" in printed.err
    assert UUID in printed.out


def test_no_directories_are_no_records(tmp_path: Path) -> None:
    nothing = RecordStore(RecordedJournal(), f"{tmp_path}/a", f"{tmp_path}/b")  # type: ignore[arg-type]
    assert recover._list(nothing, as_json=False) == 0


def test_a_name_that_two_records_have(store: RecordStore, tmp_path: Path) -> None:
    RecordDirectory(f"{tmp_path}/run").write(Record(OTHER, "vm1", "qemu:///system", "poweroff", time=1e9))
    with pytest.raises(PermanentError, match="2 records have this name"):
        recover._forget(store, RecordedJournal(), "vm1")  # type: ignore[arg-type]
    assert set(store.records()) == {UUID, OTHER}


@pytest.mark.parametrize("text", [OTHER, OTHER.upper()])
def test_a_name_that_is_another_domains_uuid(store: RecordStore, tmp_path: Path, text: str) -> None:
    for uuid, name in ((UUID, OTHER), (OTHER, "vm2")):
        RecordDirectory(f"{tmp_path}/run").write(Record(uuid, name, "qemu:///system", "poweroff", time=1e9))
    recover._forget(store, RecordedJournal(), text)  # type: ignore[arg-type]
    assert set(store.records()) == {UUID}


# A libvirtd that does not answer


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """libvirtd hangs; the URIs that were asked for."""
    asked: list[str] = []
    end = threading.Event()

    def connect(uri: str, seconds: float = 0.2) -> Any:
        asked.append(uri)
        return within(seconds, f"connect to {uri}", end.wait)

    monkeypatch.setattr(recover, "connect_within", connect)
    monkeypatch.setattr(policy, "connect_within", connect)
    yield asked
    end.set()


def test_forget_does_not_wait_for_libvirtd_without_end(
    store: RecordStore, tmp_path: Path, hang: list[str]
) -> None:
    RecordDirectory(f"{tmp_path}/run").write(Record(OTHER, "vm2", "qemu:///session", "poweroff", time=1e9))
    with pytest.raises(PermanentError, match=r"no record of it; .*no answer within"):
        recover._forget(store, RecordedJournal(), "another name")  # type: ignore[arg-type]
    # By the records' own URIs; and not at all where a record has the name.
    assert hang == ["qemu:///session", "qemu:///system"]
    assert recover._forget(store, RecordedJournal(), "vm1") == 0  # type: ignore[arg-type]
    assert len(hang) == 2


def test_policy_does_not_wait_for_libvirtd_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    class Connection:
        def lookupByName(self, name: str) -> None:
            end.wait()

    monkeypatch.setattr(policy, "connect_within", lambda uri: Connection())
    monkeypatch.setattr(policy, "LIBVIRT_SECONDS", 0.2)
    parser = argparse.ArgumentParser()
    policy.add_arguments(parser)
    with pytest.raises(TransientError, match="no answer within"):
        policy.run(parser.parse_args(["vm1"]))
    end.set()


def test_one_at_a_time(tmp_path: Path) -> None:
    path = f"{tmp_path}/run/lock"
    first = only_instance(path)
    first.__enter__()
    with pytest.raises(PermanentError, match="another recovery is at work, process"):
        only_instance(path).__enter__()
    first.__exit__(None, None, None)
    with only_instance(path):
        pass


def test_the_lower_end_of_a_terminal() -> None:
    written: list[str] = []
    screen = LiveLines(True, written.append, lambda: 10)
    screen.show(["a", "0123456789"])
    screen.show(["a", "0123456789"])
    screen.log("stays")
    screen.show([])
    assert written == ["a\n012345678", "\x1b[2A\x1b[Jstays\na\n012345678", "\x1b[2A\x1b[J\x1b[A"]


def test_no_terminal_gets_the_lines_that_stay() -> None:
    written: list[str] = []
    screen = LiveLines(False, written.append, lambda: 10)
    screen.show(["a"])
    screen.log("stays")
    assert written == ["stays"]


# RecordStore


def test_a_record_outlives_its_copying_being_cut_short(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordDirectory, "write", lambda self, record, durable=False: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        store.gather()
    monkeypatch.undo()
    assert set(store.gather()) == {UUID}


def test_a_record_that_the_helper_takes_back_meanwhile(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = RecordStore._read

    def take_back(self: RecordStore, records: RecordDirectory, uuid: str) -> Record | None:
        found = read(self, records, uuid)
        records.remove(uuid)
        return found

    monkeypatch.setattr(RecordStore, "_read", take_back)
    assert store.gather() == {}


def test_a_mark_does_not_bring_a_record_back(store: RecordStore) -> None:
    record = store.gather()[UUID]
    store.forget(UUID)
    assert not store.mark(record, "starting")
    assert store.records() == {}


def test_a_newer_record_is_neither_marked_nor_removed(store: RecordStore, tmp_path: Path) -> None:
    old = store.gather()[UUID]
    RecordDirectory(f"{tmp_path}/run").write(Record(UUID, "vm1", "qemu:///system", "poweroff", time=2e9))
    store.gather()
    assert not store.mark(old, "resuming")
    assert not store.remove(old)
    (found,) = store.gather().values()
    assert (found.time, found.mark) == (2e9, "")


# libvirt's configuration, sanlock's errors


def test_the_lockspace_of_the_disks(tmp_path: Path) -> None:
    conf = tmp_path / "qemu-sanlock.conf"
    conf.write_text(
        "# auto_disk_leases = 0\nauto_disk_leases = 1\n  host_id=7 # ours\n"
        'disk_lease_dir = "/leases"\nio_timeout = 5\nuser = \'root\'\nrequire = [ "a" ]\n'
    )
    found = qemu_sanlock_conf.auto_lockspace(str(conf))
    assert found is not None
    assert (found.name, found.host_id, found.path, found.offset, found.io_timeout) == (
        *("__LIBVIRT__DISKS__", 7, "/leases/__LIBVIRT__DISKS__", 0, 5),
    )


@pytest.mark.parametrize(
    "again", ["host_id = 8\n", 'host_id = "8"\n', "host_id = [ 8 ]\n", "host_id = 0; io_timeout = 9\n"]
)
def test_of_two_host_ids_the_first_counts(tmp_path: Path, again: str) -> None:
    conf = tmp_path / "qemu-sanlock.conf"
    first = "host_id = 7; io_timeout = 5; auto_disk_leases = 1; disk_lease_dir = '/leases'\n"
    conf.write_text(f"{first}{again}auto_disk_leases = 0\ndisk_lease_dir = '/other'\n")
    found = qemu_sanlock_conf.auto_lockspace(str(conf))
    assert found is not None
    assert (found.host_id, found.io_timeout, found.path) == (7, 5, "/leases/__LIBVIRT__DISKS__")


@pytest.mark.parametrize(
    "text", ["", "host_id = 1\n", "auto_disk_leases = 1\n", "auto_disk_leases = 0\nhost_id = 1"]
)
def test_no_lockspace_of_the_disks(tmp_path: Path, text: str) -> None:
    conf = tmp_path / "qemu-sanlock.conf"
    conf.write_text(text)
    assert qemu_sanlock_conf.auto_lockspace(str(conf)) is None
    assert qemu_sanlock_conf.auto_lockspace(f"{tmp_path}/nowhere") is None


@pytest.mark.parametrize("line", ["oops", "host_id = one", "disk_lease_dir = 5", "x = [", "host_id = -1"])
def test_no_lockspace_where_libvirt_refuses_the_file(tmp_path: Path, line: str) -> None:
    conf = tmp_path / "qemu-sanlock.conf"
    conf.write_text(f"{line}\nauto_disk_leases = 1\nhost_id = 1\n")
    assert qemu_sanlock_conf.auto_lockspace(str(conf)) is None


def test_errors_have_words_and_remedies() -> None:
    assert "not joined" in sanlock_errors.explain(28)[0]
    assert "recover" in sanlock_errors.explain(-28)[1]
    assert "held by another host" in sanlock_errors.explain(-243)[0]
    assert "used by another host" in sanlock_errors.explain(262)[0]
    assert sanlock_errors.explain(-1000)[0] == "sanlock error -1000"
    assert sanlock_errors.explain(1)[0] == "Operation not permitted (sanlock error -1)"
    assert all(why and not why.endswith(".") for why, hint in sanlock_errors.ERRORS.values())
    assert "one version of sanlock on all hosts" in sanlock_errors.explain(-204)[1]
    # sanlock 5 has moved these, and left the old numbers free.
    for old, new in ((-250, -252), (-251, -253)):
        assert sanlock_errors.ERRORS[old] == sanlock_errors.ERRORS[new]
    for new in (-248, -249, -263, *range(-288, -279)):
        assert new in sanlock_errors.ERRORS
