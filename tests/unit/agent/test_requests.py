# SPDX-License-Identifier: LGPL-2.1-or-later
"""The spool on a real directory."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import pytest

from sanlock_helper import call
from sanlock_helper.agent.requests import Receipt, Request, Requests
from sanlock_helper.agent.stand_by import StandBy
from sanlock_helper.escapes import printable
from sanlock_helper.events import Event
from sanlock_helper.invocation import Invocation
from sanlock_helper.leases.grace import Deadline
from sanlock_helper.spool import DONE, LOGGING, TAKEN, Spool, SpoolError

pytestmark = pytest.mark.pure

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
URI = "qemu:///system"
# What Spool.write() writes.
TEXT = f"2\n1000.0\n\n\n{URI}\n"


def wanted(action: str = "pause", pid: int | None = None, budget: float | None = None) -> Invocation:
    return Invocation(URI, UUID, action, pid, budget)


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def spool(runtime: Path) -> Spool:
    return Spool.open(str(runtime), owner=os.geteuid())


@pytest.fixture
def requests(spool: Spool) -> Requests:
    return Requests(spool, grace=40)


def files(runtime: Path) -> list[str]:
    return sorted(os.listdir(runtime / "requests"))


@pytest.mark.parametrize(("budget", "end"), [(None, 1035.5), (90.0, 1090.5)])
def test_a_request_is_read_as_it_was_written(
    spool: Spool, requests: Requests, runtime: Path, budget: float | None, end: float
) -> None:
    uri = "test:///tmp/a b/é.xml"
    name = spool.write(Invocation(uri, UUID, "pause", 4711, budget), 1000.5)
    assert requests.names() == [name]
    assert name == f"{UUID}.pause.0000001000500000-{os.getpid()}"
    read = requests.read(name)
    assert read is not None
    assert (read.uri, read.uuid, read.action, read.pid, read.name) == (uri, UUID, "pause", 4711, name)
    assert (read.run, read.outcome) == (None, None)
    # From the request on, whenever it is read; sanlock's own clock does not know the budget.
    assert (read.deadline.start, read.deadline.expires, read.deadline.kill_at) == (1000.5, end, 1040.5)
    assert (runtime / "requests" / name).stat().st_mode & 0o777 == 0o600


def test_the_directories_are_made_and_private(tmp_path: Path) -> None:
    path = tmp_path / "made"
    Spool.open(str(path), owner=os.geteuid())
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / "requests").stat().st_mode & 0o777 == 0o700


def test_requests_come_in_the_order_of_their_start(spool: Spool) -> None:
    for start in (1001.5, 999.0, 1000.25):
        spool.write(wanted(), start)
    starts = [name.split(".")[2][:16] for name in spool.names()]
    assert starts == sorted(starts)
    assert starts[0] == "0000000999000000"


def test_the_steps_of_a_request(spool: Spool, requests: Requests) -> None:
    spool.write(wanted(), 1000.0)
    (name,) = spool.unserved()
    done = requests.finish(name, "notice", "pause vm1: done")
    assert done is not None
    assert spool.names() == [name + DONE]
    assert spool.unserved() == []
    read = requests.read(done)
    assert read is not None
    assert read.outcome == ("notice", "pause vm1: done")
    receipt = Receipt(requests, done)
    assert receipt.logging()
    assert spool.names() == [name + LOGGING]
    receipt.logged()
    assert spool.names() == []


def test_an_outcome_is_logged_by_one(spool: Spool, requests: Requests) -> None:
    spool.write(wanted(), 1000.0)
    done = requests.finish(spool.names()[0], "notice", "done")
    assert done is not None
    first, second = Receipt(requests, done), Receipt(requests, done)
    assert first.logging()
    assert not second.logging()
    second.logged()
    assert spool.names() == [done[: -len(DONE)] + LOGGING]


@pytest.mark.parametrize("line", ["a\nrun\t7\n", "a\tb", "\n\n", "crit\tb\n\nnotice\tc", "x\x00\udcff\u2028"])
def test_any_text_is_one_note(spool: Spool, requests: Requests, line: str) -> None:
    spool.write(wanted(), 1000.0)
    done = requests.finish(spool.names()[0], "error", line)
    assert done is not None
    read = requests.read(done)
    assert read is not None
    assert (read.run, read.outcome) == (None, ("error", printable(line)))


def test_the_run_is_noted_for_the_next_agent(spool: Spool, requests: Requests) -> None:
    spool.write(wanted("restart"), 1000.0)
    (name,) = spool.names()
    requests.save_run(name, 7)
    read = requests.read(name)
    assert read is not None
    assert read.run == 7


def test_a_process_that_waits_reads_the_outcome_once_it_was_logged(spool: Spool, requests: Requests) -> None:
    invocation = wanted()
    mine = Request.of(invocation, Deadline(1000.0, 40), spool.write(invocation, 1000.0, keep=True))
    assert requests.outcome_of(mine) is None
    done = requests.finish(mine.name, "crit", "pause vm1: FAILED")
    assert done is not None
    assert requests.outcome_of(mine) is None
    receipt = Receipt(requests, done)
    receipt.logging()
    receipt.logged()
    assert requests.outcome_of(mine) == ("crit", "pause vm1: FAILED")
    os.close(spool.own_request_fd)


@pytest.mark.parametrize(
    ("level", "line", "failed"),
    [
        ("notice", "pause vm1: done", False),
        ("error", "restart vm1: not done", True),
        ("crit", "pause vm1: FAILED\nnotice\tdone", True),
        ("notice", "error\tcrit\t", False),
    ],
)
def test_a_process_that_did_not_serve_its_request_knows_whether_that_failed(
    spool: Spool, requests: Requests, level: str, line: str, failed: bool
) -> None:
    name = spool.write(wanted(), 1000.0)
    assert not spool.has_failed()
    requests.save_run(name, 7)
    done = requests.finish(name, level, line)
    assert done is not None
    assert not spool.has_failed()
    receipt = Receipt(requests, done)
    receipt.logging()
    receipt.logged()
    assert spool.has_failed() is failed


@pytest.mark.parametrize("run", [None, 7])
def test_a_request_without_an_outcome_has_not_failed(
    spool: Spool, requests: Requests, run: int | None
) -> None:
    """It was removed by hand, or libvirt's helper has taken it over."""
    name = spool.write(wanted(), 1000.0)
    if run is not None:
        requests.save_run(name, run)
    requests.remove(name)
    assert not spool.has_failed()


@pytest.mark.parametrize(
    "content",
    [b"", b"2\n", TEXT.replace("2", "1", 1).encode(), TEXT.replace("1000", "x").encode(), b"\xff\0"],
)
def test_a_file_that_is_no_request_is_refused(requests: Requests, runtime: Path, content: bytes) -> None:
    name = f"{UUID}.pause.0000001000000000-1"
    (runtime / "requests" / name).write_bytes(content)
    with pytest.raises(SpoolError, match="not one of this program's"):
        requests.read(name)


@pytest.mark.parametrize("name", ["x", "a.kill.1-1", "..."])
def test_a_name_that_is_no_request_is_refused(requests: Requests, runtime: Path, name: str) -> None:
    (runtime / "requests" / name).write_text(TEXT)
    with pytest.raises(SpoolError, match="not one of this program's"):
        requests.read(name)


def test_a_planted_symbolic_link_is_not_followed(requests: Requests, runtime: Path) -> None:
    name = f"{UUID}.pause.0000001000000000-1"
    (runtime / "other").write_text(TEXT)
    (runtime / "requests" / name).symlink_to("../other")
    with pytest.raises(SpoolError):
        requests.read(name)


def test_a_request_that_is_gone_is_nothing(spool: Spool, requests: Requests) -> None:
    assert requests.read("gone") is None
    requests.remove("gone")
    requests.finish("gone", "notice", "line")


def test_leftovers_of_dead_writers_are_swept(requests: Requests, runtime: Path) -> None:
    for start in (100, 1000):
        (runtime / "requests" / f".{UUID}.pause.{start * 10**6:016d}-1").touch()
    (runtime / "requests" / ".other").touch()
    requests.sweep(now=1010.0)
    assert files(runtime) == [f".{UUID}.pause.{1000 * 10**6:016d}-1", ".other"]


def test_a_write_that_fails_leaves_nothing(spool: Spool, runtime: Path) -> None:
    spool.write(wanted(), 1000.0)
    # The same name again: as if the directory could not take it.
    (runtime / "requests" / f".{spool.names()[0]}").touch()
    with pytest.raises(SpoolError, match="cannot be used"):
        spool.write(wanted(), 1000.0)
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


def test_the_lock_is_one_processs_and_the_places_are_few(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanlock_helper.handover.STAND_BYS", 2)
    spools = [Spool.open(str(runtime), owner=os.geteuid()) for _ in range(4)]
    assert [spool.enlist() for spool in spools] == [True, True, True, False]
    held = [sum(descriptor >= 0 for descriptor in spool.descriptors()) for spool in spools]
    assert held == [3, 3, 3, 2]


def test_a_lock_that_cannot_be_opened_is_reported(spool: Spool, runtime: Path) -> None:
    (runtime / "agent.lock").symlink_to("elsewhere")
    with pytest.raises(SpoolError, match=r"agent\.lock cannot be used"):
        spool.enlist()


def test_what_is_left_to_libvirts_helper(
    spool: Spool, requests: Requests, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [spool.write(Invocation(f"test:///{n}", UUID, "pause"), 1000.0 + n) for n in range(4)]
    requests.finish(names[3], "notice", "done")
    (runtime / "requests" / "junk").write_text("junk")
    forked = iter([1, 0, 1])
    monkeypatch.setattr("posix.fork", lambda: next(forked))
    # 0 is too old, 1 goes to a child of which this is the parent, and 2 to one which this is.
    names.append(spool.write(wanted(), 1004.0))
    with pytest.raises(Exception, match="OSError: broken") as raised:
        spool.leave_to_stock(names[4], 1000.5, OSError("broken"))
    assert vars(raised.value)["killpath_arguments"] == ["test:///2", UUID, "pause"]
    # That child is not its own parent: the parent, which the next call is, meets what had no process yet.
    assert spool.leave_to_stock(names[4], 1000.5, OSError("broken"))
    assert not spool.leave_to_stock(names[4], 1000.5, OSError("broken"))
    # What is no request is not touched.
    assert requests.names() == ["junk", names[3] + DONE]


def test_a_stand_by_is_no_agent_while_another_is(runtime: Path) -> None:
    agent, stand_by = (Spool.open(str(runtime), owner=os.geteuid()) for _ in range(2))
    assert agent.enlist()
    assert stand_by.enlist()
    assert (agent.is_agent(), stand_by.is_agent()) == (True, False)
    agent.unlock()
    assert stand_by.is_agent()


class Relieved(StandBy):
    """One that would go, and whose lock cannot be opened."""

    def __init__(self) -> None:
        pass

    def try_serve(self) -> bool:
        return False

    def is_relieved(self) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_stand_by_whose_locks_cannot_be_used_reports_that(spool: Spool) -> None:
    requests = Requests(spool, 40, Relieved())
    with pytest.raises(SpoolError, match="Too many open files"):
        requests.attend(lambda: None)


@pytest.mark.parametrize("is_served", [True, False])
def test_a_process_that_cannot_enlist_serves_unless_an_agent_has(
    monkeypatch: pytest.MonkeyPatch, spool: Spool, is_served: bool
) -> None:
    def enlist() -> bool:
        if is_served:
            spool.remove(spool.names()[0])
        raise SpoolError("the agent's lock cannot be used")

    alone: list[object] = []

    def perform(*words: object) -> int:
        alone.append(words[3])
        return 7

    monkeypatch.setattr("sanlock_helper.call.Spool.open", lambda: spool)
    monkeypatch.setattr(spool, "enlist", enlist)
    monkeypatch.setattr(call, "_perform", perform)
    assert call._serve(wanted(), 1000.0, False, None) == (0 if is_served else 7)
    assert alone == ([] if is_served else ["the agent's lock cannot be used"])
    assert spool.names() == []


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch, spool: Spool) -> Callable[[Callable[[], None]], int]:
    """A call that is needed, and whose perform() does what is passed and fails."""

    def serve(fail: Callable[[], None]) -> int:
        monkeypatch.setattr("sanlock_helper.agent.service.perform", lambda *_: fail())
        return call._serve(wanted(), 1000.0, False, None)

    monkeypatch.setattr("sanlock_helper.call.Spool.open", lambda: spool)
    monkeypatch.setattr(spool, "enlist", lambda: True)
    return serve


@pytest.fixture
def defects(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What is reported of defects after the service."""
    reported: list[Event] = []
    journal = SimpleNamespace(report=reported.append, flush=lambda: True)
    monkeypatch.setattr("sanlock_helper.journal.Journal", lambda: journal)
    return reported


@pytest.mark.parametrize("outcome", ["", "notice", "error"])
@pytest.mark.parametrize("is_agent", [True, False])
def test_what_a_process_that_fails_would_have_served_is_left_to_libvirts_helper(
    monkeypatch: pytest.MonkeyPatch,
    spool: Spool,
    needed: Callable[[Callable[[], None]], int],
    defects: list[Event],
    is_agent: bool,
    outcome: str,
) -> None:
    """An agent of an older package beside a new hand-over, say: its own request, and those of others."""
    left: list[str] = []

    def fail() -> None:
        if outcome:
            os.write(spool.own_request_fd, f"{outcome}\tthe line\n".encode())
            spool.remove(spool.name)
        raise TypeError("perform() takes 3 arguments")

    def arguments_of(name: str) -> None:
        left.append(name)

    monkeypatch.setattr(spool, "is_agent", lambda: is_agent)
    monkeypatch.setattr(spool, "_arguments_of", arguments_of)
    other = spool.write(wanted(), 999.0)
    if outcome:
        assert needed(fail) == (outcome == "error")
    else:
        with pytest.raises(TypeError):
            needed(fail)
    assert [event.kind for event in defects] == ["defect-after-service"] * bool(outcome)
    # What cannot be read is for the next agent.
    assert spool.names() == [other]
    assert (other in left) == is_agent
    assert spool.is_given_up == (is_agent and not outcome)


def test_one_that_is_interrupted_while_it_loads_the_rest_leaves_nothing_to_do(
    spool: Spool, needed: Callable[[Callable[[], None]], int]
) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    assert needed(fail) == 130
    assert spool.names() == []


def test_a_process_that_serves_alone_in_the_end_fails_with_its_error(
    monkeypatch: pytest.MonkeyPatch, spool: Spool
) -> None:
    """Its request is in the spool no more then, which no agent has served."""

    def serve_alone(*_: object) -> int:
        assert spool.names() == []
        raise TypeError("a defect")

    def perform(*_: object) -> int:
        raise SpoolError("two agents show no sign of life")

    monkeypatch.setattr("sanlock_helper.call.Spool.open", lambda: spool)
    monkeypatch.setattr(spool, "enlist", lambda: True)
    monkeypatch.setattr(spool, "is_agent", lambda: False)
    monkeypatch.setattr("sanlock_helper.agent.service.SpoolService.perform", perform)
    monkeypatch.setattr("sanlock_helper.agent.service.serve_alone", serve_alone)
    monkeypatch.setattr("sanlock_helper.agent.service.join_sanlock_group", lambda directory: None)
    with pytest.raises(TypeError, match="a defect"):
        call._serve(wanted(), 1000.0, False, None)


def test_one_that_leaves_its_requests_to_libvirts_helper_is_named_as_the_agent_no_more(spool: Spool) -> None:
    """It becomes that helper, with its process id, and gives the lock up."""
    assert spool.take_first() == TAKEN
    assert spool.holder(0) != ""
    before = spool.is_late(0)
    spool.leave_to_stock("", 0.0, OSError("broken"))
    assert spool.holder(0) == ""
    # Nor does one exit that writes its request from here on.
    assert (before, spool.is_late(0)) == (False, True)


def test_one_that_cannot_even_list_the_spool_is_named_as_the_agent_no_more(
    monkeypatch: pytest.MonkeyPatch, spool: Spool
) -> None:
    def unserved() -> list[str]:
        raise OSError(errno.EIO, "Input/output error")

    assert spool.take_first() == TAKEN
    monkeypatch.setattr(spool, "unserved", unserved)
    monkeypatch.setattr("sanlock_helper.inherited_descriptors.close_inherited_descriptors", lambda keep: None)
    with pytest.raises(OSError, match="Input/output"):
        spool.leave_to_stock("", 0.0, OSError("broken"))
    assert (spool.holder(0), spool.is_given_up) == ("", True)


def test_a_lock_is_not_kept_where_the_other_one_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, spool: Spool
) -> None:
    """It would show no life, and this process would be killed for that."""

    def is_held(which: int) -> bool:
        raise OSError(errno.EISDIR, "Is a directory")

    monkeypatch.setattr(spool, "is_held", is_held)
    with pytest.raises(OSError, match="directory"):
        spool.take_first()
    assert not spool.has_lock


@pytest.mark.parametrize("is_own", [True, False])
def test_an_outcome_of_another_agent_that_is_gone_was_logged_by_it(
    spool: Spool, requests: Requests, is_own: bool
) -> None:
    """An own one was removed by hand, and is logged all the same."""
    assert spool.is_agent()
    done = requests.finish(spool.write(wanted(), 1000.0), "notice", "pause vm1: done")
    assert done is not None
    receipt = Receipt(requests, done, is_own)
    spool.remove(done)
    assert receipt.logging() is is_own


# An agent that was stopped, and could not be killed


class Pair:
    """An agent, and another process that serves beside it after it was silent for four seconds."""

    def __init__(self, runtime: Path) -> None:
        self.now = 100.0
        # What the agent may do while it checks the other one's lock.
        self.seen: list[bool] = []
        self.first = self._spool(runtime, 1, self._flock)
        self.second = self._spool(runtime, 2, fcntl.flock)
        assert self.first.take_first() == TAKEN

    def _spool(self, runtime: Path, pid: int, flock: Callable[[int, int], None]) -> Spool:
        directory = Spool.open(str(runtime), owner=os.geteuid()).directory
        return Spool(directory, pid, flock=flock, clock=lambda: self.now, owner=os.geteuid())

    def _flock(self, descriptor: int, operation: int) -> None:
        self.seen.append(self.first.may_act())
        fcntl.flock(descriptor, operation)

    def serve_beside(self) -> None:
        self.now += 4
        assert self.second.take_second()
        self.seen.clear()


def test_no_thread_acts_before_it_is_known_whether_another_process_serves(runtime: Path) -> None:
    pair = Pair(runtime)
    pair.serve_beside()
    assert not pair.first.show_life()
    # Its threads ask while its loop checks, and later.
    assert pair.seen == [False]
    assert not pair.first.may_act()
    assert not pair.first.show_life()


def test_one_that_was_silent_and_still_serves_may_act(runtime: Path) -> None:
    pair = Pair(runtime)
    pair.now += 4
    assert not pair.first.may_act()
    assert pair.first.show_life()
    assert pair.first.may_act()


def test_an_outcome_is_left_to_the_process_that_serves_beside(runtime: Path) -> None:
    pair = Pair(runtime)
    first, second = Requests(pair.first, 40), Requests(pair.second, 40)
    name = pair.first.write(wanted(), 100.0)
    pair.serve_beside()
    request = second.read(name)
    assert request is not None
    assert request.outcome is None
    assert not second.is_done_by_another(name)
    done = first.finish(name, "notice", "done")
    assert done == name + DONE
    assert second.is_done_by_another(name)
    # It went on, and the other one has read the request.
    assert not Receipt(first, done).logging()
    assert files(runtime) == [done]
    assert second.finish(name, "notice", "done") is None
    assert Receipt(second, done, is_own=False).logging()
    assert files(runtime) == [name + LOGGING]


def test_whoever_serves_beside_no_other_finds_none_that_has_served(spool: Spool, requests: Requests) -> None:
    assert spool.take_first() == TAKEN
    name = spool.write(wanted(), 100.0)
    requests.finish(name, "notice", "done")
    assert not requests.is_done_by_another(name)
