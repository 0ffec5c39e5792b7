# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of recovery share: a stack with our helper, outages, `virt-sanlock-helper recover`."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from .binding import OURS, answers, call
from .domains import Domain
from .leases import LOCKSPACE, Lease
from .stack import Stack
from .waiting import wait_for

TOP = Path(__file__).parents[2]
HELPER = TOP / "helper" / "libvirt_sanlock_helper"
COMMAND = TOP / "helper" / "virt-sanlock-helper"
URI = "qemu:///system"
IDENTIFIER = "virt-sanlock-helper"

POLICY = '<lockfailure xmlns="urn:virt-sanlock-helper:1" recover="yes"/>'

RUN_RECORDS = "/run/virt-sanlock-helper/records"
STATE_RECORDS = "/var/lib/virt-sanlock-helper"

# From the storage's failure to the helper: at most 8 times io_timeout, plus a slow machine.
LOSS = 25


def command(stack: Stack, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the administrator's command inside."""
    return stack.run(str(COMMAND), *arguments, check=False, input=input)


def recover(stack: Stack) -> subprocess.Popen[str]:
    """Start what the systemd service runs."""
    return stack.popen(
        str(COMMAND), "recover", "--wait", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def path_unit(stack: Stack) -> subprocess.Popen[str]:
    """What the systemd path unit does: start the service whenever the helper has left a record."""
    loop = f"ls {RUN_RECORDS}/*.record >/dev/null 2>&1 && {COMMAND} recover --wait >/dev/null 2>&1"
    return stack.popen("sh", "-c", f"while :; do {loop}; sleep 0.02; done")


def lose(stack: Stack, calls: int, resources: bool = False) -> None:
    """Fail the storage, and wait until the helper has made CALLS domains safe and sanlock has left."""
    stack.storage.fail(resources)
    wait_for(
        lambda: len([call for call in stack.helper_calls() if call.end is not None]) == calls,
        LOSS,
        f"{calls} calls of the helper to end",
    )
    assert {call.status for call in stack.helper_calls()} == {0}
    wait_for(lambda: not stack.lockspaces(), 10, "sanlock to leave the lockspace")


def wait_for_state(domain: Domain, state: str, timeout: float = 25) -> None:
    wait_for(lambda: domain.state().name == state, timeout, f"{domain.name} to be {state}")


def wait_for_live(stack: Stack, host_id: int) -> None:
    """Wait until sanlock reports that a host lives: it has watched it renew."""

    def flags() -> int:
        (found,) = answers(stack, OURS, call("get_hosts", LOCKSPACE.encode(), host_id))
        return int(found[0]["flags"]) if isinstance(found, list) and found else 0

    live = 3  # SANLK_HOST_LIVE
    wait_for(lambda: flags() == live, 15, f"host {host_id} to be seen alive")


def wait_for_renewal(stack: Stack) -> None:
    """Wait until sanlock can report a healthy lockspace: it has read back a timestamp of its own."""
    words = ("sanlock", "client", "host_status", "-s", LOCKSPACE)
    wait_for(
        lambda: stack.run(*words, check=False).stdout.startswith(f"{stack.host_id} timestamp "),
        10,
        "sanlock to read its own timestamp",
    )


def wait_for_line(stack: Stack, *words: str, timeout: float = 25) -> str:
    """The first line of the journal with all WORDS, waited for."""

    def found() -> str | None:
        for line in stack.journal(IDENTIFIER):
            if all(word in line.message for word in words):
                return line.message
        return None

    line = wait_for(found, timeout, f"a line of the journal with {words}")
    assert line is not None
    return line


def records(stack: Stack) -> set[str]:
    """The UUIDs that there is a record of, anywhere."""
    names = [
        path.name for folder in (RUN_RECORDS, STATE_RECORDS) for path in stack.path(folder).glob("[!.]*.*")
    ]
    return {name.partition(".")[0] for name in names}


def read_version(stack: Stack, lease: Lease) -> int:
    """The lease's version on storage."""
    (found,) = answers(stack, OURS, call("read_resource", lease.path, lease.offset))
    return int(found["version"])


def seconds_since(start: float | None) -> float:
    assert start is not None
    return time.time() - start


def make_safe(stack: Stack, domain: Domain) -> None:
    """What sanlock does at a loss, by hand: the domain's own action, without an outage."""
    result = stack.run(str(HELPER), URI, domain.uuid, domain.on_lockfailure, check=False)
    assert result.returncode == 0, result.stderr


def leave_lockspace(stack: Stack) -> None:
    """Make sanlock leave its lockspace, as after an outage; only while no process holds a lease."""
    (lockspace,) = stack.lockspaces()
    where = f"{lockspace.name}:{lockspace.host_id}:{lockspace.path}:{lockspace.offset}"
    stack.run("sanlock", "client", "rem_lockspace", "-s", where)
    wait_for(lambda: not stack.lockspaces(), 10, "sanlock to leave the lockspace")


def lose_by_hand(stack: Stack, domains: list[Domain]) -> None:
    """All of an outage but the time it takes: the domains are made safe, sanlock leaves and joins again."""
    for domain in domains:
        make_safe(stack, domain)
    leave_lockspace(stack)
    stack.join_lockspace()


def recover_until(stack: Stack, seconds: float) -> None:
    """Run a recovery, and SIGKILL it after SECONDS."""
    process = recover(stack)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def starts(stack: Stack, domain: Domain) -> int:
    """How often libvirt started a QEMU for the domain."""
    log = stack.path(f"/var/log/libvirt/qemu/{domain.name}.log")
    return log.read_text(errors="replace").count("starting up libvirt version")
