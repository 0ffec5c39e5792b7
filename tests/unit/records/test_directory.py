# SPDX-License-Identifier: LGPL-2.1-or-later
"""Directories of records that another user could have put something into, or put in another one's place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.records import snapshot
from sanlock_helper.records.directory import SET_ASIDE, RecordDirectory
from sanlock_helper.records.file_lock import locked
from sanlock_helper.records.record import Record
from sanlock_helper.records.store import RecordStore

from ..fakes import RecordedJournal

UUID = "defc17ee-2773-427c-8210-136921a454d3"
NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


def record(name: str = "vm1") -> Record:
    return Record(UUID, name, "qemu:///system", "poweroff", time=1000.0)


def to_all(path: Path) -> None:
    path.chmod(0o777)


def to_all_sticky(path: Path) -> None:
    path.chmod(0o1777)


def to_group(path: Path) -> None:
    path.chmod(0o770)


def to_another_user(path: Path) -> None:
    os.chown(path, NOBODY, -1)


def to_a_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


# What may be wrong with the directory itself; and with the one above it, in which it can be replaced.
UNSAFE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "open to all": ("run/records", to_all),
    "open to all, sticky": ("run/records", to_all_sticky),
    "open to its group": ("run/records", to_group),
    "another user's": ("run/records", to_another_user),
    "a symbolic link": ("run/records", to_a_link),
    "below one that is open to all": ("run", to_all),
    "below one that is open to its group": ("run", to_group),
    "below another user's": ("run", to_another_user),
    "below a symbolic link": ("run", to_a_link),
}


@pytest.fixture(params=UNSAFE)
def unsafe(request: pytest.FixtureRequest, tmp_path: Path) -> RecordDirectory:
    """A directory with a record in it that became unsafe since."""
    records = RecordDirectory(f"{tmp_path}/run/records")
    records.write(record())
    place, spoil = UNSAFE[request.param]
    spoil(tmp_path / place)
    return records


def content(records: RecordDirectory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(records.path).iterdir()}


def test_nothing_is_read_written_or_removed_there(unsafe: RecordDirectory) -> None:
    before = content(unsafe)
    attempts: dict[str, Callable[[], object]] = {
        "list": unsafe.uuids,
        "read": lambda: unsafe.read(UUID),
        "write": lambda: unsafe.write(record("vm2")),
        "remove": lambda: unsafe.remove(UUID),
        "set aside": lambda: unsafe.set_aside(UUID),
    }
    for name, attempt in attempts.items():
        with pytest.raises((PermissionError, NotADirectoryError)):
            pytest.fail(f"{name}: {attempt()!r}")
    assert content(unsafe) == before


def test_recovery_goes_by_no_record_from_there(unsafe: RecordDirectory, tmp_path: Path) -> None:
    journal = RecordedJournal()
    store = RecordStore(journal, unsafe.path, f"{tmp_path}/state")  # type: ignore[arg-type]
    assert store.records() == {}
    _, problems = store.records_and_problems()
    assert len(problems) == 1
    assert unsafe.path in problems[0]
    found = snapshot.take_snapshot(unsafe.path, f"{tmp_path}/state")
    assert found.records == []
    assert found.unread == problems
    # The lock beside it is in the directory above.
    try:
        assert store.gather() == {}
    except OSError as error:
        assert error.filename == f"{tmp_path}/run"
    else:
        assert store.unread == {unsafe.path}
        ((_, line),) = journal.lines
        assert unsafe.path in line


@pytest.mark.parametrize("spoil", [to_all, to_group, to_another_user, to_a_link])
def test_no_lock_is_made_there(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    run = tmp_path / "run"
    run.mkdir(0o700)
    spoil(run)
    with pytest.raises((PermissionError, NotADirectoryError)), locked(f"{run}/recover.lock", wait=False):
        pass
    assert os.listdir(run) == []


def test_one_that_is_replaced_between_two_records_gets_neither(tmp_path: Path) -> None:
    records = RecordDirectory(f"{tmp_path}/run/records")
    records.write(record())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o777)
    Path(records.path).rename(tmp_path / "moved")
    Path(records.path).symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        records.write(record("vm2"))
    assert os.listdir(elsewhere) == []


def test_one_that_is_replaced_by_a_sound_one_is_used(tmp_path: Path) -> None:
    records = RecordDirectory(f"{tmp_path}/run/records")
    records.write(record())
    Path(records.path).rename(tmp_path / "moved")
    records.write(record("vm2"))
    found = records.read(UUID)
    assert found is not None
    assert found.name == "vm2"


@pytest.mark.parametrize("spoil", [to_all, to_group, to_another_user, to_a_link])
def test_nothing_is_moved_into_a_place_that_others_can_read(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    records = RecordDirectory(f"{tmp_path}/run/records")
    records.write(record())
    aside = Path(records.path, SET_ASIDE)
    aside.mkdir(0o700)
    spoil(aside)
    with pytest.raises((PermissionError, NotADirectoryError)):
        records.set_aside(UUID)
    assert records.uuids() == [UUID]
    assert os.listdir(aside) == []


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    records = RecordDirectory(f"{tmp_path}/run/records")
    records.write(record(), durable=True)
    records.uuids()
    records.read(UUID)
    records.set_aside(UUID)
    records.remove(UUID)
    Path(records.path).chmod(0o777)
    for attempt in (records.uuids, lambda: records.write(record())):
        with pytest.raises(PermissionError):
            attempt()
    assert os.listdir("/proc/self/fd") == before
