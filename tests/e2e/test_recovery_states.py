# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way back of domains in odd states: jobs under way, libvirtd away, other machines, moved leases."""

from __future__ import annotations

import signal
import subprocess
import time
from xml.sax.saxutils import quoteattr

import pytest

from sanlock_helper.leases.held import Lease, Lockspace
from sanlock_helper.records.directory import RecordDirectory
from sanlock_helper.records.record import Record
from sanlock_helper.virt.status_files import StatusFiles
from tests.schemas import validated

from .conftest import StackFactory
from .domains import Domain
from .namespace import PYTHON
from .recovery import (
    COMMAND,
    HELPER,
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
    records,
    recover,
    wait_for_line,
    wait_for_state,
)
from .stack import Stack
from .storage import LEASES
from .waiting import wait_for

# Jobs that pause a domain


SLOW_READER = """
import sys, time
with open(sys.argv[1], "rb", buffering=0) as fifo:
    while fifo.read(int(sys.argv[2])):
        time.sleep(0.1)
"""

HAS_JOB = """
import libvirt, sys
domain = libvirt.open(None).lookupByUUIDString(sys.argv[1])
print(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
"""


def has_job(stack: Stack, domain: Domain) -> bool:
    return stack.run(PYTHON, "-c", HAS_JOB, domain.uuid).stdout == "True\n"


def begin_slow_job(stack: Stack, domain: Domain, rate: int, *arguments: str) -> subprocess.Popen[str]:
    """Begin the job of virsh's ARGUMENTS, with a target that takes RATE bytes in 0.1 s.

    Pages of zeros are written: 2.3 KB for each MiB of memory, and 0.5 MB.  QEMU writes to libvirt's iohelper,
    which takes 1 MiB, and no more until the target has all of that (runIO() in libvirt src/util/iohelper.c).
    An abort takes effect when QEMU's own write returns: query-migrate reports "cancelling" until then.
    """
    target = f"/run/stack/{domain.name}.fifo"
    stack.run("mkfifo", target)
    stack.popen(PYTHON, "-c", SLOW_READER, target, str(rate))
    job = stack.popen("virsh", *arguments, domain.uuid, target)
    wait_for(lambda: domain.state().name == "paused", 10, "the job to pause the domain")
    assert not domain.leases()
    return job


def test_a_dump_under_way_at_the_loss_does_not_let_its_domain_run_on(stack: Stack) -> None:
    stack.install_helper(HELPER)
    busy = stack.domain("busy", "pause", metadata=POLICY, memory_mib=2048)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([busy, held])
    pid = busy.qemu_pid()
    # 26 s, longer than the loss takes; 5 s for what the iohelper has taken when the abort comes.
    begin_slow_job(stack, busy, 20000, "dump")
    path_unit(stack)
    lose(stack, 1)
    assert (busy.state(), records(stack)) == (("paused", "dumping"), {held.uuid})
    stack.storage.restore()
    wait_for_state(held, "running", 60)
    line = wait_for_line(
        stack, f"recover busy {busy.uuid}: NOT DONE: it stays paused: it was paused (dumping)"
    )
    assert "virt-sanlock-helper recover --resume-anyway busy" in line
    wait_for(lambda: not has_job(stack, busy), 10, "the end of the job")
    time.sleep(2)
    assert (busy.state().name, busy.qemu_pid()) == ("paused", pid)
    assert records(stack) == {busy.uuid}
    listed = validated(command(stack, "recover", "--list", "--json").stdout, "recover-list")
    assert [(found["name"], found["state"]) for found in listed["records"]] == [("busy", "refused")]
    result = command(stack, "recover", "--resume-anyway", "busy", "--yes")
    assert (result.returncode, busy.state().name) == (0, "running"), result.stderr
    assert len(busy.leases()) == 1
    assert records(stack) == set()


def put_on_volumes(stack: Stack, *domains: Domain) -> None:
    """Give DOMAINS, not defined yet, a volume of a pool for a disk: no definition has its path."""
    stack.run("mkdir", "-p", "/run/volumes")
    pool = "<pool type='dir'><name>volumes</name><target><path>/run/volumes</path></target></pool>"
    stack.write("/run/stack/pool.xml", pool)
    stack.virsh("pool-define", "/run/stack/pool.xml")
    stack.virsh("pool-start", "volumes")
    for domain in domains:
        stack.virsh("vol-create-as", "volumes", domain.name, "1M")
        source = f"<source pool='volumes' volume='{domain.name}'/>"
        of_file = f"<source file={quoteattr(domain.disks[0])}/>"
        assert of_file in domain.xml
        domain.xml = domain.xml.replace("<disk type='file'", "<disk type='volume'").replace(of_file, source)
        stack.path(domain.xml_path).write_text(domain.xml)


@pytest.mark.long
def test_a_dump_of_a_domain_whose_disk_is_a_volume(stack: Stack) -> None:
    busy = stack.domain("busy", "pause", metadata=POLICY, memory_mib=2048)
    held = stack.domain("held", "pause", metadata=POLICY)
    put_on_volumes(stack, busy)
    stack.start_all([busy, held])
    assert len(busy.leases()) == 1
    begin_slow_job(stack, busy, 20000, "dump")
    make_safe(stack, held)
    leave_lockspace(stack)
    result = command(stack, "recover")
    assert held.state().name == "running", result.stderr
    assert f"recover busy {busy.uuid}: NOT DONE: it stays paused: it was paused (dumping)" in result.stderr
    wait_for(lambda: not has_job(stack, busy), 40, "the end of the job")
    assert (busy.state().name, records(stack)) == ("paused", {busy.uuid})


@pytest.mark.long
@pytest.mark.parametrize(("job", "after"), [("save", "shut off"), ("dump", "paused")])
def test_a_job_that_takes_no_abort_is_waited_for(stack: Stack, job: str, after: str) -> None:
    """QEMU has written all of it when the abort comes, so that it ends as it was meant to."""
    busy = stack.domain("busy", "pause", metadata=POLICY, memory_mib=256)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([busy, held])
    begin_slow_job(stack, busy, 5000, job)
    make_safe(stack, held)
    leave_lockspace(stack)
    waiting = recover(stack)
    wait_for_state(held, "running", 60)
    # libvirt reports no job of a domain that is off.
    assert busy.state().name == after
    assert after == "shut off" or not has_job(stack, busy)
    assert waiting.wait(10) == 0
    assert records(stack) == ({busy.uuid} if job == "dump" else set())


@pytest.mark.long
def test_a_job_that_does_not_end_keeps_the_lockspace_out(stack: Stack) -> None:
    """Its target hangs, and so does the abort; the others come back when the administrator has decided."""
    busy = stack.domain("busy", "pause", metadata=POLICY)
    off = stack.domain("off", "poweroff", metadata=POLICY)
    stack.start_all([busy, off])
    stack.run("mkfifo", "/run/stack/fifo")
    stack.popen("sh", "-c", "exec 3</run/stack/fifo; sleep 1000")
    stack.popen("virsh", "dump", "--memory-only", busy.uuid, "/run/stack/fifo")
    wait_for(lambda: busy.state().reason == "dumping", 10, "the job to pause the domain")
    make_safe(stack, off)
    leave_lockspace(stack)
    result = command(stack, "recover")
    assert result.returncode == 1
    assert "domain busy: it is paused (dumping), which does not end" in result.stderr
    assert "virsh destroy busy lets the others come back" in result.stderr
    assert stack.lockspaces() == []
    busy.destroy()
    result = command(stack, "recover")
    assert (result.returncode, off.state().name) == (0, "running"), result.stderr


# libvirtd away


def note(stack: Stack, domain: Domain, action: str) -> None:
    """Write the record that the helper writes without libvirtd: from the status file and from sanlock."""
    status = StatusFiles(str(stack.path("/run/libvirt/qemu"))).find(domain.uuid)
    assert status is not None
    (lockspace,) = stack.lockspaces()
    start = int(stack.run("cat", f"/proc/{status.pid}/stat").stdout.rpartition(")")[2].split()[19])
    record = Record(status.uuid, status.name, URI, action, run=status.id, pid=status.pid, pid_start=start)
    record.boot = stack.run("cat", "/proc/sys/kernel/random/boot_id").stdout.strip()
    record.time = time.time()
    record.lockspaces = (
        Lockspace(lockspace.name, lockspace.host_id, lockspace.path, lockspace.offset, stack.io_timeout),
    )
    record.leases = tuple(
        Lease(lease.lockspace, lease.resource, lease.version, lease.path, lease.offset)
        for lease in stack.leases()
        if lease.pid == status.pid
    )
    assert record.leases
    record.xml = status.xml
    RecordDirectory(str(stack.path(RUN_RECORDS))).write(record)


def test_what_sanlock_killed_while_libvirtd_was_away(stack: Stack) -> None:
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    passing = stack.domain("passing", "pause", transient=True, metadata=POLICY)
    unwanted = stack.domain("unwanted", "pause", transient=True)
    killed = [off, held, passing, unwanted]
    destroyed = stack.domain("destroyed", "pause", metadata=POLICY)
    ended = stack.domain("ended", "pause", transient=True, metadata=POLICY)
    stack.start_all([*killed, destroyed, ended])
    for domain in (*killed, destroyed, ended):
        note(stack, domain, domain.on_lockfailure)
    # Paused by the helper, and ended by the administrator since.
    for domain in (destroyed, ended):
        domain.suspend()
        domain.destroy()
    stack.libvirtd.stop()
    for domain in killed:
        pid = domain.qemu_pid()
        assert pid is not None
        stack.signal(pid, signal.SIGKILL)
    wait_for(lambda: not stack.leases(), 10, "sanlock to see the processes end")
    leave_lockspace(stack)
    stack.libvirtd.start()
    result = command(stack, "recover")
    assert result.returncode == 0, result.stderr
    states = {domain.name: domain.state().name for domain in (*killed, destroyed, ended)}
    assert states == {
        "off": "running",
        "held": "running",
        "passing": "running",
        "unwanted": "absent",
        "destroyed": "shut off",
        "ended": "absent",
    }, result.stderr
    for domain in (off, held, passing):
        assert len(domain.leases()) == 1
    for name in ("destroyed", "ended"):
        wait_for_line(stack, f"recover {name} ", "dropped: it was paused, and was powered off since")
    assert records(stack) == set()


def test_an_outage_without_libvirtd(stacks: StackFactory) -> None:
    """All of it for real: the helper finds no libvirtd, sanlock kills, recovery starts."""
    stack = stacks(grace=15)
    stack.install_helper(HELPER)
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    passing = stack.domain("passing", "pause", transient=True, metadata=POLICY)
    unwanted = stack.domain("unwanted", "pause")
    domains = [off, held, passing, unwanted]
    stack.start_all(domains)
    pids = {domain.qemu_pid() for domain in domains}
    stack.libvirtd.stop()
    stack.storage.fail()
    wait_for(lambda: len(stack.sigkills()) == 4, 45, "sanlock to kill all four")
    wait_for(lambda: not stack.lockspaces(), 20, "sanlock to leave the lockspace")
    assert records(stack) == {domain.uuid for domain in domains}
    path_unit(stack)
    stack.storage.restore()
    # libvirtd joins its lockspace when it starts; without one it does not start.
    stack.libvirtd.start()
    for domain in (off, held, passing):
        wait_for_state(domain, "running", 40)
        assert len(domain.leases()) == 1
        assert domain.qemu_pid() not in pids
    wait_for(lambda: not records(stack), 20, "the end of all records")
    assert unwanted.state() == ("shut off", "crashed")


def test_a_persistent_domain_that_is_undefined_later_stays_undefined(stack: Stack) -> None:
    held = stack.domain("held", "pause", metadata=POLICY).start()
    note(stack, held, "pause")
    make = held.qemu_pid()
    held.suspend()
    leave_lockspace(stack)
    stack.storage.fail()
    # Seen once as a persistent one, while its lockspace cannot be joined.
    assert command(stack, "recover").returncode == 1
    assert held.qemu_pid() == make
    held.destroy()
    held.undefine()
    stack.storage.restore()
    command(stack, "recover")
    assert held.state().name == "absent"
    assert records(stack) == set()


def test_a_domain_that_is_undefined_as_soon_as_libvirtd_is_back(stack: Stack) -> None:
    gone = stack.domain("R&D", "poweroff", metadata=POLICY)
    stack.path("/run/stack/gone").write_text(gone.xml)
    stack.run("virsh", "define", "/run/stack/gone")
    passing = stack.domain("passing", "pause", transient=True, metadata=POLICY)
    for domain in (gone, passing):
        domain.start()
        note(stack, domain, domain.on_lockfailure)
    pids = [lease.pid for lease in stack.leases()]
    stack.libvirtd.stop()
    for pid in pids:
        stack.signal(pid, signal.SIGKILL)
    wait_for(lambda: not stack.leases(), 10, "sanlock to see the processes end")
    leave_lockspace(stack)
    assert command(stack, "recover").returncode == 1
    stack.libvirtd.start()
    gone.undefine()
    result = command(stack, "recover")
    assert (gone.state().name, passing.state().name) == ("absent", "running"), result.stderr
    assert f"recover R&D {gone.uuid}: dropped: libvirt no longer knows it" in result.stderr
    assert (result.returncode, records(stack)) == (0, set())


@pytest.mark.long
def test_a_libvirtd_that_hangs_is_not_waited_for_without_end(stack: Stack) -> None:
    held = stack.domain("held", "pause", metadata=POLICY).start()
    make_safe(stack, held)
    leave_lockspace(stack)
    pid = stack.libvirtd.pid()
    stack.signal(pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        result = command(stack, "recover")
        assert result.returncode == 1
        assert time.monotonic() - start < 50
        result = command(stack, "recover", "--forget", "another")
        assert (result.returncode, "no answer within 10 s" in result.stderr) == (1, True)
        result = command(stack, "policy", "held")
        assert (result.returncode, "no answer within 10 s" in result.stderr) == (1, True)
    finally:
        stack.signal(pid, signal.SIGCONT)
    result = command(stack, "recover")
    assert (result.returncode, held.state().name) == (0, "running"), result.stderr


# Names


@pytest.mark.parametrize("name", ["R&D", "a b", "x&amp;y", 'q"<'])
def test_a_name_that_libvirt_escapes(stack: Stack, name: str) -> None:
    off = stack.domain(name, "poweroff", metadata=POLICY)
    held = stack.domain(f"{name}2", "pause", metadata=POLICY)
    for number, domain in enumerate((off, held)):
        path = f"/run/stack/{number}"
        stack.path(path).write_text(domain.xml)
        stack.run("virsh", "define", path)
        domain.start()
        note(stack, domain, domain.on_lockfailure)
    # The helper has tests of its own.
    off.destroy()
    held.suspend()
    leave_lockspace(stack)
    result = command(stack, "recover")
    assert (off.state().name, held.state().name) == ("running", "running"), result.stderr
    assert "sanlock was restarted" not in result.stderr
    assert result.stderr.count("verified running, 1 lease held") == 2


# Another machine


def test_a_uuid_that_another_machine_has_now(stack: Stack) -> None:
    old = stack.domain("old", "poweroff", metadata=POLICY)
    renamed = stack.domain("renamed", "poweroff", metadata=POLICY)
    plugged = stack.domain("plugged", "poweroff", metadata=POLICY)
    domains = [old, renamed, plugged]
    stack.start_all(domains)
    lose_by_hand(stack, domains)
    old.undefine()
    other = stack.domain("other", "poweroff", metadata=POLICY)
    other.xml = other.xml.replace(other.uuid, old.uuid)
    stack.path(other.xml_path).write_text(other.xml)
    other.define()
    stack.virsh("domrename", "renamed", "newname")
    stack.virsh("attach-disk", "plugged", stack.storage.disk("more.img"), "vdb", "--config")
    result = command(stack, "recover")
    assert result.returncode == 0, result.stderr
    states = {uuid: stack.virsh("domstate", uuid).strip() for uuid in (old.uuid, renamed.uuid, plugged.uuid)}
    assert states == {old.uuid: "shut off", renamed.uuid: "running", plugged.uuid: "running"}
    line = wait_for_line(
        stack, f"recover old {old.uuid}: dropped: not started: its name was 'old' and is 'other'"
    )
    assert "another machine may have its UUID" in line


@pytest.mark.parametrize("is_active", [True, False])
def test_a_machine_whose_disk_is_a_volume(stack: Stack, is_active: bool) -> None:
    off = stack.domain("off", "poweroff", metadata=POLICY)
    put_on_volumes(stack, off)
    off.start()
    lose_by_hand(stack, [off])
    if not is_active:
        stack.virsh("pool-destroy", "volumes")
    result = command(stack, "recover")
    if not is_active:
        assert "volume 'off' is not active; trying again" in result.stderr
        assert records(stack) == {off.uuid}
        stack.virsh("pool-start", "volumes")
        result = command(stack, "recover")
    assert off.state().name == "running", result.stderr
    assert (len(off.leases()), records(stack)) == (1, set())


# Leases that libvirt takes no more


@pytest.mark.parametrize("is_decided", [False, True])
@pytest.mark.parametrize("kind", ["copy", "commit", "aborted commit"])
def test_a_lease_that_the_definition_does_not_ask_for(stack: Stack, kind: str, is_decided: bool) -> None:
    """That of a copy's target, or of a commit's base, which libvirt leaves with the process for good.

    "it was paused again at once: it went on without its lease", and --resume-anyway did not help.
    """
    held = stack.domain("held", "pause", metadata="" if is_decided else POLICY).start()
    if kind == "copy":
        stack.virsh("blockcopy", "held", "vda", "/run/stack/copy.img", "--transient-job", "--format", "raw")
    else:
        stack.virsh("snapshot-create-as", "held", "top", "--disk-only", "--no-metadata")
        stack.virsh("blockcommit", "held", "vda", "--active")
    if kind == "aborted commit":
        stack.virsh("blockjob", "held", "vda", "--abort")
    assert len(held.leases()) == 2
    lose_by_hand(stack, [held])
    decided = ("--resume-anyway", "held", "--yes") if is_decided else ()
    result = command(stack, "recover", *decided)
    assert (result.returncode, held.state().name) == (0, "running"), result.stderr
    assert (len(held.leases()), records(stack)) == (1, set())


# Leases that have moved


def test_leases_that_have_moved(stack: Stack) -> None:
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([off, held])
    for domain in (off, held):
        make_safe(stack, domain)
    leave_lockspace(stack)
    # The storage is mounted elsewhere, and libvirt is configured for it.
    new = f"{LEASES}-new"
    stack.run("mkdir", new)
    stack.run("sh", "-c", f"mv {LEASES}/* {new}/")
    conf = stack.path("/etc/libvirt/qemu-sanlock.conf")
    conf.write_text(conf.read_text().replace(f'"{LEASES}"', f'"{new}"'))
    # What libvirtd goes by is what it read when it started.
    stack.libvirtd.restart()
    result = command(stack, "recover")
    assert result.returncode == 1
    lease = wait_for_line(stack, f"recover held {held.uuid}: ", "it stays paused")
    assert f" is at {new}/" in lease
    assert f"libvirt takes it at {LEASES}/" in lease
    assert (off.state().name, held.state().name) == ("running", "paused"), result.stderr
    # The line's remedy helps.
    stack.run("sh", "-c", f"rmdir {LEASES} && ln -s {new} {LEASES}")
    result = command(stack, "recover")
    assert (result.returncode, held.state().name) == (0, "running"), result.stderr


# Another user


def test_list_as_another_user(stack: Stack) -> None:
    held = stack.domain("held", "pause", metadata=POLICY).start()
    make_safe(stack, held)
    # Where the checkout is for root alone, its copy is not.
    top = COMMAND.parents[1]
    stack.run(
        "sh", "-c", f"mkdir /run/own && cp -r {top}/helper {top}/auth /run/own && chmod -R a+rX /run/own"
    )
    for arguments in (["--list"], ["--list", "--json"], ["--forget", "held"], ["--resume-anyway", "held"]):
        result = stack.run(
            "setpriv", "--reuid", "65534", "--clear-groups", "/run/own/helper/virt-sanlock-helper", "recover",
            *arguments, check=False,
        )  # fmt: skip
        assert result.returncode == 1
        assert "Permission denied (run this as root)" in result.stderr
    assert records(stack) == {held.uuid}


# A disk that takes nothing more


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_records_on_a_disk_that_takes_nothing_more(stack: Stack, state: str) -> None:
    """The records were copied to it before."""
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([off, held])
    stack.run("mkdir", "-p", STATE_RECORDS)
    stack.run("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", STATE_RECORDS)
    for domain in (off, held):
        make_safe(stack, domain)
    leave_lockspace(stack)
    stack.storage.fail()
    assert command(stack, "recover").returncode == 1
    assert list(stack.path(RUN_RECORDS).iterdir()) == []
    if state == "full":
        stack.run("dd", "if=/dev/zero", f"of={STATE_RECORDS}/fill", "bs=4096", check=False)
    else:
        stack.run("mount", "-o", "remount,ro", STATE_RECORDS)
    stack.storage.restore()
    result = command(stack, "recover")
    assert (off.state().name, held.state().name) == ("running", "running"), result.stderr
    if state == "read-only":
        assert result.stderr.count("remove its record: ") == 2
        stack.run("mount", "-o", "remount,rw", STATE_RECORDS)
        result = command(stack, "recover")
    assert (result.returncode, records(stack)) == (0, set()), result.stderr
    assert len(off.leases()) == len(held.leases()) == 1


def test_a_directory_of_records_that_cannot_be_read_is_no_success(stack: Stack) -> None:
    off = stack.domain("off", "poweroff", metadata=POLICY).start()
    make_safe(stack, off)
    leave_lockspace(stack)
    stack.run("sh", "-c", f"rm -rf {STATE_RECORDS}; touch {STATE_RECORDS}")
    result = command(stack, "recover")
    assert (off.state().name, records(stack)) == ("running", set())
    assert f"it is no directory: '{STATE_RECORDS}'" in result.stderr
    assert "others may write" not in result.stderr
    assert result.returncode == 1


# Records and configuration that are wrong


@pytest.mark.parametrize(
    "uri", ["qemu:///bogus", "qemu:///system\udcff", "nosuch:///system", "qemu:///sys tem"]
)
def test_a_uri_that_no_libvirtd_has_costs_one_domain(stack: Stack, uri: str) -> None:
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    bad = stack.domain("bad", "poweroff", metadata=POLICY)
    stack.start_all([off, held, bad])
    for domain in (off, held, bad):
        make_safe(stack, domain)
    written = RecordDirectory(str(stack.path(RUN_RECORDS)))
    record = written.read(bad.uuid)
    assert record is not None
    record.uri = uri
    written.write(record)
    leave_lockspace(stack)
    result = command(stack, "recover")
    states = [domain.state().name for domain in (off, held, bad)]
    assert states[:2] == ["running", "running"], result.stderr


def test_resume_anyway_joins_as_libvirt_is_configured(stack: Stack) -> None:
    held = stack.domain("held", "pause", metadata=POLICY).start()
    make_safe(stack, held)
    leave_lockspace(stack)
    conf = stack.path("/etc/libvirt/qemu-sanlock.conf")
    conf.write_text(conf.read_text().replace("host_id = 1", "host_id = 5"))
    result = command(stack, "recover", "--resume-anyway", "held", "--yes")
    assert (result.returncode, held.state().name) == (0, "running"), result.stderr
    assert [lockspace.host_id for lockspace in stack.lockspaces()] == [5]


def test_a_configuration_that_libvirt_refuses_joins_nothing(stack: Stack) -> None:
    """What the records have may be another host's by now."""
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([off, held])
    for domain in (off, held):
        make_safe(stack, domain)
    leave_lockspace(stack)
    conf = stack.path("/etc/libvirt/qemu-sanlock.conf")
    good = conf.read_text()
    conf.write_text(good.replace("host_id = 1", "host_id = 3") + "oops\n")
    for arguments in (["recover"], ["recover", "--resume-anyway", "held", "--yes"]):
        result = command(stack, *arguments)
        assert (result.returncode, stack.lockspaces()) == (1, [])
        assert "qemu-sanlock.conf does not give its path" in result.stderr
    conf.write_text(good)
    result = command(stack, "recover")
    assert (off.state().name, held.state().name) == ("running", "running"), result.stderr
    assert result.returncode == 0


# Remedies


def test_the_remedy_for_a_process_that_sanlock_does_not_know(stack: Stack) -> None:
    held = stack.domain("held", "pause", metadata=POLICY).start()
    make_safe(stack, held)
    leave_lockspace(stack)
    stack.sanlock.stop()
    stack.sanlock.start()
    result = command(stack, "recover")
    assert (result.returncode, held.state().name) == (1, "paused")
    assert "sanlock was restarted since" in result.stderr
    assert "--resume-anyway" not in result.stderr
    remedy = result.stderr.rpartition("(")[2].rpartition(")")[0]
    for words in remedy.split(", then "):
        stack.run(*words.split())
    assert (held.state().name, len(held.leases())) == ("running", 1)
    result = command(stack, "recover")
    assert (result.returncode, records(stack)) == (0, set()), result.stderr


def test_the_remedy_for_a_malformed_policy_that_cannot_be_set_any_more(stack: Stack) -> None:
    malformed = POLICY.replace("yes", "true")
    passing = stack.domain("passing", "poweroff", transient=True, metadata=malformed).start()
    make_safe(stack, passing)
    result = command(stack, "recover")
    assert (result.returncode, records(stack)) == (1, {passing.uuid})
    assert "recover is 'true', neither yes nor no, and libvirt no longer knows the domain" in result.stderr
    assert "virt-sanlock-helper policy" not in result.stderr
    assert command(stack, "recover").returncode == 1
    assert "virt-sanlock-helper recover --forget passing" in result.stderr
    assert command(stack, "recover", "--forget", "passing").returncode == 0
    assert records(stack) == set()


def test_a_lease_that_is_no_lease_has_no_reason_of_a_lockspace(stack: Stack) -> None:
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([off, held])
    (lease,) = off.leases()
    for domain in (off, held):
        make_safe(stack, domain)
    leave_lockspace(stack)
    stack.run("sh", "-c", f"rm {lease.path}; mkfifo {lease.path}")
    result = command(stack, "recover")
    assert (result.returncode, off.state().name, held.state().name) == (1, "shut off", "running")
    assert f"recover off {off.uuid}: read lease " in result.stderr
    assert "joined with another host_id" not in result.stderr
