# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that serves one request apart, when its agent dies before it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.agent.one_request import OneRequest
from sanlock_helper.agent.requests import Receipt, Requests
from sanlock_helper.invocation import Invocation
from sanlock_helper.spool import TAKEN, Spool

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
AGENT = 4711


@pytest.mark.parametrize(
    ("before", "now", "is_logged"),
    [(AGENT, AGENT, True), (AGENT, 1, False), (AGENT, 4712, False), (1, 1, False)],
    ids=["its agent lives", "it has died", "it has died, below a subreaper", "it died first"],
)
def test_an_outcome_that_the_next_agent_has_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, now: int, is_logged: bool
) -> None:
    """While its agent lives no other one claims it: what is gone then was removed by hand, and is logged."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    parents = iter((before, now))
    monkeypatch.setattr("sanlock_helper.agent.one_request.posix.getppid", lambda: next(parents))
    apart = Spool.open(str(runtime), owner=os.geteuid())
    name = apart.write(Invocation("qemu:///system", UUID, "pause", None, None), 1000.0)
    requests = OneRequest(apart, 40, apart.own_request_fd)
    done = requests.finish(name, "notice", "pause vm1: done")
    assert done is not None

    following = Spool.open(str(runtime), owner=os.geteuid())
    assert following.take_first() == TAKEN
    other = Receipt(Requests(following, grace=40), done, is_own=False)
    assert other.logging()
    other.logged()

    assert Receipt(requests, done).logging() is is_logged
