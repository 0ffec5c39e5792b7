# SPDX-License-Identifier: LGPL-2.1-or-later
"""python3 -m tests.bench PART: measure one part, print its table and write it into docs/benchmarks.md.

python3 -m tests.bench standing ROW ROUNDS: measure one kind of row so often, print it, and write nothing.
"""

from __future__ import annotations

import importlib
import sys

from . import report

PARTS = ("one_call", "storms", "standing", "recovery")
ROWS = ("one", "poweroff", "mixed", "test-driver")

USAGE = f"""\
usage: python3 -m tests.bench {"|".join(PARTS)}
       python3 -m tests.bench standing {"|".join(ROWS)} ROUNDS"""


def main(words: list[str]) -> int:
    """Measure what WORDS name; returns the exit status."""
    part, *row = words or [""]
    is_row = part == "standing" and len(row) == 2 and row[0] in ROWS and row[1].isdecimal() and int(row[1])
    if part not in PARTS or (row and not is_row):
        print(USAGE, file=sys.stderr)
        return 2
    # This part alone: what this process has in memory is a lower bound of what one_call measures.
    measure = importlib.import_module(f".{part}", __package__).main
    return int(measure({row[0]: int(row[1])})) if row else report.run(part, measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
