# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/benchmarks.md: each part's table between its markers, with the machine, the date and the versions."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, TextIO

TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "docs" / "benchmarks.md"

# The exit status of a part that could not measure here: its table stays as it is.
NOT_MEASURED = 77

# The programs whose version a table names, and the arguments with which they print it.
PROGRAMS = {
    "libvirt": ("libvirtd", "--version"),
    "sanlock": ("sanlock", "version"),
    "QEMU": ("qemu-system-x86_64", "--version"),
}


class Tee(io.StringIO):
    """Text that is kept, and goes to OUT at once."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def write(self, text: str) -> int:
        """Write TEXT to both."""
        self._out.write(text)
        self._out.flush()
        return super().write(text)


def replace(page: str, part: str, body: str) -> str:
    """PAGE with BODY as an indented block between the markers of PART.

    Raises ValueError when the page has no such markers, or has them twice.
    """
    begin, end = f"<!-- make bench: {part} -->\n", f"<!-- end: {part} -->\n"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"no place for {part}: wanted, once and in this order: {begin!r} and {end!r}")
    before, _, rest = page.partition(begin)
    block = "".join(f"    {line}".rstrip() + "\n" for line in body.strip("\n").splitlines())
    return f"{before}{begin}\n{block}\n{end}{rest.partition(end)[2]}"


def machine(proc: Path = Path("/proc"), cores: int | None = None) -> str:
    """Processor, cores that this process may use (or CORES), memory and kernel, as PROC has them."""
    models = re.findall(r"^model name\s*: (.*)$", (proc / "cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal: *(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
    number = cores if cores is not None else len(os.sched_getaffinity(0))
    gib = f"{int(memory[1]) / (1 << 20):.1f} GiB" if memory else "memory unknown"
    kernel = (proc / "sys/kernel/osrelease").read_text().strip()
    return f"{models[0] if models else platform.machine()}, {number} cores, {gib}, Linux {kernel}"


def version_of(*command: str) -> str:
    """The first version number that COMMAND prints; "none" where it is not installed."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    found = re.search(r"\d+\.\d+(?:\.\d+)?", answer.stdout + answer.stderr)
    return found[0] if found else "unknown"


def distribution() -> str:
    """The name and version of this distribution (os-release(5))."""
    try:
        found = re.search(r'^PRETTY_NAME="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else "distribution unknown"


def commit(top: Path = TOP) -> str:
    """The commit of TOP, with "-dirty" where the program differs from it; "" where git has none."""
    git = ["git", "-C", str(top)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        # Not the page: the part before this one has written to it.
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "helper", "auth", "tests"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("-dirty" if changed.stdout else "")


def heading(now: float) -> str:
    """Date, machine and versions, as the lines above a table."""
    versions = [f"{name} {version_of(*command)}" for name, command in PROGRAMS.items()]
    measured = commit()
    return "\n".join(
        [
            f"{time.strftime('%Y-%m-%d', time.gmtime(now))}{f', commit {measured}' if measured else ''}",
            machine(),
            ", ".join([distribution(), *versions, f"Python {platform.python_version()}"]),
        ]
    )


def write(part: str, table: str, page: Path) -> None:
    """Put TABLE into PAGE.  Raises ValueError where the page has no place for PART, OSError."""
    text = replace(page.read_text(encoding="utf-8"), part, f"{heading(time.time())}\n\n{table}")
    new = page.with_name(f".{page.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(page)


def run(part: str, measure: Callable[[], int], page: Path = PAGE) -> int:
    """Run MEASURE, the main() of PART: its table goes to stdout and into PAGE.

    Returns the status of MEASURE, 1 when a limit is exceeded; 0 also where nothing could be measured, and
    PAGE stays as it is.  Raises ValueError where PAGE has no place for PART, OSError.
    """
    tee = Tee(sys.stdout)
    with contextlib.redirect_stdout(tee):
        status = measure()
    if status == NOT_MEASURED:
        return 0
    write(part, tee.getvalue(), page)
    return status
