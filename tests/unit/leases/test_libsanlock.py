# SPDX-License-Identifier: LGPL-2.1-or-later
"""No answer of sanlock's ends the process, and none lets a held lease pass for one that is given up.

The calls are made in a process of their own, which a crash ends, against a socket that answers anything.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sanlock_helper.errors import PermanentError

from ..examples import some_of

try:
    from sanlock_helper.leases import libsanlock
except PermanentError as error:
    pytest.skip(str(error), allow_module_level=True)

HELPER = Path(__file__).parents[3] / "helper"

# Each answer is used once by each of these.
CALLS = """
import sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.leases import held as leases, libsanlock as sanlock
disks = [("/a", 0)]
calls = [
    sanlock.get_lockspaces,
    lambda: sanlock.get_hosts(b"LS", 1),
    lambda: sanlock.inquire(pid=7),
    lambda: sanlock.read_resource("/a"),
    lambda: sanlock.read_resource_owners(b"LS", b"x", disks),
    lambda: sanlock.add_lockspace(b"LS", 1, "/a"),
    lambda: sanlock.rem_lockspace(b"LS", 1, "/a"),
    lambda: sanlock.release(b"LS", b"x", disks, pid=7),
    lambda: sanlock.acquire(b"LS", b"x", disks, pid=7),
    lambda: sanlock.write_lockspace(b"LS", "/a"),
    lambda: sanlock.write_resource(b"LS", b"x", disks),
]
known = set(sys.modules)
for line in sys.stdin:
    for call in calls:
        try:
            call()
        except sanlock.SanlockException:
            pass
    print(flush=True)
print("late:", *set(sys.modules) - known)
"""

# Python's own memory is checked at its ends when it is freed; a crash shows the line that it is in.
STRICT = {"PYTHONMALLOC": "debug", "PYTHONFAULTHANDLER": "1"}


class Daemon:
    """A socket in DIRECTORY: each connection gets the next of `answers`, or else `answer`."""

    def __init__(self, directory: Path) -> None:
        self.answer = b""
        self.answers: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(directory / "sanlock.sock"))
        self._socket.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(self.answers.pop(0) if self.answers else self.answer)
                except OSError:
                    pass  # it did not wait for the end

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.close()


def header(data: int = 0, data2: int = 0, length: int = 32) -> bytes:
    """struct sm_header of sanlock src/sanlock_sock.h."""
    mask = 0xFFFFFFFF
    return struct.pack("=8I", 0x04282010, 1, 9, 0, length & mask, 0, data & mask, data2 & mask)


def inquired(text: bytes, count: int, result: int = 0) -> bytes:
    return header(result, count, 32 + len(text)) + text


def resource(
    pid: int, name: bytes, list_name: bytes = b"held", disks: int = 1, shared: bool = False
) -> bytes:
    """A lease in the answer to SM_CMD_STATUS."""
    text = b"list=%b flags=0 lver=5\0" % list_name
    state = struct.pack("=4xIIxxxxQ48sI4x", 0, pid, 5, name, len(text))
    state = struct.pack("=I", 4) + state[4:]
    made = struct.pack("=48s48sQQIIII", b"L:S", name, 0, 0, 0, 0, 4 if shared else 0, disks)
    return state + text + made + struct.pack("=1024sQII", b"/p 1", 9, 0, 0) * disks


NUMBERS = (0, 1, 2, -1, -2, 8, 64, 1 << 16, 0x7FFFFFFF, -0x80000000, 0x01000000)


def hostile() -> Iterator[bytes]:
    """Answers that no sanlock gives."""
    yield from (b"", b"\0", b"\xff" * 31, b"\0" * 32, b"\xff" * 32, b"\xff" * 5000, b"\0" * 5000)
    for number in NUMBERS:
        for other in NUMBERS:
            yield header(number, other, 32) + b"\xff" * 2000
            yield header(0, number, other) + b"a:b:/c:0:1" * 300
    # Text without its NUL, of the sizes that malloc() serves from several places.
    for size in (1, 7, 8, 23, 24, 25, 127, 1032, 4096, 131072, 1 << 21):
        yield inquired(b":" * size, 1)
        yield inquired(b"x" * size, 1)
        yield inquired(b" " * size, size)
        yield inquired(b"\\" * size, 3)
    chance = random.Random(7)
    for _ in range(100):
        yield header(0, chance.choice(NUMBERS), chance.choice((32, 33, 1000))) + chance.randbytes(3000)
        yield header(0, 3) + resource(7, b"x")[: chance.randrange(1400)] + chance.randbytes(500)


def test_no_answer_ends_the_process(daemon: Daemon, tmp_path: Path) -> None:
    environ = {**os.environ, **STRICT, "SANLOCK_RUN_DIR": str(tmp_path)}
    command = [sys.executable, "-B", "-c", CALLS, str(HELPER)]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for answer in some_of(hostile()):
            daemon.answer = answer
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "\n", (process.wait(), answer[:64])
        process.stdin.close()
        assert process.stdout.read() == "late:\n"
        assert process.wait() == 0


ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.leases import held as leases
try:
    print([(lease.lockspace, lease.resource) for lease in leases.held_by(7)])
except leases.LeasesUnknownError as error:
    print("unknown", error.absent)
"""


def held(tmp_path: Path) -> str:
    environ = {**os.environ, "SANLOCK_RUN_DIR": str(tmp_path)}
    command = [sys.executable, "-SB", "-c", ASK, str(HELPER)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout.strip()


PLAIN = b"LS:plain:/p:0:1"
NO_STATUS = b""
UNKNOWN = ("?", "?")


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([inquired(PLAIN + b"\0", 1)], [("LS", "plain")]),
        ([header()], []),
        # Others' leases, and what this process has given up, are not its own.
        (
            [inquired(b"LS:a:b:/p:0:1\0", 1), header() + resource(8, b"x") + resource(7, b"a:b")],
            [("L:S", "a:b")],
        ),
        (
            [inquired(b"\0", 2, -errno.ELIBSCN), header() + resource(7, b"a b") + resource(7, b"c")],
            [("L:S", "a b"), ("L:S", "c")],
        ),
        # What is missing in the status, or cannot be asked for, is held.
        ([inquired(b"LS:a:b:/p:0:1\0", 1), NO_STATUS], [UNKNOWN]),
        ([inquired(PLAIN + b" LS:a:b:/p:0:1\0", 2), NO_STATUS], [("LS", "plain"), UNKNOWN]),
        ([inquired(b"\0", 1, -errno.ELIBSCN), header() + resource(7, b"x", b"rem")], [UNKNOWN]),
        ([inquired(b"\0", 2, -errno.ELIBSCN), header() + resource(7, b"x")], [("L:S", "x"), UNKNOWN]),
        ([inquired(b"\0", 3, -errno.ELIBACC), header() + resource(7, b"x")[:-1]], [UNKNOWN] * 3),
        ([inquired(b"\0", 0, -errno.ELIBBAD), header() + resource(7, b"x", disks=5)], [UNKNOWN]),
        ([inquired(b"\0", 1 << 30, -errno.ELIBSCN), NO_STATUS], [UNKNOWN] * 64),
        ([inquired(PLAIN, 5), NO_STATUS], [("LS", "plain"), *[UNKNOWN] * 4]),
        ([inquired(b"\0", 3), NO_STATUS], [UNKNOWN] * 3),
        ([inquired(b"nonsense\0", 1), NO_STATUS], [UNKNOWN]),
    ],
)
def test_what_is_not_known_is_held(
    daemon: Daemon, tmp_path: Path, answers: list[bytes], found: list[tuple[str, str]]
) -> None:
    daemon.answers = answers
    assert held(tmp_path) == str(found)


# A number that is no error of sanlock's must not pass for the errno of the same value: ESRCH is "none held".
@pytest.mark.parametrize("answer", [header(errno.ESRCH), header(1), header(-errno.EPERM), header()[:20], b""])
def test_no_answer_is_not_none(daemon: Daemon, tmp_path: Path, answer: bytes) -> None:
    daemon.answer = answer
    assert held(tmp_path) == "unknown False"


def test_the_errors_that_are_answers(daemon: Daemon, tmp_path: Path) -> None:
    daemon.answer = header(-errno.ESRCH)
    assert held(tmp_path) == "[]"


@pytest.mark.parametrize(
    ("name", "path"),
    [(b"x" * 49, "/p"), (b"a\0b", "/p"), (b"x", "/" + "p" * 1023), (b"x", "/a\0b")],
)
def test_what_does_not_fit_is_refused(name: bytes, path: str) -> None:
    with pytest.raises(ValueError, match="sanlock takes"):
        libsanlock.acquire(b"LS", name, [(path, 0)], pid=1)


def test_a_missing_library_is_reported_with_what_to_install() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import ctypes\n"
        "def missing(name, *rest): raise OSError(f'{name}: cannot open shared object file')\n"
        "ctypes.CDLL = missing\n"
        "from sanlock_helper.leases import held as leases\n"
        "from sanlock_helper.leases.lockspaces import Sanlock\n"
        "from sanlock_helper.errors import PermanentError\n"
        "for number in range(2):\n"
        "    try: leases.held_by(1)\n"
        "    except leases.LeasesUnknownError as error: print(error.absent, error)\n"
        "try: Sanlock()\n"
        "except PermanentError as error: print(error)\n"
    )
    command = [sys.executable, "-B", "-c", code, str(HELPER)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    words = "libsanlock_client.so.1: cannot open shared object file (install sanlock-lib"
    assert len(lines) == 3
    assert all(words in line for line in lines)
    assert lines[0].startswith("False load sanlock's library: ")
