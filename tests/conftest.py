# SPDX-License-Identifier: LGPL-2.1-or-later
"""For all suites: the signals that a test's commands begin with, and tests that run without coverage."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    """A shell's background job begins with SIGINT ignored, and each command of a test would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
