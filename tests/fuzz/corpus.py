# SPDX-License-Identifier: LGPL-2.1-or-later
"""The inputs that were faults once: a folder for each target, a file for each fault."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def corpus_of(name: str) -> list[Path]:
    """The files of target NAME."""
    return sorted((FOLDER / name).glob("*"))
