# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a killpath process does that exits once its request is written, and when it does not exit."""

from __future__ import annotations

import fcntl
import os
import posix
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sanlock_helper import killpath
from sanlock_helper.handover import FORMAT, LATE_SECONDS, LOCKS, MOST_BYTES, STAND_BYS, Handover
from sanlock_helper.invocation import Invocation
from sanlock_helper.spool import Spool

pytestmark = pytest.mark.pure

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
URI = "qemu:///system"
PLACES = tuple(f"stand-by-{number}.lock" for number in range(STAND_BYS))


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path, owner = str(tmp_path / "run"), os.geteuid()
    os.close(Spool.open(path, owner=owner).directory)
    monkeypatch.setattr(vars(Handover)["open"].__func__, "__defaults__", (path, owner))
    # Whatever has to be loaded beyond the hand-over cannot be; and the test's own descriptors stay open.
    monkeypatch.setitem(sys.modules, "sanlock_helper.call", None)
    functions = {**vars(posix), "closerange": lambda low, high: None}
    monkeypatch.setattr(killpath, "posix", SimpleNamespace(**functions))
    return tmp_path / "run"


@pytest.fixture
def held() -> Iterator[list[int]]:
    """Descriptors that hold locks as another process does."""
    descriptors: list[int] = []
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def hold(runtime: Path, held: list[int], names: tuple[str, ...], age: float = 0.0) -> None:
    """Hold the locks NAMES; the agent, if it is one of them, has shown life AGE seconds ago."""
    for name in names:
        held.append(os.open(runtime / name, os.O_RDWR | os.O_CREAT, 0o600))
        fcntl.flock(held[-1], fcntl.LOCK_EX)
        if name == LOCKS[0]:
            life = int((time.monotonic() - age) * 1e9)
            os.utime(runtime / name, ns=(life, life))


def call() -> int:
    return killpath.main([URI, UUID, "pause"], interactive=False)


def test_one_that_an_agent_serves_loads_no_more_and_exits(runtime: Path, held: list[int]) -> None:
    hold(runtime, held, (LOCKS[0], *PLACES))
    assert call() == 0
    (request,) = (runtime / "requests").iterdir()
    assert request.name.startswith(f"{UUID}.pause.")
    assert request.read_text().endswith(f"\n{URI}\n")


@pytest.mark.parametrize(
    ("names", "age"),
    [
        ((), 0.0),
        (PLACES, 0.0),
        ((LOCKS[0], *PLACES[1:]), 0.0),
        ((LOCKS[0], *PLACES), LATE_SECONDS + 0.5),
        # A time of day, or a clock that another boot has left.
        ((LOCKS[0], *PLACES), -1e6),
    ],
    ids=["no agent", "no agent, stand-bys", "a free place", "a late agent", "an agent of the future"],
)
def test_one_that_may_be_needed_stays(
    runtime: Path, held: list[int], names: tuple[str, ...], age: float
) -> None:
    hold(runtime, held, names, age)
    with pytest.raises(ImportError):
        call()
    # It becomes libvirt's own helper, and no agent serves the request another time.
    assert list((runtime / "requests").iterdir()) == []


def test_one_whose_request_was_served_meanwhile_has_nothing_left_to_do(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_served(handover: Handover) -> bool:
        handover.rename(handover.name, f"{handover.name}.done")
        return False

    monkeypatch.setattr(Handover, "is_served", is_served)
    assert call() == 0


def test_a_request_is_the_same_file_when_the_rest_is_loaded_at_the_second_try(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent may have seen the first one, and never serves a second one of that name."""
    numbers: list[int] = []

    def note() -> None:
        numbers.append(next((runtime / "requests").iterdir()).stat().st_ino)

    def run(words: list[str], start: float, waits: bool, handover: Handover) -> int:
        note()
        assert os.fstat(handover.own_request_fd).st_ino == numbers[0]
        return 7

    def closerange(low: int, high: int) -> None:
        note()
        monkeypatch.setitem(sys.modules, "sanlock_helper.call", SimpleNamespace(run=run))

    monkeypatch.setattr("sanlock_helper.killpath.posix.closerange", closerange)
    assert call() == 7
    assert len(set(numbers)) == 1


def test_none_exits_before_the_one_that_has_the_lock_has_loaded_the_rest(
    runtime: Path, held: list[int]
) -> None:
    """The last agent's sign of life is not its own."""
    hold(runtime, held, PLACES)
    lock = runtime / LOCKS[0]
    lock.touch()
    now = time.monotonic_ns()
    os.utime(lock, ns=(now, now))
    first, second = (Handover.open() for _ in range(2))
    assert not first.is_served()
    assert not second.is_served()
    # Its silence counts from here: it is not killed before it has had its time.
    assert time.monotonic() - lock.stat().st_mtime < LATE_SECONDS + 0.5
    for handover in (first, second):
        for descriptor in handover.descriptors():
            if descriptor >= 0:
                os.close(descriptor)


def test_a_request_that_no_agent_would_read_is_not_written(runtime: Path) -> None:
    handover = Handover.open()
    with pytest.raises(OSError, match="too long"):
        handover.write_request("test:///" + "x" * MOST_BYTES, UUID, "pause", 1000.0)
    assert list((runtime / "requests").iterdir()) == []
    os.close(handover.directory)


def test_the_format_stays_what_it_is() -> None:
    """An agent that stands is of the version before until an update has restarted it."""
    assert FORMAT == "2"


@pytest.mark.parametrize("action", ["poweroff", "restart", "pause"])
@pytest.mark.parametrize("uri", [URI, "test:///a b", "qemu+unix:///system?socket=/run/x"])
def test_what_libvirt_registers_is_plain(uri: str, action: str) -> None:
    words = [uri, UUID, action]
    assert killpath._is_plain(words)
    read = Invocation.parse(words)
    assert [read.uri, read.uuid, read.action, read.pid, read.budget] == [*words, None, None]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["--budget=5", URI, UUID, "pause"],
        [URI, UUID, "pause", "4711"],
        [URI, UUID, "ignore"],
        [URI, UUID, "Pause"],
        [URI, UUID.upper(), "pause"],
        [URI, UUID.replace("-", ""), "pause"],
        [URI, UUID.replace("-", "", 1) + "-", "pause"],
        [URI, UUID[:-1] + "g", "pause"],
        [URI, UUID[:-1] + "\u0661", "pause"],
        [URI, UUID[:9] + "-" + UUID[10:], "pause"],
        [URI, UUID + "\n", "pause"],
        ["", UUID, "pause"],
        [" ", UUID, "pause"],
        ["-c", UUID, "pause"],
        [f"{URI}\n", UUID, "pause"],
        ["qemu:///\udcff", UUID, "pause"],
        ["qemu:///\u00e4", UUID, "pause"],
    ],
)
def test_all_else_is_read_closely(words: list[str]) -> None:
    assert not killpath._is_plain(words)
