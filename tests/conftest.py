# SPDX-License-Identifier: LGPL-2.1-or-later
"""For all suites: the signals that a test's commands begin with."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell's background job begins with SIGINT ignored, and each command of a test would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
