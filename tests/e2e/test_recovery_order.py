# SPDX-License-Identifier: LGPL-2.1-or-later
"""Order, defaults, hold and dry-run of recovery, on real domains."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

import pytest

from tests.schemas import validated

from .command import checks
from .domains import Domain
from .recovery import (
    HELPER,
    IDENTIFIER,
    POLICY,
    RUN_RECORDS,
    STATE_RECORDS,
    command,
    leave_lockspace,
    lose,
    lose_by_hand,
    make_safe,
    records,
    recover,
    starts,
    wait_for_line,
    wait_for_state,
)
from .stack import Stack
from .waiting import wait_for

# Half of an hour for all of them: `make e2e` runs them, `make modular` those that are marked so.
pytestmark = pytest.mark.long

CONF = "/etc/virt-sanlock-helper.conf"
HOLD = f"{STATE_RECORDS}/hold"


def policy(priority: object = None, delay: object = None, recover: str | None = "yes") -> str:
    values = {"recover": recover, "priority": priority, "delay": delay}
    words = "".join(f" {name}='{value}'" for name, value in values.items() if value is not None)
    return f"<lockfailure xmlns='urn:virt-sanlock-helper:1'{words}/>"


def done(stack: Stack) -> list[str]:
    """The names of what recovery has brought back, in the order of the journal."""
    found = (
        re.match(r"recover (\S+) [0-9a-f-]{36}: done after ", line.message)
        for line in stack.journal(IDENTIFIER)
    )
    return [match[1] for match in found if match]


def wait_for_order(stack: Stack, names: list[str]) -> None:
    """What recovery has logged is read from its socket by another thread."""
    wait_for(lambda: done(stack) == names, 5, f"the journal to have {names} in that order")


def lines_with(stack: Stack, *words: str) -> list[str]:
    return [line.message for line in stack.journal(IDENTIFIER) if all(word in line.message for word in words)]


def snapshot(stack: Stack, domains: list[Domain]) -> dict[str, Any]:
    """All that a dry run could change: records, sanlock, states, what libvirt logged, the journal."""
    files = {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for folder in (RUN_RECORDS, STATE_RECORDS, "/run/virt-sanlock-helper")
        for path in sorted(stack.path(folder).rglob("*"))
        if path.is_file()
    }
    return {
        "files": files,
        "lockspaces": stack.lockspaces(),
        "leases": stack.leases(),
        "states": [domain.state() for domain in domains],
        "pids": [domain.qemu_pid() for domain in domains],
        "starts": [starts(stack, domain) for domain in domains],
        "journal": [line.message for line in stack.journal(IDENTIFIER)],
    }


@pytest.mark.modular
def test_twenty_domains_of_three_priorities_come_back_in_their_order(stack: Stack) -> None:
    stack.install_helper(HELPER)
    priorities = [(0, -5, 10)[number % 3] for number in range(20)]
    domains = [
        stack.domain(
            f"vm{number:02}",
            "pause" if number % 2 else "poweroff",
            metadata=policy(priority or None),
            transient=number % 5 == 0,
            memory_mib=8,
        )
        for number, priority in enumerate(priorities)
    ]
    stack.start_all(domains)
    lose_by_hand(stack, domains)
    listed = validated(command(stack, "recover", "--list", "--json").stdout, "recover-list")["records"]
    assert {record["name"]: record.get("priority", 0) for record in listed} == {
        domain.name: priority for domain, priority in zip(domains, priorities)
    }
    assert command(stack, "recover").returncode == 0
    of = {domain.name: priority for domain, priority in zip(domains, priorities)}
    order = [of[name] for name in done(stack)]
    print(f"\n{done(stack)}\n{order}")
    assert len(order) == 20
    assert order == sorted(priorities, reverse=True)
    assert {domain.state().name for domain in domains} == {"running"}


def test_a_delay_counts_from_the_first_of_its_priority(stack: Stack) -> None:
    first = stack.domain("first", "poweroff", metadata=policy(5))
    later = stack.domain("later", "pause", metadata=policy(5, 4))
    last = stack.domain("last", "poweroff", metadata=policy())
    left = stack.domain("left", "poweroff", metadata=policy(5, None, "no"))
    # A delay of its own, with no other one of its priority: there is nothing to wait for.
    alone = stack.domain("alone", "poweroff", metadata=policy(-1, 600))
    domains = [alone, last, later, first, left]
    stack.start_all(domains)
    lose_by_hand(stack, domains)
    start = time.monotonic()
    assert command(stack, "recover").returncode == 0
    took = time.monotonic() - start
    wait_for_order(stack, ["first", "later", "last", "alone"])
    times = {
        line.message.split()[1]: line.time
        for line in stack.journal(IDENTIFIER)
        if ": done after " in line.message
    }
    print(f"\n{took:.1f} s; later {times['later'] - times['first']:.1f} s after the first")
    assert 3 <= times["later"] - times["first"] <= 10
    assert took < 30


def test_one_that_cannot_come_back_costs_none_of_a_lower_priority(stack: Stack) -> None:
    stuck = stack.domain("stuck", "poweroff", metadata=policy(10))
    other = stack.domain("other", "poweroff", metadata=policy())
    domains = [stuck, other]
    stack.start_all(domains)
    lose_by_hand(stack, domains)
    # libvirt starts no domain whose disk is not there.
    stack.path(stuck.disks[0]).unlink()
    assert command(stack, "recover").returncode == 1
    assert (stuck.state().name, other.state().name) == ("shut off", "running")
    assert records(stack) == {stuck.uuid}


def test_the_policy_of_now_counts_where_it_was_changed_since(stack: Stack) -> None:
    one = stack.domain("one", "poweroff", metadata=policy(1))
    two = stack.domain("two", "poweroff", metadata=policy(2))
    stack.start_all([one, two])
    for domain in (one, two):
        make_safe(stack, domain)
    leave_lockspace(stack)
    assert command(stack, "policy", "one", "--priority", "7").returncode == 0
    process = recover(stack)
    assert process.wait(30) == 0
    wait_for_order(stack, ["one", "two"])


def test_the_host_order_is_time(stack: Stack) -> None:
    stack.write(CONF, "[recover]\norder = time\nside_by_side = 1\n")
    low = stack.domain("low", "poweroff", metadata=policy(-3))
    high = stack.domain("high", "poweroff", metadata=policy(3, 60))
    stack.start_all([low, high])
    lose_by_hand(stack, [low, high])
    assert command(stack, "recover").returncode == 0
    wait_for_order(stack, ["low", "high"])


def test_the_hosts_default_counts_without_a_policy_of_its_own(stack: Stack) -> None:
    stack.write(CONF, "[recover]\ndefault = yes\n")
    plain = stack.domain("plain", "poweroff")
    held = stack.domain("held", "pause", metadata=policy(5, None, None))
    never = stack.domain("never", "poweroff", metadata=policy(None, None, "no"))
    passing = stack.domain("passing", "poweroff", transient=True)
    domains = [plain, held, never, passing]
    stack.start_all(domains)
    shown = command(stack, "status").stdout
    assert re.search(r"^plain +running +poweroff +yes ", shown, re.MULTILINE), shown
    assert re.search(r"^never +running +poweroff +- ", shown, re.MULTILINE), shown
    table = command(stack, "policy", "--all").stdout
    assert re.search(rf"^plain +yes \({CONF}\) +0 \(built in\) +0 s \(built in\)$", table, re.MULTILINE), (
        table
    )
    assert re.search(rf"^held +yes \({CONF}\) +5 \(domain\) ", table, re.MULTILINE), table
    assert re.search(r"^never +no \(domain\) ", table, re.MULTILINE), table
    lose_by_hand(stack, domains)
    assert command(stack, "recover").returncode == 0
    assert [domain.state().name for domain in domains] == ["running", "running", "shut off", "running"]
    assert done(stack)[0] == "held"


@pytest.mark.parametrize(
    "text", ["[recover]\ndefault = yse\n", "fifo", "directory", "[recover]\ndefualt = yes\n", "\xff"]
)
def test_a_broken_file_stops_no_recovery_and_loses_no_record(stack: Stack, text: str) -> None:
    path = stack.path(CONF)
    if text == "fifo":
        os.mkfifo(path)
    elif text == "directory":
        path.mkdir()
    else:
        path.write_bytes(text.encode("latin-1"))
    own = stack.domain("own", "poweroff", metadata=POLICY)
    never = stack.domain("never", "poweroff", metadata=policy(None, None, "no"))
    plain = [stack.domain(f"plain{number}", action) for number, action in enumerate(("poweroff", "pause"))]
    domains = [own, never, *plain]
    stack.start_all(domains)
    lose_by_hand(stack, domains)
    process = recover(stack)
    assert process.wait(30) == 0
    states = [domain.state().name for domain in domains]
    assert states == ["running", "shut off", "shut off", "paused"]
    (line,) = lines_with(stack, "recover: settings that do not count: ", CONF)
    assert "going on with default = not known, side_by_side = 8, order = priority" in line
    # In one line for all, and theirs alone are the records that stay: what the file means may be yes.
    (line,) = lines_with(
        stack, "recover: 2 domains left as they are (it has no recovery policy, and the host's"
    )
    assert line.endswith("): plain0, plain1")
    assert records(stack) == {domain.uuid for domain in plain}
    failed = checks(stack)["recovery settings"]
    assert (failed["verdict"], CONF in failed["found"], failed["remedy"] != "") == ("fail", True, True)
    # Mended, and they come back.
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    stack.write(CONF, "[recover]\ndefault = yes\n")
    assert checks(stack)["recovery settings"]["verdict"] == "pass"
    assert command(stack, "recover").returncode == 0
    assert [domain.state().name for domain in plain] == ["running", "running"]
    assert records(stack) == set()


def test_a_malformed_priority_is_named_and_costs_no_vm(stack: Stack) -> None:
    values = ["high", "1e9", "²", "", "1000001"]
    bad = [
        stack.domain(f"bad{number}", "poweroff", metadata=policy(value))
        for number, value in enumerate(values)
    ]
    odd = [
        stack.domain(f"odd{number}", "pause", metadata=policy(1, value))
        for number, value in enumerate(("NaN", "-1", "3601"))
    ]
    domains = [*bad, *odd]
    stack.start_all(domains)
    lose_by_hand(stack, domains)
    assert command(stack, "recover").returncode == 0
    assert {domain.state().name for domain in domains} == {"running"}
    for domain, value in zip(bad, values):
        (line,) = lines_with(stack, f"recover {domain.name} {domain.uuid}: done after ")
        assert f"; the recovery policy in its metadata: priority is {value!r}, no whole number from " in line
        remedy = re.search(r"\(virt-sanlock-helper (policy [^)]*)\)$", line)
        assert remedy is not None, line
        assert command(stack, *remedy[1].split()).returncode == 0
        assert command(stack, "policy", domain.name).stderr == ""
    for domain in odd:
        (line,) = lines_with(stack, f"recover {domain.name} {domain.uuid}: done after ")
        assert "delay is " in line


def test_hold_and_release(stack: Stack) -> None:
    stack.install_helper(HELPER)
    off = stack.domain("off", "poweroff", metadata=POLICY)
    held = stack.domain("held", "pause", metadata=POLICY)
    stack.start_all([off, held])
    assert checks(stack)["recovery hold"]["verdict"] == "pass"
    stack.forget_helper_calls()
    result = command(stack, "recover", "--hold")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert "recover: held by an administrator" in result.stderr
    # Again: it says so, and is held as before.
    since = stack.path(HOLD).stat().st_mtime_ns
    again = command(stack, "recover", "--hold")
    assert (again.returncode, "held already since " in again.stdout) == (0, True)
    assert stack.path(HOLD).stat().st_mtime_ns == since
    lose(stack, 2)
    stack.storage.restore()

    # Recovery's service, killed and started again.
    for number in (1, 2):
        process = recover(stack)
        wait_for(
            lambda number=number: (
                len(lines_with(stack, "2 domains wait for ", "recover --release: held, off")) == number
            ),  # type: ignore[misc]
            10,
            "the hold to be logged",
        )
        time.sleep(3)
        assert process.poll() is None
        process.kill()
        process.wait()
    assert (off.state().name, held.state().name, stack.lockspaces()) == ("shut off", "paused", [])
    # Each time once.
    assert len(lines_with(stack, "2 domains wait for ")) == 2

    text = command(stack, "recover", "--list").stdout.splitlines()
    assert re.fullmatch(
        r"recovery is held since .*: nothing is brought back until .*recover --release", text[0]
    )
    assert len(text) == 3
    listed = validated(command(stack, "recover", "--list", "--json").stdout, "recover-list")
    assert listed["held_since"] == pytest.approx(since / 1e9)
    shown = json.loads(command(stack, "status", "--json").stdout)
    assert any(problem.startswith("recovery is held since ") for problem in shown["problems"])
    found = checks(stack)["recovery hold"]
    assert (found["verdict"], found["remedy"]) == ("warn", "virt-sanlock-helper recover --release")
    plan = validated(command(stack, "recover", "--dry-run", "--json").stdout, "recover-dry-run")
    assert plan["held_since"] == listed["held_since"]
    # By hand it is an error with its remedy; the state is as before.
    result = command(stack, "recover")
    assert result.returncode == 1
    assert "an administrator has held it since " in result.stderr
    assert "(virt-sanlock-helper recover --release)" in result.stderr

    process = recover(stack)
    time.sleep(1)
    assert command(stack, "recover", "--release").returncode == 0
    for domain in (off, held):
        wait_for_state(domain, "running")
    assert process.wait(10) == 0
    wait_for_line(stack, "recover: released by an administrator")
    assert not stack.path(HOLD).exists()
    assert command(stack, "recover", "--release").stdout == "recovery was not held\n"
    assert checks(stack)["recovery hold"]["verdict"] == "pass"


def test_a_dry_run_changes_nothing(stack: Stack) -> None:
    off = stack.domain("off", "poweroff", metadata=policy(-2))
    held = stack.domain("held", "pause", metadata=policy(5))
    passing = stack.domain("passing", "poweroff", transient=True, metadata=policy(0, 30))
    left = stack.domain("left", "pause")
    stale = stack.domain("stale", "pause", metadata=POLICY)
    resumed = stack.domain("resumed", "pause", metadata=POLICY)
    domains = [off, held, passing, left, stale, resumed]
    stack.start_all(domains)
    lease = stale.leases()[0]
    for domain in domains:
        make_safe(stack, domain)
    leave_lockspace(stack)
    before = snapshot(stack, domains)
    plan = validated(command(stack, "recover", "--dry-run", "--json").stdout, "recover-dry-run")
    text = command(stack, "recover", "--dry-run")
    assert snapshot(stack, domains) == before
    assert (text.returncode, text.stderr) == (0, "")
    (space,) = plan["lockspaces"]
    assert (space["name"], space["place"]) == (
        "__LIBVIRT__DISKS__",
        f"__LIBVIRT__DISKS__:1:{stack.storage.lockspace_path}:0",
    )
    steps = [(one["name"], one["step"], one["lockspaces"]) for one in plan["domains"]]
    waits = ["__LIBVIRT__DISKS__"]
    assert steps[0] == ("held", "resume", waits)
    assert sorted(steps[1:4]) == [
        ("left", "leave", []),
        ("resumed", "resume", waits),
        ("stale", "resume", waits),
    ]
    assert steps[4:] == [("passing", "start", waits), ("off", "start", waits)]
    assert (
        f"1. held {held.uuid} (pause, priority 5): resume, once __LIBVIRT__DISKS__ is joined" in text.stdout
    )
    assert "(poweroff, delay 30 s): start, " in text.stdout
    assert ": nothing, and its record is removed: no recovery policy" in text.stdout

    # With the lockspace joined it is known whether each may come back.
    stack.join_lockspace()
    other = stack.second_host()
    other.join()
    other.take(lease)
    other.give_back(lease)
    resumed.resume()
    before = snapshot(stack, domains)
    plan = validated(command(stack, "recover", "--dry-run", "--json").stdout, "recover-dry-run")
    assert snapshot(stack, domains) == before
    found = {one["name"]: (one["step"], one["why"]) for one in plan["domains"]}
    assert plan["lockspaces"] == []
    assert found["held"] == ("resume", "")
    assert (found["off"], found["passing"]) == (("start", ""), ("start", ""))
    assert found["stale"][0] == "keep"
    assert "was version 1 when it was paused and is 2 now" in found["stale"][1]
    assert found["resumed"][0] == "remove"
    # And that is what recovery does.
    command(stack, "recover")
    assert [domain.state().name for domain in domains] == [
        "running",
        "running",
        "running",
        "paused",
        "paused",
        "running",
    ]


def test_policies_of_several(stack: Stack) -> None:
    one = stack.domain("one").start()
    two = stack.domain("two").define()
    three = stack.domain("three", metadata=policy(3, None, "no"), transient=True).start()
    # One of them is not there: nothing is set.
    result = command(stack, "policy", "one", "missing", "two", "absent", "--recover", "--priority", "5")
    assert result.returncode == 1
    assert result.stdout == ""
    assert (
        "domain 'missing', domain 'absent': there is no such domain; no domain's policy was changed"
        in result.stderr
    )
    found = validated(command(stack, "policy", "--all", "--json").stdout, "policy-list")
    assert [(p["name"], p["recover"], p["priority"]) for p in found["domains"]] == [
        ("one", False, 0), ("three", False, 3), ("two", False, 0)
    ]  # fmt: skip
    # By name, by UUID, and twice.
    result = command(stack, "policy", "one", two.uuid, "two", "--recover", "--delay", "7", "--json")
    found = validated(result.stdout, "policy-list")
    assert [(p["name"], p["live"], p["persistent"], p["delay"]) for p in found["domains"]] == [
        ("one", True, True, 7), ("two", None, True, 7)
    ]  # fmt: skip
    assert found["domains"][0]["sources"] == {"recover": "domain", "priority": "built in", "delay": "domain"}
    # What is not named stays as it was in each.
    assert command(stack, "policy", "--all", "--priority", "-4").returncode == 0
    found = validated(command(stack, "policy", "--all", "--json").stdout, "policy-list")
    assert [(p["name"], p["recover"], p["priority"], p["delay"]) for p in found["domains"]] == [
        ("one", True, -4, 7), ("three", False, -4, 0), ("two", True, -4, 7)
    ]  # fmt: skip
    shown = command(stack, "policy", "one")
    assert shown.stdout.splitlines() == [
        f"one ({name}): recover, by its own policy, priority -4, delay 7 s" for name in ("live", "persistent")
    ]
    for domain in (one, three):
        xml = stack.virsh("dumpxml", domain.uuid)
        assert len(re.findall("<lockfailure:lockfailure|<lockfailure ", xml)) == 1, xml
    (document,) = (json.loads(command(stack, "policy", "three", "--json").stdout),)
    assert (document["live"], document["persistent"], document["priority"]) == (False, None, -4)
