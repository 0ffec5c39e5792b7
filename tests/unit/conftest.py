# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the unit tests."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .examples import load_profile

if TYPE_CHECKING:
    from .fake_host import Start

# Its own command line is what a QEMU's would be; it ends with its standard input.
PROGRAM = "import sys; print(flush=True); sys.stdin.read()"


def pytest_configure(config: pytest.Config) -> None:
    load_profile(config)


def pytest_collection_finish() -> None:
    """Have collections of garbage pass over the thousands of tests that are in memory.

    The program collects by itself where a test is about that, each time all that the process has.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def start() -> Iterator[Start]:
    started = []

    def run(*words: str, program: str = PROGRAM) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-ISc", program, *words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
