# SPDX-License-Identifier: LGPL-2.1-or-later
"""One call, by itself: wall time and peak memory of this helper beside libvirt's C helper.

Both make one poweroff on test:///default, libvirt's embedded driver, in turn, so that a machine whose speed
drifts does not favour one of them.
"""

from __future__ import annotations

import compileall
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from .report import NOT_MEASURED

TOP = Path(__file__).resolve().parents[2]
OURS = TOP / "helper" / "libvirt_sanlock_helper"
C_HELPERS = ("/usr/lib/libvirt/libvirt_sanlock_helper", "/usr/libexec/libvirt_sanlock_helper")
ARGUMENTS = ("test:///default", "6695eb01-f6a4-8304-79aa-97f2502e193f", "poweroff")
RUNS = 30

# What is asked of this helper: a plain "import libvirt" alone costs 3.1 times the C helper.
MAX_WALL_RATIO = 3.2
MAX_MEMORY_RATIO = 1.6


class Cost(NamedTuple):
    """One run: wall time in ms, peak resident memory in MiB."""

    wall: float
    memory: float


def run(program: str) -> Cost:
    """Run PROGRAM once as sanlock does, with stdio on /dev/null and a bare environment."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [program, *ARGUMENTS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath},
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{program} ended with status {process.returncode}")
    return Cost(wall * 1000, usage.ru_maxrss / 1024)


def median(costs: list[Cost]) -> Cost:
    return Cost(statistics.median(c.wall for c in costs), statistics.median(c.memory for c in costs))


def compile_packages() -> None:
    """Write byte code, as a package's installation does: the killpath itself never does."""
    for root in (TOP / "helper", TOP / "auth"):
        compileall.compile_dir(root, quiet=1)


def main() -> int:
    """Print the table; the exit status is 1 when a ratio is over its limit, 77 without a C helper."""
    c_helper = next((path for path in C_HELPERS if os.access(path, os.X_OK)), None)
    compile_packages()
    programs = [str(OURS), *([c_helper] if c_helper else [])]
    costs: dict[str, list[Cost]] = {program: [] for program in programs}
    for program in programs:
        run(program)  # warm-up
    for _ in range(RUNS):
        for program in programs:
            costs[program].append(run(program))
    ours = median(costs[str(OURS)])
    print(f"one poweroff on test:///default, median of {RUNS}")
    print(f"{'':24}{'wall, ms':>10}{'peak, MiB':>12}")
    print(f"{'this helper':24}{ours.wall:10.1f}{ours.memory:12.1f}")
    if c_helper is None:
        print("libvirt's C helper is not installed: nothing to compare with")
        return NOT_MEASURED
    theirs = median(costs[c_helper])
    # A child's peak counts from vfork(2) on, and so from the memory of this process.
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if floor >= theirs.memory:
        raise RuntimeError(f"this process takes {floor:.1f} MiB itself: no peak below that can be measured")
    ratio = Cost(ours.wall / theirs.wall, ours.memory / theirs.memory)
    print(f"{'the C helper':24}{theirs.wall:10.1f}{theirs.memory:12.1f}")
    print(f"{'ratio':24}{ratio.wall:10.2f}{ratio.memory:12.2f}")
    print(f"{'at most':24}{MAX_WALL_RATIO:10.2f}{MAX_MEMORY_RATIO:12.2f}")
    return int(ratio.wall > MAX_WALL_RATIO or ratio.memory > MAX_MEMORY_RATIO)


if __name__ == "__main__":
    sys.exit(main())
