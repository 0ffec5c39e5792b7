# SPDX-License-Identifier: LGPL-2.1-or-later
"""With an agent that stands nothing is read from a disk once leases are lost: traced system calls."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sanlock_helper.agent.kept_files import MOST_MEBIBYTES

from .calls import messages
from .lease_loss import AUTH_CONF, HELPER, RUNTIME_DIR, URI, logged, outcomes, two_domains
from .preconditions import need_programs
from .stack import Stack
from .standing import COMMAND, CONNECTIONS, StandingAgent, connections
from .testdriver import URI as TEST_URI
from .testdriver import TestDomains
from .waiting import wait_for

# Calls that name a file, but for those that only connect a socket.
CALLS = "trace=%file"
IN_MEMORY = ("/proc", "/run", "/dev", "/var/run")


def outside_pid(stack: Stack, pid: int) -> int:
    """The process id outside of a process inside: strace runs outside, beside nothing that it traces."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
            same = os.readlink(status.parent / "ns/pid") == os.readlink(f"/proc/{stack.init_pid}/ns/pid")
        except OSError:
            continue
        if same and text.partition("\nNSpid:")[2].split("\n")[0].split()[-1:] == [str(pid)]:
            return int(status.parent.name)
    raise AssertionError(f"no process {pid}")


def named(trace: str) -> set[tuple[str, bool]]:
    """The absolute paths in a trace, and whether something was there."""
    found = set()
    for line in trace.splitlines():
        for path in re.findall(r'"(/[^"]*)"', line)[:1]:
            found.add((path, "ENOENT" not in line))
    return {
        (path, there) for path, there in found if not f"{path}/".startswith(tuple(f"{p}/" for p in IN_MEMORY))
    }


def kept_by(stack: Stack, pid: int) -> tuple[set[str], set[str]]:
    """What the agent has mapped, and what it holds open."""
    maps = stack.path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    mapped = {words[5] for line in maps if len(words := line.split(None, 5)) == 6}
    held = {os.readlink(link) for link in stack.path(f"/proc/{pid}/fd").iterdir()}
    return mapped, held


def is_kept(path: str, there: bool, mapped: set[str], held: set[str]) -> bool:
    if there:
        real = os.path.realpath(path)
        return bool({path, real} & (mapped | held)) or any(folder.startswith(f"{path}/") for folder in mapped)
    # A name that is not there: its directory at least is held, or the next one that is there.
    parent = os.path.dirname(path)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    return os.path.realpath(parent) in held or parent == "/"


@contextmanager
def traced(stack: Stack, pid: int, trace: Path) -> Iterator[None]:
    """The calls of process PID of STACK that name files, into TRACE, until the end of the block."""
    outside = outside_pid(stack, pid)
    words = ["strace", "-f", "-qq", "-e", CALLS, "-o", str(trace), "-p", str(outside)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as strace:
        try:
            status = Path(f"/proc/{outside}/status")
            wait_for(lambda: f"TracerPid:\t{strace.pid}\n" in status.read_text(), 5, "strace")
            yield
        finally:
            strace.send_signal(signal.SIGINT)


@pytest.mark.long
@pytest.mark.parametrize("login", [False, True])
def test_no_file_of_a_disk_is_opened(stack: Stack, login: bool) -> None:
    need_programs("strace")
    if login:
        stack.enable_sasl("sanlock", "open sesame")
        stack.write_auth_conf(AUTH_CONF.format("sanlock", "open sesame"))
    domain = stack.domain("held", on_lockfailure="pause").start()
    off = stack.domain("off", on_lockfailure="poweroff").start()
    agent = StandingAgent(stack)
    pid = agent.wait_ready()
    # The others are opened when the first has logged in, and with that has loaded what a login needs.
    wait_for(lambda: connections(stack) >= CONNECTIONS, 10, "its connections")
    mapped, held = kept_by(stack, pid)
    with traced(stack, pid, stack.path("/run/trace-agent")):
        time.sleep(0.5)
        script = (
            f'strace -f -qq -e {CALLS} -o /run/trace-$2-$1 "$0" {URI} $1 $2 </dev/null >/dev/null 2>&1 & wait'
        )
        for one in (domain, off):
            action = "pause" if one is domain else "poweroff"
            stack.run("sh", "-c", script, str(HELPER), one.uuid, action)
        wait_for(lambda: len(outcomes(stack)) == 2, 10, "both outcomes")
    assert all(": done after" in line for lines in outcomes(stack).values() for line in lines), messages(
        stack
    )
    assert agent.pid == pid
    texts = {path.name: path.read_text() for path in stack.path("/run").glob("trace-*")}
    assert len(texts) == 3
    for name, text in texts.items():
        assert text, name
        late = sorted(path for path, there in named(text) if not is_kept(path, there, mapped, held))
        assert late == [], f"{name}: {late}"


def own_copy(stack: Stack) -> Path:
    """The path inside of the command in a copy of the program that the stack has for itself."""
    top = HELPER.parents[1]
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("helper", "auth"):
        shutil.copytree(top / name, stack.path(f"/run/program/{name}"), ignore=ignore)
    return Path("/run/program/helper/virt-sanlock-helper")


def test_a_warning_reads_no_disk(stack: Stack) -> None:
    """Renewals fail, and nothing is served: what the watch of them reads is in memory."""
    need_programs("strace")
    two_domains(stack)
    # Files that change are read anew: no other test may change these.
    pid = StandingAgent(stack, command=own_copy(stack)).wait_ready()
    wait_for(lambda: connections(stack) >= CONNECTIONS, 10, "its connections")
    mapped, held = kept_by(stack, pid)
    trace = stack.path("/run/trace-watch")
    with traced(stack, pid, trace):
        stack.storage.fail()
        logged(stack, "about to lose lockspace", 15)
    text = trace.read_text()
    assert "/run/libvirt/qemu/held.xml" in text
    late = sorted(path for path, there in named(text) if not is_kept(path, there, mapped, held))
    assert late == []


def sizes(stack: Stack, pid: int) -> dict[str, int]:
    """What /proc has of the process's memory, in MiB."""
    status = stack.path(f"/proc/{pid}/status").read_text()
    return {name: int(status.partition(f"\n{name}:")[2].split()[0]) >> 10 for name in ("VmRSS", "VmLck")}


def test_what_it_holds_is_bounded_and_shown(monolithic: Stack) -> None:
    stack = monolithic
    vms = TestDomains(stack, 60)
    agent = StandingAgent(stack, TEST_URI)
    pid = agent.wait_ready()
    script = f'while read uuid; do "{HELPER}" {TEST_URI} $uuid pause </dev/null >/dev/null 2>&1 & done; wait'
    stack.run("sh", "-c", script, input="".join(f"{uuid}\n" for uuid in vms.uuids))
    wait_for(vms.safe, 10, "all VMs to be safe")
    found = sizes(stack, pid)
    assert 20 < found["VmRSS"] <= MOST_MEBIBYTES, found
    assert found["VmLck"] > 0
    text = stack.run(str(COMMAND), "status").stdout
    assert f"process {pid}, " in text
    assert " MiB in memory" in text


def test_it_runs_no_program_but_the_killpath(monolithic: Stack) -> None:
    """SELinux lets its domain execute no other, and the interpreter by name is one."""
    need_programs("strace")
    stack = monolithic
    trace = stack.path("/run/trace-programs")
    words = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", "/run/trace-programs", str(COMMAND)]
    with stack.popen(*words, "agent", "-c", TEST_URI, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: "stands ready" in messages(stack), 20, "the agent to stand")
        stack.signal(int(stack.path(f"{RUNTIME_DIR}/agent.pid").read_text().split()[0]), signal.SIGTERM)
        process.wait(20)
    run = re.findall(r'execve\("([^"]+)".* = 0$', trace.read_text(), re.MULTILINE)
    assert run == [str(COMMAND), str(HELPER)]


def test_without_the_right_to_lock_it_logs_that_once_and_stands(monolithic: Stack) -> None:
    stack = monolithic
    vms = TestDomains(stack, 3)
    command = f'setpriv --bounding-set=-ipc_lock "{COMMAND}" agent </dev/null >/dev/null 2>&1 &'
    stack.run("sh", "-c", f"ulimit -l 64; {command}")
    wait_for(lambda: "stands ready" in messages(stack), 20, "the agent to stand")
    assert messages(stack).count("cannot keep all in memory: the limit of locked memory is 64 KiB") == 1
    script = f'while read uuid; do "{HELPER}" {TEST_URI} $uuid pause </dev/null >/dev/null 2>&1 & done; wait'
    stack.run("sh", "-c", script, input="".join(f"{uuid}\n" for uuid in vms.uuids))
    wait_for(vms.safe, 10, "all VMs to be safe")


def test_a_file_that_changes_is_kept_anew(monolithic: Stack) -> None:
    stack = monolithic
    agent = StandingAgent(stack, command=own_copy(stack))
    pid = agent.wait_ready()
    name = "/run/program/helper/sanlock_helper/killpath.py"
    before = stack.path(name).stat().st_ino

    def kept() -> set[int]:
        lines = stack.path(f"/proc/{pid}/maps").read_text().splitlines()
        return {int(line.split()[4]) for line in lines if "sanlock_helper/" in line and "killpath" in line}

    if before not in kept():
        pytest.skip("this checkout has byte code")
    stack.run("sh", "-c", f"cp {name} {name}.new && mv {name}.new {name}")
    after = stack.path(name).stat().st_ino
    wait_for(lambda: after in kept() and before not in kept(), 15, "the new file to be kept")
    assert agent.pid == pid
