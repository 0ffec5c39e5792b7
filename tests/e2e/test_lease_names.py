# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines whose leases have names or places that sanlock-python or libvirt cannot deal with."""

from __future__ import annotations

import re

import pytest

from sanlock_helper.leases.error_texts import explain

from .binding import OURS, answers, call, hidden, libraries, sanlock_python
from .command import checks, document
from .leases import LOCKSPACE
from .recovery import (
    HELPER,
    POLICY,
    leave_lockspace,
    lose,
    make_safe,
    path_unit,
    records,
    wait_for_line,
    wait_for_state,
)
from .stack import Stack
from .storage import LEASES
from .waiting import wait_for

# libvirt takes a key of at most 47 bytes.
KEYS = ["pool:vm", "x" * 47, ":both:", "a blank", "back\\slash", "1:2", "x:/p:5", "\u00fc'\""]


def test_any_key_is_made_safe_and_comes_back(stack: Stack) -> None:
    stack.install_helper(HELPER)
    domains = []
    for number, key in enumerate(KEYS):
        lease = stack.make_resource(key, f"key{number}")
        action = "pause" if number % 2 else "poweroff"
        domains.append(stack.domain(f"vm{number}", action, leases=[lease], metadata=POLICY))
    plain = stack.domain("plain", "pause", metadata=POLICY)
    stack.start_all([*domains, plain])
    before = {row["name"]: row["leases"] for row in document(stack, "status", "status")["domains"]}
    assert before == {**{domain.name: {LOCKSPACE: 2} for domain in domains}, "plain": {LOCKSPACE: 1}}
    found = checks(stack)["leases"]
    assert (found["verdict"], found["found"]) == (
        "pass",
        f"{2 * len(KEYS) + 1} leases of running domains are there and held",
    )

    # check has run it, too.
    stack.forget_helper_calls()
    path_unit(stack)
    lose(stack, len(KEYS) + 1)
    for domain in [*domains, plain]:
        assert domain.state().name == ("paused" if domain.on_lockfailure == "pause" else "shut off")
    assert stack.sigkills() == []
    messages = "\n".join(line.message for line in stack.journal("virt-sanlock-helper"))
    assert "not read" not in messages
    assert len(re.findall("verified paused, no lease held", messages)) == len(KEYS) // 2 + 1
    stack.storage.restore()
    for domain in [*domains, plain]:
        wait_for_state(domain, "running")
    wait_for(lambda: not records(stack), 20, "the end of all records")
    for domain in domains:
        assert len(answers(stack, OURS, call("inquire", pid=domain.qemu_pid()))[0]) == 2


# Whether libvirt releases a lease in it.
FOLDERS = {
    "plain": True,
    "co:lon": True,
    "\u00fcml\u00e4ut": True,
    "a blank": False,
    " two  of them ": False,
    "back\\slash": True,
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_any_lease_directory_is_made_safe(stack: Stack, folder: str) -> None:
    """Where libvirt cannot release a lease because of its path, the helper does, and recovery resumes."""
    stack.install_helper(HELPER)
    stack.move_leases(f"{LEASES}/{folder}")
    domain = stack.domain("vm1", "pause", metadata=POLICY).start()
    pid = domain.qemu_pid()
    (held,) = answers(stack, OURS, call("inquire", pid=pid))
    assert [lease["disks"][0][0].rpartition("/")[0] for lease in held] == [f"{LEASES}/{folder}"]
    found = checks(stack)
    assert found["leases"]["verdict"] == "pass"
    assert found["lease path"]["verdict"] == ("pass" if FOLDERS[folder] else "fail")
    domain.suspend()
    (held,) = answers(stack, OURS, call("inquire", pid=pid))
    assert (held == []) == FOLDERS[folder]
    # A process that holds its lease does not get it again.
    make_safe(stack, domain)
    domain.resume()

    stack.forget_helper_calls()
    path_unit(stack)
    lose(stack, 1)
    assert domain.state().name == "paused"
    assert answers(stack, OURS, call("inquire", pid=pid)) == [[]]
    stack.storage.restore()
    wait_for_state(domain, "running")
    assert stack.sigkills() == []
    assert stack.is_alive(pid or 0)


@pytest.mark.parametrize("library", [0, 1])
def test_without_sanlock_python(stack: Stack, library: int) -> None:
    """And with only one of sanlock's two client libraries for the helper."""
    stack.install_helper(HELPER)
    held = stack.domain("held", "pause", metadata=POLICY)
    off = stack.domain("off", "poweroff", metadata=POLICY)
    stack.start_all([held, off])
    # `sanlock client status` needs the one with more in it.
    away = libraries(stack)[:1] if library else []
    with hidden(stack, *sanlock_python(stack), *away):
        found = checks(stack)
        names = ("python", "leases", "sanlock", "lockspace", "lockspace format", "host_id unique")
        assert {found[name]["verdict"] for name in names} == {"pass"}
        stack.forget_helper_calls()
        path_unit(stack)
        lose(stack, 2)
        stack.storage.restore()
        for domain in (held, off):
            wait_for_state(domain, "running")
        paused = wait_for_line(stack, f"pause held {held.uuid}: done after")
        resumed = wait_for_line(stack, f"recover held {held.uuid}: done after")
        started = wait_for_line(stack, f"recover off {off.uuid}: done after")
    assert paused.endswith("found running, suspended, verified paused, no lease held")
    assert resumed.endswith("found paused, resumed, verified running, 1 lease held")
    assert started.endswith("found off, started, verified running, 1 lease held")


def test_a_lockspace_that_is_being_joined_is_not_joined(stack: Stack) -> None:
    """As when another live host has the host_id: sanlock waits for it, and libvirtd with it."""
    other = stack.second_host()
    other.join()
    stack.libvirtd.stop()
    leave_lockspace(stack)
    where = f"{LOCKSPACE}:2:{stack.storage.lockspace_path}:0"
    joining = stack.popen("sanlock", "client", "add_lockspace", "-s", where, "-o", "1")
    wait_for(lambda: [space.state for space in stack.lockspaces()] == ["ADD"], 10, "the join to begin")
    found = checks(stack)
    assert found["lockspace"]["verdict"] == "fail"
    assert "not joined (yet): __LIBVIRT__DISKS__" in found["lockspace"]["found"]
    assert "joined as" not in found["host_id unique"]["found"]
    joining.kill()
    joining.communicate()


def test_a_lockspace_of_another_format(stack: Stack) -> None:
    """As sanlock 5 makes it, and a later one may; see sanlock src/delta_lease.c."""
    version = stack.run("sanlock", "version").stdout.split()[0]
    major = int(version.partition(".")[0])
    known = "format 3 (0x30004)"
    if not (is_old := major < 5):
        # It reports the format of a lockspace that it has joined, and writes it in another way.
        known = "format 5 (0x00050000)"
    refused = "" if is_old else ": a host with an older sanlock cannot join it"
    assert checks(stack)["lockspace format"] == {
        "name": "lockspace format",
        "verdict": "pass",
        "found": f"{known}, sanlock {version}{refused}",
        "wanted": "one that every host's sanlock knows",
        "remedy": "",
    }
    leave_lockspace(stack)
    other = 5 if is_old else major + 1
    with stack.path(stack.storage.lockspace_path).open("r+b") as file:
        file.seek(4)
        file.write((other << 16).to_bytes(4, "little"))
    found = checks(stack)["lockspace format"]
    assert found["verdict"] == "fail"
    assert f"format {other} (" in found["found"]
    assert found["found"].endswith(f"{other << 16:x}), sanlock {version}: this host cannot join it")
    assert f"here, sanlock {other}" in found["remedy"]
    join = call("add_lockspace", LOCKSPACE.encode(), 1, stack.storage.lockspace_path, 0, 1)
    ((_, number),) = answers(stack, OURS, join)
    assert "run one version of sanlock on all hosts" in explain(number)[1]
