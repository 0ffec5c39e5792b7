# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-sanlock-helper agent` where it cannot stand: one error, which names the cause and the remedy."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[2] / "helper" / "virt-sanlock-helper"

NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

# With a /run of its own, in which nothing is but this program's directory.  PID 1 is the shell: timeout(1) of
# coreutils 9.10 takes a parent of that number for the end of its own, and ends with 125.
SCRIPT = """
mount -t tmpfs run /run
mkdir -m 700 /run/virt-sanlock-helper
cd /run/virt-sanlock-helper
{prepare}
{limit}
timeout 30 {command} agent -c test:///default
exit $?
"""

READY = "this process stands ready as the agent"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


def start(prepare: str, limit: str) -> subprocess.Popen[str]:
    """The agent after PREPARE and under LIMIT; killing this kills it."""
    script = SCRIPT.format(prepare=prepare, limit=limit, command=shlex.quote(str(COMMAND)))
    return subprocess.Popen(
        [*NAMESPACES, "bash", "-c", script],
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused(prepare: str = ":", limit: str = ":") -> tuple[int, str]:
    """The exit status and stderr of an agent that does not stand."""
    with start(prepare, limit) as process:
        _, text = process.communicate()
    return process.returncode, text


def stands(prepare: str = ":", limit: str = ":") -> str:
    """The stderr of an agent that stands: it is ended a second after it is ready."""
    lines = []
    with start(prepare, limit) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if READY in line:
                break
        time.sleep(1)
        assert process.poll() is None, lines
        process.kill()
        lines.append(process.communicate()[1])
    return "".join(lines)


READ_ONLY = "mkdir -m 700 requests; mount --bind . . && mount -o remount,bind,ro . && cd /"


@pytest.mark.parametrize(
    ("prepare", "path", "why"),
    [
        ("mkdir agent.lock", "/agent.lock", "Is a directory"),
        ("ln -s /run/other agent.lock", "/agent.lock", "Too many levels of symbolic links"),
        ("mkdir agent-beside.lock", "/agent-beside.lock", "Is a directory"),
        ("ln -s /dev/zero agent-beside.lock", "/agent-beside.lock", "Too many levels of symbolic links"),
        (READ_ONLY, "/agent.lock", "Read-only file system"),
        (f": > agent.lock; : > agent.pid; {READ_ONLY}", "/agent.lock", "Read-only file system"),
    ],
)
def test_a_lock_that_cannot_be_used_is_named(prepare: str, path: str, why: str) -> None:
    path = f"/run/virt-sanlock-helper{path}"
    status, text = refused(prepare)
    remedy = f"ls -ld {path}; findmnt -T /run/virt-sanlock-helper"
    assert text == f"virt-sanlock-helper: stand: {path} cannot be used: {why} ({remedy})\n"
    assert status == 1


def test_what_it_can_do_without_keeps_it_from_nothing() -> None:
    assert READY in stands("mkfifo agent.lock; mkdir agent.pid agent.in-hand")


@pytest.mark.parametrize("files", [5, 12, 20, 63])
def test_too_few_open_files_are_named(files: int) -> None:
    status, text = refused(limit=f"ulimit -n {files}")
    assert text == (
        f"virt-sanlock-helper: stand: open files are limited to {files}, and 64 are needed "
        "(set LimitNOFILE= of virt-sanlock-helper-agent.service to more)\n"
    )
    assert status == 1


@pytest.mark.parametrize("files", [64, 150])
def test_with_few_open_files_it_stands_and_leaves_some_to_others(files: int) -> None:
    text = stands(limit=f"ulimit -n {files}")
    assert READY in text
    assert "files do not fit, or cannot be locked" in text
    assert "GLib" not in text
    assert "no connection" not in text


def test_too_little_memory_is_named() -> None:
    status, text = refused(limit="ulimit -v 163840")
    assert text == (
        "virt-sanlock-helper: stand: address space is limited to 160 MiB, and 512 MiB are needed: "
        "set LimitAS= of virt-sanlock-helper-agent.service to more\n"
    )
    assert status == 1


# Each call's exit status, with an agent that stands: the embedded driver of the agent has one domain, and
# no other.
CALLS = """
mount -t tmpfs run /run
{command} agent -c test:///default 2>/dev/null &
for i in $(seq 100); do grep -q . /run/virt-sanlock-helper/agent.pid 2>/dev/null && break; sleep 0.1; done
sleep 0.5
for uuid in {uuids}; do
    {helper} --budget 5 test:///default $uuid pause </dev/null 2>/dev/null
    echo $?
done
kill -TERM %1
wait
"""


def test_a_call_that_an_agent_serves_has_its_exit_status() -> None:
    helper = COMMAND.with_name("libvirt_sanlock_helper")
    uuids = "6695eb01-f6a4-8304-79aa-97f2502e193f 00000000-0000-0000-0000-000000000001"
    script = CALLS.format(command=shlex.quote(str(COMMAND)), helper=shlex.quote(str(helper)), uuids=uuids)
    result = subprocess.run(
        [*NAMESPACES, "bash", "-mc", script],
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["0", "1"], result.stderr
