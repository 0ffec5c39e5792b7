# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain that recovery has a record of, and how far it has come with it."""

from __future__ import annotations

from ..records.record import Record


class PendingDomain:
    """One record in recovery's hands."""

    def __init__(self, record: Record, now: float) -> None:
        self.record = record
        self.since = now
        self.next_visit = now
        self.failed_since: float | None = None
        self.visiting = False
        self.visit_began = now
        self.ready = False
        self.waits = False
        self.lockspaces: frozenset[str] = frozenset()
        self.text = "not looked at yet"
        self.logged = ""
        self.logged_at = 0.0
