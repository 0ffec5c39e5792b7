# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run another program, and return what it printed: a missing program and one that hangs are answers, too."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

# Exit statuses that a shell and timeout(1) give.
NOT_RUN = 127
NO_END = 124

# What a killed process may take to end; one that waits for a disk ends when the disk answers.
_REAP_SECONDS = 1.0


@dataclass(frozen=True)
class Answer:
    """How a program ended: its exit status (-N for signal N), and the bytes that it printed.

    problem: why it was not run (status NOT_RUN) or not waited for (status NO_END), else "".  left: the
    process, where it was killed and has not ended all the same: it waits for a disk.
    """

    status: int
    output: bytes = b""
    errors: bytes = b""
    problem: str = ""
    left: subprocess.Popen[bytes] | None = None

    @property
    def stdout(self) -> str:
        """The output as text; bytes that are not UTF-8 become surrogates, as in file names."""
        return self.output.decode("utf-8", "surrogateescape")

    @property
    def stderr(self) -> str:
        """The errors as text, likewise."""
        return self.errors.decode("utf-8", "surrogateescape")

    @property
    def why(self) -> str:
        """Why it failed: the problem, else the first line of its errors or of its output, else its status."""
        text = (self.stderr.strip() or self.stdout.strip()).split("\n")[0]
        return self.problem or text or f"status {self.status}"


Run = Callable[[Sequence[str]], Answer]


def run(argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Answer:
    """Run ARGV with an empty standard input in the directory "/"; raises nothing.

    TIMEOUT is in seconds.  A process that takes longer is killed; neither the process nor a child of it that
    keeps its output open is waited for.  ENV is its environment, this process's own without one.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=env,
        )
    except OSError as error:
        return Answer(NOT_RUN, problem=f"{argv[0]}: {error.strerror}")
    except ValueError as error:  # a NUL in an argument
        return Answer(NOT_RUN, problem=f"{argv[0]!r}: {error}")
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        has_ended = _abandon(process)
        why = f"{argv[0]}: no end within {timeout:g} s"
        return Answer(NO_END, problem=why, left=None if has_ended else process)
    except BaseException:
        _abandon(process)
        raise
    return Answer(process.returncode, output, errors)


def _abandon(process: subprocess.Popen[bytes]) -> bool:
    """Kill PROCESS; whether it has ended."""
    process.kill()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_SECONDS)
    return process.returncode is not None
