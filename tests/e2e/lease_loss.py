# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of a lease's loss share: the helper, its calls and its lines in the journal."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .domains import Domain
from .helper import HelperCall
from .journal import JournalLine
from .stack import Stack
from .waiting import wait_for

HELPER = Path(__file__).parents[2] / "helper" / "libvirt_sanlock_helper"
URI = "qemu:///system"
IDENTIFIER = "virt-sanlock-helper"
RUNTIME_DIR = "/run/virt-sanlock-helper"

# From the storage's failure to the helper: at most 8 times io_timeout, plus a slow machine.
LOSS = 20
# Long enough for libvirtd to be away for 8 s, short enough to wait for SIGKILL.
GRACE = 20


AUTH_CONF = """\
[auth-libvirt-localhost]
credentials=sanlock

[credentials-sanlock]
authname={}
password={}
"""


def story(stack: Stack) -> list[JournalLine]:
    return stack.journal(IDENTIFIER)


def logged(stack: Stack, text: str, seconds: float = 5) -> JournalLine:
    """The line of the journal with TEXT in it, waited for: the recorder reads the log's socket later."""

    def find() -> list[JournalLine]:
        return [line for line in story(stack) if text in line.message]

    return wait_for(find, seconds, f"a line with {text}")[-1]


def wait_for_calls(stack: Stack, number: int, timeout: float) -> dict[str, HelperCall]:
    """The calls by action, once NUMBER of them have ended."""

    def ended() -> bool:
        calls = stack.helper_calls()
        return len(calls) == number and all(call.end is not None for call in calls)

    wait_for(ended, timeout, f"{number} calls of the helper to end")
    return {call.argv[2]: call for call in stack.helper_calls()}


def by_hand(stack: Stack, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the helper inside the stack as an administrator would."""
    return stack.run(str(HELPER), *arguments, check=False, timeout=timeout)


def two_domains(stack: Stack) -> tuple[Domain, Domain]:
    off = stack.domain("off", on_lockfailure="poweroff")
    held = stack.domain("held", on_lockfailure="pause")
    stack.start_all([off, held])
    return off, held


def assert_safe(stack: Stack, off: Domain, held: Domain, held_pid: int | None) -> None:
    assert off.state().name == "shut off"
    assert off.qemu_pid() is None
    assert held.state().name == "paused"
    assert held.qemu_pid() == held_pid
    # Once no process holds a lease in it, sanlock leaves the lost lockspace and kills no more processes.
    wait_for(lambda: not stack.lockspaces(), 10, "sanlock to leave the lockspace")
    assert stack.leases() == []
    assert stack.sigkills() == []


def outcomes(stack: Stack) -> dict[str, list[str]]:
    """The lines about how a request ended, by the domain's UUID."""
    found: dict[str, list[str]] = {}
    for line in story(stack):
        words = line.message.split()
        if len(words) > 3 and words[2].endswith(":") and "trying again" not in line.message:
            found.setdefault(words[2].rstrip(":"), []).append(line.message)
    return found
