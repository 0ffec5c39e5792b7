# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which helper sanlock would execute, over the life of both packages, under systemd."""

from __future__ import annotations

import re
import shutil
import threading
import time
from typing import Callable

import pytest

from sanlock_helper import __version__
from tests.e2e.namespace import CommandError
from tests.e2e.waiting import wait_for
from tests.schemas import validated

from . import packages
from .formats import Packages
from .machine import STOCK, Machine
from .packages import NEXT_VERSION

OURS = "/usr/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
COMMAND = "virt-sanlock-helper"
LEASES = "/var/lib/test-leases"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

# For what is the same, however the files came to the host.
one_kind = pytest.mark.parametrize("installed", ["rpm"], indirect=True)

# Between the update of the owner's package and its trigger sanlock would execute libvirt's.
GAP_SECONDS = 3.0


class Host:
    """A booted machine with the owner's package on it, sanlock stopped, and ours not there."""

    def __init__(self, installed: Packages) -> None:
        self.packages = installed
        self.machine = installed.machine

    def owner(self, version: str, name: str = "") -> str:
        """Update the owner's package; returns all that is printed."""
        return self.packages.owner(version, name or self.packages.owner_names[0])

    def reset(self) -> None:
        """Back to the beginning."""
        self.machine.stop_sanlock()
        self.packages.reset()

    def stock(self) -> bytes:
        """The file at libvirt's path as the host sees it."""
        return self.machine.path(STOCK).read_bytes()

    def ours(self) -> bytes:
        """Our executable."""
        return self.machine.path(OURS).read_bytes()

    def check(self) -> tuple[int, dict[str, dict[str, object]]]:
        """What install-check prints: status, and the findings by name."""
        result = self.machine.run(COMMAND, "install-check", "--json", check=False)
        answer = validated(result.stdout, "install-check")
        return result.returncode, {finding["what"]: finding for finding in answer["findings"]}

    def join_lockspace(self) -> None:
        """Make a lockspace and join it, as libvirtd does for its disks."""
        folder = self.machine.path(LEASES)
        shutil.rmtree(folder, ignore_errors=True)
        self.machine.run("install", "-d", "-o", "sanlock", "-g", "sanlock", LEASES)
        self.machine.run("install", "-o", "sanlock", "-g", "sanlock", "/dev/null", f"{LEASES}/ls")
        where = f"ls:1:{LEASES}/ls:0"
        self.machine.run("sanlock", "client", "init", "-s", f"ls:0:{LEASES}/ls:0", "-o", "1")
        self.machine.run("sanlock", "client", "add_lockspace", "-s", where, "-o", "1")


@pytest.fixture
def host(installed: Packages) -> Host:
    host = Host(installed)
    host.reset()
    return host


def test_the_service_runs_ours_and_the_host_keeps_libvirts(host: Host) -> None:
    stock = host.stock()
    printed = host.packages.install()
    assert printed == ""
    pid = host.machine.start_sanlock()
    assert host.machine.seen_by_sanlock() == host.ours()
    assert host.stock() == stock
    # The process that sanlock forks for its killpaths has the same mounts.
    (child,) = host.machine.run("pgrep", "-P", str(pid)).stdout.split()
    mounts = [host.machine.run("readlink", f"/proc/{p}/ns/mnt").stdout for p in (str(pid), child, "1")]
    assert mounts[0] == mounts[1] != mounts[2]
    for package in (COMMAND, host.packages.owner_names[0]):
        assert host.packages.verify(package) == ""
    status, findings = host.check()
    assert [name for name, finding in findings.items() if not finding["ok"]] == []
    assert status == 0
    assert findings["now"]["found"] == f"the running sanlock (pid {pid}) runs ours"
    verify = host.machine.run("systemd-analyze", "verify", "--man=no", "sanlock.service")
    assert "virt-sanlock-helper" not in verify.stderr


def test_the_recovery_waits_for_records(host: Host) -> None:
    unit = "virt-sanlock-helper-recover.path"
    if not (packages.ROOT / "packaging" / unit).exists():
        pytest.skip("this version has no recovery")
    host.packages.install()
    seen = [
        host.machine.run("systemctl", verb, unit, check=False).stdout for verb in ("is-enabled", "is-active")
    ]
    assert seen == ["enabled\n", "active\n"]
    host.packages.erase()
    assert host.machine.run("systemctl", "is-active", unit, check=False).stdout == "inactive\n"


@one_kind
def test_mounts_made_later_reach_sanlock(host: Host) -> None:
    host.packages.install()
    pid = host.machine.start_sanlock()
    host.machine.run("mkdir", "-p", "/mnt/later")
    host.machine.run("mount", "-t", "tmpfs", "tmpfs", "/mnt/later")
    try:
        host.machine.run("mountpoint", "-q", "/mnt/later", within=pid)
    finally:
        host.machine.run("umount", "/mnt/later")


@one_kind
def test_without_our_file_sanlock_starts_all_the_same(host: Host) -> None:
    host.packages.install()
    host.machine.run("mv", OURS, f"{OURS}.gone")
    try:
        host.machine.start_sanlock()
        assert host.machine.seen_by_sanlock() == host.stock()
    finally:
        host.machine.run("mv", f"{OURS}.gone", OURS)


class Watch:
    """Reads, as often as it can, which helper sanlock would execute; knows for how long it was not ours."""

    # One process inside: a command per reading would measure the commands.
    CODE = """
import sys, time
path, ours = sys.argv[1:]
ours = open(ours, "rb").read()
since = gap = 0.0
print("ready", flush=True)
while not sys.stdin.closed:
    now = time.monotonic()
    try:
        is_ours = open(path, "rb").read() == ours
    except OSError:
        is_ours = False
    if is_ours:
        if since:
            gap += now - since
            print(gap, flush=True)
        since = 0.0
    elif not since:
        since = now
        print("gone", flush=True)
    time.sleep(0.001)
"""

    def __init__(self, machine: Machine) -> None:
        path = f"/proc/{machine.sanlock_pid()}/root{STOCK}"
        self._process = machine.popen("/usr/bin/python3", "-c", self.CODE, path, OURS)
        assert self._process.stdout is not None
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(lambda: "ready" in self._lines, 10, "the watch to begin")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.strip())

    def gap(self) -> float:
        """End it; the seconds without ours."""
        time.sleep(0.2)
        self._process.kill()
        self._process.communicate()
        numbers = [float(line) for line in self._lines if re.fullmatch(r"[\d.e-]+", line)]
        return numbers[-1] if numbers else 0.0

    def saw_another(self) -> bool:
        """Whether it was not ours at any time."""
        return "gone" in self._lines


@pytest.mark.parametrize("which", [0, 1])
def test_an_update_of_the_owner_is_put_right(
    host: Host, which: int, record_property: Callable[[str, object], None]
) -> None:
    if which >= len(host.packages.owner_names):
        pytest.skip("the owner has one name here")
    name = host.packages.owner_names[which]
    if which:
        host.owner("1", name)
    host.packages.install()
    pid = host.machine.start_sanlock()
    host.join_lockspace()
    watch = Watch(host.machine)
    before = host.stock()
    printed = host.owner("2", name)
    gap = watch.gap()
    assert watch.saw_another(), "the update did not touch what sanlock sees: this test shows nothing"
    assert host.machine.seen_by_sanlock() == host.ours()
    assert host.stock() != before
    assert host.machine.sanlock_pid() == pid
    assert [space.state for space in host.machine.lockspaces()] == [""]
    record_property("seconds of libvirt's helper", f"{gap:.3f}")
    print(f"{name}: libvirt's helper stood there for {gap:.3f} s")
    assert gap < GAP_SECONDS
    logged = f"after an update: bound {OURS} over {STOCK} in the running sanlock (pid {pid})"
    assert printed == f"virt-sanlock-helper: {logged}"
    assert logged in host.machine.journal()
    assert host.check()[0] == 0
    # Binds stack: one is enough, and one more update changes nothing in that.
    host.owner("3", name)
    mounts = host.machine.run("cat", f"/proc/{pid}/mountinfo").stdout
    assert len([line for line in mounts.splitlines() if line.split()[4] == STOCK]) == 1


def test_an_update_of_ours_runs_through_the_old_bind(host: Host) -> None:
    host.packages.install()
    pid = host.machine.start_sanlock()
    inode = host.machine.run("stat", "-c", "%i", f"/proc/{pid}/root{STOCK}").stdout
    assert __version__ in host.machine.run(STOCK, "--version", within=pid).stdout
    assert host.packages.update() == ""
    assert host.machine.run("stat", "-c", "%i", f"/proc/{pid}/root{STOCK}").stdout == inode
    assert host.machine.run("stat", "-c", "%i", OURS).stdout != inode
    assert host.machine.run(STOCK, "--version", within=pid).stdout.split()[-1] == NEXT_VERSION
    assert host.machine.sanlock_pid() == pid
    assert host.check()[0] == 0


def test_after_ours_is_erased_libvirts_takes_over(host: Host) -> None:
    host.packages.install()
    pid = host.machine.start_sanlock()
    executable = host.ours()
    assert host.packages.erase() == ""
    left = host.machine.run("find", "/usr", "/etc", "/run", "/var", "-name", "*virt-sanlock-helper*").stdout
    assert [name for name in left.split() if not name.startswith("/var/tmp/")] == []
    # Sanlock still sees our executable, and that runs libvirt's.
    assert host.machine.seen_by_sanlock() == executable
    result = host.machine.run(STOCK, "test:///default", UUID, "poweroff", within=pid)
    assert f"/proc/1/root{STOCK} takes over, to poweroff" in result.stderr
    assert "takes over, to poweroff" in host.machine.journal("-p", "crit")
    host.machine.stop_sanlock()
    host.machine.start_sanlock()
    assert host.machine.seen_by_sanlock() == host.stock()


@one_kind
def test_a_journal_that_does_not_read_holds_nothing_up(host: Host) -> None:
    host.packages.install()
    pid = host.machine.start_sanlock()
    host.packages.erase()
    (journald,) = host.machine.run("pgrep", "-x", "systemd-journal").stdout.split()
    host.machine.run("kill", "-STOP", journald)
    try:
        # Fill the socket's queue: each sender may have so many bytes under way, so there are several.
        fill = (
            "import socket\n"
            "sent = 1\n"
            "while sent:\n"
            "    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.setblocking(False)\n"
            "    s.connect('/dev/log'); sent = 0\n"
            "    try:\n"
            "        while True: s.send(b'<13>x'); sent += 1\n"
            "    except BlockingIOError: pass"
        )
        host.machine.run("/usr/bin/python3", "-c", fill)
        start = time.monotonic()
        host.machine.run(STOCK, "test:///default", UUID, "poweroff", within=pid, timeout=20)
        assert time.monotonic() - start < 5
    finally:
        host.machine.run("kill", "-CONT", journald)


def test_installed_under_a_running_sanlock(host: Host) -> None:
    pid = host.machine.start_sanlock()
    host.join_lockspace()
    stock = host.stock()
    assert host.packages.install() == ""
    # Nothing breaks, and nothing changes for that sanlock.
    assert host.machine.sanlock_pid() == pid
    assert [space.state for space in host.machine.lockspaces()] == [""]
    assert host.machine.seen_by_sanlock() == stock
    status, findings = host.check()
    assert status == 1
    assert [name for name, finding in findings.items() if not finding["ok"]] == ["now"]
    assert "started before ours was installed" in str(findings["now"]["found"])
    step = str(findings["now"]["step"])
    assert step.startswith("move the VMs off this host, then restart sanlock or reboot")
    # The other way that it names, asked first.
    with pytest.raises(CommandError) as refused:
        host.machine.run(COMMAND, "activate")
    assert "--yes" in refused.value.stderr
    assert host.machine.seen_by_sanlock() == stock
    assert step.endswith("virt-sanlock-helper activate")
    host.machine.run(COMMAND, "activate", "--yes")
    assert host.machine.seen_by_sanlock() == host.ours()
    assert host.machine.path(f"{STOCK}.distrib").read_bytes() == stock
    assert host.check()[0] == 0
    host.machine.run(COMMAND, "activate", "--yes")
    # The owner's update undoes it, and the trigger does it again.
    host.owner("2")
    assert host.machine.seen_by_sanlock() == host.ours()
    assert b" 2" in host.machine.path(f"{STOCK}.distrib").read_bytes()[-4:]
    host.machine.run(COMMAND, "activate", "--undo")
    assert host.machine.seen_by_sanlock().endswith(b" 2")
    assert host.packages.verify(host.packages.owner_names[0]) == ""
    assert not host.machine.path(f"{STOCK}.distrib").exists()
    # Twice is once.
    assert "nothing to undo" in host.machine.run(COMMAND, "activate", "--undo").stdout
    # The drop-in waits for the next start.
    host.machine.stop_sanlock()
    host.machine.start_sanlock()
    assert host.machine.seen_by_sanlock() == host.ours()


@pytest.mark.parametrize("damage", ["true", "rm -r /usr/share/virt-sanlock-helper/sanlock_helper"])
def test_activated_and_erased(host: Host, damage: str) -> None:
    host.machine.start_sanlock()
    host.packages.install()
    host.machine.run(COMMAND, "activate", "--yes")
    host.machine.run("sh", "-c", damage)
    printed = host.packages.erase()
    assert printed == "" or "rm" in damage  # rpm warns of each file that is gone
    assert host.machine.seen_by_sanlock() == host.stock()
    assert host.stock()[:4] == b"\x7fELF"
    assert host.packages.verify(host.packages.owner_names[0]) == ""


@one_kind
def test_activated_and_restarted(host: Host) -> None:
    host.packages.install()
    host.machine.run(COMMAND, "activate", "--yes")
    pid = host.machine.start_sanlock()
    assert host.machine.seen_by_sanlock() == host.ours()
    # Broken, it still finds libvirt's helper behind its own link.
    host.machine.run("mv", "/usr/share/virt-sanlock-helper/libvirt_auth", "/usr/share/away")
    try:
        result = host.machine.run(STOCK, "test:///default", UUID, "poweroff", within=pid)
    finally:
        host.machine.run("mv", "/usr/share/away", "/usr/share/virt-sanlock-helper/libvirt_auth")
    assert f"{STOCK}.distrib takes over" in result.stderr


@one_kind
def test_a_lost_bind_is_found_and_the_step_mends_it(host: Host) -> None:
    host.packages.install()
    pid = host.machine.start_sanlock()
    host.machine.run("umount", STOCK, within=pid)
    status, findings = host.check()
    assert (status, findings["now"]["ok"]) == (1, False)
    host.machine.run("sh", "-c", str(findings["now"]["step"]))
    assert host.machine.seen_by_sanlock() == host.ours()
    assert host.check()[0] == 0


@one_kind
def test_the_runtime_directory_is_roots_alone(host: Host) -> None:
    host.packages.install()
    seen = host.machine.run("stat", "-c", "%U %G %a", "/run/virt-sanlock-helper").stdout
    assert seen == "root root 700\n"
    host.machine.run("chmod", "755", "/run/virt-sanlock-helper")
    status, findings = host.check()
    assert (status, findings["runtime directory"]["ok"]) == (1, False)
    host.machine.run("sh", "-c", str(findings["runtime directory"]["step"]))
    assert host.check()[0] == 0


@one_kind
def test_the_helper_takes_sanlocks_group(host: Host) -> None:
    host.packages.install()
    pid = host.machine.start_sanlock()
    # As under SELinux: root without dac_override, and without groups, as sanlock starts it.
    code = (
        "import sys; sys.path.insert(0, '/usr/share/virt-sanlock-helper')\n"
        "from sanlock_helper.leases import held as leases\n"
        "if sys.argv[1] == 'without': leases.join_sanlock_group = lambda: None\n"
        "print(leases.held_by(1))"
    )
    bare = ("setpriv", "--clear-groups", "--bounding-set=-dac_override,-dac_read_search", "--")
    asked = host.machine.run(*bare, "/usr/bin/python3", "-c", code, "with", within=pid)
    assert asked.stdout == "[]\n"
    refused = host.machine.run(*bare, "/usr/bin/python3", "-c", code, "without", within=pid, check=False)
    assert "Permission denied" in refused.stderr
