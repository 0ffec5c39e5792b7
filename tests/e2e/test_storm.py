# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many virtual machines at once, on the real thing."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Callable

import pytest

from .conftest import StackFactory
from .domains import Domain
from .lease_loss import HELPER, IDENTIFIER, LOSS, RUNTIME_DIR, URI, by_hand, outcomes, story
from .stack import Stack
from .waiting import wait_for

pytestmark = pytest.mark.modular

KILLER = Path(__file__).with_name("killer.py")
SEEDS = 50


def start_many(stack: Stack, number: int, on_lockfailure: str = "pause") -> list[Domain]:
    domains = [stack.domain(f"vm{n}", on_lockfailure, memory_mib=8) for n in range(number)]
    stack.start_all(domains)
    return domains


def storm(stack: Stack, domains: list[Domain], action: str) -> None:
    """Start a helper for each domain, all at once, as sanlock does; they end when they like."""
    script = f'while read uuid; do "{HELPER}" {URI} $uuid {action} </dev/null >/dev/null 2>&1 & done; wait'
    stack.run("sh", "-c", script, input="".join(f"{domain.uuid}\n" for domain in domains))


# Death


@pytest.mark.long
def test_agents_that_are_killed_lose_no_request(monolithic: Stack) -> None:
    stack = monolithic
    command = ("/usr/bin/python3", str(KILLER), str(HELPER), str(HELPER.parent), *map(str, range(SEEDS)))
    results = [json.loads(line) for line in stack.run(*command, timeout=280).stdout.splitlines()]
    assert len(results) == SEEDS
    logged = outcomes(stack)
    for result in results:
        assert result["running"] == [], result["seed"]
        assert result["left"] == [], result["seed"]
        for uuid in result["uuids"]:
            lines = logged[uuid]
            assert all("verified off" in line for line in lines), lines
            # Once, but for the line over which an agent died: whether it was logged is not known, so it is
            # logged again, and marked as a repeat.
            assert sum("(repeated: " not in line for line in lines) <= 1, lines
    assert sum(result["killed"] for result in results) >= SEEDS


# The runtime directory


def full(stack: Stack) -> None:
    stack.run("mount", "-t", "tmpfs", "-o", "size=4k,mode=700", "tiny", RUNTIME_DIR)
    stack.run("sh", "-c", f"mkdir -m 700 {RUNTIME_DIR}/requests; head -c 4096 /dev/zero >{RUNTIME_DIR}/zeros")


def read_only(stack: Stack) -> None:
    stack.run("mount", "-t", "tmpfs", "-o", "mode=700,ro", "empty", RUNTIME_DIR)


def another_owner(stack: Stack) -> None:
    stack.run("chown", "nobody", RUNTIME_DIR)


def open_to_all(stack: Stack) -> None:
    stack.run("chmod", "777", RUNTIME_DIR)


def planted_link(stack: Stack) -> None:
    stack.run("sh", "-c", f"rmdir {RUNTIME_DIR}; mkdir -m 700 /run/planted; ln -s planted {RUNTIME_DIR}")


def a_file(stack: Stack) -> None:
    stack.run("sh", "-c", f"rmdir {RUNTIME_DIR}; touch {RUNTIME_DIR}")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (full, "No space left on device"),
        (read_only, "Read-only file system"),
        (another_owner, "belongs to user 65534"),
        (open_to_all, "chmod it to 700"),
        (planted_link, "is not a directory"),
        (a_file, "is not a directory"),
    ],
)
def test_a_runtime_directory_that_cannot_be_used_costs_no_vm(
    calm: Stack, spoil: Callable[[Stack], None], why: str
) -> None:
    domain = calm.domain("vm1", transient=True).start()
    calm.run(
        "sh", "-c", f"umount {RUNTIME_DIR}; rm -rf {RUNTIME_DIR} /run/planted; mkdir -m 700 {RUNTIME_DIR}"
    )
    spoil(calm)
    try:
        result = by_hand(calm, URI, domain.uuid, "poweroff")
    finally:
        calm.run("sh", "-c", f"umount {RUNTIME_DIR}; rm -rf {RUNTIME_DIR} /run/planted")
    assert result.returncode == 0, result.stderr
    assert "the spool cannot be used, serving this request alone: " in result.stderr
    assert why in result.stderr
    assert domain.state().name == "absent"


def test_a_run_directory_that_is_missing_is_made(calm: Stack) -> None:
    domain = calm.domain("vm1", transient=True).start()
    calm.run("rm", "-rf", RUNTIME_DIR)
    result = by_hand(calm, URI, domain.uuid, "poweroff")
    assert (result.returncode, "serving this request alone" in result.stderr) == (0, False)
    assert calm.run("stat", "-c", "%a %U", RUNTIME_DIR).stdout == "700 root\n"


# libvirtd and QEMU misbehave


@pytest.mark.long
def test_libvirtd_restarted_in_the_middle_of_a_storm(stack: Stack) -> None:
    domains = start_many(stack, 12)
    pids = [domain.qemu_pid() for domain in domains]
    # Some of these moments are between QEMU's stop and libvirt's release of the leases.
    for number, after in enumerate((0.0, 0.01, 0.02, 0.03, 0.05), start=1):
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(storm, stack, domains, "pause")
            wait_for(lambda: stack.processes("libvirt_sanlock"), 10, "the storm")
            time.sleep(after)
            stack.libvirtd.kill()
            stack.libvirtd.start()
            future.result()
        wait_for(partial(all_told, stack, domains, number), 30, "all outcomes")
        assert {domain.state().name for domain in domains} == {"paused"}
        assert stack.leases() == []
        stack.virsh("\n".join(f"resume {domain.uuid}" for domain in domains))
    assert [domain.qemu_pid() for domain in domains] == pids
    assert {len(lines) for lines in outcomes(stack).values()} == {5}


def all_told(stack: Stack, domains: list[Domain], number: int) -> bool:
    """Whether each of DOMAINS has had NUMBER outcomes."""
    logged = outcomes(stack)
    return all(len(logged.get(domain.uuid, [])) >= number for domain in domains)


def test_a_vm_whose_calls_hang_holds_up_no_other(stack: Stack) -> None:
    domains = start_many(stack, 50)
    healthy, stuck = domains[:-1], domains[-1]

    def time_to_pause() -> float:
        seen = len(story(stack))
        start = time.time()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(storm, stack, [stuck, *healthy], "pause")
            done = {domain.uuid for domain in healthy}

            def all_done() -> list[float]:
                lines = [line for line in story(stack)[seen:] if ": done after" in line.message]
                times = {line.message.split()[2].rstrip(":"): line.time for line in lines}
                return list(times.values()) if done <= set(times) else []

            last = max(wait_for(all_done, 40, "the healthy ones"))
            pid = stuck.qemu_pid()
            assert pid is not None
            stack.signal(pid, signal.SIGCONT)
            future.result()
        return last - start

    alone = time_to_pause()
    stack.virsh("\n".join(f"resume {domain.uuid}" for domain in domains))
    pid = stuck.qemu_pid()
    assert pid is not None
    stack.signal(pid, signal.SIGSTOP)
    beside = time_to_pause()
    # What waited for the hung call would wait for 10 s.
    assert beside < alone + 5, (alone, beside)


# Requests that meet


def test_the_same_restart_twice_is_one(stack: Stack) -> None:
    domain = stack.domain("vm1").start()
    before = domain.qemu_pid()
    storm(stack, [domain, domain, domain], "restart")
    wait_for(lambda: domain.uuid in outcomes(stack), 20, "the outcome")
    after = domain.qemu_pid()
    starts = stack.path("/var/log/libvirt/qemu/vm1.log").read_bytes().count(b"starting up")
    assert (domain.state().name, starts) == ("running", 2)
    assert after not in (None, before)


def test_a_process_that_waits_gets_the_outcome_from_another_one(stack: Stack) -> None:
    domain = stack.domain("vm1").start()
    other = stack.domain("vm2").start()
    pid = other.qemu_pid()
    assert pid is not None
    stack.signal(pid, signal.SIGSTOP)
    # The first becomes the agent, and is kept busy by a domain that hangs.
    first = stack.popen(str(HELPER), "--budget=6", URI, other.uuid, "pause")
    wait_for(lambda: stack.processes("libvirt_sanlock"), 10, "the agent")
    time.sleep(0.5)
    # A terminal for the second: script(1) need not be there.
    at_terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    second = stack.run("/usr/bin/python3", "-c", at_terminal, str(HELPER), URI, domain.uuid, "pause")
    stack.signal(pid, signal.SIGCONT)
    first.communicate(timeout=20)
    assert f"pause vm1 {domain.uuid}: done after" in second.stdout
    assert domain.state().name == "paused"
    pids = {line.pid for line in story(stack)}
    assert len(pids) == 1, "one process served both"


# The whole way


@pytest.mark.long
def test_outage_of_twenty(stacks: StackFactory) -> None:
    stack = stacks(grace=20)
    stack.install_helper(HELPER)
    domains = [stack.domain(f"vm{n}", ("pause", "poweroff")[n % 2], memory_mib=8) for n in range(20)]
    stack.start_all(domains)
    stack.storage.fail()
    wait_for(lambda: len(outcomes(stack)) == len(domains), LOSS + 20, "all outcomes")
    wait_for(lambda: not stack.lockspaces(), 10, "sanlock to leave the lockspace")
    assert {domain.state().name for domain in domains[0::2]} == {"paused"}
    assert {domain.state().name for domain in domains[1::2]} == {"shut off"}
    assert stack.leases() == []
    assert stack.sigkills() == []
    assert len(stack.sanlock_kills()) == len(domains)
    lines = outcomes(stack)
    assert all(len(of_one) == 1 and ": done after" in of_one[0] for of_one in lines.values())
    assert stack.path(f"{RUNTIME_DIR}/requests").exists()
    assert list(stack.path(f"{RUNTIME_DIR}/requests").iterdir()) == []
    assert {line.ident for line in story(stack)} == {IDENTIFIER}


# No way to serve

WRITE_REQUESTS = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from sanlock_helper.invocation import Invocation
from sanlock_helper.spool import Spool

spool = Spool.open()
for uuid in sys.argv[2:]:
    spool.write(Invocation("qemu:///system", uuid, "pause"), time.monotonic())
"""


def test_when_libvirt_python_is_broken_libvirts_helper_serves_all(stack: Stack) -> None:
    stack.use_stock_helper(record=False)
    domains = start_many(stack, 3)
    others = [domain.uuid for domain in domains[1:]]
    # Two processes have handed over and gone.
    stack.run("/usr/bin/python3", "-c", WRITE_REQUESTS, str(HELPER.parent), *others)
    found = stack.run(
        "/usr/bin/python3", "-Ic", "import libvirtmod; print(libvirtmod.__file__)"
    ).stdout.strip()
    stack.run("mount", "--bind", "/dev/null", found)
    result = by_hand(stack, URI, domains[0].uuid, "pause")
    wait_for(lambda: {domain.state().name for domain in domains} == {"paused"}, 10, "all to be paused")
    assert result.returncode == 0
    assert "takes over, to pause" in result.stderr
    assert list(stack.path(f"{RUNTIME_DIR}/requests").iterdir()) == []
    assert {line.level for line in story(stack)} == {"crit"}
