# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop: lockspaces, backoff, many domains; without threads and without time."""

from __future__ import annotations

import errno
import os
import re
import threading
from _queue import Empty
from collections import deque
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.errors import TransientError
from sanlock_helper.leases.held import Lease, Lockspace
from sanlock_helper.leases.lockspaces import FAILING, JOINED, LEAVING, SanlockError
from sanlock_helper.records.directory import RecordDirectory
from sanlock_helper.records.record import IO_ERROR, Record
from sanlock_helper.records.store import RecordStore
from sanlock_helper.recovery import lockspace_waits
from sanlock_helper.recovery.lockspace_waits import LAST_DELAY, delay
from sanlock_helper.recovery.loop import Recovery
from sanlock_helper.recovery.stopped_guests import wait_before
from sanlock_helper.recovery.verdict import GONE, UNDECIDED, UNPROTECTED, Verdict, VisitResult
from sanlock_helper.virt.host_conf import HostConf
from sanlock_helper.virt.policy import PolicyError

from ..fakes import RecordedJournal
from ..recovery_world import SPACE

DONE = VisitResult(Verdict.DONE, "it runs")
AGAIN = VisitResult(Verdict.AGAIN, "a failure that may pass")
WAIT = VisitResult(Verdict.WAIT, "to be started")


class Host:
    """A sanlock, a clock, and visits that end as the test sets."""

    def __init__(self, path: Path) -> None:
        self.run_dir = f"{path}/run/records"
        self.now = 0.0
        self.answers: deque[Callable[[], None]] = deque()
        self.journal = RecordedJournal()
        self.store = RecordStore(self.journal, self.run_dir, f"{path}/state")  # type: ignore[arg-type]
        self.state: str | None = JOINED
        # When a join succeeds; and how sanlock behaves until then.
        self.storage_from = 0.0
        self.joins: list[float] = []
        self.sanlock_from = 0.0
        self.visits: list[tuple[float, str, bool]] = []
        self.endings: dict[str, Callable[[], VisitResult]] = {}
        self.at: list[tuple[float, Callable[[], object]]] = []
        self.hung: set[str] = set()
        # How long the first visit of a domain takes, by its name.
        self.slow: dict[str, float] = {}
        # The same of its first visit that may start or resume it.
        self.slow_once_ready: dict[str, float] = {}
        self.most = self.most_looks = 0
        self.shown: list[list[str]] = []
        self.default: Lockspace | None = None
        self.before_join: Callable[[Lockspace], None] = lambda lockspace: None
        self.conf = HostConf()
        self.held: float | None = None

    def add(self, name: str, action: str = "poweroff", **changes: Any) -> Record:
        record = Record(name, name, "qemu:///system", action, time=self.now)
        record.lockspaces, record.leases = (SPACE,), (Lease("LS", "disk", 1),)
        for key, value in changes.items():
            setattr(record, key, value)
        RecordDirectory(self.run_dir).write(record)
        return record

    # What Recovery calls

    def __call__(self) -> float:
        return self.now

    def put(self, answer: Callable[[], None]) -> None:
        self.answers.append(answer)

    def get(self, timeout: float) -> Callable[[], None]:
        if self.answers:
            return self.answers.popleft()
        self.now += timeout
        assert self.now < 10000, "the recovery never ends"
        for entry in [entry for entry in self.at if entry[0] <= self.now]:
            self.at.remove(entry)
            entry[1]()
        raise Empty

    def start(self, run: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        name = getattr(getattr(arguments[0], "record", None), "name", "")
        if name in self.hung:
            return  # a domain whose visit never returns
        slow = self.slow_once_ready if getattr(arguments[0], "ready", False) else self.slow
        if name in slow:
            self.at.append((self.now + slow.pop(name), lambda: run(*arguments)))
        else:
            run(*arguments)

    def lockspaces(self) -> dict[str, tuple[Lockspace, str]]:
        if self.now < self.sanlock_from:
            raise SanlockError("ask", errno.ECONNREFUSED)
        return {"LS": (SPACE, self.state)} if self.state else {}

    def join(self, lockspace: Lockspace) -> None:
        self.joins.append(self.now)
        if self.now < self.storage_from:
            raise SanlockError("join", errno.EIO)
        self.state = JOINED

    def visit(self, record: Record, ready: bool, age: float) -> VisitResult:
        self.visits.append((self.now, record.name, ready))
        self.most = max(self.most, self.recovery.visiting)
        if not ready:
            self.most_looks = max(self.most_looks, self.recovery.visiting)
        if not ready:
            return WAIT
        return self.endings.get(record.name, lambda: DONE)()

    def recover(self, wait: bool = True) -> bool:
        self.recovery = Recovery(
            self.store,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self.journal,  # type: ignore[arg-type]
            lambda: self.default,
            self.shown.append,
            self,
            self.start,
            self,
            self.before_join,
            lambda: self.conf,
            lambda: self.held,
        )
        return self.recovery.run(wait)

    def left(self) -> set[str]:
        return set(self.store.records())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("wait", [True, False])
def test_nothing_to_do(host: Host, wait: bool) -> None:
    assert host.recover(wait)
    assert (host.journal.lines, host.joins) == ([], [])


@pytest.mark.parametrize("wait", [True, False])
def test_all_come_back(host: Host, wait: bool) -> None:
    for number in range(20):
        host.add(f"vm{number}")
    host.state = None
    assert host.recover(wait)
    assert (host.left(), len(host.joins)) == (set(), 1)
    assert (host.most, host.most_looks) == (8, 1)
    assert len([line for level, line in host.journal.lines if "done after" in line]) == 20
    assert host.now < 1


def test_it_waits_for_the_storage(host: Host) -> None:
    host.add("vm1")
    host.state, host.storage_from = None, 100.0
    assert host.recover()
    # Late by a tenth of the outage at most, and by a tick.
    assert 100 <= host.now <= 112
    apart = [later - earlier for earlier, later in zip(host.joins, host.joins[1:])]
    assert apart[0] <= 1.5
    assert apart == sorted(apart)
    warnings = [line for level, line in host.journal.lines if level == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("recover: waiting for lockspace LS for 0 s: join: input or output error")
    assert warnings[0].endswith("; trying again, off or paused until then: vm1")
    assert any("lockspace LS joined again at try" in line for _, line in host.journal.lines)
    text = "\n".join(line for lines in host.shown for line in lines)
    wanted = r"lockspace LS: waited for 5\d s, next try in 4 s, then 1 to bring back \(vm1\): join: input or"
    assert re.search(wanted, text)


def test_the_delay_starts_at_1_s_and_ends_at_30() -> None:
    assert [delay(waited) for waited in (0, 5, 100, 1000)] == [1, 1, 10, LAST_DELAY]


def test_a_long_wait_is_logged_every_ten_minutes(host: Host) -> None:
    host.add("vm1")
    host.state, host.storage_from = None, 1500.0
    host.recover()
    assert len([line for level, line in host.journal.lines if level == "warning"]) == 3
    assert max(b - a for a, b in zip(host.joins, host.joins[1:])) <= LAST_DELAY + 0.5


def test_without_wait_it_is_tried_once(host: Host) -> None:
    host.add("vm1")
    host.state, host.storage_from = None, 100.0
    assert not host.recover(wait=False)
    assert (len(host.joins), host.left()) == (1, {"vm1"})


@pytest.mark.parametrize("state", [LEAVING, FAILING])
def test_a_lockspace_that_sanlock_still_loses_is_not_joined(host: Host, state: str) -> None:
    host.add("vm1")
    host.state = state
    host.at = [(5.0, lambda: setattr(host, "state", None))]
    assert host.recover()
    assert [when >= 5 for when in host.joins] == [True]
    assert host.visits[-1][2]


def test_a_sanlock_that_is_away_is_waited_for(host: Host) -> None:
    host.add("vm1")
    host.sanlock_from = 20.0
    assert host.recover()
    assert host.now < 24
    assert "the sanlock daemon does not run" in host.journal.text()


def test_a_failure_is_tried_again_and_stops_no_other(host: Host) -> None:
    host.add("bad")
    host.add("good")
    host.endings["bad"] = lambda: DONE if host.now > 60 else AGAIN
    assert host.recover()
    tries = [when for when, name, ready in host.visits if name == "bad" and ready]
    assert 60 < host.now < 68
    assert 5 < len(tries) < 40
    assert [line for _, line in host.journal.lines if "recover good good: done" in line]
    assert len([level for level, line in host.journal.lines if level == "warning"]) == 1


@pytest.mark.parametrize(("action", "stays"), [("poweroff", "off"), ("pause", "paused")])
def test_a_malformed_policy_is_one_line_and_not_waited_for(host: Host, action: str, stays: str) -> None:
    host.add("vm1", action)
    why = str(PolicyError("recover is 'true', neither yes nor no", "vm1"))
    host.endings["vm1"] = lambda: VisitResult(Verdict.REFUSED, why)
    assert not host.recover()
    assert host.left() == {"vm1"}
    assert not host.recover()
    (line,) = [line for level, line in host.journal.lines if level != "notice"]
    assert f"it stays {stays}: {why} (then virt-sanlock-helper recover)" in line
    assert "--resume-anyway" not in line


def test_a_defect_of_ours_stops_no_other(host: Host) -> None:
    host.add("bad")
    host.add("good")
    host.endings["bad"] = lambda: 1 // 0  # type: ignore[assignment,return-value]
    assert not host.recover(wait=False)
    assert host.left() == {"bad"}
    assert "internal error" in host.journal.text()


def test_a_defect_over_xml_that_is_no_utf8_logs_none_of_it(host: Host) -> None:
    xml = b"<graphics passwd='Mk7hush'/>\xff"
    host.add("bad")
    host.endings["bad"] = xml.decode  # type: ignore[assignment]
    assert not host.recover(wait=False)
    assert "internal error: UnicodeDecodeError" in host.journal.text()
    assert "Mk7hush" not in host.journal.text()


def test_domains_that_wait_are_seldom_read(host: Host) -> None:
    for number in range(10):
        host.add(f"vm{number}")
    host.state, host.storage_from = None, 20.0
    assert host.recover()
    assert host.most_looks == 1
    readings = [when for when, name, ready in host.visits if name == "vm0" and not ready]
    assert 2 <= len(readings) <= 5
    assert host.now < 24


def test_a_reading_that_hangs_stops_no_other(host: Host) -> None:
    host.add("a")
    host.add("b")
    host.hung = {"a"}
    host.at = [(50.0, lambda: host.store.forget("a"))]
    assert host.recover()
    assert any(line.startswith("recover b b: done after 1") for _, line in host.journal.lines)
    assert 50 <= host.now < 52


def test_many_that_hang_cost_themselves_alone(host: Host) -> None:
    for number in range(20):
        host.add(f"a{number:02}")
    host.hung = {f"a{number:02}" for number in range(20)}
    host.add("z")
    host.at = [(200.0, lambda: [host.store.forget(name) for name in host.hung])]
    assert host.recover()
    (line,) = [line for _, line in host.journal.lines if line.startswith("recover z z: done after")]
    # Eight at a time hang, each for half a minute; the first readings one after the other.
    assert float(line.split()[5]) <= 91
    hanging = [line for level, line in host.journal.lines if level == "warning"]
    assert len(hanging) == len(
        [line for line in hanging if "no answer from libvirtd or sanlock for 30 s" in line]
    )
    assert len(hanging) == 20


@pytest.mark.parametrize("domains", [1, 30])
def test_without_wait_a_libvirtd_that_hangs_is_no_reason_to_stay(host: Host, domains: int) -> None:
    host.hung = {f"vm{number}" for number in range(domains)}
    for name in host.hung:
        host.add(name)
    assert not host.recover(wait=False)
    assert host.now <= 61
    assert host.left() == host.hung


def test_one_that_hangs_and_is_forgotten_is_not_waited_for(host: Host) -> None:
    host.add("a")
    host.hung = {"a"}
    host.at = [(5.0, lambda: host.store.forget("a"))]
    assert host.recover()
    assert host.now < 7


def test_a_visit_that_returns_after_all(host: Host) -> None:
    host.add("a")
    host.slow = {"a": 100.0}
    assert host.recover()
    assert 100 <= host.now < 102
    assert host.left() == set()
    assert "no answer from libvirtd or sanlock for 30 s" in host.journal.text()


def test_a_sanlock_that_hangs_is_no_reason_to_stay(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockspace_waits, "SANLOCK_SECONDS", 0.1)
    end = threading.Event()
    monkeypatch.setattr(host, "lockspaces", end.wait)
    host.add("vm1")
    try:
        assert not host.recover(wait=False)
    finally:
        end.set()
    assert "no answer within 0.1 s" in host.journal.text()
    assert host.now <= 61


def test_a_record_that_no_domain_can_have_is_set_aside(host: Host) -> None:
    host.add("vm1")
    host.add("vm2")
    host.endings["vm1"] = lambda: VisitResult(Verdict.UNUSABLE, "'vm1' is no UUID")
    assert host.recover()
    assert host.left() == set()
    (line,) = [line for level, line in host.journal.lines if level == "error"]
    assert "vm1.record is not used: 'vm1' is no UUID; set aside as " in line


def test_a_record_that_cannot_be_set_aside_costs_nothing_else(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(host.store, "set_aside", fail)
    host.add("vm1")
    host.add("vm2")
    host.endings["vm1"] = lambda: VisitResult(Verdict.UNUSABLE, "'vm1' is no UUID")
    assert not host.recover(wait=False)
    assert host.left() == {"vm1"}
    assert "'vm1' is no UUID; set its record aside: [Errno 5]" in host.journal.text()


def test_a_lockspace_that_is_not_at_its_path(host: Host) -> None:
    host.add("vm1")
    host.state = None
    monkey = SanlockError("join lockspace LS", errno.ENOENT)

    def join(lockspace: Lockspace) -> None:
        host.joins.append(host.now)
        raise monkey

    host.join = join  # type: ignore[method-assign]
    assert not host.recover(wait=False)
    assert "there is no such file" in host.journal.text()
    assert "it was at /storage/LS: bring its storage back there, or join it by hand" in host.journal.text()
    assert "sanlock client add_lockspace -s LS:1:PATH:0" in host.journal.text()


def test_records_that_disagree_about_a_lockspace(host: Host) -> None:
    """A LUN got another path: the newest record first, then the others."""
    places = [Lockspace("LS", 1, path, 0, 1) for path in ("/old", "/new", "/older")]
    for number, (lockspace, time) in enumerate(zip(places, (20.0, 30.0, 10.0))):
        host.add(f"vm{number}", lockspaces=(lockspace,), time=time)
    host.state = None
    tried: list[str] = []

    def join(lockspace: Lockspace) -> None:
        tried.append(lockspace.path)
        if lockspace.path != "/older":
            raise SanlockError("join", errno.ENOENT)
        host.state = JOINED

    host.join = join  # type: ignore[method-assign]
    assert host.recover()
    assert tried == ["/new", "/old", "/older"]


def test_libvirts_own_lockspace_is_joined_where_it_is_configured(host: Host) -> None:
    host.add("vm1", lockspaces=(Lockspace("LS", 1, "/an/old/copy", 0, 1),))
    host.state, host.default = None, Lockspace("LS", 1, "/configured", 0, 1)
    tried: list[str] = []

    def join(lockspace: Lockspace) -> None:
        tried.append(lockspace.path)
        raise SanlockError("join", errno.ENOENT)

    host.join = join  # type: ignore[method-assign]
    host.at = [(60.0, lambda: host.store.forget("vm1"))]
    assert host.recover()
    assert set(tried) == {"/configured"}


def test_what_must_be_done_before_a_lockspace_is_joined(host: Host) -> None:
    host.add("vm1")
    host.state = None

    def before_join(lockspace: Lockspace) -> None:
        if host.now < 20:
            raise TransientError("find paused jobs", "a dump is under way")

    host.before_join = before_join
    assert host.recover()
    assert min(host.joins) >= 20
    assert "a dump is under way; trying again" in host.journal.text()


def test_a_domain_that_the_helper_still_works_on_is_not_logged(host: Host) -> None:
    host.add("vm1")
    early = VisitResult(Verdict.EARLY, "its pause is not done yet")
    host.endings["vm1"] = lambda: DONE if host.now > 10 else early
    assert host.recover()
    assert 10 < host.now < 12
    assert [level for level, _ in host.journal.lines if level != "notice"] == []


def test_a_lockspace_that_is_joined_during_a_reading(host: Host) -> None:
    host.add("a")
    host.add("b")
    host.state = None
    # While libvirtd does not answer for the one, the other waits, and the lockspace of both is joined.
    host.slow = {"b": 2.2}
    assert host.recover()
    assert ("b", False) in [(name, ready) for _, name, ready in host.visits]
    assert host.now < 3


def test_a_refusal_is_logged_once_and_not_waited_for(host: Host) -> None:
    host.add("vm1", "pause")
    host.endings["vm1"] = lambda: VisitResult(Verdict.REFUSED, "because")
    assert not host.recover()
    assert not host.recover()
    assert host.left() == {"vm1"}
    (found,) = host.store.records().values()
    assert (found.mark, found.why) == ("refused", "because")
    errors = [line for level, line in host.journal.lines if level == "error"]
    assert len(errors) == 1
    assert "NOT DONE" in errors[0]
    assert "it stays paused: because (virt-sanlock-helper recover --resume-anyway vm1" in errors[0]


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        (f"{UNPROTECTED[0]}, so sanlock cannot be asked for it", "virsh destroy vm1, then virsh start vm1"),
        (f"{UNPROTECTED[1]}: it would go on", "virsh destroy vm1, then virsh start vm1"),
        (
            f"{PolicyError('recover is 1', 'u').what}: recover is 1{GONE}",
            "virt-sanlock-helper recover --forget vm1, then virsh create with its XML",
        ),
    ],
)
def test_the_remedy_of_a_refusal_is_one_that_works(host: Host, why: str, remedy: str) -> None:
    host.add("vm1", "pause")
    host.endings["vm1"] = lambda: VisitResult(Verdict.REFUSED, why)
    assert not host.recover()
    (line,) = [line for level, line in host.journal.lines if level == "error"]
    assert line.endswith(f"it stays paused: {why} ({remedy})")


def test_those_without_a_policy_are_logged_in_one_line(host: Host) -> None:
    for number in range(30):
        host.add(f"vm{number:02}")
        host.endings[f"vm{number:02}"] = lambda: VisitResult(Verdict.LEFT_ALONE, "no policy")
    assert host.recover()
    (line,) = [line for _, line in host.journal.lines if "left as they are" in line]
    assert "30 domains left as they are (" in line
    assert line.endswith("vm18, vm19, …")


def test_each_reason_to_leave_some_has_its_line(host: Host) -> None:
    for name, why in (("a", "as asked"), ("b", "as asked"), ("c", "no lockspace was lost")):
        host.add(name)
        host.endings[name] = lambda why=why: VisitResult(Verdict.LEFT_ALONE, why)  # type: ignore[misc]
    assert host.recover()
    left = [line for _, line in host.journal.lines if " left as " in line]
    assert left == [
        "recover: 2 domains left as they are (as asked): a, b",
        "recover: 1 domain left as it is (no lockspace was lost): c",
    ]
    assert host.left() == set()


def test_what_is_dropped_is_logged(host: Host) -> None:
    host.add("vm1")
    host.endings["vm1"] = lambda: VisitResult(Verdict.DROPPED, "it runs on host_id 2")
    assert host.recover()
    assert ("warning", "recover vm1 vm1: dropped: it runs on host_id 2") in host.journal.lines


def test_records_that_come_and_go_while_it_waits(host: Host) -> None:
    host.add("vm1")
    host.add("vm2")
    host.state, host.storage_from = None, 40.0

    def change() -> None:
        host.store.forget("vm1")
        host.add("vm3")

    host.at = [(20.0, change)]
    assert host.recover()
    assert {name for _, name, ready in host.visits if ready} == {"vm2", "vm3"}


def test_a_newer_record_of_the_same_domain_counts(host: Host) -> None:
    host.add("vm1")

    def lost_again() -> VisitResult:
        host.now += 1
        host.endings.clear()
        host.add("vm1")
        host.store.gather()
        return DONE

    host.endings["vm1"] = lost_again
    assert host.recover()
    # Both runs are back, the second one by its own record.
    assert len([line for _, line in host.journal.lines if "done after" in line]) == 2
    assert len([ready for _, _, ready in host.visits if ready]) == 2


def test_a_newer_record_replaces_one_that_waits(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add("vm1")
    host.state, host.storage_from = None, 20.0
    host.at = [(10.0, lambda: host.add("vm1", found="replaced"))]
    seen: list[str] = []

    def visit(record: Record, ready: bool, age: float) -> VisitResult:
        if ready:
            seen.append(record.found)
        return DONE if ready else WAIT

    monkeypatch.setattr(host, "visit", visit)
    assert host.recover()
    assert seen == ["replaced"]


def test_what_comes_of_a_removed_record_is_not_logged(host: Host) -> None:
    host.add("vm1")
    host.slow = {"vm1": 5.0}
    host.at = [(2.0, lambda: host.store.forget("vm1"))]
    # There is more to wait for than this one.
    host.add("vm2")
    host.endings["vm2"] = lambda: DONE if host.now > 10 else AGAIN
    assert host.recover()
    assert "recover vm1 vm1: done after" not in host.journal.text()
    assert "recover vm2 vm2: done after" in host.journal.text()


def test_storage_that_flaps(host: Host) -> None:
    host.add("vm1")
    host.endings["vm1"] = lambda: DONE if host.now > 30 else AGAIN
    host.at = [
        (3.0, lambda: setattr(host, "state", None)),
        (3.0, lambda: setattr(host, "storage_from", 30.0)),
    ]
    assert host.recover()
    assert host.visits[-1][2]
    assert 30 < host.now < 36
    assert not any(ready for when, _, ready in host.visits if 4 < when < 29)


def test_a_lockspace_whose_path_is_not_known(host: Host) -> None:
    host.add("vm1", lockspaces=())
    host.state = None
    assert not host.recover(wait=False)
    assert "join it by hand" in host.journal.text()


def test_unknown_leases_need_the_lockspace_that_libvirt_is_configured_for(host: Host) -> None:
    host.add("vm1", leases=(), unknown="sanlock hangs")
    host.state, host.default = None, SPACE
    assert host.recover()
    assert len(host.joins) == 1


def test_a_state_directory_that_cannot_be_written(host: Host, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    host.add("vm1")
    assert host.recover()
    assert "records are not copied to" in host.journal.text()
    assert os.listdir(host.run_dir) == []


# Order and hold


def begun(host: Host) -> list[str]:
    return [name for name, _ in begun_at(host)]


def begun_at(host: Host) -> list[tuple[str, float]]:
    """The visits that may start or resume a domain, as they end."""
    return [(name, now) for now, name, ready in host.visits if ready]


@pytest.mark.parametrize("wait", [True, False])
def test_higher_priorities_come_first(host: Host, wait: bool) -> None:
    for number in range(20):
        host.add(f"vm{number:02}", priority=(0, -5, 10)[number % 3])
    host.state = None
    assert host.recover(wait)
    order = [(0, -5, 10)[int(name[2:]) % 3] for name in begun(host)]
    assert order == sorted(order, reverse=True)
    assert host.most == 7


def test_a_lower_one_waits_for_what_a_higher_one_needs_to_come_back(host: Host) -> None:
    host.add("high", priority=1)
    host.add("low")

    host.slow_once_ready["high"] = 7.0
    host.state, host.storage_from = None, 20.0
    assert host.recover()
    (high, joined), (low, later) = begun_at(host)
    assert (high, low) == ("high", "low")
    assert 27 <= joined <= later <= joined + 1


def test_a_guest_that_stops_again_and_again_keeps_none_back(host: Host) -> None:
    tries = 30

    def stops_again() -> VisitResult:
        # As the agent notes it: another record.
        nonlocal tries
        tries += 1
        if tries < 40:
            host.add("broken", "pause", priority=9, cause=IO_ERROR, tries=tries, time=host.now + 0.1)
            return AGAIN
        return DONE

    first = host.add("broken", "pause", priority=9, cause=IO_ERROR, tries=tries)
    host.endings["broken"] = stops_again
    for number in range(20):
        host.add(f"low{number}", priority=-number)
    assert host.recover()
    begun = begun_at(host)
    assert [name for name, _ in begun].count("broken") == 10
    low = [when for name, when in begun if name != "broken"]
    assert low == [0.0] * 20
    # The wait grows, whatever lockspace is found to be joined.
    assert next(now for name, now in begun if name == "broken") >= wait_before(first)


def test_one_that_fails_or_hangs_keeps_no_lower_one_back(host: Host) -> None:
    host.add("fails", priority=3)
    host.add("hangs", priority=2)
    host.add("low")
    host.endings["fails"] = lambda: AGAIN
    host.hung.add("hangs")
    assert not host.recover(wait=False)
    assert host.left() == {"fails", "hangs"}
    (low,) = [now for now, name, _ in host.visits if name == "low"]
    assert 30 <= low <= 31
    (line,) = [line for _, line in host.journal.lines if "low" in line]
    assert ": done after" in line


def test_storage_that_is_away_keeps_no_other_back(host: Host) -> None:
    away = Lockspace("AWAY", 1, "/away", 0, 1)
    host.add("high", priority=9, lockspaces=(away,), leases=(Lease("AWAY", "disk", 1),))
    host.add("low")
    host.at.append((100.0, lambda: host.store.forget("high")))

    def refuse(lockspace: Lockspace) -> None:
        if lockspace.name == "AWAY":
            raise TransientError("join lockspace AWAY", "input or output error")

    host.before_join = refuse
    assert host.recover()
    ((low, now),) = begun_at(host)
    assert (low, now < 2) == ("low", True)


@pytest.mark.parametrize("wait", [True, False])
def test_delays_are_waited_for_and_count_from_the_first(host: Host, wait: bool) -> None:
    host.add("a", priority=1)
    host.add("b", priority=1, delay=100)
    host.add("c", priority=1, delay=40)
    host.add("d")
    assert host.recover(wait)
    assert begun_at(host) == [
        ("a", 0.0),
        ("c", 40.0),
        ("b", 100.0),
        ("d", 100.0),
    ]
    assert ["3 wait for their turn: c in 20 s"] in host.shown


def test_the_hosts_order_and_number_side_by_side(host: Host) -> None:
    host.conf = HostConf(side_by_side=2, order="time")
    for name, priority in (("a", 0), ("b", 9), ("c", 5)):
        host.add(name, priority=priority, delay=60)
        host.now += 1.0
    assert host.recover()
    assert (begun(host), host.most) == (["a", "b", "c"], 2)


def test_a_held_recovery_touches_nothing_until_its_release(host: Host) -> None:
    host.add("vm1")
    host.add("vm2")
    host.state, host.held = None, 5.0
    host.at.append((50.0, lambda: setattr(host, "held", None)))
    assert host.recover()
    assert host.joins[0] >= 50
    assert host.visits[0][0] >= 50
    (line,) = [line for level, line in host.journal.lines if level == "warning"]
    assert re.fullmatch(
        r"recover: held since 1970-01-01 [\d:]+: 2 domains wait for virt-sanlock-helper recover "
        r"--release: vm1, vm2",
        line,
    )
    assert any(line.startswith("held since 1970-01-01 ") for lines in host.shown for line in lines)
    # What was new is on disk all the same: the host may be reset.
    assert host.store.unread == set()


def test_a_hold_during_a_recovery_ends_what_was_begun_and_begins_nothing(host: Host) -> None:
    for number in range(3):
        host.add(f"vm{number}", priority=-number)
    host.state, host.storage_from = None, 20.0
    host.slow_once_ready["vm0"] = 10.0
    host.at.append((25.0, lambda: setattr(host, "held", 7.0)))
    host.at.append((100.0, lambda: setattr(host, "held", None)))
    assert host.recover()
    (first, now), *others = begun_at(host)
    assert (first, 30 <= now <= 35) == ("vm0", True)
    assert [name for name, _ in others] == ["vm1", "vm2"]
    assert all(now >= 100 for _, now in others)


def test_a_hold_ends_a_pass(host: Host) -> None:
    host.add("vm1")
    host.held = 5.0
    assert not host.recover(wait=False)
    assert (host.visits, host.left()) == ([], {"vm1"})


def test_what_is_undecided_is_logged_in_one_line_and_brought_back_once_it_is_decided(host: Host) -> None:
    text = f"{UNDECIDED}/etc/x.conf: line 2: wrong (correct it)"
    for number in range(3):
        host.add(f"vm{number}")
        host.endings[f"vm{number}"] = lambda: VisitResult(Verdict.UNDECIDED, text)
    # Left to the administrator: recovery does not wait for it.
    assert not host.recover()
    assert [line for _, line in host.journal.lines if "vm0" in line] == [
        f"recover: 3 domains left as they are ({text}): vm0, vm1, vm2"
    ]
    records = host.store.records()
    assert {(record.mark, record.why) for record in records.values()} == {("refused", text)}
    # Decided, and the lockspace is away at first: the record waits for it as any other.
    host.endings.clear()
    host.state = None
    assert host.recover(wait=False)
    assert host.left() == set()
