# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the journal has of drills, which are no outages.

A drill's domain is known by its UUID.  sanlock's own lines name no lockspace, but have its number, which the
drill logs before it loses the lockspace.  The number counts from the daemon's start: it is the drill's until
the drill logs its end, or for DRILL_SECONDS where it was killed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .. import DRILL_UUIDS, IDENTIFIER
from ..numbers import whole_number
from .journal_entries import SANLOCK, Entry
from .logged_events import read_event

# sanlock ends a process that has lost its lease 40 s after that by default: no drill is at work for longer.
DRILL_SECONDS = 180.0

# sanlock's clock is in whole seconds, and what it logs comes to the journal by itself.
_LATE_SECONDS = 2.0

_ENDS = ("drill-passed", "drill-failed")
# The number of the lockspace in sanlock's lines: see outages.py.
_NUMBER = re.compile(r"(?:[0-9: -]{19} )?(?:[0-9]{1,20} \[[0-9]{1,10}\]: )?s([0-9]{1,10})(?::r[0-9]{1,10})? ")


def without_drills(entries: Iterable[Entry]) -> list[Entry]:
    """ENTRIES, oldest first, but for those of drills."""
    found = []
    # By the lockspace's number, when it is not the drill's any more.
    until: dict[str, float] = {}
    for entry in entries:
        if entry.identifier == SANLOCK:
            number = _NUMBER.match(entry.message)
            if number is None or entry.time > until.get(number[1], 0.0):
                found.append(entry)
        elif entry.identifier == IDENTIFIER:
            event = read_event(entry.message, entry.fields)
            space = event.parts.get("space", "") if event and event.kind == "drill-began" else ""
            if whole_number(space) is not None:
                until[space] = entry.time + DRILL_SECONDS
            elif event and event.kind in _ENDS:
                until = {each: min(time, entry.time + _LATE_SECONDS) for each, time in until.items()}
            if not (event and event.uuid.startswith(DRILL_UUIDS)):
                found.append(entry)
        else:
            found.append(entry)
    return found
