# SPDX-License-Identifier: LGPL-2.1-or-later
"""Renewals that fail: warnings before the lockspace is lost, a countdown, a notice when they are back.

Issue 19: what is shown and logged is compared with sanlock's own clock, and with what it does then.
"""

from __future__ import annotations

import re
import signal
import time
from typing import Any

import pytest

from .calls import storm
from .command import COMMAND, document, export_journal, install_ours, run
from .conftest import Maker, StackFactory
from .lease_loss import HELPER, logged, story, two_domains
from .recovery import POLICY
from .stack import Stack
from .standing import StandingAgent
from .terminal import Terminal
from .testdriver import URI as TEST_URI
from .waiting import wait_for

LOCKSPACE = "__LIBVIRT__DISKS__"
OTHER = "other"
RENEWALS = "lockspace |about to lose lockspace |sanlock has left lockspace "

# A number is right within a second; a busy machine has its share.
RIGHT_WITHIN = 1.25


def warnings(stack: Stack) -> list[str]:
    """What the journal has of the renewals, in order."""
    return [line.message for line in story(stack) if re.match(RENEWALS, line.message)]


def last_success(stack: Stack) -> int:
    """When the lockspace was renewed last, on CLOCK_MONOTONIC, by sanlock's own program."""
    text = stack.run("sanlock", "client", "status", "-D").stdout
    found = re.search(rf"^s {LOCKSPACE}:.*?renewal_last_success=(\d+)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, text
    return int(found[1])


def shown(stack: Stack, name: str = LOCKSPACE) -> dict[str, Any]:
    """The lockspace as `status` has it."""
    spaces = {space["name"]: space for space in document(stack, "status", "status")["lockspaces"]}
    found: dict[str, Any] = spaces[name]
    return found


def short_outage(stack: Stack) -> None:
    """An outage that is over as soon as it was warned of."""
    stack.storage.fail()
    warned = logged(stack, f"lockspace {LOCKSPACE}: no renewal for ", 10)
    stack.storage.restore()
    back = logged(stack, "renewed again", 10)
    assert (warned.level, back.level) == ("warning", "notice")


def test_a_warning_and_a_notice(stack: Stack) -> None:
    StandingAgent(stack).wait_ready()
    short_outage(stack)
    assert len(warnings(stack)) == 2, warnings(stack)


@pytest.mark.long
def test_a_short_outage(stack: Stack) -> None:
    off, held = two_domains(stack)
    StandingAgent(stack).wait_ready()
    short_outage(stack)
    # As long as a loss would take, and its helper.
    time.sleep(10)
    assert len(warnings(stack)) == 2, warnings(stack)
    assert "1 paused: held; 1 powered off: off;" in warnings(stack)[0]
    assert (off.state().name, held.state().name) == ("running", "running")
    assert stack.sanlock_kills() == []
    (outage,) = document(stack, "history", "history", "--journal", export_journal(stack))["outages"]
    assert [event["kind"] for event in outage["renewals"]] == ["warned", "renewed"]
    assert (outage["lost"], outage["domains"]) == ([], [])
    text = run(stack, "history", "--journal", export_journal(stack)).stdout
    assert re.match(r"renewals failed at \S+ \S+, nothing was lost: 0 domains\n", text), text


@pytest.mark.long
def test_a_sanlock_that_hangs_holds_no_request_up(monolithic: Stack, domains: Maker) -> None:
    vms = domains(8)
    pid = StandingAgent(monolithic, TEST_URI).wait_ready()
    monolithic.sanlock.freeze()
    # The watch has asked, and waits.
    time.sleep(5.5)
    start = time.monotonic()
    storm(monolithic, vms.uuids)
    wait_for(vms.safe, 10, "all VMs to be safe")
    assert time.monotonic() - start < 3
    monolithic.sanlock.thaw()
    assert monolithic.is_alive(pid)


@pytest.mark.long
def test_a_loss(stacks: StackFactory) -> None:
    stack = stacks(grace=20)
    stack.install_helper(HELPER)
    two_domains(stack)
    plain = stack.domain("plain", "default").start()
    # Of another program, and slower.
    path = stack.make_resource("unused").path.replace("unused", OTHER)
    stack.path(path).touch(0o600)
    stack.path(path).write_bytes(bytes(1 << 20))
    stack.run("sanlock", "client", "init", "-s", f"{OTHER}:0:{path}:0", "-o", "1")
    stack.run("sanlock", "client", "add_lockspace", "-s", f"{OTHER}:1:{path}:0", "-o", "2")
    StandingAgent(stack).wait_ready()
    stack.storage.fail(resources=True)
    first = logged(stack, f"lockspace {LOCKSPACE}: no renewal for ", 12)
    second = logged(stack, f"about to lose lockspace {LOCKSPACE}: ", 12)
    wait_for(stack.sanlock_kills, 12, "the loss")
    lost_at = time.time()
    logged(stack, ": done after", 10)
    for line in (first, second):
        assert "1 paused: held; 1 powered off: off; 1 ended with SIGTERM: plain;" in line.message
        clock = re.search(r"lost at (\d\d:\d\d:\d\d), in (\d+) s", line.message)
        assert clock is not None, line.message
        at = line.time + int(clock[2])
        assert abs(at - lost_at) <= 2
        assert clock[1] in {time.strftime("%H:%M:%S", time.localtime(at + step)) for step in (-1, 0, 1)}
        sigkill = re.search(r"SIGKILL at (\S+), in (\d+) s", line.message)
        assert sigkill is not None
        assert int(sigkill[2]) - int(clock[2]) == 20
        assert "no watchdog resets this host" in line.message
    other = logged(stack, f"about to lose lockspace {OTHER}: ", 12)
    assert "no VM has a lease in it, and none that needs one starts here" in other.message
    assert plain.qemu_pid() is None
    wait_for(lambda: not stack.lockspaces(), 20, "sanlock to leave both")
    time.sleep(2)
    assert len(warnings(stack)) == 4, warnings(stack)


@pytest.mark.long
@pytest.mark.parametrize("removed", [True, False])
def test_a_lockspace_that_goes_before_it_is_lost(stack: Stack, removed: bool) -> None:
    StandingAgent(stack).wait_ready()
    stack.storage.fail()
    logged(stack, f"lockspace {LOCKSPACE}: no renewal for ", 10)
    if removed:
        where = f"{LOCKSPACE}:1:{stack.storage.lockspace_path}:0"
        stack.popen("sanlock", "client", "rem_lockspace", "-s", where)
    else:
        stack.sanlock.kill()
        stack.sanlock.start()
    gone = logged(stack, f"sanlock has left lockspace {LOCKSPACE}, ", 10)
    assert gone.level == "notice"
    time.sleep(8)
    assert len(warnings(stack)) == 2, warnings(stack)


# status, without an agent


def countdown(terminal: Terminal, word: str) -> tuple[float, int] | None:
    """The seconds behind WORD on the screen, and when they were read."""
    now = time.monotonic()
    for line in terminal.lines():
        if found := re.search(rf"{word} in (\d+) s", line):
            return now, int(found[1])
    return None


@pytest.mark.long
@pytest.mark.parametrize("hangs", [False, True])
def test_a_watch_counts_down(stacks: StackFactory, hangs: bool) -> None:
    """To the loss and to SIGKILL, by a screen that is read 20 times a second; libvirtd HANGS, too."""
    stack = stacks(grace=15)
    # A helper that does nothing, so that the leases stay held until SIGKILL.
    stack.write("/run/stack/nothing", "#!/bin/sh\n", 0o755)
    stack.install_helper("/run/stack/nothing", record=False)
    pid = stack.domain("vm1", "pause").start().qemu_pid()
    assert pid is not None
    terminal = Terminal(stack, COMMAND, "status", "--watch")
    wait_for(lambda: "vm1" in "".join(terminal.lines()), 10, "the table")
    if hangs:
        stack.signal(stack.libvirtd.pid(), signal.SIGSTOP)
    stack.storage.fail()
    seen: dict[str, list[tuple[float, int]]] = {"lost": [], "SIGKILL": []}
    last, killed_at = 0, 0.0
    deadline = time.monotonic() + 40
    while not killed_at and time.monotonic() < deadline:
        for word, values in seen.items():
            if value := countdown(terminal, word):
                values.append(value)
        last = last_success(stack) if seen["lost"] and not last else last
        killed_at = 0.0 if stack.is_alive(pid) else time.monotonic()
        time.sleep(0.05)
    terminal.process.kill()
    terminal.process.wait()
    terminal.close()
    # sanlock checks that once a second.
    assert 0 <= killed_at - (last + 23) < 2
    for after, word in ((8, "lost"), (23, "SIGKILL")):
        wrong = [(at - last, left) for at, left in seen[word] if abs(last + after - at - left) > RIGHT_WITHIN]
        assert wrong == [], (word, wrong)
    assert {left for _, left in seen["lost"]} >= {1, 2, 3}
    assert {left for _, left in seen["SIGKILL"]} >= set(range(2, 18))


@pytest.mark.long
def test_an_outage_is_shown(stack: Stack) -> None:
    install_ours(stack)
    held = stack.domain("held", "pause", metadata=POLICY)
    off = stack.domain("off", "poweroff", metadata=POLICY)
    stack.start_all([held, off])
    before = shown(stack)
    assert (before["stage"], before["io_timeout"], before["domains"], before["waiting"]) == (
        "renewed",
        1,
        2,
        0,
    )
    assert before["renewal_age_seconds"] <= 3
    stack.storage.fail()
    failing = wait_for(lambda: (found := shown(stack))["stage"] == "failing" and found, 10, "them to fail")
    assert isinstance(failing, dict)
    assert failing["lost_in_seconds"] == 8 - failing["renewal_age_seconds"]
    assert failing["sigkill_in_seconds"] == 48 - failing["renewal_age_seconds"]
    assert failing["reset_in_seconds"] is None
    text = run(stack, "status").stdout
    assert re.search(
        rf"^lockspace {LOCKSPACE}: no renewal for \d s; lost in \d s, SIGKILL in 4\d s", text, re.M
    )
    metrics = run(stack, "status", "--format", "openmetrics").stdout
    name = f'virt_sanlock_helper_lockspace_renewal_age_seconds{{lockspace="{LOCKSPACE}"}}'
    age = re.search(rf"^{re.escape(name)} (\d+)$", metrics, re.M)
    assert age is not None
    assert int(age[1]) >= 4
    wait_for(lambda: shown(stack)["stage"] == "absent", 30, "sanlock to leave it")
    lost = document(stack, "status", "status")
    (space,) = lost["lockspaces"]
    assert (space["domains"], space["waiting"], space["renewal_age_seconds"]) == (0, 2, None)
    assert (lost["outage"]["waiting"], lost["outage"]["outcomes"]) == (2, {"on record": 2})
    text = run(stack, "status").stdout
    assert f"lockspace {LOCKSPACE}: not joined, 2 domains wait for recovery to join it\n" in text
    assert re.search(r"^outage since \S+ \S+: 2 on record; 2 domains wait for recovery$", text, re.M), text
    stack.storage.restore()
    stack.run(COMMAND, "recover", timeout=90)
    after = document(stack, "status", "status")
    assert after["outage"] is None
    assert [(space["stage"], space["waiting"]) for space in after["lockspaces"]] == [("renewed", 0)]
    assert "lockspace " not in run(stack, "status").stdout
