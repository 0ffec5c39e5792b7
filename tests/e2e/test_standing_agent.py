# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent that stands: it serves, it costs nothing while it waits, and nothing rests on it.

Issue 18: whatever becomes of it (killed, stopped, hung, ended, begun anew), at rest or over a request, every
request is served once and logged once.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from functools import partial
from typing import Callable

import pytest

from . import immutable
from .calls import SPOOL, call, helpers, messages, storm
from .conftest import Maker, StackFactory
from .lease_loss import (
    AUTH_CONF,
    GRACE,
    HELPER,
    LOSS,
    RUNTIME_DIR,
    assert_safe,
    outcomes,
    story,
    two_domains,
    wait_for_calls,
)
from .stack import CommandError, Stack
from .standing import COMMAND, CONNECTIONS, StandingAgent, connections
from .testdriver import URI, TestDomains
from .waiting import wait_for

# Half of an hour for all of them: `make e2e` runs them, `make modular` those that are marked so.
pytestmark = pytest.mark.long


# What the rule for a silent agent allows (stand_by.SILENT_SECONDS), and what starting another one takes here.
SILENCE = 3.0
START = 1.5

# Restarts of libvirtd under one agent; the full number is a week's.
RESTARTS = int(os.environ.get("SANLOCK_HELPER_RESTARTS", "20"))


@pytest.fixture
def stack(monolithic: Stack) -> Stack:
    """libvirt's test driver is in libvirtd alone."""
    return monolithic


def assert_all_logged_once(stack: Stack, uuids: list[str]) -> None:
    wait_for(lambda: set(outcomes(stack)) >= set(uuids), 15, "all outcomes")
    wait_for(lambda: not helpers(stack), 10, "all helpers to end")
    assert set(outcomes(stack)) == set(uuids)
    for lines in outcomes(stack).values():
        # One over whose logging an agent died is logged again, and marked.
        assert sum("(repeated: " not in line for line in lines) == 1, lines
    assert list(stack.path(SPOOL).iterdir()) == []


# It serves


def test_it_serves_one_storm_after_another(stack: Stack, domains: Maker) -> None:
    agent = StandingAgent(stack)
    pid = agent.wait_ready()
    vms = domains(32)
    for first, last in ((0, 1), (1, 31), (31, 32)):
        storm(stack, vms.uuids[first:last])
        wait_for(partial(vms.safe, *range(last, 32)), 10, "the VMs to be safe")
        assert_all_logged_once(stack, vms.uuids[:last])
        assert agent.wait_ready() == pid
    assert agent.end() == 0
    assert agent.pid == 0


def test_it_finds_what_came_before_it(stack: Stack, domains: Maker) -> None:
    vms = domains(3)
    libvirtd = stack.libvirtd.pid()
    stack.signal(libvirtd, signal.SIGSTOP)
    storm(stack, vms.uuids)
    wait_for(lambda: len(list(stack.path(SPOOL).glob("*"))) == 3, 10, "the requests")
    agent = StandingAgent(stack)
    time.sleep(2)
    assert agent.pid == 0, "another agent serves"
    stack.signal(libvirtd, signal.SIGCONT)
    wait_for(vms.safe, 10, "all VMs to be safe")
    assert_all_logged_once(stack, vms.uuids)
    agent.wait_ready()


@pytest.mark.modular
def test_a_loss(stacks: StackFactory) -> None:
    stack = stacks(grace=GRACE)
    stack.install_helper(HELPER)
    off, held = two_domains(stack)
    pid = held.qemu_pid()
    agent = StandingAgent(stack)
    standing = agent.wait_ready()
    stack.storage.fail()
    calls = wait_for_calls(stack, 2, LOSS + GRACE)
    wait_for(lambda: off.state().name == "shut off" and held.state().name == "paused", 5, "both safe")
    assert {call.status for call in calls.values()} == {0}
    assert_safe(stack, off, held, pid)
    wait_for(lambda: len(outcomes(stack)) == 2, 5, "both outcomes")
    lines = [line for lines in outcomes(stack).values() for line in lines]
    assert len(lines) == 2
    assert any(": done after" in line and "no lease held" in line for line in lines), lines
    assert agent.pid == standing


# It costs nothing while it waits


def switches(stack: Stack, pid: int) -> int:
    """How often its threads have slept, and so been woken."""
    found = 0
    for task in stack.path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        found += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


def ticks(stack: Stack, pid: int) -> int:
    fields = stack.path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_it_sleeps(stacks: StackFactory) -> None:
    """libvirtd's keepalive wakes it every 5 s for each connection: 18 times.

    sanlock's state it reads when renewals could have failed by, which is every 2.5 s at an io_timeout of 1 s,
    and every 10 s on a host.
    """
    stack = stacks(io_timeout=3, daemon="libvirtd")
    with closing(TestDomains(stack, 30)) as vms:
        pid = StandingAgent(stack).wait_ready()
        storm(stack, vms.uuids)
        wait_for(vms.safe, 10, "all VMs to be safe")
        time.sleep(2)
        before = switches(stack, pid), ticks(stack, pid)
        time.sleep(30)
        woken, busy = switches(stack, pid) - before[0], ticks(stack, pid) - before[1]
    assert woken < 30, f"{woken} in 30 s"
    assert busy / os.sysconf("SC_CLK_TCK") <= 0.03, f"{busy} ticks in 30 s"


# Nothing rests on it


def kill(stack: Stack, agent: StandingAgent) -> None:
    agent.signal(signal.SIGKILL)


def stop(stack: Stack, agent: StandingAgent) -> None:
    agent.signal(signal.SIGSTOP)


def end(stack: Stack, agent: StandingAgent) -> None:
    agent.signal(signal.SIGTERM)


@pytest.mark.parametrize("restarts", [True, False])
@pytest.mark.parametrize("fault", [kill, stop, end])
def test_at_rest(
    stack: Stack, domains: Maker, fault: Callable[[Stack, StandingAgent], None], restarts: bool
) -> None:
    vms = domains(12)
    agent = StandingAgent(stack, restarts=restarts)
    pid = agent.wait_ready()
    time.sleep(2)
    fault(stack, agent)
    start = time.monotonic()
    call(stack, vms.uuids[0])
    time.sleep(0.3)
    storm(stack, vms.uuids[1:])
    wait_for(vms.safe, 10, "all VMs to be safe")
    assert time.monotonic() - start < SILENCE + START
    assert_all_logged_once(stack, vms.uuids)
    if restarts:
        agent.wait_ready(but=pid)


@pytest.mark.parametrize("restarts", [True, False])
@pytest.mark.parametrize("fault", [kill, stop, end])
def test_over_requests(
    stack: Stack, domains: Maker, fault: Callable[[Stack, StandingAgent], None], restarts: bool
) -> None:
    vms = domains(12)
    agent = StandingAgent(stack, URI, restarts)
    agent.wait_ready()
    time.sleep(2)
    libvirtd = stack.libvirtd.pid()
    stack.signal(libvirtd, signal.SIGSTOP)
    storm(stack, vms.uuids)
    wait_for(lambda: len(list(stack.path(SPOOL).glob("*.pause.*"))) == 12, 10, "the requests")
    time.sleep(0.5)
    fault(stack, agent)
    start = time.monotonic()
    stack.signal(libvirtd, signal.SIGCONT)
    wait_for(vms.safe, 10, "all VMs to be safe")
    assert time.monotonic() - start < SILENCE + START
    assert_all_logged_once(stack, vms.uuids)


@pytest.mark.parametrize("action", ["pause", "restart"])
def test_one_that_is_stopped_for_a_moment_goes_on(stack: Stack, domains: Maker, action: str) -> None:
    vms = domains(12)
    agent = StandingAgent(stack, URI)
    pid = agent.wait_ready()
    time.sleep(2)
    stop(stack, agent)
    storm(stack, vms.uuids, action)
    time.sleep(1.5)
    stack.signal(pid, signal.SIGCONT)
    assert_all_logged_once(stack, vms.uuids)
    assert agent.pid == pid
    assert "showed no sign of life" not in messages(stack)


def test_one_that_is_stopped_and_cannot_be_killed(stack: Stack, domains: Maker) -> None:
    vms = domains(12)
    script = f'unshare --pid --fork --mount-proc "{COMMAND}" agent </dev/null >/dev/null 2>&1 &'
    stack.run("sh", "-c", script)
    lock = stack.path(f"{RUNTIME_DIR}/agent.lock")
    wait_for(lambda: lock.exists() and lock.stat().st_atime_ns == 0, 20, "the agent to stand")
    (pid,) = [p.pid for p in stack.processes() if "agent" in p.cmdline and p.cmdline[0] != "unshare"]
    time.sleep(2)
    stack.signal(pid, signal.SIGSTOP)
    start = time.monotonic()
    storm(stack, vms.uuids, "restart")
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 15, "all outcomes")
    assert time.monotonic() - start < SILENCE + 0.5 + 2 * START
    assert "cannot be killed: this process serves beside it" in messages(stack)
    stack.signal(pid, signal.SIGCONT)
    wait_for(lambda: not stack.is_alive(pid), 10, "the agent that was served beside to end")
    assert_all_logged_once(stack, vms.uuids)


def test_a_lone_call_to_one_that_is_stopped(stack: Stack, domains: Maker) -> None:
    vms = domains(1)
    agent = StandingAgent(stack)
    agent.wait_ready()
    time.sleep(2)
    stop(stack, agent)
    start = time.monotonic()
    call(stack, vms.uuids[0])
    wait_for(vms.safe, 10, "the VM to be safe")
    assert time.monotonic() - start < SILENCE + START
    assert_all_logged_once(stack, vms.uuids)


# Its surroundings


def test_a_second_one_does_not_stand(stack: Stack) -> None:
    agent = StandingAgent(stack)
    pid = agent.wait_ready()
    with pytest.raises(CommandError, match=rf"another agent stands already \(process {pid}\)"):
        stack.run(str(COMMAND), "agent")
    assert agent.pid == pid


@pytest.mark.parametrize(
    "remove",
    [f"rm -r {SPOOL}", f"mv {RUNTIME_DIR} /run/away", f"mv {SPOOL} /run/away", f"rm {RUNTIME_DIR}/*.lock"],
)
def test_a_spool_that_is_removed(stack: Stack, domains: Maker, remove: str) -> None:
    vms = domains(3)
    agent = StandingAgent(stack, restarts=True)
    pid = agent.wait_ready()
    stack.run("sh", "-c", remove)
    agent.wait_ready(but=pid)
    storm(stack, vms.uuids)
    wait_for(vms.safe, 10, "all VMs to be safe")
    assert_all_logged_once(stack, vms.uuids)


def test_a_spool_that_cannot_be_changed_for_a_while(stack: Stack, domains: Maker) -> None:
    immutable.require_immutable_directories()
    immutable.put_on_ext4(stack, RUNTIME_DIR)
    vms = domains(6)
    agent = StandingAgent(stack, URI)
    agent.wait_ready()
    libvirtd = stack.libvirtd.pid()
    stack.signal(libvirtd, signal.SIGSTOP)
    storm(stack, vms.uuids[:3])
    wait_for(lambda: len(list(stack.path(SPOOL).glob("*.pause.*"))) == 3, 10, "the requests")
    time.sleep(1)
    immutable.set_immutable(stack, SPOOL)
    storm(stack, vms.uuids[3:])
    time.sleep(0.5)
    stack.signal(libvirtd, signal.SIGCONT)
    wait_for(vms.safe, 10, "all VMs to be safe")
    wait_for(lambda: not helpers(stack), 20, "all helpers to end")
    assert agent.pid == 0
    immutable.clear_immutable(stack, SPOOL)
    agent.wait_ready()
    acted = [[line for line in lines if ": done after" in line] for lines in outcomes(stack).values()]
    assert [len(lines) for lines in acted] == [1] * len(vms.uuids), acted


@pytest.mark.modular
def test_what_cannot_be_moved_out_of_the_spool_does_not_end_it(stack: Stack, domains: Maker) -> None:
    vms = domains(4)
    agent = StandingAgent(stack, URI)
    pid = agent.wait_ready()
    odd = f"{SPOOL}/{vms.uuids[3]}.pause.{1:016d}-7"
    stack.run("sh", "-c", f"mkdir {odd} && mount -t tmpfs none {odd}")
    time.sleep(1.5)
    for uuid in vms.uuids[:3]:
        call(stack, uuid)
        time.sleep(SILENCE / 2)
    wait_for(lambda: vms.safe(3), 10, "the VMs to be safe")
    time.sleep(SILENCE)
    assert agent.pid == pid, messages(stack)
    stack.run("sh", "-c", f"umount {odd} && rmdir {odd}")
    assert_all_logged_once(stack, vms.uuids[:3])
    assert "showed no sign of life" not in messages(stack)


# A log in the place of syslog's that no process reads; the argument: what is made then.
HUNG_LOG = """
import os, socket, sys, time
os.rename("/dev/log", "/dev/log.away")
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
open(sys.argv[1], "w").close()
time.sleep(600)
"""


def test_a_log_that_hangs_does_not_end_it(stack: Stack, domains: Maker) -> None:
    vms = domains(12)
    if stack.run("sh", "-c", "echo 1 > /proc/sys/net/unix/max_dgram_qlen", check=False).returncode:
        pytest.skip("the length of a socket's queue cannot be set here")
    hung = stack.popen("/usr/bin/python3", "-ISc", HUNG_LOG, "/run/hung")
    wait_for(lambda: stack.path("/run/hung").exists(), 10, "the log that hangs")
    agent = StandingAgent(stack, URI)
    pid = agent.wait_ready()
    storm(stack, vms.uuids)
    wait_for(vms.safe, 10, "all VMs to be safe")
    assert list(stack.path(SPOOL).iterdir()), "the log has taken all"
    time.sleep(2 * SILENCE)
    assert agent.pid == pid
    stack.run("mv", "-f", "/dev/log.away", "/dev/log")
    hung.kill()
    hung.wait()
    wait_for(lambda: not list(stack.path(SPOOL).iterdir()), 10, "the outcomes to be logged")
    wait_for(lambda: not helpers(stack), 10, "all helpers to end")
    assert agent.pid == pid
    # But for what was in the queue of the log that hung.
    assert len(outcomes(stack)) >= len(vms.uuids) - 2


def threads_and_descriptors(stack: Stack, pid: int) -> tuple[int, int]:
    process = stack.path(f"/proc/{pid}")
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


def grown(before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    """Whether one of NOW is more than it was."""
    return any(later > earlier for earlier, later in zip(before, now))


def resident(stack: Stack, pid: int) -> int:
    """In KiB."""
    status = stack.path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nVmRSS:")[2].split()[0])


def test_libvirtd_restarts(stack: Stack, domains: Maker) -> None:
    agent = StandingAgent(stack)
    pid = agent.wait_ready()
    wait_for(lambda: connections(stack) == CONNECTIONS, 5, "its connections")
    after_ten: tuple[int, int, int] | None = None
    for number in range(RESTARTS):
        stack.libvirtd.restart()
        wait_for(lambda: connections(stack) == CONNECTIONS, 15, "its connections")
        if number == min(10, RESTARTS // 2):
            after_ten = *threads_and_descriptors(stack, pid), resident(stack, pid)
    assert after_ten is not None
    # libvirtd counts a new connection before this process has closed the descriptor of the last one.
    wait_for(lambda: not grown(after_ten, threads_and_descriptors(stack, pid)), 15, "no more than after ten")
    assert resident(stack, pid) - after_ten[2] < 1024, "more than a MiB"
    vms = domains(3)
    storm(stack, vms.uuids)
    wait_for(vms.safe, 10, "all VMs to be safe")
    assert agent.pid == pid


def test_libvirtd_that_hangs_at_rest(stack: Stack, domains: Maker) -> None:
    vms = domains(3)
    agent = StandingAgent(stack, URI)
    pid = agent.wait_ready()
    libvirtd = stack.libvirtd.pid()
    stack.signal(libvirtd, signal.SIGSTOP)
    # Longer than the keepalive bears.
    time.sleep(45)
    stack.signal(libvirtd, signal.SIGCONT)
    time.sleep(1)
    start = time.monotonic()
    storm(stack, vms.uuids)
    wait_for(vms.safe, 10, "all VMs to be safe")
    assert time.monotonic() - start < 3
    assert agent.pid == pid


def test_a_wrong_password(stack: Stack, domains: Maker) -> None:
    stack.enable_sasl("sanlock", "open sesame")
    stack.write_auth_conf(AUTH_CONF.format("sanlock", "wrong"))
    agent = StandingAgent(stack, URI)
    pid = agent.wait_ready()
    wait_for(lambda: "has no connection" in messages(stack), 10, "the line in the journal")
    time.sleep(12)
    log = stack.path("/var/log/libvirtd.log").read_text()
    assert log.count("virNetSASLSessionServerStep") == 1, "logins that libvirtd refused"
    (line,) = [line.message for line in story(stack) if "has no connection" in line.message]
    assert "trying again every 300 s, and with each request" in line
    # With a request it is tried again, by the rule for all: and the right one is let in.
    stack.write_auth_conf(AUTH_CONF.format("sanlock", "open sesame"))
    vms = domains(12)
    start = time.monotonic()
    storm(stack, vms.uuids)
    wait_for(vms.safe, 10, "all VMs to be safe")
    assert time.monotonic() - start < 3
    assert_all_logged_once(stack, vms.uuids)
    assert agent.pid == pid
