# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole numbers in other programs' texts.

int() takes more than such a number, and less: letters of other scripts for which str.isdigit() is true and
int() fails, "1_0", and no text of thousands of digits.
"""

from __future__ import annotations

# Those of 2**64 - 1: no number of sanlock's or libvirt's has more.
_MOST_DIGITS = 20


def whole_number(text: str) -> int | None:
    """TEXT as a number without a sign, None where it is none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_number else None
