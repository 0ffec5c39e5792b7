# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole numbers in other programs' texts.

int() takes more than such a number, and less: letters of other scripts for which str.isdigit() is true and
int() fails, "1_0", and no text of thousands of digits.
"""

from __future__ import annotations

# Those of 2**64 - 1: no number of sanlock's or libvirt's has more.
_MOST_DIGITS = 20

# The least and the most of what orders the recovery of domains: see recovery/order.py.  Delays are seconds.
# Here, since the agent, which writes them down, may load no further module before its domain is safe.
PRIORITIES = (-1_000_000, 1_000_000)
DELAYS = (0, 3600)


def whole_number(text: str) -> int | None:
    """TEXT as a number without a sign, None where it is none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_number else None


def number_within(text: str, limits: tuple[int, int]) -> int | None:
    """TEXT, with a "-" before its digits or without, as a number of LIMITS; None where it is none."""
    digits = text[1:] if text.startswith("-") else text
    number = whole_number(digits)
    if number is None:
        return None
    number = number if digits is text else -number
    return number if limits[0] <= number <= limits[1] else None
