# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that stops by an I/O error before its leases are lost comes back with its storage, too.

test_short_io_error.py has the short outage, in which no lockspace is lost.
"""

from __future__ import annotations

import json
import time

import pytest

from sanlock_helper.recovery.stopped_guests import MOST_TRIES

from .domains import Domain
from .failing_disk import EIO, ENOSPC, FailingDisk
from .io_errors import stand, stop, stopped_lines, stopping_domain
from .recovery import (
    HELPER,
    LOSS,
    POLICY,
    URI,
    command,
    leave_lockspace,
    path_unit,
    read_version,
    records,
    wait_for_line,
    wait_for_state,
)
from .stack import Stack
from .standing import StandingAgent
from .waiting import wait_for

pytestmark = pytest.mark.long


def resume_anyway(stack: Stack, domain: Domain) -> bool:
    """An administrator's decision; QEMU's first request over a new connection may fail once more."""
    found = command(stack, "recover", "--resume-anyway", domain.name, "--yes")
    time.sleep(0.3)
    if domain.state().name == "running":
        return True
    assert "stopped again by an I/O error" in found.stderr or found.returncode == 0, found
    return False


def lose_lockspace(stack: Stack) -> None:
    """Fail the storage of the leases, and wait until sanlock has left."""
    stack.storage.fail()
    wait_for(lambda: not stack.lockspaces(), LOSS, "sanlock to leave the lockspace")


def test_an_io_error_before_the_loss(stack: Stack) -> None:
    stand(stack)
    domain, disk = stopping_domain(stack, "asks")
    other, other_disk = stopping_domain(stack, "asksnot", None)
    pids = domain.qemu_pid(), other.qemu_pid()
    (lease,) = domain.leases()

    stop(domain, disk)
    stop(other, other_disk)
    wait_for_line(stack, f"recover asks {domain.uuid}: stopped by an I/O error of data: it is paused")
    lose_lockspace(stack)
    assert stack.helper_calls() == []
    listed = command(stack, "recover", "--list")
    assert f"asks {domain.uuid} resume after an I/O error since " in listed.stdout
    wait_for_line(stack, f"recover asksnot {other.uuid}: stopped by an I/O error of data: neither its policy")
    assert "asksnot" not in listed.stdout
    assert domain.state() == ("paused", "I/O error")

    stack.storage.restore()
    wait_for_line(stack, "lockspace __LIBVIRT__DISKS__ joined again")
    wait_for_line(stack, f"recover asks {domain.uuid}: read its disks: it stays paused: nbd server")
    assert (domain.state().name, read_version(stack, lease)) == ("paused", lease.version)
    disk.serve()
    other_disk.serve()
    wait_for_state(domain, "running", 40)
    wait_for_line(stack, f"recover asks {domain.uuid}: done after", "verified running, 1 lease held")
    wait_for(lambda: not records(stack), 10, "the end of all records")
    assert (domain.qemu_pid(), other.qemu_pid()) == pids
    assert other.state() == ("paused", "I/O error")
    assert stack.sigkills() == []


def test_a_disk_that_is_a_volume_is_read_too(stack: Stack) -> None:
    stand(stack)
    stack.run("mkdir", "/run/volumes")
    pool = "<pool type='dir'><name>volumes</name><target><path>/run/volumes</path></target></pool>"
    stack.write("/run/pool.xml", pool)
    stack.virsh("pool-create", "/run/pool.xml")
    stack.virsh("vol-create-as", "volumes", "a.img", "1M")
    domain = stack.domain("pooled", "pause", metadata=POLICY)
    disk = FailingDisk(stack, domain)
    volume = (
        "<disk type='volume'><source pool='volumes' volume='a.img'/><target dev='vdc' bus='virtio'/></disk>"
    )
    domain.xml = domain.xml.replace("<controller", f"{volume}<controller", 1)
    stack.path(domain.xml_path).write_text(domain.xml)
    domain.start()
    stop(domain, disk)
    wait_for(lambda: stopped_lines(stack, domain), 10, "its record")
    # QEMU has it open; nothing else reads it any more.
    stack.run("mv", "/run/volumes/a.img", "/run/a.img")
    disk.serve()
    unread = "read its disks: it stays paused: /run/volumes/a.img: No such file or directory"
    wait_for_line(stack, f"recover pooled {domain.uuid}: {unread}")
    # Six io_timeouts after a join sanlock has read back no renewal, and does so within a second: meanwhile
    # the lockspace counts as one that is not renewed.
    wait_for(lambda: unread in command(stack, "recover", "--dry-run").stdout, 10, unread)
    assert domain.state() == ("paused", "I/O error")
    stack.run("mv", "/run/a.img", "/run/volumes/a.img")
    wait_for_state(domain, "running", 40)
    wait_for(lambda: not records(stack), 10, "the end of all records")


def test_a_lease_that_another_host_had_meanwhile(stack: Stack) -> None:
    stand(stack)
    domain, disk = stopping_domain(stack, "stale")
    (lease,) = domain.leases()
    stop(domain, disk)
    wait_for(lambda: stopped_lines(stack, domain), 10, "its record")
    host = stack.second_host()
    host.join()
    host.take(lease)
    host.give_back(lease)
    disk.serve()
    line = wait_for_line(stack, f"recover stale {domain.uuid}: NOT DONE")
    assert "was version 1 when it was paused and is 2 now: another host held it" in line
    assert domain.state() == ("paused", "I/O error")
    # As soon as QEMU is connected to the server again.
    wait_for(lambda: resume_anyway(stack, domain), 10, "a resume by decision")
    assert domain.state().name == "running"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("back\\slash", "file"),
        ("a blank", "file"),
        ("plain", "co:lon"),
        ("back\\slash", "c:o\\l:on:"),
        ("R&D <a>", "file"),
        ("R&D<a>\"'", "R&D<a>"),
        ("&amp;", "&lt;"),
    ],
)
def test_a_lease_whose_name_or_path_is_noted_as_it_is(stack: Stack, name: str, file: str) -> None:
    stand(stack)
    lease = stack.make_resource(name, file)
    domain, disk = stopping_domain(stack, "odd", leases=[lease])
    stop(domain, disk)
    wait_for(lambda: stopped_lines(stack, domain), 10, "its record")
    disk.serve()
    wait_for_state(domain, "running", 40)
    wait_for(lambda: not records(stack), 10, "the end of all records")
    assert len(domain.leases()) == 2


def test_a_lease_that_libvirt_itself_does_not_resume_with(stack: Stack) -> None:
    stand(stack)
    domain, disk = stopping_domain(stack, "colon", leases=[stack.make_resource("a:b", "file")])
    stop(domain, disk)
    disk.serve()
    line = wait_for_line(stack, f"recover colon {domain.uuid}: resume the domain: Unable to parse lock state")
    assert line.endswith("; trying again")
    assert domain.state().name == "paused"


RECORDS = "/run/virt-sanlock-helper/records"


def test_no_room_for_its_record(stack: Stack) -> None:
    stand(stack)
    domain, disk = stopping_domain(stack, "noroom")
    mount = f"mkdir -p -m 700 {RECORDS} && mount -t tmpfs -o size=64k,mode=700 none {RECORDS}"
    stack.run("sh", "-c", f"{mount} && ! head -c 1m /dev/zero >{RECORDS}/full")
    stop(domain, disk)
    line = wait_for_line(stack, f"pause noroom {domain.uuid}: no recovery record: [Errno 28] No space left")
    assert line.endswith("recovery will not bring it back until there is one: tried again every 10 s")
    disk.serve()
    stack.run("rm", f"{RECORDS}/full")
    wait_for_state(domain, "running", 40)
    wait_for(lambda: not records(stack), 10, "the end of all records")


def test_a_stop_while_run_is_full(stack: Stack) -> None:
    stand(stack)
    domain, disk = stopping_domain(stack, "full")
    stack.run("sh", "-c", "mount -o remount,size=2m /run && ! head -c 9m /dev/zero >/run/full")
    stop(domain, disk)
    # libvirt cannot note the versions of its leases, either.
    wait_for_line(stack, f"pause full {domain.uuid}: no recovery record: ", "No space left")
    disk.serve()
    stack.run("rm", "/run/full")
    wait_for_line(
        stack, f"recover full {domain.uuid}: stopped by an I/O error of data, and libvirt could not note"
    )
    wait_for_line(stack, f"recover full {domain.uuid}: NOT DONE", "libvirt could not note them")
    assert domain.state() == ("paused", "I/O error")
    wait_for(lambda: resume_anyway(stack, domain), 10, "a resume by decision")
    wait_for(lambda: not records(stack), 10, "the end of all records")


def test_a_guest_that_stops_twice(stack: Stack) -> None:
    stand(stack)
    domain, disk = stopping_domain(stack, "twice")
    for tries in (1, 2):
        stop(domain, disk)
        wait_for(lambda: len(stopped_lines(stack, domain)) >= tries, 10, f"stop {tries} to be noted")  # noqa: B023
        disk.serve()
        wait_for_state(domain, "running", 40)
        wait_for(lambda: not records(stack), 10, "the end of all records")
        assert [lease.state for lease in domain.leases()] == [""]
    assert "times in a row: it is paused" in stopped_lines(stack, domain)[-1]


def test_a_guest_that_stops_again_each_time_is_given_up(stack: Stack) -> None:
    stand(stack)
    domain, disk = stopping_domain(stack, "broken")
    stop(domain, disk)
    # The server answers, and no block can be read.
    disk.serve(EIO)
    line = wait_for_line(stack, f"recover broken {domain.uuid}: NOT DONE", timeout=120)
    assert f"given up after {MOST_TRIES} tries" in line
    assert domain.state() == ("paused", "I/O error")
    disk.fail()
    disk.serve()
    wait_for(lambda: resume_anyway(stack, domain), 10, "a resume by decision")
    assert domain.state().name == "running"


def test_no_space_is_no_outage(stack: Stack) -> None:
    stand(stack)
    domain = stack.domain("full", "pause", metadata=POLICY)
    disk = FailingDisk(stack, domain, ENOSPC)
    domain.start()
    wait_for(lambda: domain.state() == ("paused", "I/O error"), 20, "the guest to stop")
    line = wait_for_line(
        stack, f"recover full {domain.uuid}: stopped by an I/O error of data for want of space (ENOSPC)"
    )
    assert line.endswith(f"once there is space, if it ran nowhere else: virsh resume {domain.uuid}")
    disk.fail()
    disk.serve()
    assert records(stack) == set()
    assert domain.state() == ("paused", "I/O error")


def test_an_agent_that_began_after_the_stop(stack: Stack) -> None:
    stack.install_helper(HELPER)
    path_unit(stack)
    domain, disk = stopping_domain(stack, "unseen")
    stop(domain, disk)
    disk.serve()
    agent = StandingAgent(stack)
    agent.wait_ready()
    wait_for_line(
        stack, f"recover unseen {domain.uuid}: it had stopped by an I/O error before this agent began"
    )
    line = wait_for_line(stack, f"recover unseen {domain.uuid}: NOT DONE")
    assert "the versions of its leases before the pause are not known" in line
    assert domain.state() == ("paused", "I/O error")
    # Another agent finds the record, and leaves it.
    assert agent.end() == 0
    StandingAgent(stack).wait_ready()
    wait_for(lambda: resume_anyway(stack, domain), 10, "a resume by decision")
    assert domain.state().name == "running"
    wait_for(lambda: not records(stack), 10, "the end of all records")


def test_an_agent_that_begins_anew_keeps_what_is_known(stack: Stack) -> None:
    agent = stand(stack)
    domain, disk = stopping_domain(stack, "seen")
    stop(domain, disk)
    wait_for(lambda: stopped_lines(stack, domain), 10, "its record")
    assert agent.end() == 0
    StandingAgent(stack).wait_ready()
    wait_for_line(
        stack, f"recover seen {domain.uuid}: it had stopped by an I/O error before this agent began"
    )
    disk.serve()
    wait_for_state(domain, "running", 40)


@pytest.mark.parametrize("way", ["restart", "kill"])
def test_a_stop_while_libvirtd_is_away(stack: Stack, way: str) -> None:
    stand(stack)
    domain, disk = stopping_domain(stack, "away")
    if way == "kill":
        stack.libvirtd.kill()
    else:
        stack.libvirtd.stop()
    disk.fail()
    time.sleep(2)
    stack.libvirtd.start()
    wait_for(lambda: stopped_lines(stack, domain), 20, "its record")
    disk.serve()
    wait_for_state(domain, "running", 40)
    assert [lease.state for lease in domain.leases()] == [""]
    wait_for(lambda: not records(stack), 10, "the end of all records")
    # The connection for events is there again.
    stop(domain, disk)
    wait_for(lambda: records(stack) == {domain.uuid}, 10, "another record")


def resume_by_hand(domain: Domain) -> None:
    """QEMU's first request over a new connection to the server may fail once more."""

    def goes_on() -> bool:
        if domain.state().name != "running":
            domain.resume()
        time.sleep(0.3)
        return domain.state().name == "running"

    wait_for(goes_on, 10, f"{domain.name} to go on")


def test_what_an_administrator_did_meanwhile_stands(stack: Stack) -> None:
    stand(stack)
    command(stack, "recover", "--hold")
    guests = {name: stopping_domain(stack, name) for name in ("resumed", "paused", "off", "anew")}
    for domain, disk in guests.values():
        stop(domain, disk)
    wait_for(lambda: len(records(stack)) == len(guests), 10, "their records")
    for _, disk in guests.values():
        disk.serve()
    resumed, paused, off, anew = (domain for domain, _ in guests.values())
    for domain in (resumed, paused):
        resume_by_hand(domain)
    paused.suspend()
    off.destroy()
    anew.destroy()
    anew.start()
    command(stack, "recover", "--release")
    wait_for(lambda: not records(stack), 30, "the end of all records")
    assert (resumed.state().name, off.state().name, anew.state().name) == ("running", "shut off", "running")
    assert paused.state() == ("paused", "user")
    wait_for_line(
        stack, f"recover paused {paused.uuid}: dropped: it had stopped by an I/O error, and is paused (user)"
    )
    wait_for_line(stack, f"recover off {off.uuid}: dropped: it was paused, and was powered off since")


@pytest.mark.parametrize("action", ["pause", "poweroff"])
def test_the_killpath_comes_for_it_too(stack: Stack, action: str) -> None:
    stand(stack)
    command(stack, "recover", "--hold")
    domain, disk = stopping_domain(stack, "both")
    stop(domain, disk)
    wait_for(lambda: records(stack), 10, "its record")
    assert stack.run(str(HELPER), URI, domain.uuid, action).returncode == 0
    listed = json.loads(command(stack, "recover", "--list", "--json").stdout)["records"]
    assert [(one["action"], len(one["leases"]), one["unknown"]) for one in listed] == [(action, 1, "")]
    disk.serve()
    # The outage: what was done by hand on a healthy host would stand.
    leave_lockspace(stack)
    command(stack, "recover", "--release")
    wait_for_state(domain, "running", 40)
    wait_for(lambda: not records(stack), 10, "the end of all records")
