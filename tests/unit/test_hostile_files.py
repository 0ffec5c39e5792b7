# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stands where a file is read may be anything: it is refused, or not there, and nothing waits for it.

The files of libvirt, sanlock and this program, and its directories; each as whatever a file may be.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.agent.requests import Requests
from sanlock_helper.agent_state import agent_state
from sanlock_helper.errors import PermanentError, SanlockHelperError
from sanlock_helper.leases.grace import learn_grace
from sanlock_helper.leases.sanlock_daemon import daemon_pid
from sanlock_helper.records.directory import RecordDirectory
from sanlock_helper.records.single_instance import only_instance
from sanlock_helper.records.snapshot import take_snapshot
from sanlock_helper.records.store import RecordStore
from sanlock_helper.recovery.domain_identity import is_persistent
from sanlock_helper.spool import Spool, SpoolError
from sanlock_helper.virt.domain_log import last_end
from sanlock_helper.virt.domain_names import names_by_uuid
from sanlock_helper.virt.inventory import _Files
from sanlock_helper.virt.libvirt_conf import read_conf
from sanlock_helper.virt.processes import Processes
from sanlock_helper.virt.status_files import StatusFiles
from tests.fuzz.limits import no_hang
from tests.fuzz.seeds import UUID

from .fakes import RecordedJournal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can own files as the program's are")

REQUEST = f"{UUID}.pause.0000000012345678-4711"


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        # A path of any length.
        folder = os.open(path.parent, os.O_PATH)
        made.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


def _link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_suffix(".fifo"))
    path.symlink_to(f"{path.stem}.fifo")


def _large(path: Path) -> None:
    path.touch(0o600)
    os.truncate(path, 1 << 40)


KINDS: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
    "socket": _socket,
    "file of 1 TiB": _large,
    "link to itself": lambda path: path.symlink_to(path),
    "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to a FIFO": _link_to_fifo,
}


@contextlib.contextmanager
def _no_wait() -> Iterator[None]:
    """Fail after two seconds of the clock: what waits for a FIFO's other end takes no processor time."""

    def stop(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _spool(folder: Path) -> Requests:
    return Requests(Spool(os.open(folder, os.O_RDONLY), 1, owner=os.geteuid()), 40)


def _agent(folder: Path) -> object:
    """The agent that a standing one's lock shows."""
    (folder / "agent.lock").touch()
    os.utime(folder / "agent.lock", (0, 0))
    return agent_state(folder)


def _defined(folder: Path) -> str | None:
    return _Files(Processes(NO_FILES), str(folder)).defined("f", UUID)


NO_FILES = StatusFiles("/nonexistent")

# Where the file stands in a folder, and what reads it there.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "sanlock.conf": ("f", lambda folder: learn_grace(str(folder / "f"), str(folder), 0.1)),
    "sanlock.pid": ("sanlock.pid", lambda folder: daemon_pid(str(folder))),
    "a configuration file of libvirt's": ("f", lambda folder: read_conf(folder / "f")),
    "a status file": ("f.xml", lambda folder: StatusFiles(str(folder)).matching(UUID)),
    "a domain's definition": ("f.xml", lambda folder: is_persistent("f", UUID, str(folder))),
    "a domain's definition, for a list": ("f.xml", _defined),
    "the definitions, for their names": ("f.xml", lambda folder: names_by_uuid(NO_FILES, str(folder))),
    "the agent's process id": ("agent.pid", _agent),
    "a domain's log": ("f.log", lambda folder: last_end("f", 0.0, str(folder))),
    "a record": (f"{UUID}.record", lambda folder: RecordDirectory(str(folder)).read(UUID)),
    "a request": (REQUEST, lambda folder: _spool(folder).read(REQUEST)),
}
# A file of this size is refused; the readers of others take its beginning.
ALLOWED = (SanlockHelperError, SpoolError, OSError)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_none(tmp_path: Path, reader: str, kind: str) -> None:
    name, read = READERS[reader]
    KINDS[kind](tmp_path / name)
    with _no_wait(), no_hang():
        try:
            found = read(tmp_path)
        except ALLOWED:
            return
    assert found in (None, False, "", 40) or not found


def test_a_lock_of_one_instance_that_is_a_fifo(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    os.mkfifo(path)
    refused = pytest.raises(PermanentError, match="another recovery is at work, process unknown")
    with _no_wait(), no_hang(), only_instance(path), refused:
        only_instance(path).__enter__()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("directory",)])
def test_a_directory_that_is_none_is_not_an_empty_one(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / "run")
    with _no_wait(), no_hang():
        assert take_snapshot(str(tmp_path / "run"), str(tmp_path / "state")).problems
        store = RecordStore(RecordedJournal(), str(tmp_path / "run"), str(tmp_path / "state"))  # type: ignore[arg-type]
        assert store.records_and_problems()[1]


def test_a_directory_of_another_user_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 65534, 65534)
    assert take_snapshot(str(tmp_path / "run"), str(tmp_path / "state")).problems
