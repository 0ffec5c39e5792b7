# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way from sanlock's call to a safe virtual machine, on the real thing."""

from __future__ import annotations

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import pytest

from .binding import hidden, libraries
from .conftest import StackFactory
from .domains import Domain
from .lease_loss import (
    AUTH_CONF,
    GRACE,
    HELPER,
    IDENTIFIER,
    LOSS,
    URI,
    assert_safe,
    by_hand,
    logged,
    story,
    two_domains,
    wait_for_calls,
)
from .stack import Stack
from .waiting import wait_for

pytestmark = pytest.mark.modular

# One outage each


def test_outage(stack: Stack) -> None:
    stack.install_helper(HELPER)
    off, held = two_domains(stack)
    pid = held.qemu_pid()

    stack.storage.fail()
    calls = wait_for_calls(stack, 2, LOSS)

    assert_safe(stack, off, held, pid)
    assert calls["poweroff"].argv == (URI, off.uuid, "poweroff")
    assert {call.status for call in calls.values()} == {0}
    assert "HOME" not in calls["pause"].environ
    lines = {line.message.split()[0]: line for line in story(stack)}
    assert len(story(stack)) == 2
    logged = "".join(call.stderr for call in calls.values())
    for action, name, uuid, words in (
        ("poweroff", "off", off.uuid, "found running, destroyed, verified off"),
        ("pause", "held", held.uuid, "found running, suspended, verified paused, no lease held"),
    ):
        line = lines[action]
        assert line.message.startswith(f"{action} {name} {uuid}: done after ")
        assert line.message.endswith(words)
        assert (line.facility, line.level) == ("daemon", "notice")
        # One process served both, unless the other came when it was done.
        assert f"{IDENTIFIER}: {line.message}\n" in logged


Absence = Callable[[Stack], None]


def stopped(stack: Stack) -> None:
    stack.libvirtd.stop()


def back_from_stopped(stack: Stack) -> None:
    stack.libvirtd.start()


def frozen(stack: Stack) -> None:
    stack.libvirtd.freeze()


def back_from_frozen(stack: Stack) -> None:
    stack.libvirtd.thaw()


def outage_without_libvirtd(
    stack: Stack, leave: Absence, come_back: Absence
) -> tuple[Domain, Domain, int | None]:
    """libvirtd leaves before the loss and is back 8 s after it."""
    off, held = two_domains(stack)
    pid = held.qemu_pid()
    leave(stack)
    stack.storage.fail()
    wait_for(lambda: len(stack.helper_calls()) == 2, LOSS, "the loss")
    lost_at = max(call.start for call in stack.helper_calls())
    time.sleep(max(0.0, lost_at + 8 - time.time()))
    come_back(stack)
    return off, held, pid


@pytest.mark.parametrize(("leave", "come_back"), [(stopped, back_from_stopped), (frozen, back_from_frozen)])
def test_outage_while_libvirtd_is_away(stacks: StackFactory, leave: Absence, come_back: Absence) -> None:
    stack = stacks(grace=GRACE)
    stack.install_helper(HELPER)
    off, held, pid = outage_without_libvirtd(stack, leave, come_back)
    calls = wait_for_calls(stack, 2, GRACE)
    assert_safe(stack, off, held, pid)
    assert {call.status for call in calls.values()} == {0}
    if leave is stopped:
        assert {line.level for line in story(stack)} == {"warning", "notice"}


@pytest.mark.long
def test_libvirts_helper_loses_both_while_libvirtd_is_away(stacks: StackFactory) -> None:
    """The comparison: one try, and 40 s later (here 20) sanlock kills what should have been paused."""
    stack = stacks(grace=GRACE)
    off, held, pid = outage_without_libvirtd(stack, stopped, back_from_stopped)
    wait_for(lambda: len(stack.sigkills()) >= 2, GRACE + 10, "two SIGKILLs")
    assert pid in {kill.pid for kill in stack.sigkills()}
    assert {call.status for call in stack.helper_calls()} == {1}
    wait_for(lambda: held.state().name == "shut off", 10, "libvirt to notice")
    assert off.state().name == "shut off"
    assert story(stack) == []


def test_a_process_that_is_no_vm(stacks: StackFactory) -> None:
    grace = 6
    stack = stacks(grace=grace)
    stack.install_helper(HELPER)
    uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f"
    holder = stack.leaseholder(
        stack.make_resource("lease"), stack.helper_path, "my:///process", uuid, "ignore"
    )
    stack.storage.fail(resources=True)
    holder.wait(LOSS + grace)
    # sanlock logs in a thread of its own.
    wait_for(stack.sigkills, 5, "sanlock's SIGKILL in its log")
    assert [kill.pid for kill in stack.sigkills()] == [holder.pid]
    (call,) = stack.helper_calls()
    assert (call.argv, call.status) == (("my:///process", uuid, "ignore"), 0)
    (line,) = story(stack)
    # What was foretold is what came, to the second that sanlock counts in.
    foretold = time.strptime(line.message.partition("SIGKILL at ")[2][:8], "%H:%M:%S")
    came = time.localtime(stack.sigkills()[0].time)
    apart = (came.tm_min * 60 + came.tm_sec) - (foretold.tm_min * 60 + foretold.tm_sec)
    assert abs((apart + 1800) % 3600 - 1800) <= 2


# By hand


def test_restart_of_a_healthy_domain(stack: Stack) -> None:
    domain = stack.domain("vm1", on_lockfailure="poweroff").start()
    pid = domain.qemu_pid()
    result = by_hand(stack, URI, domain.uuid, "restart")
    assert result.returncode == 0, result.stderr
    assert "destroyed, started again, verified running again" in result.stderr
    assert domain.state().name == "running"
    assert domain.qemu_pid() not in (None, pid)
    assert len(domain.leases()) == 1


def test_restart_of_a_transient_domain(stack: Stack) -> None:
    domain = stack.domain("vm1", transient=True).start()
    pid = domain.qemu_pid()
    result = by_hand(stack, URI, domain.uuid, "restart")
    assert result.returncode == 0, result.stderr
    assert domain.state().name == "running"
    assert domain.qemu_pid() not in (None, pid)


def test_restart_without_storage_leaves_the_domain_off_and_logs_why(stack: Stack) -> None:
    stack.install_helper(HELPER)
    domain = stack.domain("vm1", on_lockfailure="pause").start()
    stack.storage.fail()
    wait_for_calls(stack, 1, LOSS)
    wait_for(lambda: not stack.lockspaces(), 10, "sanlock to leave the lockspace")
    result = by_hand(stack, URI, domain.uuid, "restart")
    assert result.returncode == 1
    assert domain.state().name == "shut off"
    assert (
        "the VM is safe, but was not started again: start the domain: Failed to acquire lock" in result.stderr
    )
    assert logged(stack, "was not started again").level == "err"


def test_already_there_is_success(stack: Stack) -> None:
    off = stack.domain("off", "poweroff").define()
    assert "found off, nothing to do, verified off" in by_hand(stack, URI, off.uuid, "poweroff").stderr
    result = by_hand(stack, URI, off.uuid, "pause")
    assert (result.returncode, "there is nothing to pause" in result.stderr) == (0, True)
    off.start()
    off.suspend()
    result = by_hand(stack, URI, off.uuid, "pause")
    assert (
        result.returncode,
        "found paused, nothing to do, verified paused, no lease held" in result.stderr,
    ) == (
        0,
        True,
    )


def test_a_domain_that_nothing_on_the_host_knows_is_off(calm: Stack) -> None:
    """libvirt has forgotten a transient one so, when it has ended before the first lookup."""
    start = time.monotonic()
    result = by_hand(calm, URI, "6695eb01-f6a4-8304-79aa-97f2502e193f", "poweroff")
    assert result.returncode == 0, result.stderr
    assert "verified off, libvirt does not know it, and no process of this host runs it" in result.stderr
    assert time.monotonic() - start < 3
    assert logged(calm, "6695eb01-f6a4-8304-79aa-97f2502e193f").level == "notice"


def test_leases_that_cannot_be_read_are_a_failure(stack: Stack) -> None:
    """Without any of sanlock's client libraries: paused, and that is all that is known."""
    domain = stack.domain("vm1").start()
    # Its daemons have theirs.
    with hidden(stack, *libraries(stack)):
        result = by_hand(stack, "--budget=3", URI, domain.uuid, "pause")
    assert result.returncode == 1
    assert re.search(
        "read its leases: it is paused, but .*libsanlock_client.so.1: .*install sanlock-lib", result.stderr
    )
    assert "SIGKILL" in result.stderr
    assert domain.state().name == "paused"


# Stops the processors behind libvirtd's back, which serves no other client at a monitor's socket.
QMP_STOP = """
import json, socket, sys
monitor = socket.socket(socket.AF_UNIX)
monitor.connect(sys.argv[1])
lines = monitor.makefile("rw")
for command in ("qmp_capabilities", "stop"):
    lines.readline()
    lines.write(json.dumps({"execute": command}))
    lines.flush()
while "return" not in json.loads(lines.readline()):
    pass
"""


def test_leases_that_a_libvirtd_left_when_it_died_are_given_up(stack: Stack) -> None:
    domain = stack.domain("vm1").start()
    pid = domain.qemu_pid()
    # As a libvirtd that dies in a suspend, after QEMU's stop and before it gives the leases up.
    stack.libvirtd.kill()
    monitor = stack.run("sh", "-c", "ls /var/lib/libvirt/qemu/domain-*-vm1/monitor.sock").stdout.strip()
    stack.run("/usr/bin/python3", "-c", QMP_STOP, monitor)
    stack.libvirtd.start()
    assert (domain.state().name, len(domain.leases())) == ("paused", 1)
    stack.virsh("suspend", domain.uuid)
    assert len(domain.leases()) == 1, "libvirt gives them up after all"

    result = by_hand(stack, "--budget=5", URI, domain.uuid, "pause")

    assert result.returncode == 0, result.stderr
    assert "paused, no lease held" in result.stderr
    assert "libvirtd had left" in result.stderr
    assert (domain.state().name, domain.leases(), domain.qemu_pid()) == ("paused", [], pid)
    domain.resume()
    assert (domain.state().name, len(domain.leases())) == ("running", 1)


# libvirtd misbehaves


def test_a_libvirtd_that_never_answers_does_not_hang_the_helper(stack: Stack) -> None:
    domain = stack.domain("vm1").start()
    stack.libvirtd.freeze()
    start = time.monotonic()
    result = by_hand(stack, "--budget=4", URI, domain.uuid, "pause")
    took = time.monotonic() - start
    stack.libvirtd.thaw()
    assert result.returncode == 1
    assert "no answer from libvirtd" in result.stderr
    assert 3.9 < took < 5
    # The tries that were given up touch nothing when libvirtd comes back.
    time.sleep(1)
    assert domain.state().name == "running"


# Listens at a socket: what connects first is accepted and never answered, the rest is passed on to libvirtd.
DEAF_ONCE = """
import select, socket, sys, threading

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
deaf = listener.accept()
def pump(source, target):
    while True:
        data = source.recv(65536)
        if not data:
            target.shutdown(socket.SHUT_WR)
            return
        target.sendall(data)
while True:
    client, _ = listener.accept()
    server = socket.socket(socket.AF_UNIX)
    server.connect("/run/libvirt/libvirt-sock")
    for pair in ((client, server), (server, client)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


def test_an_attempt_that_hangs_is_tried_on_a_fresh_connection(stack: Stack) -> None:
    domain = stack.domain("vm1").start()
    deaf = stack.popen("/usr/bin/python3", "-c", DEAF_ONCE, "/run/deaf")
    assert deaf.stdout is not None
    assert deaf.stdout.readline() == "ready\n"
    start = time.monotonic()
    result = by_hand(stack, "--budget=7", "qemu+unix:///system?socket=/run/deaf", domain.uuid, "pause")
    assert result.returncode == 0, result.stderr
    assert 2 <= time.monotonic() - start < 4
    assert "no answer from libvirtd within 2.0 s; trying again" in result.stderr
    assert domain.state().name == "paused"


def test_a_connection_that_breaks_in_the_middle_of_a_call(stack: Stack) -> None:
    domain = stack.domain("vm1").start()
    pid = domain.qemu_pid()
    assert pid is not None
    # QEMU does not answer its monitor, so the suspend is under way when libvirtd dies.
    stack.signal(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(by_hand, stack, "--budget=30", URI, domain.uuid, "pause")
        wait_for(lambda: is_in_monitor(stack, domain), 10, "the suspend to be under way")
        stack.libvirtd.kill()
        stack.signal(pid, signal.SIGCONT)
        stack.libvirtd.start()
        result = future.result()
    assert result.returncode == 0, result.stderr
    assert "suspend the domain: " in result.stderr
    assert "verified paused, no lease held" in result.stderr
    assert domain.qemu_pid() == pid


def is_in_monitor(stack: Stack, domain: Domain) -> bool:
    """Whether libvirtd waits for an answer of the domain's QEMU."""
    return stack.virsh("domcontrol", domain.uuid).startswith("occupied")


# Authentication


def test_sasl(stack: Stack) -> None:
    stack.install_helper(HELPER)
    off, held = two_domains(stack)
    pid = held.qemu_pid()
    stack.enable_sasl("sanlock", "open sesame")

    # None at all, and wrong ones: one line, at once, and where they came from; one login every five seconds.
    for text, words in (
        ("", ("no authentication file",)),
        (
            AUTH_CONF.format("sanlock", "wrong-Pa55word"),
            ("/etc/libvirt/auth.conf", "[credentials-sanlock]"),
        ),
        (
            "[auth-libvirt-localhost]\n",
            ("/etc/libvirt/auth.conf", "[auth-libvirt-localhost]", "credentials"),
        ),
        ("[broken\n", ("/etc/libvirt/auth.conf:1",)),
    ):
        if text:
            stack.write_auth_conf(text)
        start = time.monotonic()
        result = by_hand(stack, "--budget=1", URI, held.uuid, "pause")
        assert result.returncode == 1
        first, last = result.stderr.splitlines()
        assert first.endswith(f"; trying again every 5 s, with one login for all VMs of {URI}")
        assert ": FAILED after 1." in last
        assert all(word in result.stderr for word in words), result.stderr
        assert "Pa55word" not in result.stderr + "".join(line.message for line in story(stack))
        assert time.monotonic() - start < 3
        assert held.state().name == "running"

    stack.write_auth_conf(AUTH_CONF.format("sanlock", "open sesame"))
    stack.storage.fail()
    wait_for_calls(stack, 2, LOSS)
    assert_safe(stack, off, held, pid)
