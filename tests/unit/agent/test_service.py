# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that cannot serve, and whose request another one has in hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.agent import service
from sanlock_helper.agent.requests import Request, Requests
from sanlock_helper.invocation import EXIT_DONE, Invocation
from sanlock_helper.journal import Journal
from sanlock_helper.leases.grace import Deadline
from sanlock_helper.spool import Spool

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (MemoryError("address space is limited to 160 MiB"), 0),
        (ImportError("No module named 'libvirt'"), 0),
        (RuntimeError("broken"), 1),
    ],
    ids=["memory", "import", "defect"],
)
def test_what_another_process_has_taken_over_is_no_internal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, logged: int
) -> None:
    """In a storm each process meets the same; the first has left the requests of all to libvirt's helper."""

    def fail(_journal: Journal, _uri: str) -> None:
        spool.remove(name)
        raise error

    lines: list[str] = []
    journal = Journal(lambda _level, line: lines.append(line), lambda _line: None)
    spool = Spool.open(str(tmp_path / "run"), owner=os.geteuid())
    wanted = Invocation("test:///default", UUID, "pause")
    name = spool.write(wanted, 1000.0)
    request = Request.of(wanted, Deadline(1000.0, 40), name)
    monkeypatch.setattr(service, "make_agent", fail)
    assert service.SpoolService(request, spool, Requests(spool, 40), journal).perform() == EXIT_DONE
    journal.flush()
    assert sum("internal error" in line for line in lines) == logged, lines
