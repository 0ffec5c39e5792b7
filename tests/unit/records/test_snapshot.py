# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records are read and left as they are; with the journal they make one history."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sanlock_helper.errors import PermanentError
from sanlock_helper.history import sources as logged
from sanlock_helper.history.outages import OutageEvent, add_records, last_events, make_outages
from sanlock_helper.journal import Journal
from sanlock_helper.leases.held import Lease
from sanlock_helper.records import snapshot
from sanlock_helper.records.directory import RecordDirectory
from sanlock_helper.records.record import IO_ERROR, Record
from sanlock_helper.records.store import RecordStore

pytestmark = pytest.mark.pure

UUID = "defc17ee-2773-427c-8210-136921a454d3"
OTHER = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"
URI = "qemu:///system"


def record(uuid: str = UUID, action: str = "pause", time: float = 1000.0, **fields: str) -> Record:
    made = Record(uuid, f"vm{uuid[0]}", URI, action, time=time, **fields)
    made.leases = (Lease("LS", "disk", 1, "/storage/disk", 0),)
    return made


@pytest.fixture
def places(tmp_path: Path) -> tuple[RecordDirectory, RecordDirectory]:
    """The directories on tmpfs and on disk."""
    return RecordDirectory(str(tmp_path / "run/records")), RecordDirectory(str(tmp_path / "state"))


def read(places: tuple[RecordDirectory, RecordDirectory]) -> snapshot.RecordSnapshot:
    return snapshot.take_snapshot(*(place.path for place in places))


def picture(top: Path) -> list[tuple[str, int, int]]:
    found = [(path, path.lstat()) for path in sorted(top.rglob("*"))]
    return [(str(path), status.st_mode, status.st_mtime_ns) for path, status in found]


def test_all_that_there_are_and_a_copy_once(places: tuple[RecordDirectory, RecordDirectory]) -> None:
    run, state = places
    assert read(places) == snapshot.RecordSnapshot([], [])
    run.write(record())
    state.write(record())
    state.write(record(OTHER, "poweroff", 900.0))
    run.write(record(OTHER, "poweroff", 2000.0))
    kept = read(places)
    assert [(found.uuid, found.time) for found in kept.records] == [
        (OTHER, 900.0),
        (UUID, 1000.0),
        (OTHER, 2000.0),
    ]
    assert kept.newest[OTHER].time == 2000.0
    assert kept.problems == []


def test_one_that_recovery_has_taken(places: tuple[RecordDirectory, RecordDirectory], tmp_path: Path) -> None:
    run, _ = places
    run.write(record())
    # A disk that cannot be written to: recovery keeps it on tmpfs, under a name of its own.
    (tmp_path / "state").write_text("no directory")
    told_lines: list[str] = []
    journal = Journal(lambda level, line: told_lines.append(line), lambda line: None)
    RecordStore(journal, run.path, f"{tmp_path}/state/records").gather()
    assert run.uuids() == []
    assert [found.uuid for found in snapshot.take_snapshot(run.path, f"{tmp_path}/missing").records] == [UUID]


def test_what_cannot_be_used_is_reported_and_left(
    places: tuple[RecordDirectory, RecordDirectory], tmp_path: Path
) -> None:
    run, state = places
    run.write(record())
    state.write(record(OTHER))
    # Others could have written it; and one that is no record, in a place that was cleaned up before.
    os.chmod(run.file(UUID), 0o666)
    Path(state.file(OTHER)).write_text("nonsense")
    (tmp_path / "state/set-aside").mkdir()
    (tmp_path / "state/set-aside/x.1").write_text("older nonsense")
    before = picture(tmp_path)
    kept = read(places)
    assert kept.records == []
    assert picture(tmp_path) == before
    corrupt, foreign, aside = kept.problems
    assert f"read {state.file(OTHER)}: its checksum is wrong" in corrupt
    assert f"read {run.file(UUID)}: it is owned by user {os.geteuid()}, mode 666" in foreign
    assert aside.startswith(f"{state.path}/set-aside/x.1: was set aside")


def test_a_directory_that_cannot_be_read_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("no directory")
    kept = snapshot.take_snapshot(f"{tmp_path}/records", f"{tmp_path}/missing")
    assert kept == snapshot.RecordSnapshot([], [f"read the records in {tmp_path}/records: Not a directory"])


def done(time: float, action: str = "pause", uuid: str = UUID) -> OutageEvent:
    return OutageEvent(time, "done", action, "vm", uuid, "done")


@pytest.mark.parametrize(
    ("event", "added"),
    [
        (done(1000.1), False),
        # The journal's clock is read a moment before.
        (done(999.5), False),
        (OutageEvent(1035.0, "failed", "pause", "", UUID, "FAILED"), False),
        (done(900.0), True),
        (done(1000.1, "poweroff"), True),
        (done(1000.1, uuid=OTHER), True),
        (done(5000.0), True),
    ],
)
def test_a_record_is_an_event_when_the_journal_has_none(event: OutageEvent, added: bool) -> None:
    events = add_records([event], [record()])
    assert events[0] == event
    assert [found.kind for found in events[1:]] == (["on record"] if added else [])


def test_what_event_a_record_is() -> None:
    told_leases = record()
    unknown = record(OTHER, "restart", unknown="sanlock: no answer")
    first, second = add_records([], [told_leases, unknown])
    assert (first.time, first.action, first.name, first.found) == (1000.0, "pause", "vmd", "running")
    assert first.text == "on record: found running, 1 lease held; how it ended is not in the journal"
    assert "leases not known: sanlock: no answer" in second.text
    assert last_events([first])[UUID] == first


def test_a_guest_that_stopped_by_itself_was_called_for_by_no_helper() -> None:
    (event,) = add_records([], [record(cause=IO_ERROR, found="paused (I/O error)")])
    assert event.text == (
        "on record: found paused (I/O error), it stopped by an I/O error, 1 lease held until then"
    )


def test_records_of_an_outage_without_a_journal_are_one_outage() -> None:
    records = [record(), record(OTHER, "poweroff", 1001.0, mark="refused", why="no")]
    (outage,) = make_outages(add_records([], records), {one.uuid: one for one in records})
    assert (outage.began, outage.lost, list(outage.domains)) == (1000.0, [], [UUID, OTHER])
    outcome = outage.domains[UUID].outcome
    assert outcome is not None
    assert outcome.kind == "on record"
    assert outage.domains[OTHER].waiting is records[1]


def test_what_waits_is_marked_in_the_last_outage_only() -> None:
    early, late = done(1000.0), done(9000.0)
    first, second = make_outages([early, late], {UUID: record(time=8999.0), OTHER: record(OTHER)})
    assert first.domains[UUID].waiting is None
    assert second.domains[UUID].waiting is not None


def test_history_without_a_journal(
    places: tuple[RecordDirectory, RecordDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state = places
    run.write(record())
    state.write(record(OTHER, time=10.0))
    problem = PermanentError("read the journal", "it is not there")

    def read_journal(since: float, seconds: float) -> list[None]:
        raise problem

    monkeypatch.setattr(logged, "read_journal", read_journal)
    kept = read(places)
    monkeypatch.setattr(snapshot, "take_snapshot", lambda: kept)
    found = logged.gather(500.0)
    assert [event.uuid for event in found.events] == [UUID]
    assert list(found.waiting) == [UUID]
    assert found.problems == [str(problem)]
    assert found.journal_error is problem
    # Another host's journal has nothing to do with the records here.
    (Path(run.path) / "journal").write_text("")
    assert logged.gather(500.0, f"{run.path}/journal") == logged.History([], {}, [], None)


def test_a_record_that_recovery_moves_meanwhile_is_not_missed(
    places: tuple[RecordDirectory, RecordDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state = places
    list_uuids = RecordDirectory.uuids

    def list_then_move(place: RecordDirectory) -> list[str]:
        uuids = list_uuids(place)
        if os.path.exists(run.file(UUID)):
            os.makedirs(state.path, exist_ok=True)
            os.rename(run.file(UUID), state.file(UUID))
        return uuids

    monkeypatch.setattr(RecordDirectory, "uuids", list_then_move)
    run.write(record())
    assert [found.uuid for found in read(places).records] == [UUID]
    state.remove(UUID)
    run.write(record())
    assert list(RecordStore(Journal(), run.path, state.path).records()) == [UUID]
