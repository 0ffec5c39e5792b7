# SPDX-License-Identifier: LGPL-2.1-or-later
"""Moments, in seconds since the epoch, as people and programs read them.

They come from files, records and journals of other hosts, too, which may have a time that no calendar has.
"""

from __future__ import annotations

import time

# The end of the year 9998 in UTC, and so of the years of four digits in any time zone.
LAST_TIME = 253370764799.0


def moment(seconds: float) -> str:
    """SECONDS since the epoch as local date and time of day."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_on_calendar(seconds)))


def iso(seconds: float) -> str:
    """SECONDS since the epoch as ISO 8601 in UTC, with milliseconds, for programs."""
    seconds = _on_calendar(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"


def _on_calendar(seconds: float) -> float:
    """SECONDS, or the nearest time that both calendars above have; 0 for what is no number."""
    return min(max(0.0, seconds), LAST_TIME)
