# SPDX-License-Identifier: LGPL-2.1-or-later
"""python3 -m tests.bench PART: measure one part, print its table and write it into docs/benchmarks.md."""

from __future__ import annotations

import sys

from . import one_call, recovery, report, storms

PARTS = {"one_call": one_call.main, "storms": storms.main, "recovery": recovery.main}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        print(f"usage: python3 -m tests.bench {'|'.join(PARTS)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(report.run(sys.argv[1], PARTS[sys.argv[1]]))
