# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that is known of the past, where a disk that has a part of it hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.cli.verbs import status
from sanlock_helper.history import sources
from sanlock_helper.history.journal_entries import Entry
from sanlock_helper.records import snapshot

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
ENTRY = Entry(1e9, "virt-sanlock-helper", f"pause - {UUID}: done after 1.00 s: found running")


@pytest.fixture
def hung_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What has /var/lib and /etc; the journal answers."""
    answers = threading.Event()

    def hang() -> None:
        answers.wait(10)

    monkeypatch.setattr(sources, "read_journal", lambda since, seconds: [ENTRY])
    monkeypatch.setattr(snapshot, "take_snapshot", hang)
    monkeypatch.setattr(sources, "names_by_uuid", hang)
    monkeypatch.setattr(status, "held_since", hang)
    start = time.monotonic()
    yield
    answers.set()
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("hung_disk")
def test_what_the_journal_has_is_known_all_the_same() -> None:
    found = sources.gather(0.0, seconds=0.1)
    assert [event.uuid for event in found.events] == [UUID]
    assert found.problems == ["read the recovery records: no answer within 0.1 s"]
    assert (found.waiting, found.records, found.journal_error) == ({}, None, None)


@pytest.mark.usefixtures("hung_disk")
def test_whether_recovery_is_held_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "JOURNAL_SECONDS", 0.1)
    assert status._hold() == ["read whether recovery is held: no answer within 0.1 s"]
