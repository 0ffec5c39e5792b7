# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks are read, and none holds a recovery up."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from pytest_mock import MockerFixture

from sanlock_helper.command import NO_END, Answer
from sanlock_helper.errors import TransientError
from sanlock_helper.recovery import disk_reads
from sanlock_helper.recovery.disk_reads import DiskReads, Server, Volume, disks

from .unix_sockets_only import SOCKET_CALLS, WORDS

SECONDS = 0.5
HELPER = Path(disk_reads.__file__).parents[2]


def xml(*found: str) -> str:
    return f"<domain><devices>{''.join(found)}</devices></domain>"


def file_disk(path: Path | str, more: str = "", kind: str = "file", device: str = "disk") -> str:
    name = {"file": "file", "block": "dev"}[kind]
    return f"<disk type='{kind}' device='{device}'><source {name}='{path}'/>{more}</disk>"


def nbd_disk(*hosts: str) -> str:
    return f"<disk type='network'><source protocol='nbd' name='a'>{''.join(hosts)}</source></disk>"


@pytest.fixture(autouse=True)
def _none_private(mocker: MockerFixture) -> None:
    """What these tests make is below /tmp."""
    mocker.patch.object(disk_reads, "_PRIVATE", ("/var/tmp/",))


def no_volume(pool: str, name: str) -> str:
    return ""


def why(text: str, seconds: float = SECONDS, path_of: Callable[[str, str], str] = no_volume) -> str:
    """Why the disks of the definition TEXT cannot be read, "" where they can, "?" where that is not known."""
    try:
        return "" if DiskReads(seconds).check(text, path_of) else "?"
    except TransientError as error:
        return error.why.removeprefix("it stays paused: ")


def test_files_that_can_be_read(tmp_path: Path) -> None:
    image, empty = tmp_path / "a b'\"&.img", tmp_path / "empty"
    image.write_bytes(bytes(8192))
    empty.write_bytes(b"")
    quoted = str(image).replace("&", "&amp;").replace("'", "&apos;")
    assert why(xml(file_disk(quoted), file_disk(empty)), 10) == ""


def test_what_is_missing_or_no_file(tmp_path: Path) -> None:
    assert why(xml(file_disk(tmp_path / "gone")), 10) == f"{tmp_path}/gone: No such file or directory"
    assert why(xml(file_disk(tmp_path)), 10) == f"{tmp_path}: Is a directory"


def test_backing_files_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "top").write_bytes(b"x")
    chain = f"<backingStore type='file'><source file='{tmp_path}/base'/></backingStore>"
    assert why(xml(file_disk(tmp_path / "top", chain)), 10) == f"{tmp_path}/base: No such file or directory"


@pytest.mark.parametrize("device", ["cdrom", "floppy"])
def test_a_medium_may_have_been_removed(tmp_path: Path, device: str) -> None:
    assert why(xml(file_disk(tmp_path / "gone.iso", device=device)), 10) == "?"
    assert why(xml(f"<disk type='file' device='{device}'/>"), 10) == ""


def test_what_root_may_not_read_is_left_to_the_guest(tmp_path: Path, mocker: MockerFixture) -> None:
    # As with root_squash; an error that this test can have without another user.
    mocker.patch.object(disk_reads, "_REFUSED", (errno.EISDIR,))
    assert why(xml(file_disk(tmp_path)), 10) == "?"
    assert why(xml(file_disk(tmp_path), file_disk(tmp_path / "gone")), 10) != ""


def test_a_read_that_hangs_is_not_waited_for_and_not_begun_again(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reads = DiskReads(SECONDS)
    start = time.monotonic()
    with pytest.raises(TransientError, match="fifo: no answer"):
        reads.check(xml(file_disk(fifo)), no_volume)
    assert SECONDS <= time.monotonic() - start < SECONDS + 5
    # Unlike one in the kernel it ends when it is killed, and the disk may be read again.
    fifo.unlink()
    fifo.write_bytes(b"x")
    assert reads.check(xml(file_disk(fifo)), no_volume)


def test_a_read_that_cannot_be_killed_is_the_last_one(tmp_path: Path, mocker: MockerFixture) -> None:
    with subprocess.Popen(["sleep", "60"]) as left:
        run = mocker.patch.object(disk_reads, "run", return_value=Answer(NO_END, problem="no end", left=left))
        reads = DiskReads(SECONDS)
        for _ in range(3):
            with pytest.raises(TransientError, match="/dev/a: no answer"):
                reads.check(xml(file_disk("/dev/a", kind="block")), no_volume)
        assert run.call_count == 1
        left.kill()
    run.return_value = Answer(0)
    reads.check(xml(file_disk("/dev/a", kind="block")), no_volume)
    assert run.call_count == 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/socket")
        listening.listen(8)
        yield listening


def greet(listening: socket.socket, greeting: bytes) -> None:
    def run() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(greeting)
            with contextlib.suppress(ConnectionResetError):
                connection.recv(1)

    threading.Thread(target=run, daemon=True).start()


def test_a_server_that_answers(tmp_path: Path, server: socket.socket) -> None:
    host = f"<host transport='unix' socket='{tmp_path}/socket'/>"
    greet(server, b"NBDMAGICIHAVEOPT")
    assert why(xml(nbd_disk(host))) == ""
    greet(server, b"HTTP/1.1 400 Bad")
    name = f"nbd server {tmp_path}/socket"
    assert why(xml(nbd_disk(host))) == f"{name}: it does not answer as such a server"
    # It takes the connection, and is silent, as one that was stopped.
    assert why(xml(nbd_disk(host))) == f"{name}: timed out"


def test_a_server_that_is_gone(tmp_path: Path) -> None:
    host = f"<host transport='unix' socket='{tmp_path}/socket'/>"
    assert why(xml(nbd_disk(host))) == f"nbd server {tmp_path}/socket: No such file or directory"
    assert "127.0.0.1:1: Connection refused" in why(xml(nbd_disk("<host name='127.0.0.1' port='1'/>")))


def test_one_of_several_servers_is_enough(tmp_path: Path, server: socket.socket) -> None:
    gone = "<host name='127.0.0.1' port='1'/>"
    greet(server, b"NBDMAGICIHAVEOPT")
    assert why(xml(nbd_disk(gone, f"<host transport='unix' socket='{tmp_path}/socket'/>"))) == ""


def test_a_network_that_the_service_may_not_use_is_left_to_the_guest(mocker: MockerFixture) -> None:
    error = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    mocker.patch.object(socket, "create_connection", side_effect=error)
    assert why(xml(nbd_disk("<host name='127.0.0.1' port='1'/>"))) == "?"


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.recovery.disk_reads import DiskReads
for text in sys.argv[2:]:
    print(DiskReads(5).check(text, lambda pool, name: ""))
"""
# A name cannot even be resolved there.
NOT_ASKED = ["nbd.example.org", "localhost", "127.0.0.1", "::1", "[::1]", "a..b", "ü.example"]


@functools.cache
def as_the_service() -> dict[str, str]:
    """What a process under the service's rules has found of each of NOT_ASKED."""
    texts = [xml(nbd_disk(f"<host name='{host}' port='1'/>")) for host in NOT_ASKED]
    command = [*WORDS, sys.executable, "-c", PROGRAM, str(HELPER), *texts]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.stderr == ""
    return dict(zip(NOT_ASKED, found.stdout.splitlines()))


@pytest.mark.skipif(os.uname().machine not in SOCKET_CALLS, reason="another machine's system calls")
@pytest.mark.parametrize("host", NOT_ASKED)
def test_a_server_that_recoverys_service_cannot_ask_is_left_to_the_guest(host: str) -> None:
    assert as_the_service()[host] == "False"


@pytest.mark.parametrize(
    "error",
    [socket.gaierror(socket.EAI_AGAIN, "no answer"), OSError(errno.ENETUNREACH, "unreachable")],
    ids=["name", "way"],
)
def test_a_network_that_fails_is_no_network_that_may_not_be_used(
    mocker: MockerFixture, error: OSError
) -> None:
    mocker.patch.object(socket, "create_connection", side_effect=error)
    interfaces = mocker.patch.object(socket, "if_nameindex", return_value=[(1, "lo"), (2, "eth0")])
    text = xml(nbd_disk("<host name='nbd.example.org'/>"))
    assert why(text) == f"nbd server nbd.example.org:10809: {error.strerror}"
    # PrivateNetwork=
    interfaces.return_value = [(1, "lo")]
    assert why(text) == "?"


def test_a_volume_is_read_where_its_pool_has_it(tmp_path: Path) -> None:
    asked = []

    def path_of(pool: str, name: str) -> str:
        asked.append((pool, name))
        return {"a": f"{tmp_path}/a", "network": "pool/image"}.get(name, "")

    def volume(name: str, device: str = "disk") -> str:
        return f"<disk type='volume' device='{device}'><source pool='p&amp;q' volume='{name}'/></disk>"

    assert why(xml(volume("a")), 10, path_of) == f"{tmp_path}/a: No such file or directory"
    assert why(xml(volume("a", "cdrom")), 10, path_of) == "?"
    (tmp_path / "a").write_bytes(b"x")
    assert why(xml(volume("a")), 10, path_of) == ""
    assert asked == [("p&q", "a")] * 3
    # A pool that is not active, or has no paths.
    assert why(xml(volume("a"), volume("gone")), 10, path_of) == "?"
    assert why(xml(volume("a"), volume("network")), 10, path_of) == "?"


def test_a_pool_that_hangs_is_asked_once_at_a_time() -> None:
    text = xml("<disk type='volume'><source pool='p' volume='v'/></disk>")
    reads = DiskReads(SECONDS)
    asked, answers = threading.Event(), threading.Event()

    def path_of(pool: str, name: str) -> str:
        asked.set()
        assert answers.wait(60)
        return ""

    thread = threading.Thread(target=reads.check, args=(text, path_of))
    thread.start()
    try:
        assert asked.wait(60)
        with pytest.raises(TransientError, match="volume v of pool p: no answer"):
            reads.check(text, path_of)
    finally:
        answers.set()
        thread.join()
    assert not reads.check(text, no_volume)


def test_what_the_definition_has() -> None:
    found = disks(
        xml(
            file_disk("/a"),
            file_disk("/dev/b", kind="block"),
            file_disk("/c", "<readonly/>"),
            file_disk("/var/tmp/d"),
            "<disk><source file='/e'><reservations><source path='/r'/></reservations></source></disk>",
            "<disk type='volume'><source pool='p' volume='v'/></disk>",
            "<disk type='volume' device='cdrom'><source pool='p' volume='w'/></disk>",
            "<disk type='network'><source protocol='rbd' name='p/i'/></disk>",
            "<disk type='network'><source protocol='nbd'><host name='h'/></source></disk>",
            "<disk type='network'><source protocol='iscsi'><host name='h' port='99'/></source></disk>",
        )
    )
    assert found.paths == {"/a": False, "/dev/b": False, "/c": True, "/var/tmp/d": True, "/e": False}
    assert found.servers == [(Server("nbd", "h", 10809),), (Server("iscsi", "h", 99),)]
    assert found.volumes == {Volume("p", "v"): False, Volume("p", "w"): True}


@pytest.mark.parametrize(
    ("disk", "are_all"),
    [
        (file_disk("/a"), True),
        ("<disk type='file' device='cdrom'/>", True),
        (file_disk("/a", "<backingStore/>"), True),
        ("<disk type='network'><source protocol='rbd' name='p/i'/></disk>", False),
        ("<disk type='network'><source protocol='rbd'><host name='mon'/></source></disk>", False),
        ("<disk type='network'><source protocol='http'><host name='h'/></source></disk>", True),
        ("<disk type='nvme'><source type='pci' namespace='1'/></disk>", False),
        ("<disk type='vhostuser'><source type='unix' path='/s'/></disk>", False),
        ("<disk type='dir'><source dir='/d'/></disk>", False),
        ("<disk><source dev='/d'><reservations><source path='/r'/></reservations></source></disk>", True),
    ],
)
def test_disks_that_cannot_be_asked(disk: str, are_all: bool) -> None:
    assert disks(xml(disk)).are_all is are_all
