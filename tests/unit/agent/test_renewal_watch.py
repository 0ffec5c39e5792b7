# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is logged of renewals that fail, once each, whatever the clocks do."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest

from sanlock_helper.agent.renewal_events import MOST_NAMES, Dependents, warning
from sanlock_helper.agent.renewal_watch import FAILING_SECONDS, IDLE_SECONDS, RenewalWatch, find_dependents
from sanlock_helper.events import Event
from sanlock_helper.journal import MAX_BYTES
from sanlock_helper.leases.daemon_states import DaemonStates
from sanlock_helper.leases.renewals import renewals_of
from sanlock_helper.virt.status_files import StatusFiles

pytestmark = pytest.mark.pure

SETTINGS = {"use_watchdog": "1", "watchdog_fire_timeout": "60", "kill_grace_seconds": "40"}
NOON = 1_790_000_000.0


class World:
    """A sanlock with lockspaces that are renewed or not, and the two clocks."""

    def __init__(self, *names: str, io_timeout: int = 10) -> None:
        self.now, self.wall = 1000.0, NOON
        self.spaces = {
            name: {
                "list": "spaces",
                "space_id": str(number),
                "io_timeout": str(io_timeout),
                "host_generation": "1",
                "renew_fail": "0",
                "renewal_last_success": "1000",
            }
            for number, name in enumerate(names or ("space",))
        }
        self.failing: set[str] = set()
        self.answers = True
        self.asked = 0
        self.dependents = Dependents({"pause": ["vm1"]}, [])
        self.events: list[Event] = []
        self.watch = RenewalWatch(
            self.ask,
            self.events.append,
            lambda _states, _name: self.dependents,
            lambda: self.now,
            lambda: self.wall,
        )
        self.next = 0.0

    def ask(self, _leases: bool) -> DaemonStates | None:
        self.asked += 1
        return DaemonStates(SETTINGS, self.spaces, {}, {}) if self.answers else None

    def pass_time(self, seconds: float, wall: float | None = None) -> None:
        """SECONDS pass, on the wall WALL: sanlock renews every 20, the watch reads when it is due."""
        end = self.now + seconds
        while self.now < end:
            if self.next <= self.now:
                self.next = self.now + self.watch.check()
            step = min(end, self.next, self.now + 1) - self.now
            self.now += step
            self.wall += step
            for name, values in self.spaces.items():
                if name not in self.failing and self.now - int(values["renewal_last_success"]) >= 20:
                    values["renewal_last_success"] = str(int(self.now))
        if wall is not None:
            self.wall += wall - seconds

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    @property
    def lines(self) -> list[str]:
        return [event.render() for event in self.events]


def clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def test_nothing_is_logged_while_they_succeed() -> None:
    world = World("one", "two")
    world.pass_time(3600)
    assert world.events == []
    # Beside that an agent at rest is woken by its connections alone.
    assert world.asked <= 3600 / IDLE_SECONDS + 3600 / 10


def test_a_loss_is_warned_of_twice() -> None:
    world = World()
    world.failing = {"space"}
    world.pass_time(79)
    first, second = world.lines
    assert first == (
        "lockspace space: no renewal for 30 s, its VMs are safe; without one it is lost at "
        f"{clock(NOON + 80)}, in 50 s: 1 paused: vm1; then SIGKILL at {clock(NOON + 120)}, in 90 s, to what "
        "still holds a lease, and a reset of this host by the watchdog at "
        f"{clock(NOON + 130)}, in 100 s, at the earliest; find out why its storage does not answer: "
        "journalctl -u sanlock"
    )
    assert second.startswith(
        "about to lose lockspace space: no renewal for 60 s, its VMs are safe; without one it is lost "
        f"at {clock(NOON + 80)}, in 20 s: 1 paused: vm1; then SIGKILL at {clock(NOON + 120)}, in 60 s, "
    )
    assert [event.level for event in world.events] == ["warning", "warning"]
    # It is lost, its storage returns, and sanlock leaves it all the same.
    world.spaces["space"].update(renew_fail="1", killing_pids="1")
    world.pass_time(10)
    world.failing = set()
    world.pass_time(60)
    world.spaces.clear()
    world.pass_time(60)
    assert len(world.events) == 2


@pytest.mark.parametrize("outage", [31, 50, 79])
def test_a_short_outage_ends_with_a_notice(outage: int) -> None:
    world = World()
    world.failing = {"space"}
    world.pass_time(outage)
    world.failing = set()
    world.pass_time(300)
    warned = ["renewals-failing"] if outage < 60 else ["renewals-failing", "loss-near"]
    assert world.kinds == [*warned, "renewals-back"]
    assert world.events[-1].level == "notice"
    assert int(world.events[-1].parts["seconds"]) == pytest.approx(outage, abs=1)


def test_each_outage_is_warned_of() -> None:
    world = World()
    for _ in range(3):
        world.failing = {"space"}
        world.pass_time(35)
        world.failing = set()
        world.pass_time(60)
    assert world.kinds == ["renewals-failing", "renewals-back"] * 3


def test_one_line_for_each_lockspace() -> None:
    world = World("one", "two", "three")
    world.failing = {"one", "two"}
    world.pass_time(79)
    assert sorted((event.kind, event.parts["lockspace"]) for event in world.events) == [
        ("loss-near", "one"),
        ("loss-near", "two"),
        ("renewals-failing", "one"),
        ("renewals-failing", "two"),
    ]


def test_io_timeouts_that_differ() -> None:
    world = World("quick", "slow")
    world.spaces["slow"]["io_timeout"] = "40"
    world.failing = {"quick", "slow"}
    world.pass_time(79)
    assert {event.parts["lockspace"] for event in world.events} == {"quick"}


@pytest.mark.parametrize("step", [-86400.0, -3600.0, 3600.0, 86400.0])
def test_a_step_of_the_time_of_day_changes_no_stage(step: float) -> None:
    world = World()
    world.failing = {"space"}
    world.pass_time(40)
    world.wall += step
    world.pass_time(39)
    assert world.kinds == ["renewals-failing", "loss-near"]
    first, second = (event.parts for event in world.events)
    assert (first["lost"], first["left"]) == (clock(NOON + 80), "50")
    assert (second["lost"], second["left"]) == (clock(NOON + 80 + step), "20")


def test_a_suspended_host_loses_nothing_by_that() -> None:
    """CLOCK_MONOTONIC, which sanlock goes by, stands still meanwhile."""
    world = World()
    world.pass_time(10)
    world.pass_time(1, wall=8 * 3600)
    world.pass_time(60)
    assert world.events == []


def test_a_watch_that_was_stopped_warns_of_what_is_ahead() -> None:
    for stopped, kinds in ((35, ["renewals-failing"]), (65, ["loss-near"]), (90, [])):
        world = World()
        world.failing = {"space"}
        world.watch.check()
        world.now += stopped
        world.wall += stopped
        world.watch.check()
        assert world.kinds == kinds


def test_an_agent_that_starts_in_an_outage_warns_at_once() -> None:
    world = World()
    world.now += 62
    world.watch.check()
    assert world.kinds == ["loss-near"]
    world = World()
    world.spaces["space"].update(renew_fail="1", killing_pids="1")
    world.watch.check()
    assert world.kinds == []


def test_a_sanlock_that_is_away_for_a_while() -> None:
    world = World()
    world.failing = {"space"}
    world.pass_time(40)
    world.answers = False
    world.pass_time(15)
    assert world.kinds == ["renewals-failing"]
    world.answers = True
    world.failing = set()
    world.pass_time(30)
    assert world.kinds == ["renewals-failing", "renewals-back"]


def test_how_often_it_asks() -> None:
    world = World()
    assert world.watch.check() == IDLE_SECONDS
    world.now += 26
    assert 4.0 < world.watch.check() < 4.1
    world.now += 5
    assert world.watch.check() == FAILING_SECONDS
    world.answers = False
    assert world.watch.check() == FAILING_SECONDS
    assert World().watch.check() == IDLE_SECONDS
    none = World()
    none.answers = False
    assert none.watch.check() == IDLE_SECONDS


@pytest.mark.parametrize("gone", [True, False])
def test_a_lockspace_that_is_removed_meanwhile(gone: bool) -> None:
    world = World()
    world.failing = {"space"}
    world.pass_time(40)
    if gone:
        # A new daemon has none, or this one was left between two questions.
        world.spaces.clear()
    else:
        world.spaces["space"].update(killing_pids="1", space_dead="1")
    world.pass_time(5)
    world.spaces.clear()
    world.pass_time(200)
    assert world.kinds == ["renewals-failing", "failing-lockspace-left"]
    assert world.events[-1].level == "notice"


def test_one_that_is_joined_again_is_another() -> None:
    world = World()
    world.failing = {"space"}
    world.pass_time(79)
    again = {**world.spaces["space"], "space_id": "7", "renewal_last_success": str(int(world.now) + 60)}
    world.now += 61
    world.spaces["space"] = again
    world.pass_time(79)
    # The first is lost: no notice that it is back.
    assert world.kinds == ["renewals-failing", "loss-near"] * 2


def test_one_without_a_timeout_is_warned_of_once() -> None:
    world = World()
    world.spaces["space"]["no_timeout"] = "1"
    world.dependents = Dependents({"pause": ["vm1"], "poweroff": ["db1"]}, ["process 7 lvmlockd"])
    world.failing = {"space"}
    world.pass_time(500)
    assert world.lines == [
        "lockspace space: no renewal for 30 s; sanlock does not give it up (no_timeout), and its VMs go on: "
        "db1, process 7 lvmlockd, vm1"
    ]
    world.failing = set()
    world.pass_time(30)
    assert world.kinds == ["renewals-failing", "renewals-back"]


# What becomes of what depends on it


def fates(dependents: Dependents | None, grace: int = 40, **settings: str) -> Event:
    values = {"io_timeout": "10", "renewal_last_success": "1000"}
    found = renewals_of("space", values, {**SETTINGS, "kill_grace_seconds": str(grace), **settings})
    assert found is not None
    return warning(found, dependents, 1030.0, NOON)


def test_each_action_has_its_fate() -> None:
    domains = {
        "default": ["plain"],
        "ignore": ["left"],
        "pause": ["vm2", "vm1"],
        "poweroff": ["db1"],
        "restart": ["web1"],
    }
    event = fates(Dependents(domains, ["process 812 lvmlockd"]))
    assert event.parts["fates"] == (
        "2 paused: vm1, vm2; 2 powered off: db1, web1; 1 left to SIGKILL: left; 1 ended with SIGTERM: plain; "
        "1 of other programs ended: process 812 lvmlockd"
    )


def test_without_a_grace_no_helper_runs() -> None:
    event = fates(Dependents({"pause": ["vm1"], "default": ["vm2"]}, []), grace=0)
    assert event.parts["fates"] == "2 ended with SIGKILL: vm1, vm2"
    assert event.parts["next"].startswith(f"SIGKILL at {clock(NOON + 50)}, in 50 s")


def test_a_lockspace_that_no_vm_uses() -> None:
    event = fates(Dependents({}, []))
    assert "no VM has a lease in it, and none that needs one starts here" in event.parts["fates"]
    event = fates(Dependents({}, ["process 812 lvmlockd"]))
    assert event.parts["fates"].endswith("; 1 of other programs ended: process 812 lvmlockd")


def test_what_is_not_known() -> None:
    assert fates(None).parts["fates"] == "sanlock does not report which VMs have a lease in it"


def test_without_a_watchdog() -> None:
    assert fates(None, use_watchdog="0").parts["next"].endswith("; no watchdog resets this host")


# A file is named after the domain, so a name has 255 bytes at most.
@pytest.mark.parametrize("length", [5, 85])
def test_the_line_is_bounded(length: int) -> None:
    names = [f"{number:03}".ljust(length, "\u202e") for number in range(300)]
    domains = {action: names for action in ("pause", "poweroff", "restart", "ignore", "default")}
    event = fates(Dependents(domains, [f"process {number} {'x' * 47}" for number in range(64)]))
    assert len(event.render().encode("ascii", "backslashreplace")) <= MAX_BYTES
    assert "300 paused: 000" in event.render()
    assert "600 powered off: 000" in event.render()
    if length == 5:
        assert event.parts["fates"].split("; ")[0].endswith(f" and {300 - MOST_NAMES} more")
    # All that follows the names is there.
    assert event.render().endswith("journalctl -u sanlock")


@pytest.mark.parametrize(
    "name", ["a; then b", "in 3 s: x", "-", "a: b", "a\nb", "; find out why", "\udcff", "vm, vm", "\\"]
)
def test_each_line_is_read_as_it_was_logged(name: str) -> None:
    event = fates(Dependents({"pause": [name]}, [f"process 1 {name}"]))
    read = Event.parse(event.render())
    assert read is not None
    assert (read.kind, read.parts["left"], read.parts["lost"]) == ("renewals-failing", "50", clock(NOON + 50))
    assert read.parts["next"] == event.parts["next"]


def test_dependents_of_none_are_none() -> None:
    assert find_dependents(DaemonStates({}, {}, {"other": [1]}, {}), "space") == Dependents({}, [])
    states = DaemonStates({}, {}, {"space": [1, 1]}, {1: "init"})
    assert find_dependents(states, "space") == Dependents({}, ["process 1 init"])


STATUS = """
<domstatus state='running' reason='booted' pid='{pid}'>
<domain type='kvm' id='{pid}'><name>vm{pid}</name><uuid>00000000-0000-0000-0000-{pid:012}</uuid>
<on_lockfailure>{action}</on_lockfailure></domain></domstatus>
"""


def hundred(folder: Path) -> StatusFiles:
    for pid in range(1000, 1100):
        action = "pause" if pid % 2 else "poweroff"
        file = folder / f"vm{pid}.xml"
        file.write_text(STATUS.format(pid=pid, action=action))
        file.chmod(0o600)
    return StatusFiles(str(folder))


def test_dependents_by_libvirts_status_files(tmp_path: Path) -> None:
    states = DaemonStates({}, {}, {"space": list(range(1090, 1110))}, {1105: "lvmlockd"})
    found = find_dependents(states, "space", hundred(tmp_path))
    assert found.domains == {
        "pause": [f"vm{pid}" for pid in range(1091, 1100, 2)],
        "poweroff": [f"vm{pid}" for pid in range(1090, 1100, 2)],
    }
    assert len(found.others) == 10
    assert "process 1105 lvmlockd" in found.others


def test_storage_that_comes_and_goes_costs_no_memory(tmp_path: Path) -> None:
    """The agent that stands collects no garbage while it rests."""
    files = hundred(tmp_path)
    world = World()
    world.watch = RenewalWatch(
        world.ask,
        world.events.append,
        lambda _, name: find_dependents(
            DaemonStates({}, {}, {name: list(range(1000, 1100))}, {}), name, files
        ),
        lambda: world.now,
        lambda: world.wall,
    )
    counts = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(6):
            world.failing = {"space"}
            world.pass_time(35)
            world.failing = set()
            world.pass_time(60)
            world.events.clear()
            for path in tmp_path.iterdir():
                path.touch()
            counts.append(len(gc.get_objects()))
    finally:
        gc.enable()
    assert max(counts) - counts[1] < 100, counts
