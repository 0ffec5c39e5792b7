# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a word that is not known was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable

# As difflib.get_close_matches() has it; and how much less close than the best one another may be.
_LEAST = 0.6
_WORSE = 0.15
_MOST = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The question whether one of KNOWN was meant that WORD is close to, or begins; "" where none is."""
    import difflib

    # Of a longer word no name here is a misspelling, and comparing it takes its time.
    text = _plain(word)[:80]
    if not text:
        return ""
    ratios = {name: difflib.SequenceMatcher(None, text, _plain(name)).ratio() for name in known}
    close = [name for name, ratio in ratios.items() if ratio >= _LEAST or _plain(name).startswith(text)]
    best = max((ratios[name] for name in close), default=0.0)
    found = [name for name in sorted(close, key=lambda name: -ratios[name]) if ratios[name] >= best - _WORSE]
    return f"did you mean {' or '.join(found[:_MOST])}?" if found else ""


def _plain(word: str) -> str:
    return word.strip().lower().replace("_", "-")
