# SPDX-License-Identifier: LGPL-2.1-or-later
"""A proxy in front of a unix socket: by rules it passes, delays, cuts, drops, halves or holds messages.

It speaks no protocol.  Framed, it knows one thing of libvirt's: each message begins with its length, and the
number of its procedure stands at a fixed place (libvirt src/rpc/virnetprotocol.x, virNetMessageHeader).

Run inside a stack by the distribution's Python as

    proxy.py SOCKET TARGET FRAMED

it reads commands from standard input and reports events on standard output, both a line of JSON each.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.e2e.stack import Stack

REQUEST, ANSWER = "request", "answer"

# What becomes of a message, or of a connection's direction.
PASS, HOLD, DELAY, CUT, DROP, HALVE, SILENCE = "pass", "hold", "delay", "cut", "drop", "halve", "silence"
VERDICTS = (PASS, HOLD, DELAY, CUT, DROP, HALVE, SILENCE)

# Where the socket of the daemon behind the proxy is.
MOVED = ".behind-proxy"

# length, program, version, procedure; each in 4 bytes, big-endian.
_HEAD = struct.Struct(">4I")
_CHUNK = 65536


class Rule(NamedTuple):
    """What is done with one message: the first rule that fits it counts, and each fits once unless it lasts.

    direction: REQUEST or ANSWER.  procedure: its number, 0 for any.  contains: bytes of the message, in
    hexadecimal.  skip: so many that fit are passed before.  after: where the stream is not framed, so many
    bytes of a connection's direction are passed before.  seconds: of a DELAY.
    """

    direction: str
    then: str = HOLD
    procedure: int = 0
    contains: str = ""
    skip: int = 0
    after: int = 0
    seconds: float = 0.0
    lasts: bool = False


class Message(NamedTuple):
    """One frame, or what came at once where there are none; before: the bytes of its direction till then."""

    direction: str
    data: bytes
    procedure: int
    before: int


class Rules:
    """The rules that are in force; used by the threads of all connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def set(self, rules: list[Rule]) -> None:
        """Replace all rules."""
        with self._lock:
            self._rules = rules

    def verdict(self, message: Message) -> Rule:
        """The rule for MESSAGE: one that passes it where none fits."""
        with self._lock:
            for number, rule in enumerate(self._rules):
                if not _fits(rule, message):
                    continue
                if rule.skip:
                    self._rules[number] = rule._replace(skip=rule.skip - 1)
                    break
                if not rule.lasts:
                    del self._rules[number]
                return rule
        return Rule(message.direction, PASS)


def _fits(rule: Rule, message: Message) -> bool:
    return (
        rule.direction == message.direction
        and rule.procedure in (0, message.procedure)
        and bytes.fromhex(rule.contains) in message.data
        and message.before + len(message.data) > rule.after
    )


def frames(source: socket.socket) -> Iterator[tuple[bytes, int]]:
    """Each frame that SOURCE brings and its procedure; what is cut off at the end has procedure 0."""
    held = b""
    while data := source.recv(_CHUNK):
        held += data
        while len(held) >= 4:
            length = int.from_bytes(held[:4], "big")
            if length < 4 or len(held) < length:
                break
            procedure = _HEAD.unpack_from(held)[3] if length >= _HEAD.size else 0
            yield held[:length], procedure
            held = held[length:]
    if held:
        yield held, 0


def chunks(source: socket.socket) -> Iterator[tuple[bytes, int]]:
    """The same for a stream without frames: what came at once."""
    while data := source.recv(_CHUNK):
        yield data, 0


class Relay:
    """The proxy's process: one listening socket, and two threads for each connection."""

    def __init__(self, path: str, target: str, framed: bool) -> None:
        self._path = path
        self._target = target
        self._read = frames if framed else chunks
        self._rules = Rules()
        self._held: dict[int, Queue[Rule]] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None

    def listen(self) -> None:
        """Accept connections from now on."""
        listener = socket.socket(socket.AF_UNIX)
        if os.path.lexists(self._path):
            os.unlink(self._path)
        listener.bind(self._path)
        listener.listen(512)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse connections from now on (ECONNREFUSED); the socket's file stays."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Ends the accept() of the other thread.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def obey(self, command: dict[str, Any]) -> None:
        """Carry one COMMAND out."""
        do = command["do"]
        if do == "rules":
            self._rules.set([Rule(*rule) for rule in command["rules"]])
        elif do == "go":
            with self._lock:
                held, self._held = self._held, {}
            for queue in held.values():
                queue.put(Rule(*command["rule"]))
        elif do == "refuse":
            self.refuse()
        elif do == "listen":
            self.listen()
        report(event="obeyed", do=do)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:
                client.close()
                server.close()
                continue
            for direction, source, sink in ((REQUEST, client, server), (ANSWER, server, client)):
                threading.Thread(target=self._relay, args=(direction, source, sink), daemon=True).start()

    def _relay(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        before = 0
        try:
            for data, procedure in self._read(source):
                message = Message(direction, data, procedure, before)
                before += len(data)
                self._pass(message, self._rules.verdict(message), source, sink)
            # The other direction may go on.
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            close(source, sink)

    def _pass(self, message: Message, rule: Rule, source: socket.socket, sink: socket.socket) -> None:
        data = message.data
        if rule.after > message.before:
            # The rule is for what comes behind the first so many bytes of the stream.
            sink.sendall(data[: rule.after - message.before])
            data = data[rule.after - message.before :]
        if rule.then == HOLD:
            rule = self._hold(message)
        if rule.then == DELAY:
            time.sleep(rule.seconds)
        if rule.then in (PASS, DELAY):
            sink.sendall(data)
        elif rule.then == CUT:
            close(source, sink)
        elif rule.then in (HALVE, SILENCE):
            sink.sendall(data[: len(data) // 2] if rule.then == HALVE else b"")
            for _ in self._read(source):
                pass  # and nothing more comes through

    def _hold(self, message: Message) -> Rule:
        queue: Queue[Rule] = Queue()
        with self._lock:
            self._count += 1
            self._held[self._count] = queue
        report(event="held", direction=message.direction, procedure=message.procedure)
        return queue.get()


def close(*ends: socket.socket) -> None:
    """End both directions of ENDS, in whichever thread they are read."""
    for end in ends:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already


def report(**event: object) -> None:
    """Write one event, in one call."""
    os.write(1, json.dumps(event).encode() + b"\n")


def main() -> None:
    """Serve until standard input ends."""
    path, target, framed = sys.argv[1:]
    relay = Relay(path, target, framed == "framed")
    relay.listen()
    report(event="ready")
    for line in sys.stdin:
        relay.obey(json.loads(line))


class Proxy:
    """The proxy inside a stack, in front of SOCKET, from start() to close()."""

    def __init__(self, stack: Stack, path: str, framed: bool = True) -> None:
        self._stack = stack
        self.path = path
        self.behind = path + MOVED
        self._framed = framed
        self._process: subprocess.Popen[str] | None = None
        self._events: Queue[dict[str, Any]] = Queue()
        self._inode = 0

    def start(self) -> Proxy:
        """Move the daemon's socket aside and serve at its place.  Returns itself."""
        self._stack.path(self.path).rename(self._stack.path(self.behind))
        self._process = self._stack.popen(
            *("/usr/bin/python3", "-ISB", str(Path(__file__).resolve()), self.path, self.behind),
            "framed" if self._framed else "plain",
            stdin=-1,
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        self.wait("ready")
        self._inode = self._stack.path(self.path).lstat().st_ino
        return self

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._events.put(json.loads(line))

    def wait(self, event: str, seconds: float = 10.0) -> dict[str, Any] | None:
        """The next EVENT; None when it does not come in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                found = self._events.get(timeout=left)
            except Empty:
                break
            if found["event"] == event:
                return found
        return None

    def _command(self, **command: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def rules(self, *rules: Rule) -> None:
        """Replace all rules, before the next message."""
        self._command(do="rules", rules=rules)
        assert self.wait("obeyed"), "the proxy does not answer"

    def go(self, then: str = PASS, seconds: float = 0.0) -> None:
        """Let all that is held go on so."""
        self._command(do="go", rule=Rule(ANSWER, then, seconds=seconds))
        assert self.wait("obeyed"), "the proxy does not answer"

    def refuse(self) -> None:
        """Refuse connections."""
        self._command(do="refuse")
        assert self.wait("obeyed"), "the proxy does not answer"

    def listen(self) -> None:
        """Take connections again."""
        self._command(do="listen")
        assert self.wait("obeyed"), "the proxy does not answer"
        self._inode = self._stack.path(self.path).lstat().st_ino

    @property
    def direct(self) -> str:
        """The path by which the daemon is reached past this proxy."""
        path, behind = self._stack.path(self.path), self._stack.path(self.behind)
        replaced = path.is_socket() and path.lstat().st_ino != self._inode
        return self.behind if behind.is_socket() and not replaced else self.path

    def close(self) -> None:
        """End it, and put the daemon's socket back, unless a new daemon has one of its own by now."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.communicate()
        path, behind = self._stack.path(self.path), self._stack.path(self.behind)
        if self.direct == self.behind:
            behind.rename(path)
        else:
            behind.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
