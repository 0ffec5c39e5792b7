# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent's service over the life of the packages: it stands where sanlock runs, and holds nothing up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.waiting import wait_for
from tests.schemas import validated

from .formats import NAME, Debs, Packages
from .machine import Machine

AGENT = "virt-sanlock-helper-agent.service"
EXECUTABLE = "/usr/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
DROP_IN = f"/etc/systemd/system/{AGENT}.d/test.conf"
RUNTIME = "/run/virt-sanlock-helper"

# Domains of libvirt's embedded test driver, one for each request.
MANY = 1000
URI = "test:///run/domains.xml"
DOMAIN = (
    "<domain type='test'><name>vm{n}</name><uuid>{uuid}</uuid><memory>8192</memory>"
    "<os><type>hvm</type></os></domain>"
)
# Requests one after the other, until it is ended; prints how many.
REQUESTS = f"""\
while [ ! -e /run/enough ]; do
    uuid=$(printf %08d $n)-0000-4000-8000-000000000000
    "{EXECUTABLE}" {URI} $uuid poweroff </dev/null 2>/dev/null || exit 1
    n=$((n + 1))
done
echo $n
"""

one_kind = pytest.mark.parametrize("installed", ["rpm"], indirect=True)


class Service:
    """The service on a machine whose packages can be changed."""

    def __init__(self, packages: Packages) -> None:
        self.packages = packages
        self.machine = packages.machine

    def enabled(self) -> str:
        return self.machine.run("systemctl", "is-enabled", AGENT, check=False).stdout.strip()

    def active(self) -> str:
        return self.machine.run("systemctl", "is-active", AGENT, check=False).stdout.strip()

    def pid(self) -> int:
        return int(self.machine.run("systemctl", "show", "--property=MainPID", "--value", AGENT).stdout)

    def standing(self) -> int:
        """The process that stands, by `status`; 0 for none."""
        answer = self.machine.run(NAME, "status", "-c", "test:///default", "--json").stdout
        found = validated(answer, "status")["agent"]
        return int(found["pid"]) if found else 0

    def wait_standing(self, but: int = 0) -> int:
        """Wait until the service stands, as another process than BUT; returns its process."""
        return wait_for(
            lambda: (pid := self.pid()) not in (0, but) and self.standing() == pid and pid, 30, AGENT
        )

    def verdict(self) -> dict[str, str]:
        """The line of `check` on the agent."""
        answer = validated(self.machine.run(NAME, "check", "--json", check=False).stdout, "check")
        (found,) = (finding for finding in answer["checks"] if finding["name"] == "agent")
        return dict(found)

    @contextmanager
    def drop_in(self, text: str) -> Iterator[None]:
        """The unit with TEXT behind its own."""
        self.machine.write(DROP_IN, text)
        self.machine.run("systemctl", "daemon-reload")
        try:
            yield
        finally:
            self.machine.run("rm", DROP_IN)
            self.machine.run("systemctl", "daemon-reload")

    def gone(self) -> None:
        """Assert that no process of the service is there or comes, and that nothing of it is left."""
        assert self.active() == "inactive"
        assert self.pid() == 0
        assert self.machine.run("pgrep", "-f", f"{NAME} agent", check=False).stdout == ""
        assert not self.machine.path(RUNTIME).exists()
        links = self.machine.run("find", "/etc/systemd", "-name", AGENT).stdout
        assert links == ""


@pytest.fixture
def service(installed: Packages) -> Service:
    """Neither ours nor a sanlock is there."""
    installed.machine.stop_sanlock()
    installed.reset()
    return Service(installed)


def test_installed_it_stands_where_sanlock_runs(service: Service) -> None:
    service.machine.start_sanlock()
    assert service.packages.install() == ""
    pid = service.wait_standing()
    assert service.enabled() == "enabled"
    found = service.verdict()
    assert found["verdict"] == "pass", found
    assert f"process {pid}, " in found["found"]
    # sanlock's end is not its end, and the next one's start is not its start.
    service.machine.stop_sanlock()
    service.machine.start_sanlock()
    assert service.pid() == pid
    service.machine.run("systemctl", "stop", AGENT)
    found = service.verdict()
    assert found["verdict"] == "warn", found
    service.machine.run("sh", "-ec", found["remedy"])
    assert service.wait_standing(pid)


def test_installed_beside_no_sanlock_it_stands_from_its_start_on(service: Service) -> None:
    service.packages.install()
    assert (service.enabled(), service.active()) == ("enabled", "inactive")
    service.machine.start_sanlock()
    service.wait_standing()


# Fedora's and RHEL's last word on units without a word of their own.
LAST = "/usr/lib/systemd/system-preset/99-default-disable.preset"
LOCAL = "/etc/systemd/system-preset/10-local.preset"


@pytest.mark.parametrize(
    ("place", "words", "expected"),
    [
        (LAST, "disable *", "enabled"),
        (LOCAL, f"disable {AGENT}", "disabled"),
        (LOCAL, "disable *", "disabled"),
    ],
)
def test_presets(service: Service, place: str, words: str, expected: str) -> None:
    if isinstance(service.packages, Debs) and place == LAST:
        pytest.skip("Debian has no such file")
    service.machine.start_sanlock()
    service.machine.write(place, f"{words}\n")
    try:
        service.packages.install()
    finally:
        service.machine.run("rm", place)
    assert service.enabled() == expected
    if expected == "enabled":
        service.wait_standing()
    else:
        assert service.active() == "inactive"
        assert service.verdict()["verdict"] == "pass"


@pytest.mark.parametrize("how", ["disable", "mask", "stop"])
def test_an_update_starts_none_that_the_administrator_has_ended(service: Service, how: str) -> None:
    if isinstance(service.packages, Debs) and how == "stop":
        pytest.skip("Debian's way: what is enabled runs after an update")
    service.machine.start_sanlock()
    service.packages.install()
    service.wait_standing()
    now = ["--now"] if how != "stop" else []
    service.machine.run("systemctl", how, *now, AGENT)
    before = service.enabled()
    try:
        assert service.packages.update() == ""
        assert (service.enabled(), service.active()) == (before, "inactive")
    finally:
        service.machine.run("systemctl", "unmask", AGENT)


def uuid(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


def served(machine: Machine) -> dict[str, list[dict[str, str]]]:
    """The journal's entries of outcomes by UUID."""
    machine.run("journalctl", "--sync")
    found: dict[str, list[dict[str, str]]] = {}
    for line in machine.run("journalctl", "-b", "-t", NAME, "-o", "json").stdout.splitlines():
        entry = json.loads(line)
        words = entry["MESSAGE"].split()
        if ": done after" in entry["MESSAGE"] and words[1].startswith("vm"):
            found.setdefault(words[2].rstrip(":"), []).append(entry)
    return found


def test_an_update_restarts_it_and_loses_nothing(service: Service) -> None:
    machine = service.machine
    domains = "".join(DOMAIN.format(n=n, uuid=uuid(n)) for n in range(MANY))
    machine.write("/run/domains.xml", f"<node>{domains}</node>")
    service.machine.run("journalctl", "--rotate")
    machine.run("journalctl", "--vacuum-time=1us")
    machine.start_sanlock()
    service.packages.install()
    # One request comes when the old one has ended, and the new one has not begun.
    between = f"[Service]\nExecStopPost={EXECUTABLE} {URI} {uuid(MANY - 1)} pause\n"
    with service.drop_in(between):
        before = service.wait_standing()
        with machine.popen("sh", "-c", f"n=0\n{REQUESTS}") as requests:
            wait_for(lambda: uuid(5) in served(machine), 20, "the first requests")
            assert service.packages.update() == ""
            after = service.wait_standing(before)
            count = len(served(machine))
            wait_for(lambda: len(served(machine)) > count + 5, 20, "requests after the update")
            machine.run("touch", "/run/enough")
            number = int(requests.communicate(timeout=30)[0])
        machine.run("rm", "/run/enough")
    assert requests.returncode == 0
    wait_for(lambda: len(served(machine)) == number + 1, 20, "all outcomes")
    outcomes = served(machine)
    assert set(outcomes) == {*map(uuid, range(number)), uuid(MANY - 1)}
    assert {name: len(entries) for name, entries in outcomes.items() if len(entries) != 1} == {}
    (entry,) = outcomes[uuid(MANY - 1)]
    assert int(entry["_PID"]) not in (before, after)
    pids = {int(entry["_PID"]) for (entry,) in outcomes.values()}
    assert {before, after} <= pids
    assert list(machine.path(f"{RUNTIME}/requests").iterdir()) == []


def test_it_ends_with_the_package_and_makes_nothing_again(service: Service) -> None:
    service.machine.start_sanlock()
    service.packages.install()
    service.wait_standing()
    assert service.packages.erase() == ""
    service.gone()


# What a package's removal may find, by the kind of package; NEXT is the package of the later version.
DAMAGE = [
    ("deb", "dpkg --unpack NEXT"),  # unpacked and never configured
    *[(kind, "rm -r /usr/share/virt-sanlock-helper /usr/bin/virt-sanlock-helper") for kind in ("deb", "rpm")],
    *[(kind, f"rm /usr/lib/systemd/system/{AGENT}; systemctl daemon-reload") for kind in ("deb", "rpm")],
]


@pytest.mark.parametrize(("installed", "damage"), DAMAGE, indirect=["installed"])
def test_it_ends_with_the_package_whatever_is_broken(service: Service, damage: str) -> None:
    service.machine.start_sanlock()
    service.packages.install()
    service.wait_standing()
    service.machine.run("sh", "-ec", damage.replace("NEXT", service.packages.next_inside()))
    service.packages.erase()
    service.gone()


@one_kind
def test_a_start_that_hangs_holds_sanlock_up_neither_at_its_start_nor_at_its_stop(service: Service) -> None:
    service.packages.install()
    with service.drop_in("[Service]\nExecStartPre=/bin/sleep 600\n"):
        started = time.monotonic()
        service.machine.start_sanlock()
        service.machine.run("systemctl", "stop", "sanlock.service")
        assert time.monotonic() - started < 10
        assert service.active() == "activating"
        service.machine.run("systemctl", "stop", AGENT)


@one_kind
def test_a_libvirtd_that_hangs_in_its_start_does_not_hold_it_up(service: Service) -> None:
    """An update restarts the agent, whatever libvirtd does."""
    service.machine.start_sanlock()
    service.packages.install()
    before = service.wait_standing()
    drop_in = "/etc/systemd/system/libvirtd.service.d/test.conf"
    service.machine.run("systemctl", "stop", AGENT, "libvirtd.service")
    service.machine.write(drop_in, "[Service]\nExecStartPre=/bin/sleep 600\n")
    service.machine.run("systemctl", "daemon-reload")
    try:
        service.machine.run("systemctl", "start", "--no-block", "libvirtd.service")
        service.machine.run("systemctl", "restart", AGENT, timeout=20)
        assert service.wait_standing(before)
    finally:
        service.machine.run("rm", drop_in)
        service.machine.run("systemctl", "daemon-reload")
        service.machine.run("systemctl", "stop", "libvirtd.service", AGENT)


@one_kind
@pytest.mark.parametrize("together", [False, True])
def test_one_that_is_stopped_by_a_signal_does_not_hold_up_the_stop_of_sanlock(
    service: Service, together: bool
) -> None:
    """TOGETHER: in one transaction, as when the host shuts down."""
    service.packages.install()
    service.machine.start_sanlock()
    pid = service.wait_standing()
    service.machine.run("kill", "-STOP", str(pid))
    started = time.monotonic()
    service.machine.run("systemctl", "stop", "sanlock.service", *([AGENT] if together else []))
    assert time.monotonic() - started < 5
    if not together:
        service.machine.run("systemctl", "kill", "--signal=CONT", AGENT)


@one_kind
def test_an_image_is_made_with_the_units_enabled(service: Service) -> None:
    """As Anaconda and image builders install: no systemd runs, and none is asked."""
    package = service.packages.inside()
    script = f"mount -t tmpfs tmpfs /run; rpm --nodeps -U {package}"
    made = service.machine.run("unshare", "--mount", "sh", "-ec", script, check=False)
    assert made.returncode == 0, made.stderr
    assert service.enabled() == "enabled"
    for unit in ("recover.path", "recover.service"):
        asked = service.machine.run("systemctl", "is-enabled", f"{NAME}-{unit}", check=False)
        assert asked.stdout == "enabled\n"
    assert service.active() == "inactive"
