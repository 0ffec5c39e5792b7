# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a parser may take, and what it may say: one input is tried against these limits.

A fault is an AssertionError, or the exception itself that the parser was not to raise.
"""

from __future__ import annotations

import gc
import signal
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .seeds import SECRET
from .targets import Shape, Target

# Of a processor, for an input of the size that hosts have (SMALL bytes at most).
MOST_SECONDS = 1.0
SMALL = 64 * 1024

MOST_BYTES = 64 << 20

# Twice the input may take so many times as long.
MOST_RATIO = 2.6
# What takes less than this is not measured: the clock's and the collector's noise.
LEAST_SECONDS = 0.1

# An error is one line of the journal.
MOST_TEXT = 2000


class HangError(BaseException):
    """It took too long.  No Exception, which the parser may catch."""


@contextmanager
def no_hang(seconds: float = MOST_SECONDS) -> Iterator[None]:
    """Raise HangError after SECONDS of this process's processor time; a busy machine takes none of them."""

    def stop(_signal: int, frame: FrameType | None) -> None:
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "a C function"
        raise HangError(f"no end within {seconds:g} s of processor time, at {where}")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def attempt(target: Target, data: bytes) -> None:
    """Have TARGET parse DATA: it may raise what it is allowed to, with a short text that has no secret."""
    try:
        problem = target.parse(data)
    except target.allowed as error:
        _check_text(f"{error} {getattr(error, 'hint', '')}")
        _check_secret(error)
    else:
        if isinstance(problem, str):
            _check_text(problem)
            assert SECRET not in problem


def try_one(target: Target, data: bytes) -> None:
    """The same within a second."""
    with no_hang():
        attempt(target, data)


def _check_text(text: str) -> None:
    assert len(text) <= MOST_TEXT, f"an error of {len(text)} characters: {text[:200]}"


def _check_secret(error: BaseException | None) -> None:
    """A report shows an error and what it came from, with --debug each one's repr()."""
    while error is not None:
        for text in (str(error), repr(error)):
            assert SECRET not in text, f"a secret in a {type(error).__name__}"
        error = error.__cause__


def memory(target: Target, data: bytes) -> int:
    """How many bytes more TARGET takes for DATA, at its most."""
    gc.collect()
    tracemalloc.start()
    try:
        attempt(target, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def seconds(target: Target, data: bytes, tries: int = 1, calls: int = 1) -> float:
    """Processor time of the quickest of TRIES, each of so many CALLS."""
    taken = []
    # A full collection comes when it comes.
    gc.disable()
    try:
        for _ in range(tries):
            before = time.process_time()
            for _ in range(calls):
                attempt(target, data)
            taken.append(time.process_time() - before)
    finally:
        gc.enable()
    return min(taken)


def check_scale(target: Target, make: Shape, most: int) -> None:
    """TARGET's time grows with the size of what MAKE makes, up to MOST bytes, and no faster."""
    size, taken = min(SMALL, most // 4), 0.0
    with no_hang(10 * MOST_SECONDS):
        while size <= most:
            taken = seconds(target, make(size))
            if size <= SMALL:
                assert taken <= MOST_SECONDS, f"{size} bytes take {taken:.2f} s"
            if taken > LEAST_SECONDS or size * 2 > most:
                break
            size *= 2
        if taken > LEAST_SECONDS:
            # Over two steps, each the quickest of some: other processes use the caches, too.  The clock may
            # be a coarse one: both take about as long.
            few, many = seconds(target, make(size // 4), 3, 4) / 4, seconds(target, make(size), 3)
            text = f"{size} bytes take {many:.3f} s, {many / max(few, 1e-3):.1f} times a quarter of them"
            assert many <= MOST_RATIO**2 * max(few, 1e-3), text


def check_memory(target: Target, make: Shape, most: int) -> None:
    """What TARGET takes for MOST bytes that MAKE makes is small."""
    taken = memory(target, make(most))
    assert taken <= MOST_BYTES, f"{most} bytes take {taken >> 20} MiB"
