# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recovery of one machine: every order of events up to a length, with a crash and an error at every call.

DomainRecovery's own code decides; libvirt, sanlock, the storage and another host are those of the unit tests
(tests/e2e/test_fake_sanlock.py compares them with real ones), and the record is kept in memory: its files are
test_store.py's.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from typing import Any, Callable

import pytest

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.leases.lockspaces import JOINED  # noqa: E402
from sanlock_helper.records.record import Record  # noqa: E402
from sanlock_helper.recovery.domain import DomainRecovery  # noqa: E402
from sanlock_helper.recovery.domain_resume import DomainResume  # noqa: E402
from sanlock_helper.recovery.recorded_leases import RecordedLeases  # noqa: E402
from sanlock_helper.recovery.verdict import Verdict  # noqa: E402

from ..unit.libvirt_errors import libvirt_error  # noqa: E402
from ..unit.recovery_world import OFF, RUNNING, SPACE, FakeSanlock, Killed, RecoveryWorld  # noqa: E402
from .depth import DEEPER  # noqa: E402
from .search import WrongState, search  # noqa: E402

# So many events follow each other.
LENGTH = 9 + 9 * DEEPER
# Crashes and errors among them.
TROUBLES = 2
# More than recovery makes calls in a visit.
MOST_CALLS = 14


class Store:
    """The record of the one machine, as RecordStore keeps it."""

    def __init__(self, record: Record | None) -> None:
        self.record = record

    def mark(self, record: Record, mark: str, why: str = "") -> bool:
        if self.record is None:
            return False
        self.record = copy.copy(record)
        self.record.mark, self.record.why = mark, why
        record.mark, record.why = mark, why
        return True


class Scene:
    """A machine that was made safe, and what has happened since."""

    def __init__(self, action: str, lost: bool) -> None:
        """LOST: the lockspace was lost at the time of the record; else it was healthy."""
        self.world = RecoveryWorld()
        record = self.world.record(action)
        if lost:
            self.world.lose()
            # sanlock may be leaving it still.
            self.world.state, self.world.losing = JOINED, True
        else:
            record.lockspaces = (self.world.healthy(),)
        self.store = Store(record)
        self.lost = lost
        self.length = 0
        self.troubles = 0
        self.resumes = 0
        # An administrator has decided about the domain, here or on another host.
        self.others = False
        self.version: int | None = None
        self.wrong = ""

    # search.State

    def copy(self) -> Any:
        new = copy.copy(self)
        new.world, new.store = copy.copy(self.world), Store(copy.copy(self.store.record))
        return new

    def key(self) -> Hashable:
        world = {name: value for name, value in vars(self.world).items() if isinstance(value, (int, str))}
        record = self.store.record
        found = None if record is None else (record.mark, record.why)
        own = (self.lost, self.troubles, self.resumes, self.others, self.version, self.wrong)
        states = self.world.host_states[2]
        return (
            frozenset(world.items()),
            states,
            self.world.owner,
            self.world.held,
            self.world.state,
            found,
            own,
        )

    def moves(self) -> Iterator[tuple[str, Callable[[Any], None]]]:
        if self.length >= LENGTH:
            return
        for name, event in EVENTS.items():
            yield name, _counted(event)
        if self.store.record is not None:
            yield "a visit", _counted(lambda scene: scene.visit())
            if self.troubles < TROUBLES:
                for number in range(1, MOST_CALLS):
                    yield f"a visit that dies at call {number}", _counted(_troubled(number, Killed()))
                    error = libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, message="the connection broke")
                    yield f"a visit with an error at call {number}", _counted(_troubled(number, error))

    def visit(self, number: int = 0, trouble: BaseException | None = None) -> None:
        """Recovery visits the domain; at its call NUMBER there is TROUBLE."""
        record, world = copy.copy(self.store.record), self.world
        assert record is not None
        calls = 0

        def interfere(name: str) -> None:
            nonlocal calls
            calls += 1
            if calls == number and trouble is not None:
                raise trouble

        before = world.resumed
        world.before_call = interfere
        try:
            result = self._recovery().visit(record, world.state == JOINED)
        except Killed:
            result = None
        world.before_call = lambda name: None
        if world.resumed > before:
            self.version = world.version
            self.resumes += 1
        if result is None:
            return
        if result.verdict in (Verdict.DONE, Verdict.DROPPED, Verdict.LEFT_ALONE):
            self.store.record = None
            self.others = self.others or result.verdict is not Verdict.DONE
            if result.verdict is Verdict.LEFT_ALONE and self.lost:
                self.wrong = "what was lost is left as it is"
        if result.verdict is Verdict.REFUSED:
            self.store.mark(record, "refused", result.text)

    def _recovery(self) -> DomainRecovery:
        world = self.world
        return DomainRecovery(
            world.connect,  # type: ignore[arg-type]
            FakeSanlock(world),  # type: ignore[arg-type]
            self.store,  # type: ignore[arg-type]
            boot=lambda: "boot",
            process_started=lambda pid: 99 if pid == world.pid else 0,
            pid_of=lambda uuid: world.pid if world.vm != OFF else None,
            default_lockspace=lambda: None,
            ended=lambda name, since: "",
            is_persistent=lambda name, uuid: False,
        )

    def check(self, is_last: bool) -> None:
        """Nothing runs without its lease, no guest goes on over a disk that others had, no record is lost."""
        world = self.world
        assert not self.wrong, self.wrong
        if world.vm == RUNNING:
            assert world.held == world.version, "it runs without its lease"
            assert world.owner == 1, "it runs while another host has its lease"
            if world.guest_version is not None and not self.others:
                moved = f"resumed at version {self.version}, paused at {world.guest_version}"
                assert world.version == world.guest_version + 1 == self.version, moved
        assert self.resumes == 0 or self.lost, "resumed, though nothing was lost"
        assert self.resumes <= 1 or self.others, "resumed twice for one record"
        if not self.others:
            assert world.started <= self.lost, "started twice for one record"
            assert self.store.record is not None or world.vm == RUNNING, "its record is lost"


def _counted(event: Callable[[Scene], None]) -> Callable[[Scene], None]:
    def move(scene: Scene) -> None:
        scene.length += 1
        event(scene)

    return move


def _troubled(number: int, trouble: BaseException) -> Callable[[Scene], None]:
    def move(scene: Scene) -> None:
        scene.troubles += 1
        scene.visit(number, trouble)

    return move


def _take(scene: Scene) -> None:
    scene.world.other_takes()


def _give_back(scene: Scene) -> None:
    scene.world.other_gives_back()


def _come_back(scene: Scene) -> None:
    scene.world.storage = True


def _leave(scene: Scene) -> None:
    """sanlock goes on leaving a lost lockspace, though its storage is back."""
    if scene.world.losing:
        scene.world.state = None


def _unknown(scene: Scene) -> None:
    scene.world.host_states = {2: "unknown"}


def _join(scene: Scene) -> None:
    if scene.world.storage:
        scene.world.join(SPACE)


def _lose(scene: Scene) -> None:
    if scene.world.vm != RUNNING:
        scene.world.lose()
        scene.lost = True


def _by_hand(name: str) -> Callable[[Scene], None]:
    """An administrator resumes or starts the domain."""

    def event(scene: Scene) -> None:
        try:
            getattr(scene.world, name)()
        except libvirt.libvirtError:
            return
        scene.others = True

    return event


EVENTS: dict[str, Callable[[Scene], None]] = {
    "another host takes the lease": _take,
    "another host gives it back": _give_back,
    "the storage goes": _lose,
    "the storage is back": _come_back,
    "sanlock leaves the lockspace": _leave,
    "the lockspace is joined": _join,
    "whether the other host lives is not known": _unknown,
    "an administrator resumes it": _by_hand("resume"),
    "an administrator starts it": _by_hand("start"),
}


@pytest.mark.parametrize("action", ["pause", "poweroff"])
@pytest.mark.parametrize("lost", [True, False])
def test_all_orders_of_events(action: str, lost: bool) -> None:
    found = search(Scene(action, lost))
    print(f"{action}, {'lost' if lost else 'healthy'}: {found.states} states, {found.moves} moves")


PLANTED: dict[str, tuple[str, object, str, Callable[..., Any], str]] = {
    "a lease that moved": (
        *(
            "pause",
            DomainResume,
            "_refuse_unless_untouched",
            lambda resume, domain, record: None,
            "resumed at",
        ),
    ),
    "what another host has is dropped": (
        *("pause", DomainResume, "_check_before_resume", lambda *_: None, "resumed at"),
    ),
    "what was lost comes back": (
        *("poweroff", RecordedLeases, "_lost_nothing", lambda leases, record: True, "left as it is"),
    ),
    "a record is lost": (*("poweroff", DomainRecovery, "_visit", lambda *_: _done(), "its record is lost"),),
}


def _done() -> Any:
    from sanlock_helper.recovery.verdict import VisitResult

    return VisitResult(Verdict.DONE, "")


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    action, owner, attribute, fault, words = PLANTED[name]
    monkeypatch.setattr(owner, attribute, fault)
    monkeypatch.setattr(DomainResume, "_check_held", lambda *_: None)
    with pytest.raises(WrongState) as found:
        search(Scene(action, True))
    print(found.value)
    assert words in str(found.value)
