# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains that the helper left unsafe, or called safe when they were not: what real hosts have.

Each test names the input that showed the fault.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .command import document
from .conftest import StackFactory
from .domains import Domain
from .recovery import HELPER, IDENTIFIER, LOSS, POLICY, RUN_RECORDS, URI, command
from .stack import Stack
from .waiting import wait_for

AWAY = 12
GRACE = 20


def by_hand(stack: Stack, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return stack.run(str(HELPER), *arguments, check=False, timeout=timeout)


def lines(stack: Stack, text: str) -> list[str]:
    return [line.message for line in stack.journal(IDENTIFIER) if text in line.message]


def records(stack: Stack) -> list[str]:
    """The UUIDs of the domains that have a record on tmpfs."""
    folder = stack.path(RUN_RECORDS)
    return sorted(path.stem for path in folder.glob("*.record")) if folder.is_dir() else []


@contextmanager
def running(*domains: Domain) -> Iterator[None]:
    """DOMAINS, started; they are destroyed and forgotten at the end."""
    try:
        for domain in domains:
            domain.start()
        yield
    finally:
        for domain in domains:
            if domain.state().name in ("running", "paused", "pmsuspended"):
                domain.destroy()
            if domain.state().name != "absent":
                domain.undefine()


# What a boot sector ends in: the processor waits for good.
HALT = b"\xf4\xeb\xfd"


def boot(stack: Stack, domain: Domain, code: bytes) -> None:
    """Make CODE, of a 8086, what the guest runs."""
    with stack.path(domain.disks[0]).open("r+b") as disk:
        disk.write(code.ljust(510, b"\0") + b"\x55\xaa")


def extend(stack: Stack, domain: Domain, elements: str, devices: str = "") -> None:
    """Put XML before and into the <devices> of a domain that is not defined yet."""
    domain.xml = domain.xml.replace("<devices>", f"{elements}<devices>{devices}")
    stack.path(domain.xml_path).write_text(domain.xml)


# A1, A2: names


@pytest.mark.parametrize(
    ("name", "escaped"),
    [("a&b", "a&amp;b"), ("x<y>", "x&lt;y&gt;"), ('q"q', "q&quot;q"), ("o'o", "o&apos;o"), ("n", "n.xml")],
)
def test_a_pause_releases_no_other_domains_lease(calm: Stack, name: str, escaped: str) -> None:
    """A1: libvirt XML-escapes the name in the pid file's name, so `escaped` has the file of `name`."""
    other, paused = calm.domain(name), calm.domain(escaped)
    with running(other, paused):
        result = by_hand(calm, URI, paused.uuid, "pause")
        assert result.returncode == 0, result.stderr
        assert "verified paused, no lease held" in result.stderr
        assert "released" not in result.stderr
        assert (paused.state().name, paused.leases()) == ("paused", [])
        assert (other.state().name, len(other.leases())) == ("running", 1)


@pytest.mark.parametrize(
    "name",
    [
        "R&D",
        "<b>",
        "it's",
        'say "hi"',
        "two words",
        "ünï",
        "名前",
        "a;b",
        "$(reboot)",
        "-x",
        "a\\b",
        "%s",
        "nl\nx",
    ],
)
def test_the_leases_of_a_domain_are_read_whatever_its_name(calm: Stack, name: str) -> None:
    """A2: the leases of `R&D` were not read, and it was done."""
    domain = calm.domain(name, transient="\n" in name)
    with running(domain):
        result = by_hand(calm, URI, domain.uuid, "pause")
        assert result.returncode == 0, result.stderr
        assert "found running, suspended, verified paused, no lease held" in result.stderr
        assert domain.uuid in records(calm)


def test_a_process_id_that_is_another_domains_is_not_used(calm: Stack) -> None:
    """A1's kind: the process id on the command line, by hand."""
    domain, other = calm.domain("named"), calm.domain("other")
    with running(domain, other):
        result = by_hand(calm, URI, domain.uuid, "pause", str(other.qemu_pid()))
        assert result.returncode == 0, result.stderr
        assert (domain.state().name, domain.leases()) == ("paused", [])
        assert (other.state().name, len(other.leases())) == ("running", 1)


# A9: pauses that end by themselves


@pytest.mark.parametrize("verb", ["dump", "save"])
def test_a_pause_outlasts_the_job_that_paused_the_domain(calm: Stack, verb: str) -> None:
    """A9: paused (dumping) was "verified paused", and ran half a second later."""
    domain = calm.domain("dumped", memory_mib=2048)
    with running(domain):
        pid = domain.qemu_pid()
        # libvirt passes some on before an aborted job ends: nothing is read until then.
        calm.run("mkfifo", f"/run/{verb}")
        script = f"exec 3<>/run/{verb}; read go; exec cat <&3 >/dev/null"
        reader = calm.popen("sh", "-c", script, stdin=subprocess.PIPE)
        job = calm.popen(*calm.libvirtd.virsh(verb, domain.uuid, f"/run/{verb}"))
        reason = {"dump": "dumping", "save": "saving"}[verb]
        wait_for(lambda: domain.state() == ("paused", reason), 10, f"the {verb}")

        call = calm.popen(str(HELPER), "--budget=20", URI, domain.uuid, "pause")
        wait_for(lambda: lines(calm, f"{domain.uuid}: try 1 failed"), 10, "the first try")
        assert reader.stdin is not None
        reader.stdin.write("go\n")
        reader.stdin.flush()
        _, errors = call.communicate(timeout=30)

        assert call.returncode == 0, errors
        assert "verified paused, no lease held" in errors
        assert "suspended" in errors
        job.wait(30)
        reader.kill()
        time.sleep(2)
        assert (domain.state().name, domain.leases(), domain.qemu_pid()) == ("paused", [], pid)
        assert domain.uuid in records(calm)
        calm.run("rm", f"/run/{verb}")


@pytest.mark.parametrize(
    ("options", "state", "reads"),
    [
        # Slower than the helper can wait, but for what an aborted dump leaves behind.
        ([], "running", "while :; do head -c 262144 <&3; sleep 1; done"),
        # Cannot be aborted.
        (["--memory-only"], "paused", "exec cat <&3"),
    ],
    ids=["live", "memory-only"],
)
def test_a_pause_outlasts_a_live_dump(calm: Stack, options: list[str], state: str, reads: str) -> None:
    """A9's kind: libvirt suspends none that is dumped live; QEMU itself pauses one for its memory alone."""
    # A live dump of less ends before it is found; one of the memory alone waits for its reader.
    domain = calm.domain(f"live{len(options)}", memory_mib=512 if options else 2048)
    with running(domain):
        pid, pipe = domain.qemu_pid(), "/run/live"
        calm.run("mkfifo", pipe)
        reader = calm.popen(
            "sh", "-c", f"exec 3<>{pipe}; read go; {{ {reads}; }} >/dev/null", stdin=subprocess.PIPE
        )
        job = calm.popen(*calm.libvirtd.virsh("dump", domain.uuid, pipe, "--live", *options))
        wait_for(
            lambda: job.poll() is not None or "Dump" in calm.virsh("domjobinfo", domain.uuid), 10, "the dump"
        )
        if job.poll() is not None:
            _, errors = job.communicate()
            reader.kill()
            calm.run("rm", pipe)
            assert "unsupported flags (0x2)" in errors, errors
            pytest.skip("this libvirt (12.8 is one) dumps no domain live")
        wait_for(lambda: domain.state().name == state, 10, f"it to be {state}")

        call = calm.popen(str(HELPER), "--budget=12", URI, domain.uuid, "pause")
        wait_for(lambda: lines(calm, f"{domain.uuid}: try 1 failed"), 10, "the first try")
        assert reader.stdin is not None
        reader.stdin.write("go\n")
        reader.stdin.flush()
        _, errors = call.communicate(timeout=30)

        assert call.returncode == 0, errors
        assert "suspended, verified paused, no lease held" in errors
        job.wait(30)
        reader.kill()
        time.sleep(1)
        assert (domain.state(), domain.leases(), domain.qemu_pid()) == (("paused", "user"), [], pid)
        calm.run("rm", pipe)


def test_a_guest_that_sleeps_is_woken_up_and_paused(calm: Stack) -> None:
    """Its leases are held in pmsuspended, libvirt suspends none that sleeps, and sanlock killed it."""
    domain = calm.domain("sleeper", on_lockfailure="pause")
    extend(calm, domain, "<features><acpi/></features><pm><suspend-to-mem enabled='yes'/></pm>")
    # Sleeps once: then a byte of the clock's memory is set.
    seen = b"\xb0\x44\xe6\x70\xe4\x71\x3c\xa5\x74\x0f\xb0\x44\xe6\x70\xb0\xa5\xe6\x71"
    boot(calm, domain, seen + b"\xba\x04\x06\xb8\x00\x24\xef" + HALT)
    with running(domain):
        wait_for(lambda: domain.state().name == "pmsuspended", 20, "it to sleep")
        assert len(domain.leases()) == 1
        result = by_hand(calm, "--budget=10", URI, domain.uuid, "pause")
        assert result.returncode == 0, result.stderr
        assert "found pmsuspended, woken up, suspended, verified paused, no lease held" in result.stderr
        assert (domain.state(), domain.leases()) == (("paused", "user"), [])
        assert domain.uuid in records(calm)


def test_a_preserved_crash_is_safe(calm: Stack) -> None:
    """Its leases are released when the guest panics; "FAILED ... crashed after the call"."""
    domain = calm.domain("panicked")
    extend(calm, domain, "<on_crash>preserve</on_crash>", "<panic model='isa'/>")
    boot(calm, domain, b"\xba\x05\x05\xb0\x01\xee" + HALT)
    domain.start()
    try:
        wait_for(lambda: domain.state().name == "crashed", 20, "its panic")
        result = by_hand(calm, "--budget=3", URI, domain.uuid, "pause")
        assert result.returncode == 0, result.stderr
        assert "found crashed, nothing to do, verified crashed, no lease held" in result.stderr
    finally:
        domain.destroy()
        domain.undefine()


def test_a_start_under_way_is_paused_when_it_has_ended(stack: Stack) -> None:
    """A9: paused (starting up)."""
    stack.write("/etc/libvirt/hooks/qemu", '#!/bin/sh\n[ "$2" != start ] || sleep 3\n', 0o755)
    stack.libvirtd.restart()
    domain = stack.domain("slow").define()
    start = stack.popen(*stack.libvirtd.virsh("start", domain.uuid))
    wait_for(lambda: domain.state() == ("paused", "starting up"), 10, "the start")
    result = by_hand(stack, "--budget=20", URI, domain.uuid, "pause")
    assert result.returncode == 0, result.stderr
    start.wait(30)
    assert (domain.state(), domain.leases()) == (("paused", "user"), [])


# A10: leases that libvirt cannot release

# A11: a domain that libvirtd has forgotten


@pytest.mark.parametrize("action", ["poweroff", "pause"])
@pytest.mark.parametrize("transient", [False, True], ids=["persistent", "transient"])
@pytest.mark.parametrize("is_passed", [False, True], ids=["", "pid"])
def test_a_process_that_libvirtd_has_forgotten_is_not_off(
    calm: Stack, action: str, transient: bool, is_passed: bool
) -> None:
    """A11: "found off, verified off", and its QEMU runs with its leases."""
    domain = calm.domain("forgotten", transient=transient).start()
    pid = domain.qemu_pid()
    calm.libvirtd.stop()
    calm.path("/run/libvirt/qemu/forgotten.xml").unlink()
    calm.libvirtd.start()
    try:
        assert domain.state().name == ("absent" if transient else "shut off")
        shown = document(calm, "status", "status")
        rows = [row for row in shown["domains"] if row["name"] == "forgotten"]
        if transient:
            assert (rows, len(shown["problems"])) == ([], 2), shown["problems"]
            assert f"process {pid} holds leases" in " ".join(shown["problems"])
        else:
            assert rows[0]["leases"] == {"__LIBVIRT__DISKS__": 1}
            assert rows[0]["at_loss"]["text"].startswith("SIGKILL at 48 s: libvirtd has it as off")
            planned = command(calm, "run", "--dry-run", action, domain.uuid).stdout
            assert "leases:  __LIBVIRT__DISKS__:" in planned
        words = [str(pid)] if is_passed else []
        result = by_hand(calm, "--budget=2", URI, domain.uuid, action, *words)
        assert result.returncode == 1, result.stderr
        assert "FAILED" in result.stderr
        assert f"process {pid}" in result.stderr
        assert "SIGKILL" in result.stderr
        assert "verified off" not in result.stderr
    finally:
        assert pid is not None
        calm.signal(pid, signal.SIGKILL)
        wait_for(lambda: not calm.is_alive(pid), 10, "its end")
    result = by_hand(calm, URI, domain.uuid, action)
    assert result.returncode == 0, result.stderr
    assert "verified off" in result.stderr
    if not transient:
        domain.undefine()


# A12: another run


def test_a_run_that_began_after_the_request_is_left_alone(stack: Stack) -> None:
    """A12: libvirtd was away, and the domain was started anew before the first lookup."""
    domain = stack.domain("anew").start()
    old = domain.qemu_pid()
    assert old is not None
    stack.libvirtd.stop()
    call = stack.popen(str(HELPER), URI, domain.uuid, "poweroff")
    wait_for(lambda: lines(stack, "trying again"), 10, "the first try")
    stack.signal(stack.pid_inside(call), signal.SIGSTOP)
    stack.signal(old, signal.SIGKILL)
    stack.libvirtd.start()
    domain.start()
    new = domain.qemu_pid()
    # nsenter stops with its child, and continues it.
    call.send_signal(signal.SIGCONT)
    _, errors = call.communicate(timeout=30)
    assert (domain.state().name, domain.qemu_pid()) == ("running", new)
    assert "another run was started since" in errors


def test_a_poweroff_right_after_a_restart_spares_the_new_run(stack: Stack) -> None:
    """A12: restart, and 0.2 s later poweroff: both are about the run that lost its leases."""
    domain = stack.domain("twice").start()
    old = domain.qemu_pid()
    restart = stack.popen(str(HELPER), URI, domain.uuid, "restart")
    time.sleep(0.1)
    poweroff = stack.popen(str(HELPER), URI, domain.uuid, "poweroff")
    for call in (restart, poweroff):
        call.communicate(timeout=30)
    wait_for(lambda: lines(stack, f"poweroff twice {domain.uuid}: done"), 10, "the poweroff")
    assert domain.state().name == "running"
    assert domain.qemu_pid() not in (None, old)
    assert len(domain.leases()) == 1


# Block jobs

# A MiB a second of this: it goes on for longer than a test.
SIZE = "64M"

BLOCK_JOBS = {
    "pull": (("blockpull", "{vm}", "vda", "1"),),
    "copy": (("blockcopy", "{vm}", "vda", "/run/stack/copy.img", "--transient-job", "--bandwidth", "1"),),
    "active commit": (
        ("snapshot-create-as", "{vm}", "top", "--disk-only", "--no-metadata"),
        ("blockcommit", "{vm}", "vda", "1", "--active"),
    ),
}


def on_overlay(stack: Stack, domain: Domain) -> None:
    """Give DOMAIN, not defined yet, a disk over a backing file with data."""
    (top,) = domain.disks
    base = f"{top}.base"
    stack.run("qemu-img", "create", "-q", "-f", "qcow2", base, SIZE)
    stack.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P 7 0 {SIZE}", base)
    stack.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top)
    domain.xml = domain.xml.replace("type='raw'", "type='qcow2'")
    stack.path(domain.xml_path).write_text(domain.xml)


@pytest.mark.parametrize("is_filed", [True, False])
@pytest.mark.parametrize("kind", sorted(BLOCK_JOBS))
def test_qemu_writes_to_no_disk_of_a_paused_domain(calm: Stack, kind: str, is_filed: bool) -> None:
    """ "verified paused, no lease held", and the job went on: QEMU wrote to a disk without its lease."""
    domain = calm.domain("busy")
    on_overlay(calm, domain)
    path = calm.path("/run/libvirt/qemu/busy.xml")
    with running(domain):
        for words in BLOCK_JOBS[kind]:
            calm.virsh(*(word.format(vm=domain.uuid) for word in words))
        assert calm.virsh("blockjob", domain.uuid, "vda", "--raw").strip()
        text = path.read_bytes()
        if not is_filed:
            path.unlink()
        result = by_hand(calm, URI, domain.uuid, "pause")
        if not path.exists():
            path.write_bytes(text)
        assert result.returncode == 0, result.stderr
        assert "aborted the block job of vda" in result.stderr
        assert "verified paused, no lease held" in result.stderr
        assert domain.state().name == "paused"
        assert calm.virsh("blockjob", domain.uuid, "vda", "--raw").strip() == ""
        assert domain.leases() == []
    images = domain.disks[0].rpartition(".")[0]
    calm.run("sh", "-c", f"rm -f {images}.* /run/stack/copy.img")


# A14: what is paused already


def test_a_poweroff_notes_what_its_administrator_did_not_pause(calm: Stack) -> None:
    """A14: paused, but not by `virsh suspend`: no record, and so never brought back."""
    stopped, paused = calm.domain("stopped"), calm.domain("suspended")
    with running(stopped, paused):
        # libvirt takes it for a pause of unknown reason, as it does an I/O error of which it knows no more.
        calm.virsh("qemu-monitor-command", stopped.uuid, '{"execute": "stop"}')
        wait_for(lambda: stopped.state().name == "paused", 10, "the stop")
        paused.suspend()
        for domain in (stopped, paused):
            assert by_hand(calm, URI, domain.uuid, "poweroff").returncode == 0
        assert stopped.uuid in records(calm)
        assert paused.uuid not in records(calm)


# A15: no libvirtd at all


def test_the_host_knows_its_domains_without_libvirtd(stacks: StackFactory) -> None:
    """A15: libvirtd away for the whole budget: no name in the journal, no record, never brought back."""
    stack = stacks(grace=GRACE)
    stack.install_helper(HELPER)
    domains = [
        stack.domain("R&D", on_lockfailure="poweroff", metadata=POLICY),
        stack.domain("held", on_lockfailure="pause", metadata=POLICY),
        stack.domain("passing", on_lockfailure="pause", metadata=POLICY, transient=True),
    ]
    stack.start_all(domains)
    pids = [domain.qemu_pid() for domain in domains]
    stack.libvirtd.stop()
    stack.storage.fail()
    wait_for(lambda: len(stack.helper_calls()) == 3, LOSS, "the loss")
    wait_for(lambda: len(lines(stack, "trying again")) >= 3, 5, "the first tries")
    for domain in domains:
        (first, *_) = lines(stack, domain.uuid)
        assert f"{domain.on_lockfailure} {domain.name} {domain.uuid}: " in first
    assert records(stack) == sorted(domain.uuid for domain in domains)
    for domain in domains:
        text = stack.path(f"{RUN_RECORDS}/{domain.uuid}.record").read_text()
        assert 'recover="yes"' in text.replace("\\x20", " ").replace("'", '"')
        assert "\nlease __LIBVIRT__DISKS__ " in text
    shown = document(stack, "status", "status")
    assert {row["name"]: row["at_loss"]["text"].split()[0] for row in shown["domains"]} == {
        "R&D": "powered", "held": "paused", "passing": "paused",
    }  # fmt: skip
    assert {row["name"]: row["lost"] for row in shown["domains"]}["held"] == ["__LIBVIRT__DISKS__"]
    assert any("libvirt's status files" in problem for problem in shown["problems"])
    wait_for(lambda: len(stack.sigkills()) == 3, 40, "sanlock's SIGKILL")
    assert {kill.pid for kill in stack.sigkills()} == set(pids)
    wait_for(lambda: len(lines(stack, "FAILED")) == 3, 10, "the verdicts")


def test_the_leases_are_on_record_without_a_status_file(calm: Stack) -> None:
    """Without them, recovery does not resume it: "its process was not found"."""
    domain = calm.domain("unfiled").start()
    path = calm.path("/run/libvirt/qemu/unfiled.xml")
    pid, text = domain.qemu_pid(), path.read_bytes()
    path.unlink()
    result = by_hand(calm, URI, domain.uuid, "pause")
    assert result.returncode == 0, result.stderr
    assert "verified paused, no lease held" in result.stderr
    record = calm.path(f"{RUN_RECORDS}/{domain.uuid}.record").read_text()
    assert f"\npid {pid}\n" in record
    assert "\nlease __LIBVIRT__DISKS__ " in record
    path.write_bytes(text)
    domain.destroy()
    domain.undefine()


def test_a_copy_of_a_status_file_costs_no_record(stack: Stack) -> None:
    """A newer file about an earlier run, and no libvirtd: no record was written."""
    domain = stack.domain("copied").start()
    path = stack.path("/run/libvirt/qemu/copied.xml")
    pid = domain.qemu_pid()
    copy = path.read_text().replace(f"pid='{pid}'", "pid='4194303'")
    stack.libvirtd.stop()
    path.with_name("copied-before.xml").write_text(copy)
    by_hand(stack, "--budget=1", URI, domain.uuid, "pause")
    assert records(stack) == [domain.uuid]
    assert f"\npid {pid}\n" in stack.path(f"{RUN_RECORDS}/{domain.uuid}.record").read_text()


@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_a_process_that_ends_while_libvirtd_is_away_is_safe(stack: Stack, action: str) -> None:
    """ "FAILED ... sanlock sends SIGKILL", to a process that had ended."""
    domain = stack.domain("ended").start()
    pid = domain.qemu_pid()
    assert pid is not None
    stack.libvirtd.stop()
    call = stack.popen(str(HELPER), "--budget=3", URI, domain.uuid, action)
    wait_for(lambda: lines(stack, "trying again"), 10, "the first try")
    stack.signal(pid, signal.SIGKILL)
    _, errors = call.communicate(timeout=30)
    assert call.returncode == 1
    assert "NOT DONE" in errors
    assert "the VM is safe (off)" in errors
    assert "SIGKILL" not in errors
    assert records(stack) == [domain.uuid]


# B7: ended before the first lookup


@pytest.mark.parametrize("action", ["poweroff", "restart", "pause"])
def test_a_transient_domain_that_is_gone_is_off(calm: Stack, action: str) -> None:
    """B7: off is the goal; it was logged as crit."""
    domain = calm.domain("gone", transient=True).start()
    domain.destroy()
    result = by_hand(calm, URI, domain.uuid, action)
    assert "verified off" in result.stderr
    assert "crit" not in [line.level for line in calm.journal(IDENTIFIER) if domain.uuid in line.message]
    assert result.returncode == (1 if action == "restart" else 0), result.stderr
