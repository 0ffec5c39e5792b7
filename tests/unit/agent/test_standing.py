# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent that stands, at rest: what it does while its spool has something that is not to be served."""

from __future__ import annotations

import errno
import gc
import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.agent import standing
from sanlock_helper.agent.agent import LINGER_SECONDS
from sanlock_helper.agent.kept_files import MemoryLockError
from sanlock_helper.agent.standing import StandingAgent, stand
from sanlock_helper.errors import PermanentError
from sanlock_helper.handover import LATE_SECONDS
from sanlock_helper.invocation import Invocation
from sanlock_helper.spool import DONE, LIFE_SECONDS, LOGGING, RUNTIME_DIR, TAKEN, Spool
from sanlock_helper.threads import WORKERS

from ..fakes import RecordedJournal

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
NAME = f"{UUID}.pause.{1:016d}-7"


class Waits:
    """What an agent is woken by: nothing, and after so many waits the signal that ends it."""

    has_changes = is_something_gone = ends = False
    error: OSError | None = None

    def __init__(self, most: int, at_each: float) -> None:
        self.seconds: list[float | None] = []
        self._most, self._at_each = most, at_each

    def watch(self, _directory: int) -> None:
        if self.error is not None:
            raise self.error

    def watch_changes(self, _descriptor: int) -> None:
        pass

    def wake(self) -> None:
        pass

    def wait(self, seconds: float | None) -> bool:
        self.seconds.append(seconds)
        time.sleep(self._at_each)
        self.ends = len(self.seconds) >= self._most
        return False


class Rested:
    """No connection is kept, and no file: no thread of theirs is started."""

    descriptor, waits = -1, False
    settled = 0

    def update(self) -> None:
        return None

    def settle(self) -> None:
        self.settled += 1


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    return tmp_path / "run"


def rest(runtime: Path, waits: Waits) -> Spool:
    """Have an agent rest over the spool in RUNTIME until WAITS ends it; its spool."""
    spool = Spool.open(str(runtime), os.geteuid())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("KeptConnections", "Renewal"):
            patch.setattr(standing, name, lambda *_: Rested())
        agent = StandingAgent("test:///default", spool, RecordedJournal(), waits)  # type: ignore[arg-type]
    assert spool.take_first() == TAKEN
    # As run() does.  It stays so: the heap of a suite takes long to collect, see conftest.py.
    gc.freeze()
    agent.wait()
    return spool


def test_with_an_empty_spool_nothing_wakes_it(runtime: Path) -> None:
    waits = Waits(3, 0.0)
    rest(runtime, waits)
    assert waits.seconds == [None] * 3


@pytest.mark.parametrize("step", ["", DONE, LOGGING])
def test_it_shows_life_while_something_is_in_its_spool(runtime: Path, step: str) -> None:
    os.close(Spool.open(str(runtime), os.geteuid()).directory)
    (runtime / "requests" / f"{NAME}{step}").mkdir()
    waits = Waits(5, LIFE_SECONDS)
    rest(runtime, waits)
    assert waits.seconds == [LIFE_SECONDS] * 5
    # Longer than an agent may be silent that has something to do: no other process takes it for one that
    # hangs.
    assert len(waits.seconds) * LIFE_SECONDS > LATE_SECONDS
    other = Spool.open(str(runtime), os.geteuid())
    assert not other.is_late(0)


class Comes(Waits):
    """The same, and a request comes during each of the first two waits."""

    def __init__(self, spool: Spool, most: int) -> None:
        super().__init__(most, 0.0)
        self._spool = spool

    def wait(self, seconds: float | None) -> bool:
        super().wait(seconds)
        if len(self.seconds) > 2:
            return False
        self._spool.write(Invocation("test:///default", UUID, "poweroff"), time.monotonic())
        return True


class Surroundings:
    """What run() starts and does not end: libvirt's event loop, a watch, locked memory, no garbage."""

    THROTTLE = nullcontext()

    def nothing(self, *_: object) -> None:
        pass

    start = keep = close = run = disable = freeze = collect = nothing

    def lock_all(self) -> None:
        raise MemoryLockError("not in a test")


def test_the_requests_of_a_storm_come_one_by_one(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, waits = Spool.open(str(runtime), os.geteuid()), Comes(Spool.open(str(runtime), os.geteuid()), 4)
    journal, kept, others = RecordedJournal(), Rested(), Surroundings()
    for name in ("KeptConnections", "Renewal"):
        monkeypatch.setattr(standing, name, lambda *_: kept)
    for name in ("Memory", "watch_host"):
        monkeypatch.setattr(standing, name, lambda *_: others)
    for name in ("event_loop", "gc"):
        monkeypatch.setattr(standing, name, others)
    assert StandingAgent("test:///default", spool, journal, waits).run() == 0  # type: ignore[arg-type]
    # The second one is read at once, and connections are closed when no more come.
    assert journal.text().count("verified off") == 2
    assert waits.seconds == [None, LINGER_SECONDS, LINGER_SECONDS, None]
    assert kept.settled == 2


@pytest.fixture
def surroundings(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Waits:
    """What stand() finds around it: a spool, nothing that wakes it, and no process to be set up."""
    spool, waits = Spool.open(str(runtime), os.geteuid()), Waits(1, 0.0)
    monkeypatch.setattr(Spool, "open", lambda: spool)
    monkeypatch.setattr(standing, "Journal", RecordedJournal)
    monkeypatch.setattr(standing, "Wakes", lambda: waits)
    for name in ("prepare_process", "preload", "join_sanlock_group"):
        monkeypatch.setattr(standing, name, lambda *_: None)
    return waits


@pytest.mark.usefixtures("surroundings")
def test_without_a_thread_it_does_not_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(WORKERS, "start", none)
    remedy = r"\(set TasksMax= of virt-sanlock-helper-agent\.service to more\)"
    with pytest.raises(PermanentError, match=f"stand: can't start new thread {remedy}"):
        stand("test:///default")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (24, "Too many open files (see sysctl fs.inotify.max_user_instances, and set it to more)"),
        (28, "No space left on device (see sysctl fs.inotify.max_user_watches, and set it to more)"),
        (2, "No such file or directory"),
    ],
)
def test_without_a_watch_it_does_not_stand(surroundings: Waits, number: int, words: str) -> None:
    surroundings.error = OSError(number, os.strerror(number), "inotify_init1")
    with pytest.raises(PermanentError) as raised:
        stand("test:///default")
    assert str(raised.value) == f"stand: the spool cannot be watched: {words}"


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EROFS, errno.EACCES])
def test_without_its_lock_it_does_not_stand(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def run(_agent: StandingAgent) -> int:
        raise OSError(number, os.strerror(number), "../agent.lock")

    monkeypatch.setattr(StandingAgent, "run", run)
    with pytest.raises(PermanentError) as raised:
        stand("test:///default")
    path = f"{RUNTIME_DIR}/agent.lock"
    words = f"stand: {path} cannot be used: {os.strerror(number)} (ls -ld {path}; findmnt -T {RUNTIME_DIR})"
    assert str(raised.value) == words
