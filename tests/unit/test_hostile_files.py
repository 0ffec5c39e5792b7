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
from sanlock_helper.checks.facts import HostPaths, _machine
from sanlock_helper.checks.killpath import PYTHON, _interpreter
from sanlock_helper.checks.mounts import read_text
from sanlock_helper.checks.system import _texts
from sanlock_helper.checks.unit_files import UnitFiles
from sanlock_helper.distribution import Distribution
from sanlock_helper.errors import PermanentError, SanlockHelperError
from sanlock_helper.install.executable import why_not_ours
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


def _units(folder: Path, name: str) -> UnitFiles:
    """The units of a host whose NAME, a unit or the directory of its drop-ins, is in FOLDER."""
    units = folder / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / name).symlink_to(folder if name.endswith(".d") else folder / name)
    return UnitFiles(HostPaths(etc=folder / "etc", run=folder / "run", lib=folder / "lib"))


def _cron(folder: Path) -> str:
    """What the scripts of cron's in FOLDER have, but for the NULs of a large one; a link is not read."""
    return "".join(text for path, text in _texts(folder).items() if not os.path.islink(path)).strip("\0")


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
    "fstab, or a cluster's resources": ("f", lambda folder: read_text(folder / "f")),
    "a unit": ("a.service", lambda folder: _units(folder, "a.service").text("a.service").strip("\0")),
    "a drop-in": ("x.conf", lambda folder: _units(folder, "a.service.d").text("a.service").strip("\0")),
    "a service among others": (
        "a.service",
        lambda folder: _units(folder, "a.service").starter_of_mount("/m"),
    ),
    "a script of cron's": ("f", _cron),
    "os-release": ("f", lambda folder: Distribution.read((str(folder / "f"),)).family),
    "the first line of a killpath": ("f", lambda folder: _interpreter(str(folder / "f")) != PYTHON),
    "a driver of libvirt's": ("f", lambda folder: _machine(str(folder / "f"))),
    "a request": (REQUEST, lambda folder: _spool(folder).read(REQUEST)),
}
# A file of this size is refused; the readers of others take its beginning.
ALLOWED = (SanlockHelperError, SpoolError, OSError)


@pytest.mark.parametrize("kind", ["FIFO", "directory", "socket", "link to /dev/zero", "link to a FIFO"])
def test_an_executable_that_is_no_file(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / "f")
    with _no_wait():
        assert why_not_ours(str(tmp_path / "f"), {}) == "is no regular file"


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
