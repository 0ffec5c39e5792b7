# SPDX-License-Identifier: LGPL-2.1-or-later
"""The proxy by its rules, in front of a server that answers each frame with the same frame."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .proxy import ANSWER, CUT, DELAY, DROP, HALVE, HOLD, PASS, REQUEST, SILENCE, Relay, Rule

PROXY = Path(__file__).with_name("proxy.py")


def frame(procedure: int, body: bytes = b"") -> bytes:
    return struct.pack(">4I", 16 + len(body), 0x20008086, 1, procedure) + body


class Server:
    """Sends back what comes."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._echo, args=(client,), daemon=True).start()

    @staticmethod
    def _echo(client: socket.socket) -> None:
        while data := client.recv(65536):
            client.sendall(data)
        client.close()


class Control:
    """The proxy's process."""

    def __init__(self, front: Path, back: Path, framed: str) -> None:
        self.front = front
        self.process = subprocess.Popen(
            [sys.executable, str(PROXY), str(front), str(back), framed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.event()["event"] == "ready"

    def event(self) -> dict[str, object]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def send(self, **command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        assert self.event() == {"event": "obeyed", "do": command["do"]}

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(str(self.front))
        return client

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=["framed"])
def control(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Control]:
    Server(tmp_path / "back")
    control = Control(tmp_path / "front", tmp_path / "back", request.param)
    yield control
    control.close()


def came(client: socket.socket, seconds: float = 0.3) -> bytes | None:
    """What comes within SECONDS; None when nothing does, b"" at the end."""
    client.settimeout(seconds)
    try:
        return client.recv(65536)
    except (TimeoutError, socket.timeout):
        return None


def test_frames_that_come_in_pieces_and_together_are_passed(control: Control) -> None:
    client = control.connect()
    both = frame(24, b"x" * 100) + frame(12)
    for start in range(0, len(both), 7):
        client.sendall(both[start : start + 7])
        time.sleep(0.002)
    answer = b""
    while len(answer) < len(both):
        answer += client.recv(65536)
    assert answer == both


@pytest.mark.parametrize(("direction", "skip"), [(REQUEST, 0), (REQUEST, 1), (ANSWER, 0), (ANSWER, 2)])
def test_the_nth_frame_of_a_procedure_is_dropped_and_no_other(
    control: Control, direction: str, skip: int
) -> None:
    control.send(do="rules", rules=[Rule(direction, DROP, 24, skip=skip)])
    client = control.connect()
    for number in range(4):
        client.sendall(frame(12))
        assert came(client, 5) == frame(12)
        client.sendall(frame(24))
        assert came(client) == (None if number == skip else frame(24))


def test_a_message_is_held_until_it_is_let_go(control: Control) -> None:
    control.send(do="rules", rules=[Rule(REQUEST, HOLD, contains=b"me".hex())])
    client = control.connect()
    client.sendall(frame(1, b"other"))
    assert came(client, 5) == frame(1, b"other")
    client.sendall(frame(1, b"it is me"))
    assert control.event() == {"event": "held", "direction": REQUEST, "procedure": 1}
    assert came(client) is None
    control.send(do="go", rule=Rule(REQUEST, PASS))
    assert came(client, 5) == frame(1, b"it is me")


def test_a_connection_is_cut(control: Control) -> None:
    control.send(do="rules", rules=[Rule(ANSWER, CUT, 34)])
    client, other = control.connect(), control.connect()
    client.sendall(frame(34))
    assert came(client, 5) == b""
    other.sendall(frame(34))
    assert came(other, 5) == frame(34)


@pytest.mark.parametrize(("then", "length"), [(HALVE, 10), (SILENCE, 0)])
def test_half_an_answer_or_none_and_then_silence(control: Control, then: str, length: int) -> None:
    control.send(do="rules", rules=[Rule(ANSWER, then, 34)])
    client = control.connect()
    client.sendall(frame(34, b"abcd"))
    assert (came(client) or b"") == frame(34, b"abcd")[:length]
    client.sendall(frame(12))
    assert came(client) is None


def test_an_answer_is_delayed(control: Control) -> None:
    control.send(do="rules", rules=[Rule(ANSWER, DELAY, seconds=0.5)])
    client = control.connect()
    start = time.monotonic()
    client.sendall(frame(12))
    assert came(client, 5) == frame(12)
    assert time.monotonic() - start >= 0.5


def test_connections_are_refused_and_taken_again(control: Control) -> None:
    control.send(do="refuse")
    with pytest.raises(ConnectionRefusedError):
        control.connect()
    control.send(do="listen")
    client = control.connect()
    client.sendall(frame(1))
    assert came(client, 5) == frame(1)


def test_a_rule_that_lasts_holds_each(control: Control) -> None:
    control.send(do="rules", rules=[Rule(REQUEST, HOLD, 12, lasts=True)])
    clients = [control.connect() for _ in range(3)]
    for client in clients:
        client.sendall(frame(12))
        assert control.event()["event"] == "held"
    control.send(do="go", rule=Rule(REQUEST, PASS))
    assert [came(client, 5) for client in clients] == [frame(12)] * 3


@pytest.mark.parametrize("control", ["plain"], indirect=True)
@pytest.mark.parametrize("after", [0, 5, 9])
def test_a_stream_is_silent_after_so_many_bytes(control: Control, after: int) -> None:
    control.send(do="rules", rules=[Rule(ANSWER, SILENCE, after=after)])
    client = control.connect()
    client.sendall(b"0123456789")
    assert (came(client) or b"") == b"0123456789"[:after]
    client.sendall(b"more")
    assert came(client) is None


def test_a_daemon_that_ends_is_seen_as_one(tmp_path: Path) -> None:
    # Nothing listens behind the proxy: the client's connection ends at once.
    relay = Relay(str(tmp_path / "front"), str(tmp_path / "back"), True)
    relay.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "front"))
        assert came(client, 5) == b""
    relay.refuse()
