# SPDX-License-Identifier: LGPL-2.1-or-later
"""make mutants: each fix is taken back in a copy of the tree, and the searches run on it.

    python -m tests.mutants [ROW ...]

The tests that were written for the fixes are left out: the models, the fuzzing and the matrix of faults run,
each up to its first fault.  Prints a row of docs/reliability.md for each fix.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .fixes import FIXES, Fix

TOP = Path(__file__).parents[2]

# What each search runs, in the order of their cost: the first one that finds a fault is named.
SEARCHES = {
    "model of machines": ["tests/model/test_domains.py"],
    "fuzzing": ["tests/unit/test_hostile_input.py", "tests/unit/test_hostile_files.py"],
    "model of the store": ["tests/model/test_store.py", "-k", "interleavings"],
    "model of the spool": ["tests/model/test_spool.py", "-k", "interleavings"],
    "faults": ["tests/faults/test_matrix.py"],
}
# A search that is not over by then has found a hang.
SECONDS = 600.0


def take_back(fix: Fix, tree: Path) -> None:
    """Take FIX back in the program at TREE.  Raises ValueError where its text is not there once."""
    for edit in fix.edits:
        path = tree / edit.file
        text = path.read_text(encoding="utf-8")
        if text.count(edit.old) != 1:
            raise ValueError(f"{fix.row}: {edit.file} has {text.count(edit.old)} times: {edit.old!r}")
        text = text.replace(edit.old, edit.new)
        compile(text, str(path), "exec")
        path.write_text(text, encoding="utf-8")


def found_by(fix: Fix) -> str:
    """The first search that finds the program without FIX at fault, and its test; "" when none does."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder)
        for name in ("helper", "auth", "tests", "packaging", "docs"):
            shutil.copytree(TOP / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(TOP / "pyproject.toml", tree)
        take_back(fix, tree)
        for name, words in SEARCHES.items():
            test = _first_failure(tree, words)
            if test:
                return f"{name}: {test}"
    return ""


def _first_failure(tree: Path, words: list[str]) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words]
    # As `make test` runs them.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "SANLOCK_HELPER_EXAMPLES": "full"}
    try:
        answer = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end in {SECONDS:.0f} s"
    failures = [line for line in answer.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if answer.returncode not in (0, 1):
        return f"pytest ends with {answer.returncode}: {' '.join(failures[:1])}"
    return failures[0].split(" ", 1)[1].split(" - ")[0] if failures else ""


def main() -> int:
    """Take the fixes back that the arguments name, or all; 1 when one of them is not found."""
    fixes = [fix for fix in FIXES if not sys.argv[1:] or fix.row in sys.argv[1:]]
    for fix in fixes:
        # All of them before the first search: it takes long.
        for edit in fix.edits:
            if (TOP / edit.file).read_text(encoding="utf-8").count(edit.old) != 1:
                raise SystemExit(f"{fix.row}: not once in {edit.file}: {edit.old!r}")
    slipped = 0
    for fix in fixes:
        found = found_by(fix)
        slipped += not found
        print(f"| {fix.row} | {fix.fault} | {found or 'not found'} |", flush=True)
    print(f"{len(fixes) - slipped} of {len(fixes)} found")
    return 1 if slipped else 0


if __name__ == "__main__":
    sys.exit(main())
