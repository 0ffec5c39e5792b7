# SPDX-License-Identifier: LGPL-2.1-or-later
"""The four actions on libvirt objects that answer as libvirt would."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pytest_mock import MockerFixture

libvirt = pytest.importorskip("libvirt")

from sanlock_helper import actions, leases  # noqa: E402
from sanlock_helper.actions import Outcome, Progress, Try  # noqa: E402
from sanlock_helper.errors import FinalError, GivenUpError, PassingError  # noqa: E402

from .libvirt_errors import libvirt_error  # noqa: E402

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

NO_DOMAIN = libvirt.VIR_ERR_NO_DOMAIN
BROKEN = libvirt.VIR_ERR_INTERNAL_ERROR


class FakeHost:
    """One domain behind autospec'd libvirt objects: calls change its state as they would a real one's."""

    def __init__(self, mocker: MockerFixture) -> None:
        self.run: int = 7
        self.state: int = libvirt.VIR_DOMAIN_RUNNING
        self.known = True
        self.persistent = True
        self.next_run = 8
        self.calls: list[str] = []
        self.mocker = mocker
        self.connection = mocker.create_autospec(libvirt.virConnect, instance=True)
        self.connection.lookupByUUIDString.side_effect = self.lookup
        self.connection.createXML.side_effect = self.create_xml
        # What a call raises, by its name, after it took effect or instead of it.
        self.raises: dict[str, Exception] = {}
        self.answer_lost: dict[str, Exception] = {}

    def lookup(self, uuid: str) -> Any:
        assert uuid == UUID
        self._call("lookup")
        if not self.known:
            raise libvirt_error(NO_DOMAIN)
        domain = self.mocker.create_autospec(libvirt.virDomain, instance=True)
        domain.ID.return_value = self.run
        domain.name.return_value = "vm1"
        domain.state.side_effect = self.get_state
        domain.isPersistent.side_effect = lambda: int(self.persistent)
        domain.XMLDesc.side_effect = self.xml
        domain.destroy.side_effect = lambda: self._call("destroy", self.off)
        domain.suspend.side_effect = lambda: self._call("suspend", self.pause)
        domain.create.side_effect = lambda: self._call("create", self.start)
        return domain

    def get_state(self) -> list[int]:
        self._call("state")
        if not self.known:
            raise libvirt_error(NO_DOMAIN)
        return [self.state, 0]

    def xml(self, flags: int) -> str:
        assert flags == libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE
        self._call("xml")
        return "<domain/>"

    def create_xml(self, xml: str, flags: int) -> None:
        assert (xml, flags) == ("<domain/>", 0)
        self._call("createXML", self.start)

    def off(self) -> None:
        self.run, self.state, self.known = -1, libvirt.VIR_DOMAIN_SHUTOFF, self.persistent

    def pause(self) -> None:
        self.state = libvirt.VIR_DOMAIN_PAUSED

    def start(self) -> None:
        self.run, self.state, self.known = self.next_run, libvirt.VIR_DOMAIN_RUNNING, True

    def _call(self, name: str, effect: Any = None) -> None:
        self.calls.append(name)
        if name in self.raises:
            raise self.raises[name]
        if effect:
            effect()
        if name in self.answer_lost:
            raise self.answer_lost[name]


@pytest.fixture
def host(mocker: MockerFixture) -> FakeHost:
    return FakeHost(mocker)


@pytest.fixture
def no_leases(mocker: MockerFixture) -> Any:
    mocker.patch.object(leases, "qemu_pid", return_value=4711)
    return mocker.patch.object(leases, "held_by", return_value=[])


def run(host: FakeHost, action: str, progress: Progress | None = None, given_up: bool = False) -> Outcome:
    this = Try(host.connection, UUID, progress or Progress(), lambda: given_up)
    return actions.ACTIONS[action](this)


def changes(host: FakeHost) -> list[str]:
    return [name for name in host.calls if name not in ("lookup", "state", "xml")]


# poweroff


def test_the_turn_for_a_destroy_is_waited_for_with_everything_else_done(host: FakeHost) -> None:
    def await_turn() -> bool:
        assert host.calls == ["lookup", "state"]
        return False

    actions.poweroff(Try(host.connection, UUID, Progress(), lambda: False, await_turn=await_turn))
    assert host.calls == ["lookup", "state", "destroy", "lookup"]


def test_after_a_long_wait_a_domain_is_looked_at_again(host: FakeHost) -> None:
    def await_turn() -> bool:
        return True

    actions.poweroff(Try(host.connection, UUID, Progress(), lambda: False, await_turn=await_turn))
    assert host.calls == ["lookup", "state", "lookup", "destroy", "lookup"]


def test_a_run_that_began_during_a_long_wait_is_left_alone(host: FakeHost) -> None:
    def await_turn() -> bool:
        host.start()
        return True

    outcome = actions.poweroff(Try(host.connection, UUID, Progress(), lambda: False, await_turn=await_turn))
    assert str(outcome) == "found running, it ended meanwhile, verified over, another run was started since"
    assert changes(host) == []


def test_poweroff(host: FakeHost) -> None:
    assert str(run(host, "poweroff")) == "found running, destroyed, verified off"
    assert changes(host) == ["destroy"]


def test_poweroff_of_a_domain_that_is_off_is_success(host: FakeHost) -> None:
    host.off()
    assert str(run(host, "poweroff")) == "found off, nothing to do, verified off"
    assert changes(host) == []


def test_poweroff_of_a_transient_domain(host: FakeHost) -> None:
    host.persistent = False
    assert run(host, "poweroff").verified == "off, libvirt no longer knows it"


def test_poweroff_of_an_unknown_domain_fails_for_good(host: FakeHost) -> None:
    host.known = False
    with pytest.raises(FinalError, match="look up the domain"):
        run(host, "poweroff")


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_OPERATION_INVALID, NO_DOMAIN])
def test_poweroff_of_a_domain_that_ends_meanwhile_is_success(host: FakeHost, code: int) -> None:
    host.answer_lost["destroy"] = libvirt_error(code)
    assert str(run(host, "poweroff")) == "found running, it ended meanwhile, verified off"


def test_destroy_that_fails_is_tried_again(host: FakeHost) -> None:
    host.raises["destroy"] = libvirt_error(libvirt.VIR_ERR_OPERATION_TIMEOUT)
    with pytest.raises(PassingError, match="destroy the domain"):
        run(host, "poweroff")


def test_a_domain_still_active_after_the_call_is_no_success(host: FakeHost) -> None:
    host.off = lambda: None  # type: ignore[method-assign]
    with pytest.raises(PassingError, match="still active"):
        run(host, "poweroff")


def test_unknown_is_never_off(host: FakeHost) -> None:
    def break_lookup() -> None:
        host.raises["lookup"] = libvirt_error(BROKEN, libvirt.VIR_FROM_RPC)

    host.off = break_lookup  # type: ignore[method-assign]
    with pytest.raises(PassingError, match="look up the domain"):
        run(host, "poweroff")


def test_the_first_error_is_told_when_the_look_after_it_fails_too(host: FakeHost) -> None:
    host.answer_lost["destroy"] = libvirt_error(BROKEN, message="the connection broke")
    progress = Progress()
    host.off = lambda: host.raises.update(lookup=libvirt_error(BROKEN))  # type: ignore[method-assign]
    with pytest.raises(PassingError, match="the connection broke"):
        run(host, "poweroff", progress)
    # The next try finds what the first one did.
    host.raises.clear()
    FakeHost.off(host)
    assert run(host, "poweroff", progress).verified == "off"
    assert changes(host) == ["destroy"]


def test_another_run_is_left_alone(host: FakeHost) -> None:
    progress = Progress()
    host.raises["destroy"] = libvirt_error(BROKEN)
    with pytest.raises(PassingError):
        run(host, "poweroff", progress)
    host.start()
    assert "another run" in run(host, "poweroff", progress).verified
    assert changes(host) == ["destroy"]


def test_a_try_that_was_given_up_touches_nothing(host: FakeHost) -> None:
    with pytest.raises(GivenUpError):
        run(host, "poweroff", given_up=True)
    assert changes(host) == []


# restart


def test_restart(host: FakeHost) -> None:
    assert str(run(host, "restart")) == "found running, destroyed, started again, verified running again"
    assert changes(host) == ["destroy", "create"]


def test_restart_of_a_transient_domain_uses_its_xml_with_secrets(host: FakeHost) -> None:
    host.persistent = False
    assert run(host, "restart").reached
    assert changes(host) == ["destroy", "createXML"]


def test_restart_of_a_domain_that_is_off(host: FakeHost) -> None:
    host.off()
    assert run(host, "restart").reached
    assert changes(host) == ["create"]


def test_a_refused_start_leaves_the_domain_safe_and_says_why(host: FakeHost) -> None:
    host.raises["create"] = libvirt_error(
        libvirt.VIR_ERR_SYSTEM_ERROR, message="Failed to acquire lock: No space left on device"
    )
    progress = Progress()
    outcome = run(host, "restart", progress)
    assert not outcome.reached
    assert progress.safe
    assert outcome.verified == "off"
    assert "safe" in outcome.note
    assert "No space left on device" in outcome.note


def test_the_start_is_tried_once(host: FakeHost) -> None:
    progress = Progress()
    host.raises["create"] = libvirt_error(BROKEN, message="refused")
    run(host, "restart", progress)
    assert "refused" in run(host, "restart", progress).note
    assert changes(host) == ["destroy", "create"]


def test_a_start_whose_answer_was_lost_is_looked_at(host: FakeHost) -> None:
    host.answer_lost["create"] = libvirt_error(BROKEN)
    assert run(host, "restart").verified == "running again"


def test_no_start_while_an_earlier_call_has_not_returned(host: FakeHost) -> None:
    progress = Progress()
    progress.calling.add(Try(host.connection, UUID, progress, lambda: True))
    with pytest.raises(PassingError, match="has not returned"):
        run(host, "restart", progress)
    assert changes(host) == ["destroy"]
    assert progress.safe


def test_xml_that_does_not_come_does_not_hold_up_the_poweroff(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "XML_SECONDS", 0.05)
    host.persistent = False
    release = threading.Event()
    host.xml = lambda flags: str(release.wait())  # type: ignore[method-assign]
    outcome = run(host, "restart")
    release.set()
    assert (outcome.reached, outcome.verified) == (False, "off, libvirt no longer knows it")
    assert "did not give its XML" in outcome.note


def test_xml_that_cannot_be_read_is_said(host: FakeHost) -> None:
    host.persistent = False
    host.raises["xml"] = libvirt_error(libvirt.VIR_ERR_OPERATION_DENIED, message="no secrets for you")
    assert "no secrets for you" in run(host, "restart").note


# pause


@pytest.mark.usefixtures("no_leases")
def test_pause(host: FakeHost) -> None:
    assert str(run(host, "pause")) == "found running, suspended, verified paused, no lease held"
    assert changes(host) == ["suspend"]


@pytest.mark.usefixtures("no_leases")
def test_pause_of_a_paused_domain(host: FakeHost) -> None:
    host.pause()
    assert str(run(host, "pause")) == "found paused, nothing to do, verified paused, no lease held"
    assert changes(host) == []


@pytest.mark.usefixtures("no_leases")
def test_pause_of_a_domain_that_is_off_is_success_and_said(host: FakeHost) -> None:
    host.off()
    outcome = run(host, "pause")
    assert (outcome.reached, outcome.verified) == (True, "off")
    assert "nothing to pause" in outcome.note
    assert changes(host) == []


@pytest.mark.usefixtures("no_leases")
def test_pause_of_a_domain_that_ends_meanwhile(host: FakeHost) -> None:
    host.pause = host.off  # type: ignore[method-assign]
    assert "nothing to pause" in run(host, "pause").note


@pytest.mark.usefixtures("no_leases")
def test_pause_whose_answer_was_lost(host: FakeHost) -> None:
    host.answer_lost["suspend"] = libvirt_error(libvirt.VIR_ERR_OPERATION_TIMEOUT)
    assert run(host, "pause").reached


@pytest.mark.usefixtures("no_leases")
@pytest.mark.parametrize("state", [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PMSUSPENDED, 99])
def test_any_other_state_after_the_call_is_no_success(host: FakeHost, state: int) -> None:
    host.pause = lambda: setattr(host, "state", state)  # type: ignore[method-assign]
    with pytest.raises(PassingError, match="after the call"):
        run(host, "pause")


def test_leases_still_held_are_no_success_and_named(host: FakeHost, no_leases: Any) -> None:
    no_leases.return_value = [leases.Lease("__LIBVIRT__DISKS__", "abc", 3)]
    progress = Progress()
    with pytest.raises(PassingError, match="4711 still holds __LIBVIRT__DISKS__:abc"):
        run(host, "pause", progress)
    assert not progress.safe


LEFT = leases.Lease("__LIBVIRT__DISKS__", "abc", 3)


@pytest.fixture
def release(no_leases: Any, mocker: MockerFixture) -> Any:
    """sanlock's release; the process holds a lease until then."""
    no_leases.return_value = [LEFT]
    return mocker.patch.object(
        leases, "release", side_effect=lambda pid: setattr(no_leases, "return_value", [])
    )


def pause_again(host: FakeHost, pid: int | None = None) -> Outcome:
    """A pause whose first try found the leases still held, tried again."""
    progress = Progress()
    tries = [Try(host.connection, UUID, progress, lambda: False, pid=pid) for _ in range(2)]
    with pytest.raises(PassingError, match="still holds"):
        actions.pause(tries[0])
    return actions.pause(tries[1])


def test_leases_that_libvirtd_left_are_given_up_at_the_second_look(host: FakeHost, release: Any) -> None:
    outcome = pause_again(host)
    release.assert_called_once_with(4711)
    assert (outcome.reached, outcome.verified) == (True, "paused, no lease held")
    assert "libvirtd had left __LIBVIRT__DISKS__:abc" in outcome.note


def test_leases_of_a_process_that_is_not_the_domain_s_are_left_alone(host: FakeHost, release: Any) -> None:
    with pytest.raises(PassingError, match="12 still holds"):
        pause_again(host, pid=12)
    release.assert_not_called()


def test_a_release_that_sanlock_refuses_is_tried_again(host: FakeHost, release: Any) -> None:
    release.side_effect = leases.LeasesUnknownError("sanlock does not release them: busy")
    with pytest.raises(PassingError, match="abc: sanlock does not release them"):
        pause_again(host)


def test_a_domain_resumed_while_its_leases_were_given_up_is_paused_again(
    host: FakeHost, release: Any
) -> None:
    release.side_effect = lambda pid: setattr(host, "state", libvirt.VIR_DOMAIN_RUNNING)
    with pytest.raises(PassingError, match="somebody resumed it meanwhile"):
        pause_again(host)


def test_leases_that_cannot_be_looked_at_are_said(host: FakeHost, no_leases: Any) -> None:
    no_leases.side_effect = leases.LeasesUnknownError("sanlock is down")
    outcome = run(host, "pause")
    assert outcome.reached
    assert outcome.note == "its leases were not looked at: sanlock is down"


def test_the_process_id_that_sanlock_passed_is_used(host: FakeHost, no_leases: Any) -> None:
    actions.pause(Try(host.connection, UUID, Progress(), lambda: False, pid=12))
    no_leases.assert_called_once_with(12)
