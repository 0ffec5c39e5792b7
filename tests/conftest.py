# SPDX-License-Identifier: LGPL-2.1-or-later
"""For all suites: the signals of a test's commands, the machine's own spool, and tests without coverage."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SPOOL = Path("/run/virt-sanlock-helper/requests")


def pytest_configure() -> None:
    """Each command of a test would inherit the signals that this process ignores.

    A shell's background job begins with SIGINT and SIGQUIT ignored, what nohup(1) starts with SIGHUP, and
    `trap ''` may have any.  execve(2) resets a signal that is handled to the default, so that this process
    goes on ignoring all but SIGINT.  subprocess itself resets those that Python ignores.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            handler = signal.default_int_handler if number == signal.SIGINT else ignored
            signal.signal(number, handler)


def ignored(_number: int, _frame: object) -> None:
    """Go on."""


@pytest.fixture(scope="session", autouse=True)
def machines_spool() -> Iterator[None]:
    """No request goes into the machine's own spool, where another test's process might serve it."""
    before = changed_at(SPOOL)
    yield
    assert changed_at(SPOOL) == before, "a test runs the helper without tests/private_run.py"


def changed_at(path: Path) -> int | None:
    """The time of the last change of PATH, None where there is none, or none that this user may read."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No coverage is measured, in processes neither, where a test runs the same lines over and over.

    That takes some three times as long with it, and no line runs there alone.
    """
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)
    trace, in_threads = sys.gettrace(), threading.gettrace() if sys.version_info >= (3, 10) else None
    sys.settrace(None)
    threading.settrace(None)
    yield
    threading.settrace(in_threads)
    sys.settrace(trace)
