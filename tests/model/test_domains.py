# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each action on each state of a machine, its names and its host: what is logged is true, and lasts."""

from __future__ import annotations

import itertools
import os
from _queue import Empty
from collections import deque
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.agent.agent import Agent  # noqa: E402
from sanlock_helper.agent.recorder import RecoveryRecorder  # noqa: E402
from sanlock_helper.agent.requests import Request  # noqa: E402
from sanlock_helper.errors import AuthenticationError, LeasesUnknownError, TransientError  # noqa: E402
from sanlock_helper.leases import held  # noqa: E402
from sanlock_helper.leases.grace import Deadline  # noqa: E402
from sanlock_helper.records.directory import RecordDirectory  # noqa: E402
from sanlock_helper.records.record import Record  # noqa: E402
from sanlock_helper.virt import processes  # noqa: E402
from sanlock_helper.virt.local_domains import LocalDomains  # noqa: E402
from sanlock_helper.virt.processes import Processes  # noqa: E402
from sanlock_helper.virt.status_files import StatusFiles  # noqa: E402

from ..unit.fakes import RecordedJournal  # noqa: E402
from .machines import BEGINNINGS, PAUSED, RUNNING, Begin, Host, Machine  # noqa: E402

URI = "qemu:///system"

_listdir = os.listdir

ACTIONS = ("poweroff", "pause", "restart")
GRACE = 40
# A refused login is tried again after so long, a job ends in that time.
SETTLED = 30.0

# Each with the name of another machine, which libvirt escapes, or has escaped, to the same.
NAMES = (
    ("vm1", "vm2"),
    ("a&b", "a&amp;b"),
    ("a&amp;b", "a&b"),
    ("R&D", "R"),
    ("a b", "a"),
    ("a<b>'c\"", "a&lt;b&gt;'c\""),
    ("x.xml", "x"),
    ("new\nline", "new"),
    ("\u202eright to left", "\u0085"),
    ("lease:of:colons", "lease"),
)


class Answers:
    """The queue of an agent whose threads run at once, and whose time passes while it waits."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._answers: deque[Callable[[], None]] = deque()

    def put(self, answer: Callable[[], None]) -> None:
        self._answers.append(answer)

    def get(self, timeout: float) -> Callable[[], None]:
        if self._answers:
            return self._answers.popleft()
        self._host.pass_time(timeout)
        raise Empty


class Served(NamedTuple):
    """What came of a request."""

    host: Host
    machine: Machine
    other: Machine
    reached: bool
    lines: list[str]
    record: Record | None

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def check(self, action: str, begin: Begin, pid: int) -> None:
        """What is true of every request, whatever its machine was doing."""
        machine, host = self.machine, self.host
        outcomes = [line for line in self.lines if ": trying again" not in line]
        assert all("\n" not in line and "\u202e" not in line for line in self.lines), self.lines
        assert self.other.changes == [], f"{self.other.changes} to another machine: {self.text}"
        assert (self.other.state, len(self.other.leases)) == (RUNNING, 1)
        host.pass_time(SETTLED)
        old_run_is_over = machine.pid != pid or not machine.runs
        if self.reached:
            is_still = machine.state == PAUSED and not machine.leases
            assert old_run_is_over or (action == "pause" and is_still), self.text
            if "running again" in self.text:
                assert machine.state == RUNNING, f"it runs no more: {self.text}"
        assert outcomes
        assert "not read" not in self.text or host.sanlock is not None, self.text
        if machine.had_record is not None:
            is_wanted = action == "restart" or not begin.is_wish
            assert machine.had_record == is_wanted, f"record {machine.had_record}: {self.text}"


class Model:
    """Makes machines, and has requests for them served."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path) -> None:
        self._patch = patch
        self._path = path
        self._number = itertools.count()

    def host(self, names: tuple[str, str], begin: Begin) -> Host:
        """A host with two machines, the second of which runs and is not asked for."""
        folder = self._path / str(next(self._number))
        (folder / "qemu").mkdir(parents=True)
        host = Host(folder / "qemu", folder / "records")
        host.machines = [Machine(host, names[0], 1, begin), Machine(host, names[1], 2, BEGINNINGS["running"])]
        for machine in host.machines:
            machine.write()
        self._patch.setattr(processes, "_read", host.read)
        self._patch.setattr(os, "listdir", host.pids_or(_listdir))
        self._patch.setattr(held, "held_by", host.held_by)
        self._patch.setattr(held, "release", host.release)
        return host

    def serve(
        self,
        host: Host,
        action: str,
        connect: Callable[[str], Any] | None = None,
        start_thread: Callable[..., Any] = lambda run, arguments: run(*arguments),
        pid: int | None = None,
    ) -> Served:
        """Have ACTION done on the host's first machine."""
        journal = RecordedJournal()
        records = RecordDirectory(str(host.records))
        agent = Agent(
            connect or (lambda uri: host),  # type: ignore[arg-type]
            journal,  # type: ignore[arg-type]
            clock=host,
            start_thread=start_thread,
            answers=Answers(host),  # type: ignore[arg-type]
            recorder=RecoveryRecorder(records, journal, ask_sanlock=host.ask),  # type: ignore[arg-type]
            local=LocalDomains(Processes(StatusFiles(str(host.folder)))),
        )
        machine, other = host.machines
        reached = agent.serve(Request(URI, machine.uuid, action, Deadline(host.now, GRACE), pid))
        record = records.read(machine.uuid) if host.has_record(machine.uuid) else None
        return Served(host, machine, other, reached, [line for _, line in journal.lines], record)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Model:
    return Model(monkeypatch, tmp_path)


@pytest.mark.parametrize("action", ACTIONS)
def test_each_state_with_each_name(model: Model, action: str) -> None:
    for names, begin, persistent in itertools.product(NAMES, BEGINNINGS.values(), (True, False)):
        host = model.host(names, begin)
        machine = host.machines[0]
        machine.persistent = persistent
        pid = machine.pid
        served = model.serve(host, action)
        served.check(action, begin, pid)
        assert served.reached or action == "restart", served.text


@pytest.mark.parametrize("action", ACTIONS)
def test_libvirtd_is_away(model: Model, action: str) -> None:
    """The machine is named, and its record is there, by what the host itself knows."""

    def connect(uri: str) -> Any:
        raise TransientError("connect", "libvirtd is away")

    for names, begin in itertools.product(NAMES, BEGINNINGS.values()):
        host = model.host(names, begin)
        served = model.serve(host, action, connect)
        assert not served.reached
        assert (": FAILED" in served.lines[-1]) == served.machine.runs, served.text
        head = served.lines[0].partition(f" {served.machine.uuid}")[0]
        assert head.split(" ", 1)[1] not in ("-", ""), f"no name: {served.text}"
        assert (served.record is not None) == (action == "restart" or not begin.is_wish), served.text
        if served.record is not None:
            assert served.record.name == names[0]
            assert [lease.resource for lease in served.record.leases] == ["key1"]


@pytest.mark.parametrize("action", ACTIONS)
def test_libvirtd_has_forgotten_it(model: Model, action: str) -> None:
    """Its process lives and holds its leases: that is not off."""
    for has_file, pid, is_known in itertools.product((True, False), (None, 4001), (True, False)):
        host = model.host(NAMES[0], BEGINNINGS["running"])
        host.forgets = True
        host.machines[0].known = is_known
        if not has_file:
            (host.folder / "vm1.xml").unlink()
        served = model.serve(host, action, pid=pid)
        assert not served.reached, served.text
        assert ": FAILED" in served.lines[-1], served.text


@pytest.mark.parametrize("action", ACTIONS)
def test_it_is_gone(model: Model, action: str) -> None:
    """A transient domain that ended before it was looked for: it is off."""
    for has_file in (True, False):
        host = model.host(NAMES[0], BEGINNINGS["running"])
        host.machines[0].persistent = False
        host.machines[0].end(0)
        if has_file:
            host.machines[0].write()
        served = model.serve(host, action)
        assert served.reached or action == "restart", served.text
        assert ": FAILED" not in served.text


@pytest.mark.parametrize("action", ACTIONS)
def test_it_was_started_anew(model: Model, action: str) -> None:
    """The run that was lost is over; another one, begun since, has leases of its own."""
    for begin in BEGINNINGS.values():
        host = model.host(NAMES[0], begin)
        machine = host.machines[0]
        machine.started = host.now + 1.0
        served = model.serve(host, action)
        # One that ends by itself meanwhile may be started again.
        assert set(machine.changes) <= {"create"}, f"{machine.changes} to another run: {served.text}"
        assert machine.leases or not machine.runs


@pytest.mark.parametrize("can_release", [True, False])
def test_libvirt_leaves_its_leases(model: Model, can_release: bool) -> None:
    """As it does where it ends in mid-call, or cannot write a lease's path."""
    for names, begin in itertools.product(NAMES, BEGINNINGS.values()):
        host = model.host(names, begin)
        machine = host.machines[0]
        machine.sticks, machine.can_release = True, can_release
        served = model.serve(host, "pause")
        served.check("pause", begin, 4001)
        assert served.reached == (can_release or not machine.runs), served.text


@pytest.mark.parametrize("absent", [True, False])
def test_sanlock_does_not_answer(model: Model, absent: bool) -> None:
    """Leases that could not be read are not given up, unless no sanlock is there that could have any."""
    for begin in BEGINNINGS.values():
        host = model.host(NAMES[0], begin)
        host.sanlock = LeasesUnknownError("sanlock does not answer", absent)
        host.machines[0].leases = []
        served = model.serve(host, "pause")
        assert served.reached == (absent or not host.machines[0].runs), served.text


def test_a_start_fails(model: Model) -> None:
    """A restart whose start is under way is no success yet."""
    for begin in BEGINNINGS.values():
        host = model.host(NAMES[0], begin)
        host.starts_fail = True
        served = model.serve(host, "restart")
        served.check("restart", begin, 4001)
        assert not served.reached or "running again" not in served.text, served.text


@pytest.mark.parametrize("action", ACTIONS)
def test_a_login_is_refused_for_a_while(model: Model, action: str) -> None:
    host = model.host(NAMES[0], BEGINNINGS["running"])
    begin, logins = host.now, []

    def connect(uri: str) -> Any:
        logins.append(host.now)
        if host.now < begin + 3.0:
            raise AuthenticationError("connect", "authentication failed")
        return host

    served = model.serve(host, action, connect)
    assert served.reached, served.text
    assert all(second - first >= 4.9 for first, second in zip(logins, logins[1:3])), logins


@pytest.mark.parametrize("action", ACTIONS)
def test_no_thread_is_to_be_had(model: Model, action: str) -> None:
    def start_thread(run: Any, arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    host = model.host(NAMES[0], BEGINNINGS["running"])
    assert model.serve(host, action, start_thread=start_thread).reached
