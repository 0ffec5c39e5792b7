# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that stop by an I/O error: which leave a record, and what is in it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Callable
from xml.sax.saxutils import escape

import pytest
from pytest_mock import MockerFixture

libvirt = pytest.importorskip("libvirt")

from sanlock_helper import DRILL_UUIDS  # noqa: E402
from sanlock_helper.agent import io_errors  # noqa: E402
from sanlock_helper.agent.domain_events import DomainEvents  # noqa: E402
from sanlock_helper.agent.io_errors import (  # noqa: E402
    NO_SPACE,
    RAN_SECONDS,
    UNNOTED,
    UNSEEN,
    WRITE_RETRY,
    IOErrors,
)
from sanlock_helper.agent.recorder import RecoveryRecorder  # noqa: E402
from sanlock_helper.errors import AuthenticationError, LeasesUnknownError, TransientError  # noqa: E402
from sanlock_helper.events import Event  # noqa: E402
from sanlock_helper.leases import held as leases  # noqa: E402
from sanlock_helper.leases.held import Lease, Lockspace  # noqa: E402
from sanlock_helper.records.directory import RecordDirectory  # noqa: E402
from sanlock_helper.records.record import IO_ERROR, Record  # noqa: E402
from sanlock_helper.virt import processes  # noqa: E402
from sanlock_helper.virt.definition_leases import explicit_leases  # noqa: E402
from sanlock_helper.virt.host_conf import HostConf  # noqa: E402
from sanlock_helper.virt.processes import Process, Processes, process_start  # noqa: E402
from sanlock_helper.virt.status_files import StatusFiles  # noqa: E402

from ..fake_host import UUID, status_xml  # noqa: E402
from ..fakes import Clock, RecordedJournal  # noqa: E402

URI = "qemu:///system"
SPACE = Lockspace("LS", 1, "/LS", 0, 1)
SELF = Process(os.getpid(), process_start(os.getpid()))

PAUSED, IOERROR = libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR
SUSPENDED = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR)
RESUMED = (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED)


class Guest:
    """A virDomain."""

    def __init__(self, run: int = 3, errors: dict[str, int] | None = None, has_stopped: bool = True) -> None:
        self.run = run
        self.has_stopped = has_stopped
        self.errors = errors or {}

    def ID(self) -> int:
        return self.run

    def name(self) -> str:
        return "vm1"

    def UUIDString(self) -> str:
        return UUID

    def diskErrors(self) -> dict[str, int]:
        return self.errors

    def state(self) -> list[int]:
        return [PAUSED, IOERROR] if self.has_stopped else [libvirt.VIR_DOMAIN_RUNNING, 1]


class World:
    """One domain, its status file, what sanlock has; and a libvirtd that reports."""

    def __init__(self, path: Path, mocker: MockerFixture) -> None:
        self.path = path
        self.clock = Clock()
        self.journal = RecordedJournal()
        self.events: list[Event] = []
        self.records = RecordDirectory(f"{path}/records")
        self.held: list[Lease] = []
        # The host's default, and the element in the domain's metadata.
        self.conf = HostConf()
        self.policy = '<lockfailure xmlns="urn:virt-sanlock-helper:1" recover="yes"/>'
        self.closed = 0
        self.connects = 0
        self.refusal: Exception | None = None
        self.listed: list[tuple[Guest, dict[str, int]]] = []
        # As libvirtd has it, whatever its file has.
        self.guest = Guest(has_stopped=False)
        self.callbacks: dict[int, Callable[..., None]] = {}
        (path / "status").mkdir()
        mocker.patch.object(leases, "held_by", side_effect=lambda pid: self.held)
        mocker.patch.object(leases, "_joined", return_value=[SPACE])
        mocker.patch.object(processes, "prove", return_value=SELF)
        recorder = RecoveryRecorder(
            self.records,
            self.journal,  # type: ignore[arg-type]
            lambda: 5.0,
            lambda pid: ((SPACE,) if self.held else (), tuple(self.held)),
        )
        files = Processes(StatusFiles(f"{path}/status"))
        self.io_errors = IOErrors(URI, recorder, self.report, self.clock, files, self.host_conf)
        self.listener = DomainEvents(
            URI,
            self.connect,  # type: ignore[arg-type]
            self.io_errors,
            self.report,
            self.clock,
            self.start_thread,
            lambda: None,
        )

    def host_conf(self) -> HostConf:
        return self.conf

    def start_thread(self, _call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        (self.work,) = arguments

    def report(self, event: Event) -> None:
        self.events.append(event)
        self.journal.report(event)

    # virConnect

    def connect(self, uri: str) -> World:
        self.connects += 1
        if self.refusal:
            raise self.refusal
        return self

    def setKeepAlive(self, seconds: int, count: int) -> None:
        pass

    def registerCloseCallback(self, callback: Callable[..., None], opaque: object) -> None:
        self.close_callback = callback

    def unregisterCloseCallback(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1

    def domainEventRegisterAny(
        self, domain: None, event: int, callback: Callable[..., None], opaque: object
    ) -> int:
        self.callbacks[event] = callback
        return event

    def domainEventDeregisterAny(self, number: int) -> None:
        del self.callbacks[number]

    def getAllDomainStats(self, stats: int, flags: int) -> list[tuple[Guest, dict[str, int]]]:
        return self.listed

    def lookupByUUIDString(self, uuid: str) -> Guest:
        assert uuid == UUID
        return self.guest

    # What happens

    def status(self, state: str = "paused", lock_state: str = "LS:disk:/disk:0:3", run: int = 3) -> None:
        text = status_xml(state=state, metadata=self.policy).replace(b"id='3'", b"id='%d'" % run)
        note = f"<lockstate>{lock_state}</lockstate>" if lock_state else ""
        text = text.replace(b"<domain ", f"{note}<domain ".encode(), 1)
        (self.path / "status/new").write_bytes(text)
        (self.path / "status/new").rename(self.path / "status/vm1.xml")

    def lifecycle(self, event: tuple[int, int], run: int = 3) -> None:
        self.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE](self, Guest(run), *event, None)

    def io_error(self, reason: str = "", action: int = libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE) -> None:
        callback = self.callbacks[libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON]
        callback(self, Guest(), "/disk.img", "virtio-disk0", action, reason, None)

    def stop(self, version: int = 3, reason: str = "") -> None:
        """The guest stops, and libvirt reports that."""
        self.status(lock_state=f"LS:disk:/disk:0:{version}")
        self.io_error(reason)
        self.lifecycle(SUSPENDED)
        self.run()

    def resume(self) -> None:
        self.status("running", "")
        self.lifecycle(RESUMED)
        self.run()

    def open(self) -> None:
        self.listener.libvirtd_answers()
        self.run()

    def run(self) -> None:
        """What the thread has to do now."""
        while not self.work.empty():
            self.work.get()()

    def record(self) -> Record:
        found = self.records.read(UUID)
        assert found is not None
        return found

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def world(tmp_path: Path, mocker: MockerFixture) -> World:
    return World(tmp_path, mocker)


def test_a_stop_leaves_a_record_with_what_libvirt_gave_up(world: World) -> None:
    world.open()
    world.stop()
    record = world.record()
    assert (record.action, record.cause, record.found, record.tries) == (
        "pause", IO_ERROR, "paused (I/O error)", 0,
    )  # fmt: skip
    assert [(str(lease), lease.version, lease.path) for lease in record.leases] == [("LS:disk", 3, "/disk")]
    assert [space.name for space in record.lockspaces] == ["LS"]
    assert (record.run, record.pid, record.unknown) == (3, SELF.pid, "")
    assert world.kinds() == ["io-error-noted"]
    assert "stopped by an I/O error of /disk.img: it is paused" in world.events[0].text()


def test_the_first_list_and_its_event_are_one_stop(world: World) -> None:
    world.listed = [(Guest(), {"state.state": PAUSED, "state.reason": IOERROR})]
    world.status()
    world.open()
    world.lifecycle(SUSPENDED)
    world.run()
    assert world.kinds() == ["io-error-unseen"]
    assert world.record().unknown == UNSEEN
    # The administrator's resume still asks other hosts for these.
    assert [lease.version for lease in world.record().leases] == [3]


def test_what_stopped_while_libvirtd_was_away_holds_its_leases(world: World) -> None:
    world.open()
    world.close_callback(world, 0, None)
    world.run()
    assert (world.closed, world.callbacks) == (1, {})
    world.held = [Lease("LS", "disk", 3, "/disk")]
    world.status(lock_state="")
    world.listed = [(Guest(), {"state.state": PAUSED, "state.reason": IOERROR})]
    world.open()
    assert world.kinds() == ["io-error-noted"]
    assert ([lease.version for lease in world.record().leases], world.record().unknown) == ([3], "")
    # Listed again, it is the same stop.
    world.close_callback(world, 0, None)
    world.open()
    assert world.kinds() == ["io-error-noted"]


def test_a_stop_soon_after_a_resume_counts_on(world: World) -> None:
    world.open()
    for tries in range(3):
        world.stop(3 + tries)
        assert (world.record().tries, world.record().leases[0].version) == (tries, 3 + tries)
        world.resume()
    assert "3 times in a row" in world.events[-1].text()
    world.clock.now += RAN_SECONDS
    world.records.remove(UUID)
    world.stop(9)
    assert world.record().tries == 0


def test_no_space_is_no_outage(world: World) -> None:
    world.open()
    world.stop(reason=NO_SPACE)
    assert world.kinds() == ["io-error-no-space"]
    assert world.records.uuids() == []
    # It was made, and now the storage is away.
    world.resume()
    world.stop(4)
    assert world.kinds() == ["io-error-no-space", "io-error-noted"]


def test_no_space_before_the_agent_began(world: World) -> None:
    errors = {"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE}
    world.listed = [(Guest(3, errors), {"state.state": PAUSED, "state.reason": IOERROR})]
    world.status()
    world.open()
    assert world.kinds() == ["io-error-no-space"]
    assert world.records.uuids() == []


@pytest.mark.parametrize("action", ["NONE", "REPORT"])
def test_an_error_that_the_guest_is_given_stops_nothing(world: World, action: str) -> None:
    world.open()
    world.io_error(NO_SPACE, getattr(libvirt, f"VIR_DOMAIN_EVENT_IO_ERROR_{action}"))
    world.status()
    world.lifecycle(SUSPENDED)
    world.run()
    assert world.kinds() == ["io-error-noted"]


ELEMENT = '<lockfailure xmlns="urn:virt-sanlock-helper:1" {}/>'


@pytest.mark.parametrize(
    ("policy", "default", "comes_back"),
    [
        (ELEMENT.format('recover="yes"'), False, True),
        (ELEMENT.format('recover="no"'), True, False),
        ("", False, False),
        ("", True, True),
        # Not known: recovery decides.
        ("", None, True),
        (ELEMENT.format('recover="perhaps"'), False, True),
        ('<other xmlns="urn:virt-sanlock-helper:1"/>', False, True),
        (ELEMENT.format('priority="3"'), False, False),
        (ELEMENT.format('priority="3"'), True, True),
    ],
)
def test_only_what_may_come_back_leaves_a_record(
    world: World, policy: str, default: bool | None, comes_back: bool
) -> None:
    world.policy, world.conf = policy, HostConf(default=default)
    world.open()
    world.stop()
    assert world.kinds() == ["io-error-noted" if comes_back else "io-error-left-alone"]
    assert world.records.uuids() == ([UUID] if comes_back else [])


def test_what_sanlock_does_not_protect_leaves_none(world: World) -> None:
    world.open()
    world.status(lock_state="")
    world.lifecycle(SUSPENDED)
    world.run()
    assert (world.kinds(), world.records.uuids()) == ([], [])


def test_what_sanlock_does_not_protect_leaves_none_to_a_later_agent(world: World) -> None:
    world.listed = [(Guest(), {"state.state": PAUSED, "state.reason": IOERROR})]
    world.status(lock_state="")
    world.open()
    assert (world.kinds(), world.records.uuids()) == ([], [])


def test_what_has_its_leases_still_is_known_to_a_later_agent(world: World) -> None:
    world.listed = [(Guest(), {"state.state": PAUSED, "state.reason": IOERROR})]
    world.status(lock_state="")
    world.held = [Lease("LS", "disk", 3, "/disk")]
    world.open()
    assert (world.kinds(), world.record().unknown) == (["io-error-noted"], "")
    assert [lease.version for lease in world.record().leases] == [3]


def test_a_record_that_cannot_be_written_is_tried_again(world: World) -> None:
    world.open()
    (world.path / "records").write_text("no directory")
    world.stop()
    assert world.kinds() == []
    line = world.journal.text()
    assert line.startswith(f"pause vm1 {UUID}: no recovery record: ")
    assert line.endswith("recovery will not bring it back until there is one: tried again every 10 s")
    assert world.listener.seconds_left() == WRITE_RETRY
    world.listener.try_again_what_failed()
    # libvirtd begins anew meanwhile, and it is listed.
    world.close_callback(world, 0, None)
    world.listed = [(Guest(), {"state.state": PAUSED, "state.reason": IOERROR})]
    world.open()
    assert (world.kinds(), len(world.journal.lines)) == ([], 1)
    (world.path / "records").unlink()
    world.listener.try_again_what_failed()
    assert world.kinds() == ["io-error-noted"]
    assert [lease.version for lease in world.record().leases] == [3]
    assert world.listener.seconds_left() is None


@pytest.mark.parametrize("end", ["resumed", "ended", "not listed"])
def test_a_record_that_is_needed_no_more_is_not_tried_again(world: World, end: str) -> None:
    world.open()
    (world.path / "records").write_text("no directory")
    world.stop()
    if end == "resumed":
        world.resume()
    elif end == "ended":
        world.lifecycle((libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED))
        world.run()
    else:
        world.close_callback(world, 0, None)
        world.open()
    assert world.listener.seconds_left() is None
    (world.path / "records").unlink()
    world.listener.try_again_what_failed()
    assert (world.kinds(), world.records.uuids()) == ([], [])


def test_a_stop_before_the_agent_began_is_that_still_when_it_is_tried_again(world: World) -> None:
    (world.path / "records").write_text("no directory")
    world.listed = [(Guest(), {"state.state": PAUSED, "state.reason": IOERROR})]
    world.status()
    world.open()
    world.lifecycle(SUSPENDED)
    world.run()
    (world.path / "records").unlink()
    world.listener.try_again_what_failed()
    assert (world.kinds(), world.record().unknown) == (["io-error-unseen"], UNSEEN)


def stop_unnoted(world: World) -> None:
    """A stop while /run is full: the status file is the one of before."""
    world.open()
    world.status("running", "")
    world.guest = Guest()
    world.io_error()
    world.lifecycle(SUSPENDED)
    world.run()


@pytest.mark.parametrize("is_registered", [True, False])
def test_a_stop_that_libvirt_could_not_note(world: World, mocker: MockerFixture, is_registered: bool) -> None:
    # sanlock has no leases of the process any more.
    mocker.patch.object(leases, "is_registered", return_value=is_registered)
    stop_unnoted(world)
    assert world.kinds() == ["io-error-unnoted"] * is_registered
    assert world.records.uuids() == [UUID] * is_registered
    if is_registered:
        assert (world.record().unknown, world.record().leases) == (UNNOTED, ())
        # It may be noted later, with the next change.
        world.status()
        world.lifecycle(SUSPENDED)
        world.run()
        assert (world.kinds()[1:], world.record().unknown) == (["io-error-noted"], "")


def hang(pid: int) -> bool:
    time.sleep(0.5)
    return False


@pytest.mark.parametrize(
    "answer",
    [
        LeasesUnknownError("sanlock does not answer"),
        LeasesUnknownError("no sanlock runs", absent=True),
        TransientError("ask sanlock for the leases of process 1", "it is busy with it"),
        hang,
    ],
    ids=["refuses", "absent", "busy", "hangs"],
)
def test_a_stop_that_neither_libvirt_nor_sanlock_notes(
    world: World, mocker: MockerFixture, answer: Exception | Callable[[int], bool]
) -> None:
    """/run is full, and sanlock does not report whether it has leases of the process: that is no "no"."""
    mocker.patch.object(io_errors, "SANLOCK_SECONDS", 0.05)
    mocker.patch.object(leases, "is_registered", side_effect=answer)
    stop_unnoted(world)
    assert (world.kinds(), world.records.uuids()) == (["io-error-unnoted"], [UUID])
    assert world.record().unknown == UNNOTED


@pytest.mark.parametrize(
    ("policy", "reason", "kind"), [("no", "", "io-error-left-alone"), ("yes", NO_SPACE, "io-error-no-space")]
)
def test_a_stop_that_leaves_no_record_is_reported_while_sanlock_is_silent(
    world: World, mocker: MockerFixture, policy: str, reason: str, kind: str
) -> None:
    mocker.patch.object(leases, "held_by", side_effect=LeasesUnknownError("sanlock does not answer"))
    world.policy = ELEMENT.format(f'recover="{policy}"')
    world.open()
    world.status(lock_state="")
    world.io_error(reason)
    world.lifecycle(SUSPENDED)
    world.run()
    assert (world.kinds(), world.records.uuids()) == ([kind], [])


def test_a_stop_that_is_noted_while_libvirtd_is_asked(world: World) -> None:
    world.open()
    world.status("running", "")

    def state() -> list[int]:
        world.status()
        return [PAUSED, IOERROR]

    world.guest.state = state  # type: ignore[method-assign]
    world.lifecycle(SUSPENDED)
    world.run()
    assert (world.kinds(), world.record().unknown) == (["io-error-noted"], "")


def test_a_drills_domain_leaves_no_record(world: World) -> None:
    world.io_errors.stopped(f"{DRILL_UUIDS}-1", "drill", 3, lambda: True)
    assert not world.io_errors.retries


def test_a_note_that_cannot_be_read_in_one_way(world: World) -> None:
    world.open()
    world.status(lock_state="LS:a:b:/disk:0:3")
    world.lifecycle(SUSPENDED)
    world.run()
    assert "more than one meaning" in world.record().unknown
    assert world.kinds() == ["io-error-noted"]


LEASE = "<lease><lockspace>{}</lockspace><key>{}</key><target path='{}' offset='{}'/></lease>"


@pytest.mark.parametrize(
    ("elements", "state", "found"),
    [
        # As the definition has it.
        ([("LS", "a:b", "/disk", 0)], "LS:a:b:/disk:0:3", [("LS", "a:b", "/disk", 0, 3)]),
        ([("LS", "a\\b", "/d:1", 1048576)], "LS:a\\b:/d:1:1048576:7", [("LS", "a\\b", "/d:1", 1048576, 7)]),
        (
            [("LS", "a:b", "/disk", 0), ("LS", "c", "/c", 0)],
            "LS:x:/x:0:1 LS:a:b:/disk:0:3 LS:c:/c:0:4",
            [("LS", "x", "/x", 0, 1), ("LS", "a:b", "/disk", 0, 3), ("LS", "c", "/c", 0, 4)],
        ),
        # A path's colon is escaped there, and its backslash is not.
        ([("LS", "c", "/d:1", 0)], "LS:c:/d\\:1:0:7", [("LS", "c", "/d:1", 0, 7)]),
        ([("LS", "a:b", "/d:1:", 0)], "LS:a:b:/d\\:1\\::0:7", [("LS", "a:b", "/d:1:", 0, 7)]),
        ([("LS", "c", "/d\\:1", 0)], "LS:c:/d\\:1:0:7", [("LS", "c", "/d\\:1", 0, 7)]),
        ([("LS", "c", "/d:1", 0), ("LS", "c", "/d\\:1", 0)], "LS:c:/d\\:1:0:7", []),
        # libvirt writes it as it is; one that escapes it is read as well.
        ([("LS", "a&b<>\"'", "/&", 0)], "LS:a&b<>\"':/&:0:7", [("LS", "a&b<>\"'", "/&", 0, 7)]),
        ([("LS", "a&b<>\"'", "/&", 0)], "LS:a&amp;b&lt;&gt;\"':/&amp;:0:7", [("LS", "a&b<>\"'", "/&", 0, 7)]),
        ([("LS", "a&b\"'", "/c", 0)], "LS:a&amp;b&quot;&apos;:/c:0:7", [("LS", "a&b\"'", "/c", 0, 7)]),
        ([("LS", "a&amp;b", "/c", 0)], "LS:a&amp;b:/c:0:7", [("LS", "a&amp;b", "/c", 0, 7)]),
        ([("LS", "a&amp;b", "/c", 0), ("LS", "a&b", "/c", 0)], "LS:a&amp;b:/c:0:7", []),
        ([("LS", "c", "/c", 0)], "LS:a&amp;b:/c:0:7", []),
        # Two that are the same text, another one, and a version that is none.
        ([("LS", "a:b", "/disk", 0), ("LS:a", "b", "/disk", 0)], "LS:a:b:/disk:0:3", []),
        ([("LS", "a:c", "/disk", 0)], "LS:a:b:/disk:0:3", []),
        ([("LS", "a:b", "/disk", 0)], "LS:a:b:/disk:0:-3", []),
        ([("LS", "a:b", "/disk", 0)], "LS:a:b:/disk:0:SH", []),
    ],
)
def test_a_name_that_is_not_escaped_is_the_definitions(
    elements: list[tuple[str, str, str, int]], state: str, found: list[tuple[str, str, str, int, int]]
) -> None:
    devices = "".join(
        LEASE.format(*(escape(str(word), {"'": "&apos;"}) for word in words)) for words in elements
    )
    named = explicit_leases(f"<domain><devices>{devices}</devices></domain>")
    assert [(one.lockspace, one.resource, one.path, one.offset) for one in named] == elements
    try:
        read = leases.of_state(state, named)
    except LeasesUnknownError:
        read = []
    assert [(one.lockspace, one.resource, one.path, one.offset, one.version) for one in read] == found


@pytest.mark.parametrize("state", ["running", "shutoff"])
def test_one_that_has_gone_on_since_leaves_none(world: World, state: str) -> None:
    world.open()
    world.status(state)
    world.lifecycle(SUSPENDED)
    world.run()
    assert world.records.uuids() == []


def test_another_run_leaves_none(world: World) -> None:
    world.open()
    world.status(run=4)
    world.lifecycle(SUSPENDED, 3)
    world.run()
    assert world.records.uuids() == []


def test_nothing_is_kept_of_what_is_over(world: World) -> None:
    ended = (libvirt.VIR_DOMAIN_EVENT_STOPPED, 0)
    world.open()
    world.stop()
    world.lifecycle(ended)
    # So the same stop is news.
    world.lifecycle(SUSPENDED)
    world.run()
    assert world.kinds() == ["io-error-noted"] * 2
    world.io_error()
    world.lifecycle(ended)
    # And of no disk that is known.
    world.lifecycle(SUSPENDED)
    world.run()
    assert [event.parts.get("disk") for event in world.events] == ["/disk.img", None, None]


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(TransientError("connect", "no"), 0.5), (AuthenticationError("connect", "no"), 300.0)],
)
def test_a_refused_connection_is_tried_again_later(world: World, error: Exception, seconds: float) -> None:
    world.refusal = error
    world.open()
    assert world.listener.next_try == pytest.approx(world.clock() + seconds)
    world.refusal = None
    world.open()
    assert (world.connects, world.listener.next_try) == (2, None)
    world.open()
    assert world.connects == 2


def test_an_agents_record_of_a_killpath_is_kept(world: World) -> None:
    before = Record(UUID, "vm1", URI, "poweroff", run=3, pid=SELF.pid, pid_start=SELF.start, time=4.0)
    before.boot = processes.boot_id()
    before.leases = (Lease("LS", "disk", 3, "/disk"),)
    world.records.write(before)
    world.open()
    world.stop()
    assert (world.record().action, world.record().cause) == ("poweroff", "")


def test_a_late_agent_leaves_a_record_with_versions(world: World) -> None:
    world.open()
    world.stop()
    stamp = world.record().encode()
    world.io_errors.keep_only(set())
    world.io_errors.stopped(UUID, "vm1", 3, lambda: True, is_seen=False)
    assert world.record().encode() == stamp


def test_a_silent_sanlock_costs_no_record(world: World, mocker: MockerFixture) -> None:
    mocker.patch.object(leases, "_joined", side_effect=LeasesUnknownError("sanlock does not answer"))
    world.open()
    world.stop()
    assert [lease.version for lease in world.record().leases] == [3]
    assert world.record().lockspaces == ()
