# SPDX-License-Identifier: LGPL-2.1-or-later
"""make fuzz: each parser for its share of the time; an input that is a fault becomes a file of the corpus.

With atheris, where pip has it for this Python, inputs are grown by the branches that they reach.  Without it
hypothesis does that, by the number of lines.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import target as aim

from .corpus import FOLDER, corpus_of

try:
    import atheris
except ImportError:
    atheris = None

TOP = Path(__file__).parents[2]
# What atheris has found of use, kept from one run to the next.
WORK = TOP / "build/fuzz"

PACKAGES = ("sanlock_helper", "libvirt_auth")

# libFuzzer's limits: of an input in bytes, of one try in seconds of the clock, of memory in MiB.
OPTIONS = ("-max_len=16384", "-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=1")


def main() -> int:
    """Fuzz what the arguments name; 1 when a fault was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    parser.add_argument("--one", action="store_true", help="in this process: the only TARGET")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    arguments = parser.parse_args()
    if arguments.one:
        return _fuzz(arguments.targets[0], arguments.seconds)
    from .targets import TARGETS

    names = arguments.targets or list(TARGETS)
    failed = [name for name in names if _run(name, arguments.seconds / len(names))]
    print(f"{len(names)} parsers, faults in {len(failed)}: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _run(name: str, seconds: float) -> bool:
    """Fuzz target NAME in a process of its own, which a fault may end."""
    print(f"{name}: {seconds:.0f} s", flush=True)
    known = set(corpus_of(name))
    command = [sys.executable, "-m", "tests.fuzz", "--one", f"--seconds={seconds}", name]
    status = subprocess.run(command, cwd=TOP, check=False).returncode
    for path in sorted(set(corpus_of(name)) - known):
        print(f"{name}: a fault: {path.relative_to(TOP)}", flush=True)
    return status != 0


def _fuzz(name: str, seconds: float) -> int:
    if atheris is None:
        target = _load(name)
        missing = target.missing()
    else:
        with atheris.instrument_imports(include=list(PACKAGES)):
            target = _load(name)
            # Modules are imported when they are used first.
            missing = target.missing()
    if missing:
        print(f"{name}: left out: {missing}")
        return 0
    end = time.monotonic() + seconds
    status = _grow(target, time.monotonic() + seconds / 3)
    left = max(1.0, end - time.monotonic())
    return status or (_by_lines(target, left) if atheris is None else _by_branches(target, left))


def _load(name: str) -> Any:
    """Target NAME; what is imported with it is instrumented where it is loaded so: nothing before."""
    from .targets import TARGETS

    return TARGETS[name]


def _grow(target: Any, end: float) -> int:
    """Check what inputs that grow take, as many of them as there are until END."""
    from .limits import HangError, check_memory, check_scale
    from .shapes import shapes_of

    for shape, make in shapes_of(target).items():
        if time.monotonic() > end:
            break
        try:
            check_scale(target, make, target.most)
            check_memory(target, make, target.most)
        except (Exception, HangError) as error:
            print(f"{target.name}: {shape}: {type(error).__name__}: {error}")
            return 1
    return 0


def _by_branches(target: Any, seconds: float) -> int:
    """Fuzz with atheris, which ends this process."""
    from . import seeds
    from .limits import attempt

    work, corpus = WORK / target.name, FOLDER / target.name
    for folder in (work, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (work / hashlib.md5(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    words = WORK / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in (*seeds.WORDS, *seeds.names())))
    limits = [f"-max_total_time={seconds:.0f}", f"-artifact_prefix={corpus}/", f"-dict={words}"]
    atheris.Setup(
        [sys.argv[0], *OPTIONS, *limits, str(work), str(corpus)], lambda data: attempt(target, data)
    )
    atheris.Fuzz()
    return 0


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _by_lines(target: Any, seconds: float) -> int:
    """Fuzz with hypothesis for so many SECONDS, towards inputs that reach more lines."""
    from .limits import HangError, try_one
    from .strategies import inputs

    end, last = time.monotonic() + seconds, b""

    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs(target.seeds))
    def run(data: bytes) -> None:
        nonlocal last
        last = data
        if time.monotonic() < end:
            aim(float(_lines(lambda: try_one(target, data))))

    while time.monotonic() < end:
        try:
            run()
        except (Exception, HangError) as error:
            corpus = FOLDER / target.name
            corpus.mkdir(parents=True, exist_ok=True)
            (corpus / f"crash-{hashlib.md5(last, usedforsecurity=False).hexdigest()}").write_bytes(last)
            print(f"{target.name}: {type(error).__name__}: {error}")
            return 1
    return 0


def _lines(call: Any) -> int:
    """How many lines of the program CALL reaches."""
    reached: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if not any(f"/{package}/" in frame.f_code.co_filename for package in PACKAGES):
            return None
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return len(reached)


if __name__ == "__main__":
    sys.exit(main())
