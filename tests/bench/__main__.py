# SPDX-License-Identifier: LGPL-2.1-or-later
"""python3 -m tests.bench PART: measure one part, print its table and write it into docs/benchmarks.md."""

from __future__ import annotations

import importlib
import sys

from . import report

PARTS = ("one_call", "storms", "standing", "recovery")

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        print(f"usage: python3 -m tests.bench {'|'.join(PARTS)}", file=sys.stderr)
        sys.exit(2)
    # This part alone: what this process has in memory is a lower bound of what one_call measures.
    sys.exit(report.run(sys.argv[1], importlib.import_module(f".{sys.argv[1]}", __package__).main))
