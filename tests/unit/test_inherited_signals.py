# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands of a test end by the signals that it sends, whatever pytest was started by."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
CONFIGURE = "import os, signal, subprocess; from tests.conftest import pytest_configure; pytest_configure(); "
IGNORED = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def configured(code: str) -> subprocess.CompletedProcess[str]:
    """CODE in a process that begins with all signals ignored, after pytest_configure()."""

    def ignore() -> None:
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)

    return subprocess.run(
        [sys.executable, "-c", CONFIGURE + code],
        preexec_fn=ignore,
        restore_signals=False,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_begins_with_no_signal_ignored() -> None:
    """nohup(1) ignores SIGHUP, a shell in its background jobs SIGINT and SIGQUIT, `trap ''` any."""
    result = configured("subprocess.run(['grep', '^SigIgn:', '/proc/self/status'])")
    mask = int(result.stdout.removeprefix("SigIgn:"), 16)
    # Of the C library's own two signals, which no program can send or set, one may be ignored from outside.
    assert [number for number in IGNORED if mask >> (number - 1) & 1] == [], result.stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_pytest_itself_goes_on_ignoring_it(number: signal.Signals) -> None:
    result = configured(f"os.kill(os.getpid(), signal.{number.name}); print('goes on')")
    assert (result.returncode, result.stdout) == (0, "goes on\n"), result.stderr
