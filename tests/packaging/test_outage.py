# SPDX-License-Identifier: LGPL-2.1-or-later
"""An outage on a host that has our package: systemd, sanlock.service, libvirtd, a QEMU virtual machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import stack
from tests.e2e.leases import LOCKSPACE
from tests.e2e.preconditions import need
from tests.e2e.waiting import wait_for
from tests.schemas import validated

from . import packages
from .machine import STOCK, Machine, missing
from .packages import OWNER

AGENT = "virt-sanlock-helper-agent.service"
OURS = "/usr/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
LEASES = "/var/lib/libvirt/sanlock"
UUID = "0f6b2a3e-7d2c-4a6b-9a53-5d1a4b1b7c11"
HELD_UUID = "3c1f7d52-9a0e-4b7c-8f66-2d5e9b1a7c22"
XML = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <on_lockfailure>{action}</on_lockfailure>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/var/lib/libvirt/images/{name}.img'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""

# 8 times io_timeout (1 s) after the last good renewal the lease is lost.
LOST_SECONDS = 8
# With a margin for a busy machine; sanlock sends SIGKILL 40 s after the loss.
SAFE_SECONDS = LOST_SECONDS + 20


# With python3-sanlock and without; from an RPM, and from the Debian package where dpkg is.
KINDS = {"python3-sanlock": "rpm", "no python3-sanlock": "deb" if shutil.which("dpkg") else "rpm"}


@pytest.fixture(scope="module", params=KINDS)
def host(request: pytest.FixtureRequest, owners: Path) -> Iterator[Machine]:
    """A host with both packages, sanlock.service, libvirtd and a lockspace."""
    need(missing(), "no machine can be booted here")
    kind = KINDS[request.param]
    ours = request.getfixturevalue("ours" if kind == "rpm" else "our_deb")
    with Machine() as machine:
        if request.param == "no python3-sanlock":
            machine.remove_sanlock_python()
        elif not machine.sanlock_python():
            pytest.skip("this distribution has no python3-sanlock")
        # dpkg has libvirt's package installed.
        install(machine, *([packages.owner(owners, OWNER, "1")] if kind == "rpm" else []), ours.main)
        # systemd-nspawn covers the kernel's id of this boot for all but services with ProtectKernelTunables.
        machine.run("umount", "/proc/sys/kernel/random/boot_id")
        set_up(machine)
        define(machine, "guest", UUID, "poweroff")
        define(machine, "held", HELD_UUID, "pause")
        yield machine


def standing(host: Machine) -> int:
    """The process that stands as the agent, by `status`; 0 for none."""
    agent = validated(host.run("virt-sanlock-helper", "status", "--json").stdout, "status")["agent"]
    return int(agent["pid"]) if agent else 0


def have_agent(host: Machine, stands: bool) -> None:
    """Have an agent stand, or none, as an administrator does that."""
    host.run("systemctl", "enable" if stands else "disable", "--now", AGENT)
    wait_for(lambda: bool(standing(host)) == stands, 20, f"the agent to stand: {stands}")


@pytest.fixture(params=[True, False], ids=["agent", "no-agent"])
def agent(request: pytest.FixtureRequest, host: Machine) -> bool:
    """Whether an agent stands."""
    have_agent(host, request.param)
    return bool(request.param)


@pytest.fixture
def since(host: Machine) -> str:
    """The option by which the journal begins with this test."""
    return host.mark()


def install(machine: Machine, *files: Path) -> None:
    """Install packages."""
    for package in files:
        shutil.copy(package, machine.path("/var/tmp"))
        if package.suffix == ".rpm":
            machine.rpm("-i", f"/var/tmp/{package.name}")
        else:
            machine.run("dpkg", "-i", f"/var/tmp/{package.name}")


def set_up(machine: Machine) -> None:
    """Configure libvirt, start sanlock and libvirtd."""
    machine.write("/etc/libvirt/qemu.conf", stack.QEMU_CONF)
    machine.write("/etc/libvirt/libvirtd.conf", 'auth_unix_rw = "none"\n')
    machine.write("/etc/libvirt/virtlogd.conf", "")
    # sanlock runs as sanlock here, as it does in production.
    conf = stack.QEMU_SANLOCK_CONF.format(host_id=1, io_timeout=1, leases=LEASES).replace(
        '"root"', '"sanlock"'
    )
    machine.write("/etc/libvirt/qemu-sanlock.conf", conf)
    for folder in (LEASES, "/var/lib/libvirt/images"):
        machine.run("install", "-d", "-o", "sanlock", "-g", "sanlock", folder)
    machine.start_sanlock()
    machine.run("systemctl", "start", "libvirtd")
    try:
        wait_for(lambda: machine.run("virsh", "list", check=False).returncode == 0, 30, "libvirtd to answer")
    except AssertionError as error:
        log = machine.run("journalctl", "-n", "50").stdout
        raise AssertionError(f"{error}\n{log}") from error


def define(machine: Machine, name: str, uuid: str, action: str) -> None:
    """Define a VM with a disk."""
    machine.write(f"/var/lib/libvirt/images/{name}.img", "\0" * 1024 * 1024)
    machine.write(f"/run/{name}.xml", XML.format(name=name, uuid=uuid, action=action))
    machine.run("virsh", "define", f"/run/{name}.xml")


def wait_for_line(host: Machine, since: str, words: str, seconds: float) -> str:
    """Wait for a line of ours in the journal that has WORDS, return it; SINCE as of Machine.mark()."""

    def find() -> str:
        return next((line for line in host.journal(since).splitlines() if words in line), "")

    return wait_for(find, seconds, words)


def check_leases(host: Machine, number: int) -> None:
    """All that `check` reads of sanlock is read, and NUMBER leases are held."""
    answer = validated(host.run("virt-sanlock-helper", "check", "--json", check=False).stdout, "check")
    findings = {finding["name"]: finding for finding in answer["checks"]}
    # A pass that says so is libvirt's setting, not an answer that sanlock did not give.
    not_passed = {name: found["found"] for name, found in findings.items() if found["verdict"] != "pass"}
    assert [name for name, found in not_passed.items() if found.startswith("not checked")] == []
    verdicts = {name: findings[name]["verdict"] for name in ("python", "sanlock", "lockspace", "leases")}
    assert set(verdicts.values()) == {"pass"}, findings
    assert findings["leases"]["found"] == f"{number} leases of running domains are there and held"


def lose_the_storage(host: Machine) -> bytes:
    """Each renewal gets a short read from here on; returns what was there.  Waits until the VM is off."""
    path = host.path(f"{LEASES}/{LOCKSPACE}")
    data = path.read_bytes()
    os.truncate(path, 0)
    wait_for(
        lambda: "shut off" in host.run("virsh", "domstate", "guest").stdout, SAFE_SECONDS, "the VM to be off"
    )
    # No process had to be killed, in sanlock's own words.
    assert [kill for kill in host.sanlock_kills() if kill.signal == 9] == []
    return data


def bring_it_back(host: Machine, data: bytes) -> None:
    """The same file again, sanlock has joined, and recovery has no record of it left for the next test."""
    wait_for(lambda: not host.lockspaces(), 30, "sanlock to leave its lockspace")
    with host.path(f"{LEASES}/{LOCKSPACE}").open("r+b") as file:
        file.write(data)
    where = f"{LOCKSPACE}:1:{LEASES}/{LOCKSPACE}:0"
    host.run("sanlock", "client", "add_lockspace", "-s", where, "-o", "1")
    folders = (host.path("/run/virt-sanlock-helper/records"), host.path("/var/lib/virt-sanlock-helper"))
    wait_for(
        lambda: not [path for folder in folders for path in folder.glob("[!.]*.*")], 60, "recovery to be done"
    )


def test_the_package_has_an_agent_stand(host: Machine) -> None:
    wait_for(lambda: standing(host), 20, "the agent to stand")
    assert host.run("systemctl", "is-enabled", AGENT).stdout == "enabled\n"


def test_our_helper_makes_the_vm_safe_and_logs_it(host: Machine, agent: bool, since: str) -> None:
    host.run("virsh", "start", "guest")
    (space,) = host.lockspaces()
    assert space.name == LOCKSPACE
    pid, stands = host.sanlock_pid(), standing(host)
    data = lose_the_storage(host)
    wait_for_line(host, since, UUID, 5)
    assert (host.sanlock_pid(), standing(host)) == (pid, stands)
    lines = host.run("journalctl", "-t", "virt-sanlock-helper", "-o", "json", since).stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    (entry,) = (entry for entry in entries if f"poweroff guest {UUID}: done after" in entry["MESSAGE"])
    assert "found running, destroyed, verified off" in entry["MESSAGE"]
    if agent:
        assert (int(entry["_PID"]), entry["_SYSTEMD_UNIT"]) == (stands, AGENT)
    else:
        # By sanlock's service, from the path that libvirt registers.  journald looks these up when it reads
        # the message: it misses them when the helper has ended by then.
        assert entry.get("_SYSTEMD_UNIT", "sanlock.service") == "sanlock.service"
        command = ["-ISB", STOCK, "qemu:///system", UUID, "poweroff"]
        assert entry.get("_CMDLINE", " ".join(["python3", *command])).split()[1:] == command
    assert host.seen_by_sanlock() == host.path(OURS).read_bytes()
    assert entry["PRIORITY"] == "5"
    bring_it_back(host, data)


def test_half_an_update_still_makes_the_vm_safe(host: Machine, agent: bool, since: str) -> None:
    host.run("virsh", "start", "guest")
    # libvirt-python is imported late, after the request was read.
    folder = "/usr/share/virt-sanlock-helper/libvirt_auth"
    host.run("mv", folder, f"{folder}.away")
    try:
        data = lose_the_storage(host)
    finally:
        host.run("mv", f"{folder}.away", folder)
    critical = host.journal("-p", "crit", since).splitlines()
    if agent:
        # It has imported all before.
        assert critical == []
        wait_for_line(host, since, f"poweroff guest {UUID}: done after", 5)
    else:
        logged = critical[-1]
        assert logged.startswith(
            f"poweroff {UUID}: this program failed: ModuleNotFoundError: No module named 'libvirt_auth'"
        )
        assert logged.endswith(f"/proc/1/root{STOCK} takes over, to poweroff")
    bring_it_back(host, data)


def test_recovery_brings_both_back_by_itself(host: Machine, agent: bool, since: str) -> None:
    for name in ("guest", "held"):
        host.run("virt-sanlock-helper", "policy", name, "--recover")
        # The tests before this one leave it on or off.
        host.run("virsh", "start", name, check=False)
    check_leases(host, 2)
    data = lose_the_storage(host)
    line = wait_for_line(host, since, f"pause held {HELD_UUID}: done after", 20)
    assert line.endswith("found running, suspended, verified paused, no lease held")
    wait_for(lambda: "recover: waiting for lockspace" in host.journal(since), 30, "recovery to wait")
    with host.path(f"{LEASES}/{LOCKSPACE}").open("r+b") as file:
        file.write(data)
    for name, uuid in (("guest", UUID), ("held", HELD_UUID)):
        line = wait_for_line(host, since, f"recover {name} {uuid}: done after", 60)
        assert line.endswith("verified running, 1 lease held")
    assert len(host.lockspaces()) == 1
    check_leases(host, 2)
    # What the service may ask sanlock in its sandbox is enough to distinguish a loss from an administrator.
    age = (
        "import sys, time; sys.path.insert(0, '/usr/share/virt-sanlock-helper'); "
        "from sanlock_helper.leases import libsanlock as sanlock; "
        f"print(time.monotonic() - sanlock.get_hosts(b'{LOCKSPACE}', 1)[0]['timestamp'] < 4.2)"
    )
    wait_for(lambda: host.run("/usr/bin/python3", "-c", age, check=False).stdout == "True\n", 30, "a renewal")
    host.run("virt-sanlock-helper", "run", "poweroff", "guest", "--yes")
    left = "(no lockspace was lost: "
    try:
        wait_for(lambda: left in host.journal(since), 20, "recovery to leave it")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{host.journal()}") from error
    assert "shut off" in host.run("virsh", "domstate", "guest").stdout


# The drill, beside a virtual machine of the host


def drill(host: Machine, *words: str, status: int = 0) -> dict[str, Any]:
    """What a drill reports."""
    answer = host.run("virt-sanlock-helper", "drill", "--yes", "--json", *words, check=False, timeout=120)
    assert answer.returncode == status, answer.stdout + answer.stderr
    return validated(answer.stdout, "drill")


@pytest.fixture
def running(host: Machine) -> Iterator[None]:
    """A virtual machine of the host's, which no drill touches; and nothing that a drill leaves."""
    # The tests before this one leave it on or off.
    host.run("virsh", "start", "held", check=False)
    held = [line for line in host.run("sanlock", "client", "status").stdout.splitlines() if line[0] in "rs"]
    folders = host.run("ls", "-A", "/var/lib/libvirt", "/var/log/libvirt/qemu").stdout
    yield
    now = [line for line in host.run("sanlock", "client", "status").stdout.splitlines() if line[0] in "rs"]
    assert (now, len(held)) == (held, 2)
    assert host.run("virsh", "domstate", "held").stdout.strip() == "running"
    assert host.run("ls", "-A", "/var/lib/libvirt", "/var/log/libvirt/qemu").stdout == folders
    assert "drill" not in host.run("virsh", "list", "--all", "--name").stdout
    assert "drill" not in host.run("ls", "-A", "/var/lib/virt-sanlock-helper", check=False).stdout
    assert "drill" not in host.run("virt-sanlock-helper", "recover", "--list").stdout


@pytest.mark.parametrize("action", ["pause", "poweroff"])
def test_a_drill_passes(host: Machine, running: None, agent: bool, action: str) -> None:
    before = host.run("virt-sanlock-helper", "history", "--json").stdout
    found = drill(host, action)
    assert [link["verdict"] for link in found["links"]] == ["pass"] * 8, found
    assert found["links"][3]["found"].startswith(f"sanlock ran {STOCK}, process ")
    assert "done after" in found["links"][5]["found"]
    assert found["seconds"] < 15
    uuid = found["domain"]["uuid"]
    lines = host.journal().splitlines()
    assert [line for line in lines if uuid in line and "done after" in line]
    # Recovery, whose units are enabled, has nothing to do with it.
    assert [line for line in lines if line.startswith("recover") and "drill" in line] == []
    after = host.run("virt-sanlock-helper", "history", "--json").stdout
    assert [json.loads(text)["outages"] for text in (before, after)] == [json.loads(before)["outages"]] * 2


def test_a_drill_without_a_virtual_machine_passes(host: Machine, running: None, agent: bool) -> None:
    found = drill(host, "--qemu-less")
    verdicts = [link["verdict"] for link in found["links"]]
    assert verdicts == ["pass"] * 5 + ["not tried"] * 2 + ["pass"], found
    # Here journald vouches for it.
    assert found["links"][4]["found"] == "it logged"


# What breaks the chain in sanlock's own mount namespace, where the command that drills does not see it; the
# link, and what its line has.
BROKEN = {
    "not executable": (
        ("chmod", "644", OURS), ("chmod", "755", OURS), "helper run", "is not executable",
    ),
    "no Python": (
        ("mount", "--bind", "/dev/null", "PYTHON"), ("umount", "PYTHON"), "helper run", "does not run",
    ),
    "no program behind it": (
        ("mount", "-t", "tmpfs", "tmpfs", "/usr/share/virt-sanlock-helper"),
        ("umount", "/usr/share/virt-sanlock-helper"),
        "helper is ours",
        "this program failed: ModuleNotFoundError",
    ),
    "libvirt's own helper": (
        ("umount", STOCK), ("mount", "--bind", OURS, STOCK), "helper is ours", "is libvirt's C helper",
    ),
    "libvirtd's socket closed": (
        ("mount", "--bind", "/dev/null", "/run/libvirt/libvirt-sock"),
        ("umount", "/run/libvirt/libvirt-sock"),
        "libvirtd reached",
        "Failed to connect socket",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_a_drill_names_the_link_that_broke(host: Machine, running: None, how: str) -> None:
    breaks, mends, name, words = BROKEN[how]
    # One that stands has its connections open, and mounts of its own.
    have_agent(host, stands=False)
    if how != "not executable" and not host.sanlock_python():
        pytest.skip("of the second host one link is broken: how one is named is the same there")
    python = host.run("readlink", "-f", "/usr/bin/python3").stdout.strip()
    pid = host.sanlock_pid()
    host.run(*(python if word == "PYTHON" else word for word in breaks), within=pid)
    try:
        found = drill(host, status=1)
    finally:
        host.run(*(python if word == "PYTHON" else word for word in mends), within=pid)
    assert found["broken"] == name, found
    (link,) = (link for link in found["links"] if link["name"] == name)
    assert words in link["found"], found
    assert link["remedy"]
