# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lock that records and recovery share: one holder, which may end in any way."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import pytest

from sanlock_helper.records.file_lock import locked

HELPER = Path(__file__).parents[3] / "helper"

HOLDER = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.records.file_lock import locked
with locked(sys.argv[2], wait=False):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "records.lock")


def test_one_has_it_at_a_time(path: str) -> None:
    with locked(path, wait=False), pytest.raises(BlockingIOError), locked(path, wait=False):
        pass
    with locked(path, wait=False):
        pass


def test_with_wait_the_second_has_it_after_the_first(path: str) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(path, wait=True):
            order.append("second")

    thread = threading.Thread(target=second, daemon=True)
    with locked(path, wait=True):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_holder_that_is_killed_has_it_no_more(path: str) -> None:
    command = ["/usr/bin/python3", "-IB", "-c", HOLDER, str(HELPER), path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
        holder.send_signal(signal.SIGKILL)
    with locked(path, wait=False):
        pass


def test_a_symbolic_link_is_not_followed(path: str, tmp_path: Path) -> None:
    Path(path).parent.mkdir()
    (tmp_path / "file").write_text("kept")
    Path(path).symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic link"), locked(path, wait=False):
        pass
    assert (tmp_path / "file").read_text() == "kept"
