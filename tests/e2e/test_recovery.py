# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way back after an outage, on the real thing."""

from __future__ import annotations

import contextlib
import random
import re
import time
from pathlib import Path

import pytest

from sanlock_helper.records.record import Record, decode
from tests.bench.recovery import Host, storms
from tests.schemas import validated

from .conftest import StackFactory
from .domains import Domain
from .namespace import PYTHON
from .recovery import (
    COMMAND,
    HELPER,
    IDENTIFIER,
    POLICY,
    RUN_RECORDS,
    STATE_RECORDS,
    URI,
    command,
    leave_lockspace,
    lose,
    lose_by_hand,
    make_safe,
    path_unit,
    read_version,
    records,
    recover,
    recover_until,
    seconds_since,
    starts,
    wait_for_line,
    wait_for_live,
    wait_for_renewal,
    wait_for_state,
)
from .stack import Stack
from .terminal import Terminal
from .waiting import wait_for

pytestmark = pytest.mark.modular


SAMPLER = Path(__file__).with_name("sampler.py")


def test_domains_return_with_the_storage(stack: Stack) -> None:
    stack.install_helper(HELPER)
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    stays_off = stack.domain("staysoff", "poweroff")
    stays_held = stack.domain("staysheld", "pause")
    passing = stack.domain("passing", "poweroff", transient=True, metadata=POLICY)
    stack.start_all([off, held, stays_off, stays_held, passing])
    pids = {domain.name: domain.qemu_pid() for domain in (off, held, stays_held, passing)}

    path_unit(stack)
    lose(stack, 5, resources=True)
    states = [domain.state().name for domain in (off, held, stays_off, stays_held, passing)]
    assert states == ["shut off", "paused", "shut off", "paused", "absent"]
    assert stack.sigkills() == []
    wait_for_line(stack, "recover: waiting for lockspace __LIBVIRT__DISKS__")
    assert off.state().name == "shut off"

    stack.storage.restore()
    for domain in (off, held, passing):
        wait_for_state(domain, "running")
    took = seconds_since(stack.storage.restored_at)
    wait_for(lambda: not records(stack), 10, "the end of all records")
    assert held.qemu_pid() == pids["held"]
    for domain in (off, passing):
        assert domain.qemu_pid() not in (None, pids[domain.name])
    for domain in (off, held, passing):
        assert [lease.state for lease in domain.leases()] == [""]
    assert (stays_off.state().name, stays_held.state().name) == ("shut off", "paused")
    assert stays_held.qemu_pid() == pids["staysheld"]
    resumed = wait_for_line(stack, f"recover held {held.uuid}: done after")
    assert resumed.endswith("found paused, resumed, verified running, 1 lease held")
    started = wait_for_line(stack, f"recover off {off.uuid}: done after")
    assert started.endswith("found off, started, verified running, 1 lease held")
    # In one line, unless recovery came before the helper was done.
    for name in ("staysheld", "staysoff"):
        wait_for_line(stack, "(no recovery policy): ", name)

    # The least possible: joining a lockspace, and nothing else.
    for domain in (off, held, passing):
        domain.destroy()
    leave_lockspace(stack)
    start = time.monotonic()
    stack.join_lockspace()
    least = time.monotonic() - start
    print(f"\nstorage's return to 3 VMs running: {took:.1f} io_timeout; a lockspace alone: {least:.1f}")
    assert took < least + 6


@pytest.mark.long
@pytest.mark.timed
@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_as_soon_safe_as_without_recovery(stack: Stack, action: str) -> None:
    """tests/bench/recovery.py does the same with more of them, and with outages."""
    times = storms(Host(stack, 6), action, 3)
    print(f"\n{times}")
    assert times.within(), times


def test_leases_that_others_held(stack: Stack) -> None:
    """What holds for an outage holds for any pause: so no outage here, but a second host."""
    gone = stack.domain("gone", "poweroff", metadata=POLICY)
    gone_held = stack.domain("goneheld", "pause", metadata=POLICY)
    stale = stack.domain("stale", "pause", metadata=POLICY)
    naive = stack.domain("naive", "pause")
    unread = stack.domain("unread", "pause", metadata=POLICY)
    domains = [gone, gone_held, stale, naive, unread]
    stack.start_all(domains)
    leases = {domain.name: domain.leases()[0] for domain in domains}
    lose_by_hand(stack, domains)
    other = stack.second_host()
    other.join()
    for name in ("gone", "goneheld", "stale", "naive"):
        other.take(leases[name])
    for name in ("stale", "naive"):
        other.give_back(leases[name])
    wait_for_live(stack, other.host_id)
    unread_path = stack.path(leases["unread"].path)
    content = unread_path.read_bytes()
    unread_path.write_bytes(b"")

    # The comparison: libvirt resumes a machine whose disk may have changed under it.
    assert (leases["naive"].version, read_version(stack, leases["naive"])) == (1, 2)
    naive.resume()
    assert (naive.state().name, naive.leases()[0].version) == ("running", 3)

    result = command(stack, "recover")
    assert result.returncode == 1
    for domain, state in ((gone, "shut off"), (gone_held, "paused")):
        line = wait_for_line(stack, f"recover {domain.name} {domain.uuid}: dropped")
        assert f"{leases[domain.name].resource} is held by host_id 2" in line
        assert domain.state().name == state
    line = wait_for_line(stack, f"recover stale {stale.uuid}: NOT DONE")
    assert f"its lease __LIBVIRT__DISKS__:{leases['stale'].resource} was version 1" in line
    assert "is 2 now" in line
    assert stale.state().name == "paused"
    line = wait_for_line(stack, f"recover unread {unread.uuid}: ")
    assert (
        f"it stays paused: read the holders of lease __LIBVIRT__DISKS__:{leases['unread'].resource}" in line
    )
    assert unread.state().name == "paused"
    assert records(stack) == {stale.uuid, unread.uuid}
    listed = validated(command(stack, "recover", "--list", "--json").stdout, "recover-list")
    assert {(r["name"], r["state"]) for r in listed["records"]} == {
        ("stale", "refused"),
        ("unread", "waiting"),
    }

    (lockspace,) = listed["records"][0]["lockspaces"]
    assert (lockspace["host_id"], lockspace["io_timeout"]) == (1, 1)
    assert [lease["version"] for lease in listed["records"][0]["leases"]] == [1]

    # Readable again and untouched: no reason to refuse it any more.
    unread_path.write_bytes(content)
    command(stack, "recover")
    assert unread.state().name == "running"

    # The administrator may know better, and is asked.
    result = command(stack, "recover", "--resume-anyway", "stale", input="no\n")
    assert (result.returncode, stale.state().name) == (1, "paused")
    assert "Resume it? [yes/no]" in result.stdout
    assert "was version 1 when it was paused and is 2 now" in result.stdout
    result = command(stack, "recover", "--resume-anyway", "stale", input="yes\n")
    assert (result.returncode, stale.state().name) == (0, "running"), result.stderr
    assert stale.leases()[0].version == 3
    assert records(stack) == set()


def test_what_people_did_meanwhile_stands(stack: Stack) -> None:
    started = stack.domain("started", "poweroff", metadata=POLICY)
    resumed = stack.domain("resumed", "pause", metadata=POLICY)
    destroyed = stack.domain("destroyed", "pause", metadata=POLICY)
    undefined = stack.domain("undefined", "poweroff", metadata=POLICY)
    rested = stack.domain("rested", "pause", metadata=POLICY)
    forgotten = stack.domain("forgotten", "pause", metadata=POLICY)
    ran = stack.domain("ran", "poweroff", metadata=POLICY)
    domains = [started, resumed, destroyed, undefined, rested, forgotten, ran]
    stack.start_all(domains)
    # The administrator's own pause, before anything happened.
    rested.suspend()
    lose_by_hand(stack, domains)
    assert records(stack) == {domain.uuid for domain in domains} - {rested.uuid}

    started.start()
    resumed.resume()
    destroyed.destroy()
    undefined.undefine()
    ran.start()
    ran.destroy()
    assert command(stack, "recover", "--forget", "forgotten").returncode == 0
    pids = {domain.name: domain.qemu_pid() for domain in domains}
    assert command(stack, "recover").returncode == 0

    states = {domain.name: domain.state().name for domain in domains}
    assert states == {
        "started": "running",
        "resumed": "running",
        "destroyed": "shut off",
        "undefined": "absent",
        "rested": "paused",
        "forgotten": "paused",
        "ran": "shut off",
    }
    assert {domain.name: domain.qemu_pid() for domain in domains} == pids
    assert records(stack) == set()
    wait_for_line(stack, "recover started ", "another process started it")
    wait_for_line(stack, "recover resumed ", "another process resumed it")
    wait_for_line(stack, "recover destroyed ", "dropped: it was paused, and was powered off since")
    wait_for_line(stack, "recover undefined ", "dropped: libvirt no longer knows it")
    wait_for_line(stack, "recover ran ", "dropped: it ran since", "was version 1 and is 2 now")


# With 1 s the whole seconds of sanlock's timestamps leave no margin to recognize a healthy lockspace.
HEALTH_TIMEOUT = 2

LOST_NOTHING = "(no lockspace was lost: "


def test_what_was_done_by_hand_on_a_healthy_host_stands(stacks: StackFactory) -> None:
    stack = stacks(io_timeout=HEALTH_TIMEOUT)
    held = stack.domain("held", "pause", metadata=POLICY)
    off = stack.domain("off", "poweroff", metadata=POLICY)
    passing = stack.domain("passing", "poweroff", transient=True, metadata=POLICY)
    ran = stack.domain("ran", "pause", metadata=POLICY)
    domains = [held, off, passing, ran]
    stack.start_all(domains)
    leases = [domain.leases()[0] for domain in (held, ran)]
    wait_for_renewal(stack)
    path_unit(stack)
    for domain in (held, off, passing):
        make_safe(stack, domain)
    assert command(stack, "run", "pause", "ran", "--yes").returncode == 0
    for domain in domains:
        wait_for_line(stack, LOST_NOTHING, domain.name)
    wait_for(lambda: not records(stack), 10, "the end of all records")
    assert [domain.state().name for domain in domains] == ["paused", "shut off", "absent", "paused"]
    assert {starts(stack, domain) for domain in domains} == {1}
    assert [read_version(stack, lease) for lease in leases] == [1, 1]
    # The next outage finds nothing of it.
    leave_lockspace(stack)
    assert command(stack, "recover").returncode == 0
    assert [domain.state().name for domain in domains] == ["paused", "shut off", "absent", "paused"]


def test_what_another_host_asked_for_is_left_to_it(stacks: StackFactory) -> None:
    """sanlock runs the killpath at another host's graceful request, too, and no lease is lost."""
    stack = stacks(io_timeout=HEALTH_TIMEOUT)
    stack.install_helper(HELPER)
    wanted = stack.domain("wanted", "pause", metadata=POLICY).start()
    (lease,) = wanted.leases()
    wait_for_renewal(stack)
    path_unit(stack)
    other = stack.second_host()
    other.join()
    other.request(lease)
    wait_for_line(stack, LOST_NOTHING, "wanted")
    assert (wanted.state().name, records(stack)) == ("paused", set())
    other.take(lease)


def test_a_loss_that_no_renewal_shows(stacks: StackFactory) -> None:
    """A damaged lockspace is lost at once, though its last renewal was a moment ago."""
    stack = stacks(io_timeout=HEALTH_TIMEOUT)
    stack.install_helper(HELPER)
    held = stack.domain("held", "pause", metadata=POLICY)
    off = stack.domain("off", "poweroff", metadata=POLICY)
    stack.start_all([held, off])
    pids = [held.qemu_pid(), off.qemu_pid()]
    # Keeps sanlock from leaving the lockspace.
    holder = stack.leaseholder(stack.make_resource("stubborn"), "/bin/true")
    wait_for_renewal(stack)
    path_unit(stack)
    path = stack.path(stack.storage.lockspace_path)
    good = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(512))
    wait_for_line(stack, f"pause held {held.uuid}: done after")
    wait_for_line(stack, f"poweroff off {off.uuid}: done after")
    with path.open("r+b") as file:
        file.write(good)
    noted = [space.generation for domain in (held, off) for space in record_of(stack, domain).lockspaces]
    assert noted == [1, 1], "the helper noted a loss: this test shows nothing"
    time.sleep(2)
    assert held.state().name == "paused"
    # A start that sanlock refuses passes through the others (libvirt 11), and its guest has not run.
    state = off.state()
    assert state.name in ("shut off", "in shutdown") or state == ("paused", "starting up")
    assert records(stack) == {held.uuid, off.uuid}
    holder.close()
    wait_for_line(stack, f"recover held {held.uuid}: done after")
    wait_for_line(stack, f"recover off {off.uuid}: done after")
    assert [domain.state().name for domain in (held, off)] == ["running", "running"]
    assert (held.qemu_pid() == pids[0], off.qemu_pid() == pids[1]) == (True, False)


def record_of(stack: Stack, domain: Domain) -> Record:
    """What the helper noted of a domain; wherever recovery has put it meanwhile."""

    def found() -> bytes | None:
        for path in (f"{RUN_RECORDS}/{domain.uuid}.{kind}" for kind in ("record", "taken")):
            with contextlib.suppress(FileNotFoundError):
                return stack.path(path).read_bytes()
        with contextlib.suppress(FileNotFoundError):
            return stack.path(f"{STATE_RECORDS}/{domain.uuid}.record").read_bytes()
        return None

    data = wait_for(found, 5, f"a record of {domain.name}")
    assert data is not None
    return decode(data)


def test_restart_by_hand_beside_a_recovery_starts_once(stack: Stack) -> None:
    domain = stack.domain("vm1", "poweroff").start()
    pid = domain.qemu_pid()
    watcher = path_unit(stack)
    for _ in range(3):
        result = stack.run(str(HELPER), URI, domain.uuid, "restart", check=False)
        assert result.returncode == 0, result.stderr
        assert "verified running again" in result.stderr
        assert domain.state().name == "running"
        assert domain.qemu_pid() not in (None, pid)
        pid = domain.qemu_pid()
    watcher.kill()
    assert starts(stack, domain) == 4
    assert len(domain.leases()) == 1


def test_restart_whose_start_was_refused_is_recovered(stack: Stack) -> None:
    domain = stack.domain("vm1", "pause").start()
    domain.suspend()
    leave_lockspace(stack)
    result = stack.run(str(HELPER), URI, domain.uuid, "restart", check=False)
    assert result.returncode == 1
    assert "recovery (virt-sanlock-helper recover) starts it" in result.stderr
    result = command(stack, "recover")
    assert (result.returncode, domain.state().name) == (0, "running"), result.stderr
    assert len(domain.leases()) == 1


class Sampler:
    """sampler.py on domains of a stack, until the end of the stack."""

    def __init__(self, stack: Stack, *names: str) -> None:
        self._path = stack.path("/run/stack/sampler")
        with self._path.open("w") as output:
            self._process = stack.popen(PYTHON, str(SAMPLER), *names, stdout=output)
        wait_for(self._lines, 10, "the sampler to begin")
        self._start = time.monotonic()

    def _lines(self) -> list[str]:
        return self._path.read_text().splitlines()

    def seen(self) -> list[str]:
        """What ran without a lease until now.  There must be as many readings as a busy machine allows."""
        assert self._process.poll() is None
        ready, *lines = self._lines()
        assert ready == "ready"
        readings = lines.count(".")
        assert readings >= 8 * (time.monotonic() - self._start), "too few readings"
        return [line for line in lines if line != "."]


@pytest.mark.long
def test_storage_that_flaps(stack: Stack) -> None:
    stack.install_helper(HELPER)
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([off, held])
    sampler = Sampler(stack, "off", "held")
    path_unit(stack)
    lose(stack, 2)
    stack.storage.restore()
    time.sleep(3)
    stack.storage.fail()
    # Joined or not, running or not: whatever ran has lost its lease again and is safe again.
    wait_for(lambda: not stack.lockspaces(), 25, "sanlock to leave the lockspace")
    assert sampler.seen() == []
    assert {domain.state().name for domain in (off, held)} == {"shut off", "paused"}
    stack.storage.restore()
    for domain in (off, held):
        wait_for_state(domain, "running")
        assert len(domain.leases()) == 1
    wait_for(lambda: not records(stack), 10, "the end of all records")
    assert sampler.seen() == []
    assert stack.sigkills() == []


def test_the_sampler_finds_a_domain_without_a_lease(stack: Stack) -> None:
    """sanlock restarted beside a paused machine: libvirt itself resumes it without a lease."""
    naive = stack.domain("naive", "pause")
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([naive, held])
    make_safe(stack, held)
    naive.suspend()
    stack.sanlock.restart()
    stack.join_lockspace()
    sampler = Sampler(stack, "naive", "held")
    naive.resume()
    result = command(stack, "recover")
    assert result.returncode == 1
    assert "sanlock was restarted since and does not know its process" in result.stderr
    assert (naive.state().name, held.state().name) == ("running", "paused")
    wait_for(sampler.seen, 5, "the sampler to see it")
    assert {line.split()[0] for line in sampler.seen()} == {"naive"}
    # Not even for the administrator.
    result = command(stack, "recover", "--resume-anyway", "held", "--yes")
    assert (result.returncode, held.state().name) == (1, "paused")


def test_a_start_for_which_libvirt_takes_no_lease(stack: Stack) -> None:
    domain = stack.domain("off", "poweroff", metadata=POLICY).start()
    lose_by_hand(stack, [domain])
    conf = stack.path("/etc/libvirt/qemu.conf")
    text = conf.read_text()
    conf.write_text(text.replace('lock_manager = "sanlock"', 'lock_manager = "nop"'))
    stack.libvirtd.restart()
    # Once, and not again by a recovery to come.
    for _ in range(2):
        result = command(stack, "recover")
        assert result.returncode == 1
        assert (domain.state().name, starts(stack, domain)) == ("shut off", 2)
    (line,) = [
        line.message for line in stack.journal(IDENTIFIER) if "powered off again at once" in line.message
    ]
    assert "it stays off: it was started without a lease" in line
    assert "virt-sanlock-helper check, then virsh start off" in line
    conf.write_text(text)
    stack.libvirtd.restart()
    stack.virsh("start", "off")
    assert command(stack, "recover").returncode == 0
    assert records(stack) == set()
    assert len(domain.leases()) == 1


def test_recovery_killed_at_any_moment(stack: Stack) -> None:
    domains = [
        *(stack.domain(f"off{number}", "poweroff", metadata=POLICY) for number in range(3)),
        *(stack.domain(f"held{number}", "pause", metadata=POLICY) for number in range(3)),
    ]
    stack.start_all(domains)
    pids = {domain.name: domain.qemu_pid() for domain in domains}
    for domain in domains:
        make_safe(stack, domain)
    leave_lockspace(stack)
    moments = random.Random(4)
    kills = 0
    while kills < 40 and any(domain.state().name != "running" for domain in domains):
        # Often where much happens: at the beginning, and once the lockspace is joined.
        recover_until(stack, moments.choice((0.05, 0.2, 0.3, 0.5)) + moments.random() * 0.3)
        kills += 1
        left = records(stack)
        for domain in domains:
            assert domain.uuid in left or domain.state().name == "running", domain.name
    assert kills >= 4
    assert command(stack, "recover").returncode == 0
    assert {domain.state().name for domain in domains} == {"running"}
    assert records(stack) == set()
    for domain in domains:
        if domain.on_lockfailure == "pause":
            assert domain.qemu_pid() == pids[domain.name]
            # One more than before: resumed once.
            assert domain.leases()[0].version == 2
        else:
            assert starts(stack, domain) == 2


@pytest.mark.parametrize("where", [RUN_RECORDS, STATE_RECORDS])
def test_records_that_are_none_are_set_aside(stack: Stack, where: str) -> None:
    domain = stack.domain("vm1", "poweroff", metadata=POLICY).start()
    make_safe(stack, domain)
    leave_lockspace(stack)
    good = stack.path(f"{RUN_RECORDS}/{domain.uuid}.record")
    data = good.read_bytes()
    assert good.stat().st_mode & 0o777 == 0o600
    good.unlink()
    target = stack.path(f"{where}/{domain.uuid}.record")
    other_version = data.replace(b"-record 2\n", b"-record 3\n")
    for content, mode, owner, words in (
        (data[:-20], 0o600, 0, "its checksum is wrong"),
        (data.replace(b"poweroff", b"restart "), 0o600, 0, "its checksum is wrong"),
        (sealed(other_version), 0o600, 0, "it is virt-sanlock-helper-record 3"),
        (data, 0o666, 0, "mode 666: not ours alone"),
        (data, 0o600, 65534, "owned by user 65534"),
    ):
        target.parent.mkdir(mode=0o700, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)
        stack.run("chown", str(owner), f"{where}/{domain.uuid}.record")
        result = command(stack, "recover")
        assert words in result.stderr
        assert "set aside as" in result.stderr
        assert not target.exists()
        assert domain.state().name == "shut off"
    assert len(list(stack.path(f"{where}/set-aside").iterdir())) == 5
    target.write_bytes(data)
    target.chmod(0o600)
    assert command(stack, "recover").returncode == 0
    assert domain.state().name == "running"


def sealed(data: bytes) -> bytes:
    """DATA with the checksum that belongs to it."""
    import binascii

    head = data.rpartition(b"crc32 ")[0]
    return head + b"crc32 %d\n" % binascii.crc32(head)


def test_daemons_restarted_while_recovery_waits(stack: Stack) -> None:
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([off, held])
    pid = held.qemu_pid()
    for domain in (off, held):
        make_safe(stack, domain)
    leave_lockspace(stack)
    stack.storage.fail()
    waiting = recover(stack)
    wait_for_line(stack, "recover: waiting for lockspace")
    second = command(stack, "recover")
    assert second.returncode == 1
    assert "another recovery is at work, process " in second.stderr
    stack.libvirtd.stop()
    time.sleep(1.5)
    stack.libvirtd.start()
    stack.storage.restore()
    wait_for_state(held, "running")
    wait_for_state(off, "running")
    assert held.qemu_pid() == pid
    assert waiting.wait(10) == 0

    make_safe(stack, off)
    held.destroy()
    leave_lockspace(stack)
    stack.storage.fail()
    waiting = recover(stack)
    time.sleep(1)
    stack.sanlock.kill()
    wait_for_line(stack, "recover: waiting for lockspace", "the sanlock daemon")
    stack.sanlock.start()
    stack.storage.restore()
    wait_for_state(off, "running")
    assert len(off.leases()) == 1
    assert waiting.wait(10) == 0


def test_a_terminal_shows_what_is_waited_for(stack: Stack) -> None:
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([off, held])
    for domain in (off, held):
        make_safe(stack, domain)
    leave_lockspace(stack)
    stack.storage.fail()
    terminal = Terminal(stack, str(COMMAND), "recover", "--wait")
    wanted = re.compile(
        r"lockspace __LIBVIRT__DISKS__: waited for (\d+) s, (?:joining now|next try in [01] s), "
        r"then 2 to bring back \(held, off\): join lockspace __LIBVIRT__DISKS__: .+"
    )

    def waited() -> int:
        # One line, kept up to date at the lower end: what was printed before it stays above.
        found = [line for line in terminal.lines() if line.startswith("lockspace ")]
        assert len(found) <= 1, found
        match = wanted.fullmatch(found[0]) if found else None
        return int(match[1]) if match and terminal.lines()[-1] == found[0] else 0

    for seconds in (2, 4):
        wait_for(lambda seconds=seconds: waited() >= seconds, 10, f"{seconds} s to be shown")  # type: ignore[misc]
    assert "virt-sanlock-helper: recover: waiting for lockspace" in terminal.lines()[0]
    stack.storage.restore()
    assert terminal.process.wait(25) == 0
    done = [line for line in terminal.lines() if ": done after " in line]
    assert sorted(line.split()[2] for line in done) == ["held", "off"]
    assert [line for line in terminal.lines() if not line.startswith("virt-sanlock-helper: recover")] == []
    terminal.close()


def test_policy_by_name_and_uuid(stack: Stack) -> None:
    domain = stack.domain("vm1", "poweroff").start()
    passing = stack.domain("passing", transient=True).start()
    assert command(stack, "policy", "vm1").stdout == "vm1 (live): no recover\nvm1 (persistent): no recover\n"
    for name in ("vm1", domain.uuid):
        result = command(stack, "policy", name, "--recover", "--json")
        found = validated(result.stdout, "policy")
        assert (found["live"], found["persistent"]) == (True, True)
        assert command(stack, "policy", name, "--no-recover").stdout.count("no recover") == 2
    found = validated(command(stack, "policy", "passing", "--recover", "--json").stdout, "policy")
    assert (found["live"], found["persistent"]) == (True, None)
    assert 'urn:virt-sanlock-helper:1"' in stack.virsh("dumpxml", passing.uuid)
    result = command(stack, "policy", "nobody")
    assert (result.returncode, "there is no such domain" in result.stderr) == (1, True)
