# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent dies over a request, is stopped, hangs, or has no processes left: no other VM may pay for it.

Issue 13: rows A4, A5, A7, A13, B6.  Real processes and real signals, on libvirtd's test driver.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Callable

import pytest

from . import immutable
from .calls import SPOOL, call, helpers, messages, storm
from .conftest import Maker
from .lease_loss import AUTH_CONF, HELPER, RUNTIME_DIR, outcomes, story
from .stack import CommandError, Stack
from .testdriver import URI
from .waiting import wait_for


@pytest.fixture
def stack(monolithic: Stack) -> Stack:
    """libvirt's test driver is in libvirtd alone."""
    return monolithic


# A5: an agent that is stopped


def stopped_agent(stack: Stack, uuid: str) -> int:
    """An agent that waits for a libvirtd that is stopped, and is then stopped itself."""
    libvirtd = stack.libvirtd.pid()
    stack.signal(libvirtd, signal.SIGSTOP)
    call(stack, uuid)
    (pid,) = wait_for(lambda: helpers(stack), 10, "the agent")
    time.sleep(0.5)
    stack.signal(pid, signal.SIGSTOP)
    stack.signal(libvirtd, signal.SIGCONT)
    return int(pid)


def test_a_stopped_agent_is_replaced(stack: Stack, domains: Maker) -> None:
    vms = domains(12)
    stopped_agent(stack, vms.uuids[0])
    start = time.monotonic()
    storm(stack, vms.uuids[1:])
    wait_for(vms.safe, 10, "12 of 12 VMs to be safe")
    assert time.monotonic() - start < 6
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 10, "all outcomes")
    assert all(len(lines) == 1 for lines in outcomes(stack).values()), outcomes(stack)
    wait_for(lambda: not helpers(stack), 10, "all helpers to end")


# A8: a login that is refused in passing


def test_a_login_that_is_refused_in_passing(stack: Stack, domains: Maker) -> None:
    vms = domains(12)
    # SASL for clients that come from now on: the one that keeps the domains stays connected.
    vms.close()
    stack.enable_sasl("sanlock", "open sesame")
    stack.write_auth_conf(AUTH_CONF.format("sanlock", "open sesame"))
    vms = domains(12)
    database = stack.path("/etc/libvirt/passwd.db")
    database.rename(database.with_suffix(".away"))
    start = time.monotonic()
    storm(stack, vms.uuids)
    time.sleep(3)
    database.with_suffix(".away").rename(database)
    wait_for(vms.safe, 10, "12 of 12 VMs to be safe")
    assert time.monotonic() - start < 8
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 10, "all outcomes")
    refusals = [line for line in story(stack) if "authentication failed" in line.message]
    assert len(refusals) == 1, refusals
    log = stack.path("/var/log/libvirtd.log").read_text()
    assert log.count("virNetSASLSessionServerStart") == 1, "logins that libvirtd refused"


# A7: no more processes


def is_empty(group: Path) -> bool:
    return not (group / "cgroup.procs").read_text()


@pytest.fixture
def few_processes() -> Iterator[Callable[[int], str]]:
    """A function that gives a line of shell: whatever runs it may have so many processes and threads."""
    made: list[Path] = []

    def limit(number: int) -> str:
        group = Path(f"/sys/fs/cgroup/pids/helper-test-{os.getpid()}-{len(made)}")
        group.mkdir()
        made.append(group)
        (group / "pids.max").write_text(str(number))
        return f"echo 0 >{group}/cgroup.procs || exit 1;"

    if not os.access("/sys/fs/cgroup/pids", os.W_OK):
        pytest.skip("no pids controller (cgroup v1)")
    yield limit
    for group in made:
        wait_for(partial(is_empty, group), 10, f"{group} to be empty")
        group.rmdir()


@pytest.mark.parametrize("spare", [0, 1, 5])
@pytest.mark.parametrize("action", ["pause", "poweroff"])
def test_no_more_processes(
    stack: Stack, domains: Maker, few_processes: Callable[[int], str], action: str, spare: int
) -> None:
    vms = domains(10)
    # The shell, ten helpers, and so many threads for the agent among them.
    storm(stack, vms.uuids, action, prefix=few_processes(1 + len(vms.uuids) + spare))
    wait_for(vms.safe, 10, "10 of 10 VMs to be safe")
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 10, "all outcomes")
    assert all(len(lines) == 1 and ": done after" in lines[0] for lines in outcomes(stack).values())


# A4: an agent that dies over one request


INJECTION = """

import ctypes as _ctypes, os as _os, time as _time
def _deadly(real):
    def act(this):
        if this.request.uuid in {uuids!r}:
            {death}
        return real(this)
    return act
ACTIONS = {{name: _deadly(real) for name, real in ACTIONS.items()}}
"""
SEGV = "_ctypes.string_at(0)"
KILL = "_os.kill(_os.getpid(), 9)"
ABORT = "_os.abort()"
LATE = "_time.sleep(0.2); _os.kill(_os.getpid(), 9)"
EXIT = "_os._exit(3)"


def deadly(stack: Stack, tmp_path: Path, uuids: list[str], death: str) -> Path:
    """A helper that dies whenever it acts on one of UUIDS; libvirt's own is at its place."""
    stack.use_stock_helper(record=False)
    for root in ("helper", "auth"):
        shutil.copytree(
            HELPER.parents[1] / root, tmp_path / root, ignore=shutil.ignore_patterns("__pycache__")
        )
    with (tmp_path / "helper/sanlock_helper/agent/actions.py").open("a") as actions:
        actions.write(INJECTION.format(uuids=tuple(uuids), death=death))
    return tmp_path / "helper" / HELPER.name


@pytest.mark.parametrize("action", ["pause", "poweroff"])
@pytest.mark.parametrize("death", [SEGV, KILL, ABORT, LATE, EXIT])
def test_a_request_over_which_agents_die(
    stack: Stack, domains: Maker, tmp_path: Path, death: str, action: str
) -> None:
    vms = domains(30)
    bad = vms.uuids[7]
    storm(stack, vms.uuids, action, deadly(stack, tmp_path, [bad], death))
    start = time.monotonic()
    wait_for(lambda: vms.safe(7), 15, "all other VMs to be safe")
    assert time.monotonic() - start < 8
    wait_for(vms.safe, 15, "the VM over which agents die to be safe")
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 10, "all outcomes")
    # One over whose logging an agent died may be logged again, and is marked as a repeat.
    assert all(sum("(repeated: " not in line for line in lines) <= 1 for lines in outcomes(stack).values())
    assert "agents died while they served this request: it is served last" in messages(stack)
    assert f"{action} {bad}: the process that served it alone died" in messages(stack)
    assert "by libvirt's own helper, which reports success" in outcomes(stack)[bad][0]
    wait_for(lambda: not helpers(stack), 10, "all helpers to end")
    assert list(stack.path(SPOOL).iterdir()) == []


# A13, B6: what is in the spool


PLANT = """
import json, os, socket, sys, time
sys.path.insert(0, sys.argv[1])
from sanlock_helper.spool import RUNTIME_DIR, Spool
Spool.open()
os.chdir(f"{RUNTIME_DIR}/requests")
uuid = "6695eb01-f6a4-8304-79aa-97f2502e19"
now = time.monotonic()
number = 0
def name():
    global number
    number += 1
    return f"{uuid}{number % 256:02x}.pause.{int(now * 1e6):016d}-{number}"
def write(start=now, budget="", pid="", uri="test:///default", form="2", at=None):
    with open(at or name(), "w") as file:
        file.write(f"{form}\\n{start}\\n{budget}\\n{pid}\\n{uri}\\n")
os.mkfifo(name())
os.mkdir(name())
os.mkdir(f"{uuid}ff.pause.1-1"); open(f"{uuid}ff.pause.1-1/full", "w").close()
socket.socket(socket.AF_UNIX).bind(name())
os.symlink("/dev/zero", name())
os.symlink("nowhere", name())
os.mknod(name(), 0o600 | 0o020000, os.makedev(1, 5))
open(name(), "w").close()
with open(name(), "w") as huge:
    huge.truncate(1 << 40)
for start in ("-inf", "inf", "nan", "1e300", "soon", "", now + 1e6):
    write(start=start)
for budget in ("nan", "inf", "-1", "0", "1e9", "x"):
    write(budget=budget)
for pid in ("0", "-1", "99999999999999999999", "x"):
    write(pid=pid)
for uri in ("", " ", "a\\tb", "x" * 100000):
    write(uri=uri)
write(form="1")
with open(name(), "wb") as file:
    file.write(b"\\xff\\0\\n" * 9)
for odd in (b"\\xff\\xfe", b"new\\nline", b"\\x1b[31m", b"..pause", b"x" * 255, "\u202e.pause.1-1".encode()):
    open(odd, "w").close()
for action in ("ignore", "kill", ""):
    write(at=f"{uuid}00.{action}.1-1")
write(at=f"{uuid.upper()}AA.pause.{int(now * 1e6):016d}-1")
for junk in range(2000):
    open(f"junk-{junk}", "w").close()
print(len([name for name in os.listdir(".") if name[:1] != "."]))
"""


def test_what_is_no_request_is_moved_out_once(stack: Stack, domains: Maker) -> None:
    vms = domains(10)
    planted = int(stack.run("/usr/bin/python3", "-c", PLANT, str(HELPER.parent)).stdout)
    start = time.monotonic()
    storm(stack, vms.uuids)
    wait_for(vms.safe, 10, "10 of 10 VMs to be safe")
    assert time.monotonic() - start < 4
    wait_for(lambda: not helpers(stack), 20, "all helpers to end")
    assert all(len(lines) == 1 for lines in outcomes(stack).values())
    assert set(vms.uuids) <= set(outcomes(stack))
    left = [path.name for path in stack.path(SPOOL).iterdir() if path.name[:1] != "."]
    assert left == []
    moved = list(stack.path(f"{RUNTIME_DIR}/not-requests").iterdir())
    assert len(moved) == planted - sum(name.startswith(".") for name in left)
    assert len(story(stack)) < 10 + 60, messages(stack)
    assert "more files that are not requests were moved" in messages(stack)


def is_in_hand(stack: Stack, number: int) -> bool:
    """Whether so many requests are in the spool, and the agent has begun to serve them.

    It reads the spool many times a second, so a moment later it has all of them.
    """
    written = [path for path in stack.path(SPOOL).glob("*") if path.name[:1] != "."]
    in_hand = stack.path(f"{RUNTIME_DIR}/agent.in-hand")
    if len(written) < number or not in_hand.exists() or not in_hand.read_bytes().strip(b"\0"):
        return False
    time.sleep(1)
    return True


def test_a_request_that_is_removed_in_mid_action_is_logged(stack: Stack, domains: Maker) -> None:
    vms = domains(3)
    libvirtd = stack.libvirtd.pid()
    stack.signal(libvirtd, signal.SIGSTOP)
    storm(stack, vms.uuids)
    wait_for(lambda: is_in_hand(stack, 3), 20, "the agent to have the requests")
    stack.run("sh", "-c", f"rm {SPOOL}/*")
    stack.signal(libvirtd, signal.SIGCONT)
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 10, "all outcomes")
    assert vms.safe()
    assert all(len(lines) == 1 and ": done after" in lines[0] for lines in outcomes(stack).values())


def test_a_spool_that_cannot_be_changed(stack: Stack, domains: Maker) -> None:
    immutable.require_immutable_directories()
    immutable.put_on_ext4(stack, RUNTIME_DIR)
    vms = domains(6)
    libvirtd = stack.libvirtd.pid()
    stack.signal(libvirtd, signal.SIGSTOP)
    storm(stack, vms.uuids[:3])
    wait_for(lambda: is_in_hand(stack, 3), 20, "the agent to have the requests")
    immutable.set_immutable(stack, SPOOL)
    storm(stack, vms.uuids[3:])
    time.sleep(0.5)
    stack.signal(libvirtd, signal.SIGCONT)
    wait_for(vms.safe, 10, "6 of 6 VMs to be safe")
    wait_for(lambda: not helpers(stack), 20, "all helpers to end")
    assert messages(stack).count("cannot be changed") == 1
    assert messages(stack).count("serving this request alone") == 3
    acted = [[line for line in lines if ": done after" in line] for lines in outcomes(stack).values()]
    assert [len(lines) for lines in acted] == [1] * len(vms.uuids), acted


# A5: its kind


def test_a_stopped_agent_that_goes_on_does_not_act_again(stack: Stack, domains: Maker) -> None:
    vms = domains(4)
    stopped = stopped_agent(stack, vms.uuids[0])
    storm(stack, vms.uuids[1:], "restart")
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 12, "all outcomes")
    assert "showed no sign of life" in messages(stack)
    assert stopped not in helpers(stack)
    assert all(len(lines) == 1 for lines in outcomes(stack).values())


def signal_those_left(stack: Stack, pids: Iterable[int], number: int) -> None:
    """Send signal NUMBER to those of PIDS that have not ended, or been killed as silent agents."""
    for pid in pids:
        with contextlib.suppress(CommandError):
            stack.signal(pid, number)


def test_all_are_stopped_and_the_next_call_finds_it(stack: Stack, domains: Maker) -> None:
    vms = domains(12)
    stopped_agent(stack, vms.uuids[0])
    storm(stack, vms.uuids[1:6])
    wait_for(lambda: len(helpers(stack)) >= 4, 10, "the stand-bys")
    time.sleep(0.5)
    stopped = helpers(stack)
    signal_those_left(stack, stopped, signal.SIGSTOP)
    time.sleep(1.5)
    storm(stack, vms.uuids[6:])
    wait_for(vms.safe, 10, "12 of 12 VMs to be safe")
    # Those that were not stopped have ended, or will.
    signal_those_left(stack, stopped, signal.SIGCONT)
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 10, "all outcomes")
    wait_for(lambda: not helpers(stack), 10, "all helpers to end")
    assert all(len(lines) == 1 for lines in outcomes(stack).values())


def test_an_agent_in_another_pid_namespace_is_served_beside(stack: Stack, domains: Maker) -> None:
    vms = domains(12)
    libvirtd = stack.libvirtd.pid()
    stack.signal(libvirtd, signal.SIGSTOP)
    command = f'unshare --pid --fork --mount-proc "{HELPER}" {URI} {vms.uuids[0]} restart'
    stack.run("sh", "-c", f"{command} </dev/null >/dev/null 2>&1 &")
    (pid,) = wait_for(lambda: helpers(stack), 10, "the agent")
    time.sleep(0.5)
    stack.signal(pid, signal.SIGSTOP)
    stack.signal(libvirtd, signal.SIGCONT)
    storm(stack, vms.uuids[1:])
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 15, "all outcomes")
    assert "cannot be killed: this process serves beside it" in messages(stack)
    assert pid in helpers(stack)
    stack.signal(pid, signal.SIGCONT)
    wait_for(lambda: not helpers(stack), 15, "all helpers to end")
    assert all(len(lines) == 1 for lines in outcomes(stack).values())


def test_a_single_agent_that_was_stopped_does_not_blame_libvirtd(stack: Stack, domains: Maker) -> None:
    vms = domains(1)
    (uuid,) = vms.uuids
    stopped = stopped_agent(stack, uuid)
    time.sleep(15)  # longer than the patience for one try
    stack.signal(stopped, signal.SIGCONT)
    wait_for(lambda: outcomes(stack), 10, "the outcome")
    assert "no answer from libvirtd" not in messages(stack)
    assert ": done after" in outcomes(stack)[uuid][0]


def test_a_request_over_which_agents_hang(stack: Stack, domains: Maker, tmp_path: Path) -> None:
    vms = domains(12)
    # A C call that does not let go of the interpreter stops the agent's loop as well.
    hang = "_ctypes.PyDLL(None).sleep(600)"
    storm(stack, vms.uuids, "pause", deadly(stack, tmp_path, [vms.uuids[7]], hang))
    wait_for(lambda: vms.safe(7), 15, "all other VMs to be safe")
    wait_for(vms.safe, 25, "the VM over which agents hang to be safe")
    wait_for(lambda: set(outcomes(stack)) == set(vms.uuids), 10, "all outcomes")
    assert "died (no sign of life)" in messages(stack)
    wait_for(lambda: not helpers(stack), 10, "all helpers to end")
