# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots systemd over an overlay of the machine's own root; run as PID 1 of namespaces by machine.py.

In: standard input, a pipe whose other end the owner holds; its end of file ends all, also when the owner was
killed.  Arguments: cgroup folders to move to, so that the container's cgroups are below them.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# What systemd-nspawn ends with, under --keep-unit, when its container reboots.
REBOOT = 133

MACHINE = "/run/machine"
ROOT = Path(MACHINE, "root")

TARGET = """\
[Unit]
Description=The end of the boot: what a test needs it starts
Requires=basic.target
After=basic.target
AllowIsolate=yes
"""
# sanlock as the distribution starts it, but for the privileges that a container lacks: no watchdog, no
# mlockall, no real-time priority, no resource limits.  -e: a name that lasts, so that it joins again at once.
SANLOCK = """\
[Service]
Environment=SANLOCK_PRIVILEGED=0 "sanlock_opts=-w 0 -l 0 -h 0 -e host1"
EnvironmentFile=
"""
# Nothing of the machine's own may show or be touched.
EMPTY = (
    *("etc/libvirt", "etc/sanlock", "etc/sasl2", "root/.cache/libvirt", "root/.config/libvirt"),
    *("var/cache/libvirt", "var/lib/libvirt", "var/lib/rpm", "var/log", "var/log/journal", "var/log/libvirt"),
)
ABSENT = (
    *("etc/virt-sanlock-helper.conf", "var/lib/sanlock", "var/lib/swtpm-localca"),
    "var/lib/virt-sanlock-helper",
    # An image's way to have no package start its services.
    "usr/sbin/policy-rc.d",
)
MASKED = ("wdmd.service", "selinux-autorelabel-mark.service", "systemd-update-utmp.service")

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, fstype: str, data: str = "") -> None:
    """mount(2); raises OSError."""
    words = [os.fsencode(word) for word in (source, target, fstype)]
    if _libc.mount(*words, ctypes.c_ulong(0), os.fsencode(data)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_root() -> None:
    """The overlay, and what differs from the machine's own root."""
    mount("tmpfs", "/run", "tmpfs", "mode=0755")
    for folder in ("upper", "work", "root"):
        os.makedirs(f"{MACHINE}/{folder}")
    # The upper layer of the root folder lends its mode to the root: not tmpfs's 1777.
    os.chmod(f"{MACHINE}/upper", 0o755)
    layers = f"lowerdir=/,upperdir={MACHINE}/upper,workdir={MACHINE}/work"
    mount("overlay", str(ROOT), "overlay", layers)
    for name in (*ABSENT, *EMPTY):
        remove(ROOT / name)
    for name in EMPTY:
        (ROOT / name).mkdir(parents=True, exist_ok=True)
    units = ROOT / "etc/systemd/system"
    (units / "test.target").write_text(TARGET)
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (units / "sanlock.service.d").mkdir(parents=True)
    (units / "sanlock.service.d/90-container.conf").write_text(SANLOCK)
    (ROOT / "etc/machine-id").unlink(missing_ok=True)
    (ROOT / "etc/machine-id").write_text("5a" * 16 + "\n")
    # Debian's rpm keeps its database in the caller's home.
    (ROOT / "etc/rpm").mkdir(exist_ok=True)
    (ROOT / "etc/rpm/macros").write_text("%_dbpath /var/lib/rpm\n")


def boot() -> subprocess.Popen[bytes]:
    """Boot systemd in the overlay."""
    return subprocess.Popen(
        [
            "systemd-nspawn",
            # No machined, no D-Bus, no scope: we are in a cgroup of our own already.
            "--register=no",
            "--keep-unit",
            "--quiet",
            f"--directory={ROOT}",
            "--machine=test",
            "--console=pipe",
            "--private-network",
            "--boot",
            "systemd.unit=test.target",
        ],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
    )


def main() -> None:
    """Boot, and stay until standard input or the container ends; a container that reboots is booted again."""
    for folder in sys.argv[1:]:
        Path(folder, "cgroup.procs").write_text("0")
    make_root()
    # PID 1 reaps orphans, and hears of nspawn's end by the same signal.
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    nspawn = boot()
    print(nspawn.pid, flush=True)
    while True:
        if nspawn.poll() == REBOOT:
            nspawn = boot()
        elif nspawn.returncode is not None:
            return
        readable, _, _ = select.select([0, wake], [], [])
        if 0 in readable and not os.read(0, 1):
            return  # the kernel kills what is left in the namespace
        if wake in readable:
            os.read(wake, 64)


if __name__ == "__main__":
    main()
