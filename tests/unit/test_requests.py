# SPDX-License-Identifier: LGPL-2.1-or-later
"""The spool on a real directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sanlock_helper.grace import Deadline
from sanlock_helper.invocation import Invocation
from sanlock_helper.requests import DONE, TELLING, Receipt, Request, Spool, SpoolError

pytestmark = pytest.mark.pure

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
URI = "qemu:///system"


def request(action: str = "pause", start: float = 1000.0, pid: int | None = None, uri: str = URI) -> Request:
    return Request.of(Invocation(uri, UUID, action, pid), Deadline(start, 40))


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def spool(runtime: Path) -> Spool:
    return Spool.open(str(runtime), owner=os.geteuid())


def files(runtime: Path) -> list[str]:
    return sorted(os.listdir(runtime / "requests"))


def test_a_request_is_read_as_it_was_written(spool: Spool, runtime: Path) -> None:
    written = request(pid=4711, uri="test:///tmp/a b/é.xml")
    spool.write(written)
    (name,) = spool.names()
    assert name == f"{UUID}.pause.0000001000000000-{os.getpid()}"
    read = spool.read(name)
    assert read is not None
    for field in ("uri", "uuid", "action", "pid", "name", "run", "outcome"):
        assert getattr(read, field) == getattr(written, field)
    for field in ("start", "kill", "end"):
        assert getattr(read.deadline, field) == getattr(written.deadline, field)
    assert (runtime / "requests" / name).stat().st_mode & 0o777 == 0o600


def test_the_directories_are_made_and_private(tmp_path: Path) -> None:
    path = tmp_path / "made"
    Spool.open(str(path), owner=os.geteuid())
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / "requests").stat().st_mode & 0o777 == 0o700


def test_requests_come_in_the_order_of_their_start(spool: Spool) -> None:
    for start in (1001.5, 999.0, 1000.25):
        spool.write(request(start=start))
    starts = [name.split(".")[2][:16] for name in spool.names()]
    assert starts == sorted(starts)
    assert starts[0] == "0000000999000000"


def test_the_steps_of_a_request(spool: Spool) -> None:
    spool.write(request())
    (name,) = spool.unserved()
    done = spool.finish(name, "notice", "pause vm1: done")
    assert spool.names() == [name + DONE]
    assert spool.unserved() == []
    read = spool.read(done)
    assert read is not None
    assert read.outcome == ("notice", "pause vm1: done")
    receipt = Receipt(spool, done)
    assert receipt.telling()
    assert spool.names() == [name + TELLING]
    receipt.told()
    assert spool.names() == []


def test_an_outcome_is_told_by_one(spool: Spool) -> None:
    spool.write(request())
    done = spool.finish(spool.names()[0], "notice", "done")
    first, second = Receipt(spool, done), Receipt(spool, done)
    assert first.telling()
    assert not second.telling()
    second.told()
    assert spool.names() == [done[: -len(DONE)] + TELLING]


def test_the_run_is_noted_for_the_next_agent(spool: Spool) -> None:
    spool.write(request("restart"))
    (name,) = spool.names()
    spool.note_run(name, 7)
    read = spool.read(name)
    assert read is not None
    assert read.run == 7


def test_who_waits_reads_the_outcome_when_it_was_told(spool: Spool) -> None:
    mine = request()
    spool.write(mine, keep=True)
    assert spool.outcome_of(mine) is None
    done = spool.finish(mine.name, "crit", "pause vm1: FAILED")
    assert spool.outcome_of(mine) is None
    receipt = Receipt(spool, done)
    receipt.telling()
    receipt.told()
    assert spool.outcome_of(mine) == ("crit", "pause vm1: FAILED")
    os.close(mine.descriptor)


@pytest.mark.parametrize(
    "content", [b"", b"1\n", b"2\n1\n2\n3\n\nqemu:///system\n", b"1\nx\n2\n3\n\nqemu:///system\n", b"\xff\0"]
)
def test_a_file_that_is_no_request_is_refused(spool: Spool, runtime: Path, content: bytes) -> None:
    name = f"{UUID}.pause.0000001000000000-1"
    (runtime / "requests" / name).write_bytes(content)
    with pytest.raises(SpoolError, match="not one of this program's"):
        spool.read(name)


@pytest.mark.parametrize("name", ["x", "a.kill.1-1", "..."])
def test_a_name_that_is_no_request_is_refused(spool: Spool, runtime: Path, name: str) -> None:
    (runtime / "requests" / name).write_text(request().text())
    with pytest.raises(SpoolError, match="not one of this program's"):
        spool.read(name)


def test_a_planted_symbolic_link_is_not_followed(spool: Spool, runtime: Path) -> None:
    name = f"{UUID}.pause.0000001000000000-1"
    (runtime / "other").write_text(request().text())
    (runtime / "requests" / name).symlink_to("../other")
    with pytest.raises(SpoolError):
        spool.read(name)


def test_a_request_that_is_gone_is_nothing(spool: Spool) -> None:
    assert spool.read("gone") is None
    spool.remove("gone")
    spool.finish("gone", "notice", "line")


def test_leftovers_of_dead_writers_are_swept(spool: Spool, runtime: Path) -> None:
    for start in (100, 1000):
        (runtime / "requests" / f".{UUID}.pause.{start * 10**6:016d}-1").touch()
    (runtime / "requests" / ".other").touch()
    spool.sweep(now=1010.0)
    assert files(runtime) == [f".{UUID}.pause.{1000 * 10**6:016d}-1", ".other"]


def test_a_write_that_fails_leaves_nothing(spool: Spool, runtime: Path) -> None:
    spool.write(request())
    # The same name again: as if the directory could not take it.
    (runtime / "requests" / f".{spool.names()[0]}").touch()
    with pytest.raises(SpoolError, match="cannot be used"):
        spool.write(request())
    assert len(spool.names()) == 1


def plant_file(path: Path) -> None:
    path.touch()


def plant_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to("elsewhere")


def plant_open(path: Path) -> None:
    path.mkdir()
    path.chmod(0o750)


@pytest.mark.parametrize(
    ("plant", "why"),
    [(plant_file, "is not a directory"), (plant_link, "is not a directory"), (plant_open, "chmod it to 700")],
)
@pytest.mark.parametrize("inner", [False, True])
def test_a_directory_that_is_not_ours_alone_is_refused(
    tmp_path: Path, plant: object, why: str, inner: bool
) -> None:
    path = tmp_path / "run"
    if inner:
        path.mkdir(mode=0o700)
    assert callable(plant)
    plant(path / "requests" if inner else path)
    with pytest.raises(SpoolError, match=why):
        Spool.open(str(path), owner=os.geteuid())


def test_another_owner_is_refused(runtime: Path) -> None:
    with pytest.raises(SpoolError, match="belongs to user"):
        Spool.open(str(runtime), owner=os.geteuid() + 1)


def test_a_missing_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="No such file"):
        Spool.open(str(tmp_path / "no" / "run"), owner=os.geteuid())
