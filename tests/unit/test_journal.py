# SPDX-License-Identifier: LGPL-2.1-or-later
"""No process waits for the journal; where journald is, it gets fields beside the line."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import syslog
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sanlock_helper.events import Event
from sanlock_helper.journal import MAX_BYTES, Journal, Journald, RepeatFilter

pytestmark = pytest.mark.pure

HELPER = Path(__file__).parents[2] / "helper"


def test_levels_and_order() -> None:
    lines: list[tuple[int, str]] = []
    terminal: list[str] = []
    journal = Journal(lambda priority, line: lines.append((priority, line)), terminal.append)
    journal.log("warning", "trying")
    journal.log("crit", "failed")
    journal.log("error", "safe")
    journal.log("notice", "done")
    assert journal.flush()
    assert lines == [
        (syslog.LOG_WARNING, "trying"),
        (syslog.LOG_CRIT, "failed"),
        (syslog.LOG_ERR, "safe"),
        (syslog.LOG_NOTICE, "done"),
    ]
    assert terminal == [f"virt-sanlock-helper: {line}" for _, line in lines]


def test_a_syslog_that_blocks_holds_up_no_virtual_machine() -> None:
    release = threading.Event()

    def blocked(_priority: int, _line: str) -> None:
        release.wait()

    journal = Journal(blocked, lambda line: None)
    start = time.monotonic()
    journal.log("notice", "one")
    journal.log("notice", "two")
    assert not journal.flush(timeout=0.1)
    assert time.monotonic() - start < 5
    release.set()


def test_a_silent_journal_is_flushed_at_once() -> None:
    assert Journal().flush(timeout=0)


def test_any_text_is_one_line_everywhere() -> None:
    lines: list[str] = []
    terminal: list[str] = []
    journal = Journal(lambda _priority, line: lines.append(line), terminal.append)
    journal.log("notice", "a\nb\x1b[2J\x9b\u202e\u2028\udcff\0é")
    assert journal.flush()
    assert lines == ["a\\nb\\x1b[2J\\x9b\\u202e\\u2028\\udcff\\x00é"]
    assert terminal == [f"virt-sanlock-helper: {lines[0]}"]


def test_a_line_that_journalctl_would_not_give_is_cut() -> None:
    lines: list[str] = []
    journal = Journal(lambda _priority, line: lines.append(line), lambda _line: None)
    for text in ("x" * MAX_BYTES, "x" * (MAX_BYTES + 1), "é\n" * 100_000):
        journal.log("notice", text)
    assert journal.flush(timeout=30)
    assert lines[0] == "x" * MAX_BYTES
    assert all(line.endswith(" [...]") and len(line.encode()) <= MAX_BYTES for line in lines[1:])


def test_an_unknown_level_is_an_error() -> None:
    lines: list[tuple[int, str]] = []
    journal = Journal(lambda priority, line: lines.append((priority, line)), lambda _line: None)
    for level in ("forged", "", "NOTICE"):
        journal.log(level, "x")
    assert journal.flush()
    assert lines == [(syslog.LOG_ERR, "x")] * 3


class BrokenReceipt:
    """One whose spool cannot be changed."""

    def __init__(self) -> None:
        self.was_told = False

    def logging(self) -> bool:
        raise OSError("read-only")

    def logged(self) -> None:
        self.was_told = True
        raise OSError("read-only")


@pytest.mark.parametrize("broken", ["syslog", "terminal", "both"])
def test_the_thread_goes_on_whatever_fails(broken: str, capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    terminal: list[str] = []

    def to_syslog(_priority: int, line: str) -> None:
        if line == "one" and broken in ("syslog", "both"):
            raise ValueError("no\nsyslog")
        lines.append(line)

    def to_terminal(line: str) -> None:
        if line.endswith("one") and broken in ("terminal", "both"):
            raise KeyError("no terminal")
        terminal.append(line)

    journal = Journal(to_syslog, to_terminal)
    receipt = BrokenReceipt()
    journal.log("notice", "one", receipt)
    journal.log("notice", "two", BrokenReceipt())
    journal.log("notice", "three")
    assert journal.flush()
    # One that does not know whether another process logs the line logs it all the same.
    assert lines[-2:] == ["two", "three"]
    assert len(terminal) == (3 if broken == "syslog" else 2)
    assert receipt.was_told
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("virt-sanlock-helper: write the log: ") for line in errors)


UUID = "defc17ee-2773-427c-8210-136921a454d3"


class Receiver:
    """A socket where journald's would be, and what came there."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def entry(self) -> dict[str, bytes]:
        """The fields of the next datagram, as journald takes them apart."""
        data, found = self.socket.recv(1 << 20), {}
        while data:
            line, _, rest = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                length = int.from_bytes(rest[:8], "little")
                value, rest = rest[8 : 8 + length], rest[8 + length :]
                assert rest[:1] == b"\n"
                rest = rest[1:]
            assert name.decode() not in found
            found[name.decode()], data = value, rest
        return found


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path / "socket")
    yield receiver
    receiver.socket.close()


def test_journald_gets_the_fields_of_an_event(receiver: Receiver) -> None:
    lines: list[tuple[int, str]] = []
    journal = Journal(lambda *line: lines.append(line), lambda _line: None, Journald(receiver.path).send)
    journal.report(Event("failed", "pause", UUID, "a\nb=c\udcff", seconds="35.00", tries=9, note="x\ny"))
    journal.log("notice", "no event")
    assert journal.flush()
    entry = receiver.entry()
    assert int(entry.pop("SYSLOG_PID")) > 0
    assert entry == {
        "MESSAGE": f"pause a\\nb=c\\udcff {UUID}: FAILED after 35.00 s at try 9: x\\ny".encode(),
        "PRIORITY": b"2",
        "SYSLOG_IDENTIFIER": b"virt-sanlock-helper",
        "SYSLOG_FACILITY": b"3",
        "MESSAGE_ID": b"72fce314752e45abb58424126e351fce",
        "DOMAIN_UUID": UUID.encode(),
        "DOMAIN_NAME": b"a\nb=c\\udcff",
        "VIRT_SANLOCK_HELPER_ACTION": b"pause",
        "VIRT_SANLOCK_HELPER_OUTCOME": b"failed",
        "VIRT_SANLOCK_HELPER_SECONDS": b"35.00",
        "VIRT_SANLOCK_HELPER_TRIES": b"9",
        "VIRT_SANLOCK_HELPER_NOTE": b"x\ny",
    }
    assert receiver.entry()["MESSAGE"] == b"no event"
    assert lines == []


@pytest.mark.parametrize(
    "name", ["\n", "\n\n", "a\n", "\nPRIORITY=0\n_UID=0", "x" * 10_000, "é\n" * 5000, "\0"]
)
def test_no_name_adds_a_field(receiver: Receiver, name: str) -> None:
    event = Event("done", "pause", UUID, name, found="x", did="y", verified="z")
    assert Journald(receiver.path).send(5, "line", event.fields())
    entry = receiver.entry()
    assert entry["PRIORITY"] == b"5"
    assert "_UID" not in entry
    assert max(map(len, entry.values())) <= MAX_BYTES
    assert name.startswith(entry["DOMAIN_NAME"].decode().removesuffix(" [...]"))


@pytest.mark.parametrize("state", ["missing", "closed", "full", "file", "stream"])
def test_syslog_gets_what_journald_does_not_take(tmp_path: Path, state: str) -> None:
    path = tmp_path / "socket"
    journald = Journald(str(path))
    kind = socket.SOCK_STREAM if state == "stream" else socket.SOCK_DGRAM
    listener = socket.socket(socket.AF_UNIX, kind)
    if state == "file":
        path.write_text("")
    elif state != "missing":
        listener.bind(str(path))
    if state == "closed":
        listener.close()
    # A journald that is stopped: as many datagrams as its socket takes, and then no send waits.
    taken = 0
    while state == "full" and journald.send(5, f"line {taken}", {}):
        taken += 1
        assert taken < 100_000
    lines: list[str] = []
    journal = Journal(lambda _priority, line: lines.append(line), lambda _line: None, journald.send)
    journal.report(Event("usage-error", note="x"))
    assert journal.flush()
    listener.close()
    assert lines == ["usage error: x"]


def test_a_datagram_that_is_too_long_goes_to_syslog(receiver: Receiver) -> None:
    assert not Journald(receiver.path).send(5, "line", {f"F{number}": "x" * 4000 for number in range(1000)})


def test_a_journald_that_was_started_later_or_again_is_found(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    journald = Journald(str(path))
    for _ in range(2):
        assert not journald.send(5, "line", {})
        receiver = Receiver(path)
        assert journald.send(5, "line", {})
        assert receiver.entry()["MESSAGE"] == b"line"
        receiver.socket.close()
        path.unlink()


def test_the_same_reason_is_due_again_later() -> None:
    repeats = RepeatFilter(10.0)
    assert repeats.is_due("vm1", "a", 0.0)
    assert not repeats.is_due("vm1", "a", 9.9)
    assert repeats.is_due("vm2", "a", 9.9)
    assert repeats.is_due("vm1", "a", 10.0)
    assert not repeats.is_due("vm1", "a", 19.9)
    # Another reason is news, and so is the first one after it.
    assert repeats.is_due("vm1", "b", 19.9)
    assert repeats.is_due("vm1", "a", 19.9)
    repeats.forget("vm1")
    assert repeats.is_due("vm1", "a", 19.9)
    repeats.forget("vm3")
    once = RepeatFilter(float("inf"))
    assert once.is_due("vm1", "", 0.0)
    assert not once.is_due("vm1", "", 1e9)


# Its stderr is a pipe that is full, and nobody reads it; `journald` is where the lines have to come.
FULL_STDERR = """
import os, sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.journal import Journal
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, bytes(4096))
except BlockingIOError:
    pass
os.set_blocking(writer, True)
os.dup2(writer, 2)
journal = Journal(lambda priority, line: print(line, flush=True))
for number in range(20):
    journal.log("notice", f"{number}" + "x" * 5000)
flushed = journal.flush()
drained = 0
while drained < 65536:
    drained += len(os.read(reader, 65536))
journal.log("notice", "again")
assert journal.flush()
assert os.read(reader, 65536) == b"virt-sanlock-helper: again\\n"
print(flushed, flush=True)
os._exit(0)
"""


def test_a_stderr_that_takes_nothing_keeps_no_line_from_the_journal() -> None:
    command = [sys.executable, "-IB", "-c", FULL_STDERR, str(HELPER)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    lines = answer.stdout.splitlines()
    assert lines[-1:] == ["True"], answer
    assert [line.rstrip(".[] x") for line in lines[:20]] == [str(number) for number in range(20)]


@pytest.mark.parametrize("words", [["nonsense"], ["test:///default", "no-uuid", "pause"], ["--unknown"]])
def test_a_stderr_that_takes_nothing_keeps_no_process(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    try:
        command = [sys.executable, "-ISB", str(HELPER / "libvirt_sanlock_helper"), *words]
        answer = subprocess.run(command, stderr=writer, timeout=10, check=False)
        assert answer.returncode == 2
    finally:
        os.close(reader)
        os.close(writer)
