# SPDX-License-Identifier: LGPL-2.1-or-later
"""The threads of the agent."""

from __future__ import annotations

import _thread
from queue import SimpleQueue

import pytest

from sanlock_helper.threads import WorkerThreads

pytestmark = pytest.mark.pure


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item per thread that was started."""
    started: list[int] = []
    start = _thread.start_new_thread

    def count(*arguments: object) -> int:
        started.append(1)
        return start(*arguments)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(_thread, "start_new_thread", count)
    return started


def test_a_thread_that_is_done_is_used_again(threads: list[int]) -> None:
    workers = WorkerThreads()
    answers: SimpleQueue[int] = SimpleQueue()
    for number in range(200):
        workers.start(answers.put, (number,))
        assert answers.get(timeout=5) == number
    # A thread is idle a moment after its answer came: a second one may be started meanwhile, and no third.
    assert len(threads) <= 2


def test_a_call_that_hangs_keeps_its_thread(threads: list[int]) -> None:
    workers = WorkerThreads()
    released, answers = SimpleQueue[None](), SimpleQueue[int]()
    workers.start(released.get, ())
    for number in range(3):
        workers.start(answers.put, (number,))
    assert sorted(answers.get(timeout=5) for _ in range(3)) == [0, 1, 2]
    assert len(threads) >= 2
    released.put(None)
