# SPDX-License-Identifier: LGPL-2.1-or-later
"""The helper's record and recovery's store: every interleaving of their calls, with crashes and a reset.

Between any two calls there is the old record or the new one, never none, never half of one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Hashable, Iterator
from types import SimpleNamespace
from typing import Any, Callable

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.leases.held import Lease
from sanlock_helper.records import directory, file_lock
from sanlock_helper.records.directory import RecordDirectory
from sanlock_helper.records.record import Record, RecordError, decode
from sanlock_helper.records.store import RecordStore

from .depth import DEEPER
from .kernel import Inode, Kernel, Limits, Task
from .replay import Process, Program
from .search import WrongState, search

UUID = "defc17ee-2773-427c-8210-136921a454d3"

# The directories on tmpfs and on disk: their descriptors are numbers of their own.
DIRECTORIES = {"run": 1001, "state": 1002}
PATHS = {number: f"{name}/" for name, number in DIRECTORIES.items()}

_running: list[Process] = []


def _call(name: str, *arguments: Any) -> Any:
    return _running[-1].call(name, *arguments)


class Os:
    """What the store's modules take for os."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def getpid(self) -> int:
        return _running[-1].pid

    def open(self, name: str, flags: int, mode: int = 0, *, dir_fd: int) -> Any:
        return _call("open", PATHS[dir_fd] + name, flags)

    def close(self, descriptor: int) -> None:
        if descriptor not in PATHS:
            _call("close", descriptor)

    def write(self, descriptor: int, data: bytes) -> Any:
        return _call("write", descriptor, bytes(data))

    def read(self, descriptor: int, size: int) -> Any:
        # All at once, and then its end.
        return _call("read_once", descriptor)

    def fsync(self, descriptor: int) -> None:
        _call("fsync", descriptor)

    def rename(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        _call("rename", PATHS[src_dir_fd] + old, PATHS[dst_dir_fd] + new)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        _call("unlink", PATHS[dir_fd] + name)

    def listdir(self, descriptor: int) -> list[str]:
        return list(_call("list", PATHS[descriptor]))

    def stat(self, name: str, *, dir_fd: int, follow_symlinks: bool) -> Any:
        _call("stat", PATHS[dir_fd] + name)
        return self.fstat(-1)

    def fstat(self, descriptor: int) -> Any:
        return SimpleNamespace(st_mode=0o100600, st_uid=os.geteuid(), st_nlink=1)


class Quiet:
    """A journal that is not read."""

    def report(self, event: object) -> None:
        pass


def _open_directory(path: str, make: bool = False) -> int:
    return DIRECTORIES[path or "run"]


def _record(time: float) -> Record:
    return Record(UUID, "vm1", "qemu:///system", "poweroff", time=time, leases=(Lease("LS", "key", 1, "/l"),))


def _as(process: Process, work: Callable[[], None]) -> int:
    _running.append(process)
    try:
        work()
    finally:
        _running.pop()
    return 0


def helper(time: float) -> Program:
    """The helper at a loss at that TIME: the record, then the machine goes off."""

    def work() -> None:
        RecordDirectory("run").write(_record(time))
        _call("destroy", time)

    return lambda process: _as(process, work)


def recovery(process: Process) -> int:
    """One pass of recovery, with the decisions of DomainRecovery that touch the store."""

    def work() -> None:
        # One recovery at a time: see recovery/single_instance.py.
        with file_lock.locked("run/recover.lock", wait=True):
            store = _store()
            for record in store.gather().values():
                _recover(store, record)

    return _as(process, work)


def _recover(store: RecordStore, record: Record) -> None:
    if _call("runs"):
        if record.mark == "starting":
            store.remove(record)
    elif store.mark(record, "starting"):
        _call("start", record.time)
        # Meanwhile the loop goes on: see Recovery._gather().
        store.gather()
        store.remove(record)


def forget(process: Process) -> int:
    """recover --forget."""

    def work() -> None:
        _call("forgot")
        _store().forget(UUID)

    return _as(process, work)


def administrator(process: Process) -> int:
    """virsh destroy, once it is back."""
    return _as(process, lambda: _call("forgot"))


def _store() -> RecordStore:
    return RecordStore(Quiet(), "run", "state")  # type: ignore[arg-type]


class Host(Kernel):
    """A tmpfs, a disk, and one machine."""

    def __init__(self, programs: list[Program], limits: Limits, resets: int = 0) -> None:
        """The last program comes when nothing else happens any more, and again until nothing changes."""
        super().__init__(programs, limits, 1000.0)
        self.resets = resets
        self.was_reset = 0
        self.runs = True
        # Losses after which the machine was made safe, and those from which it was brought back.
        self.lost: tuple[float, ...] = ()
        self.started: tuple[float, ...] = ()
        self.forgotten = False
        # What a reset leaves: names on disk that were synced, and the content of synced files.
        self.durable: tuple[tuple[str, tuple[int, int]], ...] = ()
        self.synced: dict[tuple[int, int], bytes] = {}
        self.read_ends: frozenset[tuple[int, int]] = frozenset()

    def copy(self) -> Any:
        new = super().copy()
        new.synced = self.synced.copy()
        return new

    def key(self) -> Hashable:
        state = (self.was_reset, self.runs, self.lost, self.started, self.forgotten, self.durable)
        return super().key(), state, frozenset(self.synced.items()), self.read_ends

    LOCAL = Kernel.LOCAL | {"read_once", "runs", "stat"}

    def is_own(self, path: str) -> bool:
        return "/." in path

    def _can_go(self, task: Task) -> bool:
        if not super()._can_go(task) or task.step is None:
            return False
        name, arguments = task.step.call
        if name != "lock":
            return True
        holder = self.inodes[dict(task.files)[arguments[0]]].holder
        return holder is None

    def moves(self) -> Iterator[tuple[str, Callable[[Any], None]]]:
        yield from super().moves()
        if self.was_reset < self.resets and any(task.step is not None for task in self.tasks.values()):
            yield "the host is reset, the disk is as it was synced", lambda state: state.reset(True)
            yield "the host is reset, the disk has all names", lambda state: state.reset(False)

    def may_come(self, pid: int) -> bool:
        # The last one comes when all others are over; processes of a reset host are.
        last = len(self.programs)
        if pid == last:
            return all(
                not self.may_come(other) if task.step is None else task.ended is not None
                for other, task in self.tasks.items()
                if other != pid
            )
        if self.was_reset:
            return False
        # What is lost has run: a second loss comes after the machine was brought back.
        if self.programs[pid - 1] in (SECOND_LOSS, administrator) and (
            not self.started or self.tasks[last].step is not None
        ):
            return False
        return super().may_come(pid)

    def may_fail(self, pid: int) -> bool:
        return pid < len(self.programs)

    def reset(self, only_synced: bool) -> None:
        """The watchdog resets the host: tmpfs is empty, and the disk has what was synced at least."""
        self.was_reset += 1
        self.runs = False
        self.started = ()
        for pid in self.tasks:
            self.change(pid, ended=9, files=())
        last = len(self.programs)
        self.change(last, ended=None, step=None)
        names = dict(self.durable) if only_synced else self.names
        self.names = {name: inode for name, inode in names.items() if name.startswith("state/")}
        self.inodes = {
            inode: Inode(self.synced.get(inode, b""), holder=None) for inode in self.names.values()
        }

    # Calls

    def do_list(self, pid: int, folder: str) -> tuple[str, ...]:
        """The names in a directory."""
        return tuple(sorted(name[len(folder) :] for name in self.names if name.startswith(folder)))

    def do_read_once(self, pid: int, descriptor: int) -> bytes:
        """read(2): all, and then nothing."""
        key = (pid, descriptor)
        self.read_ends ^= {key}
        return self.do_read(pid, descriptor) if key in self.read_ends else b""

    def do_fsync(self, pid: int, descriptor: int) -> None:
        """fsync(2) of a file, or of a directory."""
        if descriptor in PATHS:
            names = {name: inode for name, inode in self.names.items() if name.startswith(PATHS[descriptor])}
            self.durable = tuple(sorted(names.items()))
        else:
            inode = self._inode(pid, descriptor)
            self.synced[inode] = self.inodes[inode].data

    def do_lock(self, pid: int, descriptor: int) -> None:
        """flock(2), which waits: see _can_go()."""
        self.do_flock(pid, descriptor)

    def do_runs(self, pid: int) -> bool:
        """Whether libvirt has the machine running."""
        return self.runs

    def do_destroy(self, pid: int, time: float) -> None:
        """The helper makes the machine safe."""
        self.runs = False
        self.lost = (*self.lost, time)

    def do_start(self, pid: int, time: float) -> None:
        """Recovery starts the machine."""
        self.runs = True
        self.started = (*self.started, time)

    def do_forgot(self, pid: int) -> None:
        """An administrator has had the records removed, or wants it off."""
        self.forgotten = True
        self.runs = False

    # Properties

    def found(self) -> list[float]:
        """The times of the records that there are; each is a whole one."""
        times = []
        for name, inode in self.names.items():
            if name.endswith((".record", ".taken")):
                try:
                    times.append(decode(self.inodes[inode].data).time)
                except RecordError as error:
                    raise AssertionError(f"{name}: {error}") from error
        return times

    def check(self, is_last: bool) -> None:
        for pid, task in self.tasks.items():
            if task.lives and task.step is not None and task.step.call[0] == "exit":
                assert task.step.call[1] == (0,), f"{pid} ends by {task.step.call[1]}"
        times = self.found()
        assert len(set(self.started)) == len(self.started), f"started twice for one record: {self.started}"
        if self.forgotten or self.was_reset:
            return
        if not self.runs:
            assert max(times, default=0.0) >= max(self.lost), f"no record of {max(self.lost)}: {times}"
        if is_last and self.lost:
            assert self.runs, "it was not brought back"


SECOND_LOSS = helper(2.0)

SCENARIOS: dict[str, tuple[list[Program], Limits, int]] = {
    "a loss": ([helper(1.0), recovery, recovery], Limits(switches=2 + DEEPER), 0),
    "a second loss while it is brought back": (
        [helper(1.0), recovery, SECOND_LOSS, recovery],
        Limits(switches=3 + DEEPER),
        0,
    ),
    "a process is killed": ([helper(1.0), recovery, recovery], Limits(crashes=1, switches=2 + DEEPER), 0),
    "a process is killed, and a second loss": (
        [helper(1.0), recovery, SECOND_LOSS, recovery],
        Limits(crashes=1, switches=1 + DEEPER),
        0,
    ),
    "two processes are killed": (
        [helper(1.0), recovery, recovery],
        Limits(crashes=2, switches=0),
        0,
    ),
    "the host is reset": ([helper(1.0), recovery, recovery], Limits(switches=2), 1),
    "an administrator stops it again": ([helper(1.0), recovery, administrator, recovery], Limits(), 0),
    "an administrator forgets it": ([helper(1.0), recovery, forget, recovery], Limits(switches=2), 0),
}


class Reset(Host):
    """A host that is reset once recovery has the record on disk."""

    def check(self, is_last: bool) -> None:
        super().check(is_last)
        if self.was_reset and is_last:
            assert self.runs or self.was_only_in_memory, "its record was on disk, and it was not brought back"

    was_only_in_memory = True

    def reset(self, only_synced: bool) -> None:
        in_memory = any(name.startswith("run/") and "/." not in name for name in self.names)
        has_none = not self.found()
        super().reset(only_synced)
        self.was_only_in_memory = in_memory or has_none


def _host(name: str) -> Host:
    programs, limits, resets = SCENARIOS[name]
    return (Reset if resets else Host)(programs, limits, resets)


@pytest.fixture(autouse=True)
def _calls(monkeypatch: pytest.MonkeyPatch) -> None:
    system = _os
    for module in (directory, file_lock):
        monkeypatch.setattr(module, "os", system)
        monkeypatch.setattr(module, "open_directory", _open_directory)
    flock = SimpleNamespace(
        LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB, flock=lambda fd, how: _call("lock", fd)
    )
    monkeypatch.setattr(file_lock, "fcntl", flock)


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_interleavings(name: str) -> None:
    found = search(_host(name))
    print(f"{name}: {found.states} states, {found.moves} moves, {found.last} ends")


_os = Os()


def _write_in_place(records: RecordDirectory, folder: int, record: Record, durable: bool) -> None:
    made = _os.open(f"{record.uuid}.record", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=folder)
    _os.write(made, record.encode())
    _os.close(made)


def _write_without_sync(records: RecordDirectory, folder: int, record: Record, durable: bool) -> None:
    new = f".{record.uuid}.{_os.getpid()}"
    made = _os.open(new, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=folder)
    _os.write(made, record.encode())
    _os.rename(new, f"{record.uuid}.record", src_dir_fd=folder, dst_dir_fd=folder)
    _os.close(made)


PLANTED: dict[str, tuple[str, object, str, object, str]] = {
    "half a record": ("a process is killed", RecordDirectory, "_write", _write_in_place, "checksum"),
    "half a record after a reset": (
        *("the host is reset", RecordDirectory, "_write", _write_without_sync, "checksum"),
    ),
    "a record is lost": (
        *("a process is killed", RecordStore, "_copy_to_disk", lambda store, record: True, "no record of"),
    ),
    "a newer record is removed": (
        "a second loss while it is brought back",
        *("sanlock_helper.records.store", "_is_same", lambda found, record: True, "no record of"),
    ),
    "recovery acts again": (
        *("an administrator stops it again", RecordStore, "remove", lambda store, record: True, "twice"),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    scenario, owner, attribute, fault, words = PLANTED[name]
    target: Any = f"{owner}.{attribute}" if isinstance(owner, str) else owner
    if isinstance(owner, str):
        monkeypatch.setattr(target, fault)
    else:
        monkeypatch.setattr(owner, attribute, fault)
    with pytest.raises(WrongState) as found:
        search(_host(scenario))
    print(found.value)
    assert words in str(found.value)
