# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent dies over a request, is stopped, hangs, or has no processes left: no other VM may pay for it.

Issue 13: rows A4, A5, A7, A13, B6.  Real processes and real signals, on libvirtd's test driver.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Callable

import pytest

from .stack import Stack
from .test_lease_loss import AUTH_CONF, HELPER, story
from .test_storm import RUNTIME_DIR, outcomes
from .testdriver import URI, TestDomains
from .waiting import wait_for

SPOOL = f"{RUNTIME_DIR}/requests"
COMM = "libvirt_sanlock"

Maker = Callable[[int], TestDomains]


@pytest.fixture
def domains(stack: Stack) -> Iterator[Maker]:
    """A function that makes so many running domains."""
    made: list[TestDomains] = []

    def make(number: int) -> TestDomains:
        made.append(TestDomains(stack, number))
        return made[-1]

    yield make
    for one in made:
        one.close()


def call(stack: Stack, uuid: str, action: str = "pause", helper: Path = HELPER, uri: str = URI) -> None:
    """Start the helper as sanlock does, and do not wait for it."""
    script = f'"{helper}" {uri} {uuid} {action} </dev/null >/dev/null 2>&1 &'
    stack.run("sh", "-c", script)


def storm(
    stack: Stack, uuids: list[str], action: str = "pause", helper: Path = HELPER, prefix: str = ""
) -> None:
    """Start a helper for each of UUIDS at once, and do not wait for them."""
    script = f'{prefix} while read uuid; do "{helper}" {URI} $uuid {action} </dev/null >/dev/null 2>&1 & done'
    stack.run("sh", "-c", script, input="".join(f"{uuid}\n" for uuid in uuids))


def helpers(stack: Stack) -> list[int]:
    return [process.pid for process in stack.processes(COMM)]


def said(stack: Stack) -> str:
    return "\n".join(line.message for line in story(stack))


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
        if this.uuid in {uuids!r}:
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
    with (tmp_path / "helper/sanlock_helper/actions.py").open("a") as actions:
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
    assert all(sum("told again" not in line for line in lines) == 1 for lines in outcomes(stack).values())
    assert f"agents died over the request {action} {bad}" in said(stack)
    assert f"the process of its own for {action} {bad} died" in said(stack)
    assert "by libvirt's own helper, which reports success" in outcomes(stack)[bad][0]
    wait_for(lambda: not helpers(stack), 10, "all helpers to end")
    assert list(stack.path(SPOOL).iterdir()) == []
