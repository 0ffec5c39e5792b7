# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent that stands, at rest: what it leaves in memory.  Its service is in tests/model and tests/e2e."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from threading import Event as Flag

import pytest

pytest.importorskip("libvirt")

from sanlock_helper import spool as spool_module
from sanlock_helper.agent.standing import StandingAgent
from sanlock_helper.journal import Journal
from sanlock_helper.spool import Spool

# More than the tries of a minute; each leaves some thirty objects.
TRIES = 40


class Wakes:
    """Sleeps until a try to connect is over; SIGTERM comes after TRIES of them."""

    def __init__(self) -> None:
        self.ends = False
        self.has_changes = False
        self.is_something_gone = False
        self.now = 0.0
        self._over = Flag()
        self._tries = 0

    def watch_changes(self, descriptor: int) -> None:
        """Nothing changes."""

    def wake(self) -> None:
        self._over.set()

    def wait(self, seconds: float | None) -> bool:
        if seconds is not None:
            self.now += seconds
            return False
        assert self._over.wait(10), "the try has no end"
        self._over.clear()
        self._tries += 1
        self.ends = self._tries >= TRIES
        return False


@pytest.fixture
def collected_by_hand() -> Iterator[None]:
    """As StandingAgent.run() has it: what is there now is not passed over before each sleep."""
    gc.collect()
    gc.disable()
    gc.freeze()
    yield
    gc.enable()


@pytest.fixture
def spool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Spool:
    monkeypatch.setattr(spool_module, "RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    return Spool.open(str(tmp_path), tmp_path.stat().st_uid)


def standing(spool: Spool, tmp_path: Path) -> StandingAgent:
    """One whose libvirtd is away."""
    wakes = Wakes()
    return StandingAgent(
        f"qemu:///system?socket={tmp_path}/none",
        spool,
        Journal(lambda _priority, _line: None),
        wakes,  # type: ignore[arg-type]
        lambda: wakes.now,
    )


@pytest.mark.usefixtures("collected_by_hand")
def test_tries_that_fail_leave_nothing(spool: Spool, tmp_path: Path) -> None:
    standing(spool, tmp_path).wait()
    # What the last try has left.
    assert gc.collect() < 200
