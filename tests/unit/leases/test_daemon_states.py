# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock's answer from its socket: read whole, in time, or not at all."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sanlock_helper.leases.daemon_states import DaemonStates, daemon_states
from sanlock_helper.leases.sanlock_daemon import (
    SOCKET,
    STATE_CLIENT,
    STATE_DAEMON,
    STATE_LOCKSPACE,
    STATE_RESOURCE,
)

pytestmark = pytest.mark.pure

# struct sm_header of sanlock src/sanlock_sock.h, as an answer has it.
HEADER = struct.pack("=8I", 0x04282010, 1, 5, 0, 32, 0, 0, 0)


def state(kind: int, text: bytes = b"", pid: int = 0, name: bytes = b"", behind: bytes = b"") -> bytes:
    """struct sanlk_state, its string and the structure that follows it."""
    data = text + b"\0" if text else b""
    head = struct.pack("=IIIxxxxQ48sIxxxx", kind, 0, pid & 0xFFFFFFFF, 0, name, len(data))
    assert len(head) == 80
    return head + data + behind


def space(name: bytes, text: bytes = b"list=spaces io_timeout=10 renewal_last_success=77") -> bytes:
    return state(STATE_LOCKSPACE, text, name=name, behind=name.ljust(1104, b"\0"))


def lease(lockspace: bytes, pid: int, text: bytes = b"list=held flags=0", disks: int = 1) -> bytes:
    behind = struct.pack("=48s48sQQIIII", lockspace, b"vm", 1, 0, 0, 0, 0, disks)
    return state(STATE_RESOURCE, text, pid, behind=behind + bytes(1040 * disks))


DAEMON = state(STATE_DAEMON, b"use_watchdog=1 kill_grace_seconds=40 monotime=99")
ANSWER = b"".join(
    (
        HEADER,
        DAEMON,
        state(STATE_CLIENT, b"ci=0", -1, b"listener"),
        state(STATE_CLIENT, b"ci=2", 812, b"lvmlockd"),
        # Those of sanlock 5's worker threads, of a type of their own.
        state(9, b"busy=0"),
        space(b"one"),
        space(b"x" * 48, b"list=rem"),
        space(b"b\xff"),
        lease(b"one", 812),
        lease(b"one", 900, disks=4),
        lease(b"x" * 48, 900),
        lease(b"one", 901, b"list=rem flags=0"),
        lease(b"one", 902, b"list=orphan flags=0"),
        lease(b"one", 903, b"list=add flags=0"),
    )
)


@contextmanager
def daemon(
    directory: Path, parts: list[bytes], wait: float = 0.0, close: bool = True
) -> Iterator[list[bytes]]:
    """A daemon that answers one question with PARTS, WAIT seconds before each; what it was asked."""
    asked: list[bytes] = []
    done = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / SOCKET))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                for part in parts:
                    done.wait(wait)
                    try:
                        connection.sendall(part)
                    except OSError:
                        return
                if not close:
                    done.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            done.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(directory / SOCKET))
            thread.join()


def answered(directory: Path, data: bytes) -> DaemonStates | None:
    with daemon(directory, [data]):
        return daemon_states(str(directory), 5.0, leases=True)


def test_the_states(tmp_path: Path) -> None:
    found = answered(tmp_path, ANSWER)
    assert found is not None
    assert found.settings == {"use_watchdog": "1", "kill_grace_seconds": "40", "monotime": "99"}
    assert list(found.lockspaces) == ["one", "x" * 48, "b\udcff"]
    assert found.lockspaces["one"] == {"list": "spaces", "io_timeout": "10", "renewal_last_success": "77"}
    assert found.holders == {"one": [812, 900, 903], "x" * 48: [900]}
    assert found.processes[812] == "lvmlockd"


@pytest.mark.parametrize(("leases", "kind"), [(False, STATE_LOCKSPACE), (True, 0)])
def test_the_question(tmp_path: Path, leases: bool, kind: int) -> None:
    with daemon(tmp_path, [ANSWER]) as asked:
        assert daemon_states(str(tmp_path), 5.0, leases) is not None
    assert asked == [struct.pack("=8I", 0x04282010, 1, 5, 0, 32, 0, kind, 0)]


def test_what_comes_in_many_parts_is_one_answer(tmp_path: Path) -> None:
    with daemon(tmp_path, [ANSWER[at : at + 37] for at in range(0, len(ANSWER), 37)]):
        found = daemon_states(str(tmp_path), 5.0, leases=True)
    assert found is not None
    assert len(found.lockspaces) == 3


def test_an_answer_that_ends_early_is_none(tmp_path: Path) -> None:
    ends = {
        0,
        1,
        32,
        33,
        len(HEADER + DAEMON) - 1,
        len(ANSWER) - 1,
        len(ANSWER) - 1041,
        len(HEADER + DAEMON) + 40,
    }
    for number, end in enumerate(sorted(ends)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert answered(folder, ANSWER[:end]) is None, end


@pytest.mark.parametrize(
    "odd",
    [
        state(STATE_DAEMON, b"x" * 5000),
        lease(b"one", 1, disks=5),
        struct.pack("=IIIxxxxQ48sIxxxx", STATE_CLIENT, 0, 0, 0, b"", 0xFFFFFFFF),
        b"\xff" * 500,
    ],
)
def test_what_is_no_answer_of_sanlocks(tmp_path: Path, odd: bytes) -> None:
    assert answered(tmp_path, HEADER + DAEMON + odd) is None


def test_no_daemon(tmp_path: Path) -> None:
    assert daemon_states(str(tmp_path), 5.0) is None
    assert daemon_states(str(tmp_path / ("x" * 200)), 5.0) is None
    # A socket that a daemon has left behind.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET))
    assert daemon_states(str(tmp_path), 5.0) is None


@pytest.mark.parametrize(
    ("parts", "wait"),
    [
        ([], 0.0),
        ([HEADER + DAEMON], 0.0),
        # Each part is in time.
        ([ANSWER[at : at + 10] for at in range(0, len(ANSWER), 10)], 0.05),
    ],
)
def test_a_daemon_that_hangs_is_not_waited_for(tmp_path: Path, parts: list[bytes], wait: float) -> None:
    start = time.monotonic()
    with daemon(tmp_path, parts, wait, close=False):
        assert daemon_states(str(tmp_path), 0.3) is None
    # Far less than the daemon takes, on a busy machine as well.
    assert time.monotonic() - start < 30
