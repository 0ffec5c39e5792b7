# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verb recover, its lock, and what it reads of libvirt's and sanlock's."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

pytest.importorskip("libvirt")


from sanlock_helper import qemu_sanlock_conf, sanlock_errors
from sanlock_helper.book import Book
from sanlock_helper.errors import FinalError
from sanlock_helper.instance import only_instance
from sanlock_helper.leases import Lease
from sanlock_helper.record import Record
from sanlock_helper.records import Records
from sanlock_helper.screen import Screen
from sanlock_helper.verbs import recover

from .recovery_world import SPACE, UUID, Story


@pytest.fixture
def book(tmp_path: Path) -> Book:
    record = Record(UUID, "vm1", "qemu:///system", "pause", time=1e9)
    record.lockspaces, record.leases = (SPACE,), (Lease("LS", "disk", 3, "/p", 7),)
    Records(f"{tmp_path}/run").write(record)
    return Book(Story(), f"{tmp_path}/run", f"{tmp_path}/state")  # type: ignore[arg-type]


def test_list(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover._list(book, as_json=False) == 0
    assert re.fullmatch(rf"vm1 {UUID} resume since 2001-09-\d\d [\d:]+: waiting\n", capsys.readouterr().out)


def test_no_name_and_no_reason_moves_the_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a\nb\x9b2J\u202e: x"
    record = Record(UUID, name, "qemu:///system", "pause", mark="refused", why="x\x1b[2J\ny", time=1e300)
    Records(f"{tmp_path}/run").write(record)
    recover._list(Book(Story(), f"{tmp_path}/run", f"{tmp_path}/state"), as_json=False)  # type: ignore[arg-type]
    first, why = capsys.readouterr().out.splitlines()
    assert first.startswith(f"a\\nb\\x9b2J\\u202e: x {UUID} resume since ")
    assert why == "    x\\x1b[2J\\ny"
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    with pytest.raises(FinalError, match="not confirmed"):
        recover._ask(record)
    assert capsys.readouterr().out.splitlines()[0] == (
        "a\\nb\\x9b2J\\u202e: x was paused when its leases were lost: x\\x1b[2J\\ny"
    )
    written: list[str] = []
    Screen(True, written.append, lambda: 80).show([f"{name}: start: y\n"])
    assert written == ["a\\nb\\x9b2J\\u202e: x: start: y\\n"]


def test_list_json(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    recover._list(book, as_json=True)
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


def test_list_changes_nothing(book: Book, tmp_path: Path) -> None:
    (tmp_path / "run" / "bad.record").write_text("")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    recover._list(book, as_json=False)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("text", [UUID, "vm1"])
@pytest.mark.parametrize("gathered", [False, True])
def test_forget(book: Book, text: str, gathered: bool) -> None:
    if gathered:
        book.gather()
    assert recover._forget(book, Story(), text) == 0  # type: ignore[arg-type]
    assert book.look() == {}


def test_one_at_a_time(tmp_path: Path) -> None:
    path = f"{tmp_path}/run/lock"
    first = only_instance(path)
    first.__enter__()
    with pytest.raises(FinalError, match="another recovery is at work, process"):
        only_instance(path).__enter__()
    first.__exit__(None, None, None)
    with only_instance(path):
        pass


def test_the_lower_end_of_a_terminal() -> None:
    written: list[str] = []
    screen = Screen(True, written.append, lambda: 10)
    screen.show(["a", "0123456789"])
    screen.show(["a", "0123456789"])
    screen.tell("stays")
    screen.show([])
    assert written == ["a\n012345678", "\x1b[2A\x1b[Jstays\na\n012345678", "\x1b[2A\x1b[J\x1b[A"]


def test_no_terminal_gets_the_lines_that_stay() -> None:
    written: list[str] = []
    screen = Screen(False, written.append, lambda: 10)
    screen.show(["a"])
    screen.tell("stays")
    assert written == ["stays"]


# Book


def test_a_record_outlives_its_copying_being_cut_short(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Records, "write", lambda self, record, durable=False: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        book.gather()
    monkeypatch.undo()
    assert set(book.gather()) == {UUID}


def test_a_record_that_the_helper_takes_back_meanwhile(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Book._read

    def take_back(self: Book, records: Records, uuid: str) -> Record | None:
        found = read(self, records, uuid)
        records.remove(uuid)
        return found

    monkeypatch.setattr(Book, "_read", take_back)
    assert book.gather() == {}


def test_a_mark_does_not_bring_a_record_back(book: Book) -> None:
    record = book.gather()[UUID]
    book.forget(UUID)
    assert not book.mark(record, "starting")
    assert book.look() == {}


def test_a_newer_record_is_neither_marked_nor_removed(book: Book, tmp_path: Path) -> None:
    old = book.gather()[UUID]
    Records(f"{tmp_path}/run").write(Record(UUID, "vm1", "qemu:///system", "poweroff", time=2e9))
    book.gather()
    assert not book.mark(old, "resuming")
    assert not book.remove(old)
    (found,) = book.gather().values()
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
    conf.write_text(f"auto_disk_leases = 1\nhost_id = 1\n{line}\n")
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
