# SPDX-License-Identifier: LGPL-2.1-or-later
"""PID 1 of a stack: makes the file system private, reaps orphans, records syslog.

Run by namespace.py as `unshare ... /usr/bin/python3 -ISB init.py`, never imported. In: standard
input, a pipe whose other end the owner of the stack holds; its end of file ends the stack, also
when the owner was killed. Out: one line of JSON on standard output when all is mounted.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import tempfile
import time

MS_NOSUID = 2
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384

# What a stack keeps for itself. /run is private, so this is too.
CONTROL = "/run/stack"
JOURNAL = CONTROL + "/journal"
# The machine's own /etc and /var/lib, under the links that stand in for them.
HOST = CONTROL + "/host"

# Nothing of the machine's own may show here: the stack begins with empty directories and without these files.
EMPTY = {
    "/etc": ("libvirt", "sanlock", "sasl2"),
    "/var/lib": ("libvirt", "sanlock", "swtpm-localca", "virt-sanlock-helper"),
}
HIDDEN = {"/etc": ("virt-sanlock-helper.conf",)}
# libvirt's client reads auth.conf here before /etc, and keeps virsh's history here.
HOME = ("/root/.config/libvirt", "/root/.cache/libvirt")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LEASES = "/var/lib/libvirt/sanlock"
IMAGES = "/var/lib/libvirt/images"

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); raises OSError."""
    words = [os.fsencode(word) for word in (source, target, fstype)]
    if _libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def tmpfs(path: str, mode: str = "0755") -> None:
    """Cover path with an empty tmpfs."""
    mount("tmpfs", path, "tmpfs", MS_NOSUID, "mode=" + mode)


def veil(path: str, empty: tuple[str, ...], hidden: tuple[str, ...]) -> None:
    """Cover path with a writable tmpfs that links to all its old entries but those in empty and in hidden.

    A mount needs a mount point, and making one (/etc/sanlock, for example) would leave it on the machine.
    Under a veil any name can be made, and nothing of it reaches the machine.
    """
    lower = HOST + path
    os.makedirs(lower)
    mount(path, lower, flags=MS_BIND | MS_REC)
    tmpfs(path)
    for name in os.listdir(lower):
        if name not in (*empty, *hidden):
            os.symlink(os.path.join(lower, name), os.path.join(path, name))
    for name in empty:
        os.mkdir(os.path.join(path, name))


def private_dev() -> None:
    """A /dev with the few devices QEMU needs, without /dev/kvm, and with room for /dev/log."""
    new = CONTROL + "/dev"
    os.mkdir(new)
    tmpfs(new)
    for name in DEVICES:
        with open(os.path.join(new, name), "w"):
            pass
        # Bound, not made: mknod is denied in many containers.
        mount("/dev/" + name, os.path.join(new, name), flags=MS_BIND)
    for name in ("pts", "shm"):
        os.mkdir(os.path.join(new, name))
    mount("devpts", new + "/pts", "devpts", MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620")
    tmpfs(new + "/shm", "1777")
    os.symlink("pts/ptmx", new + "/ptmx")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", os.path.join(new, name))
    os.symlink("/proc/self/fd", new + "/fd")
    mount(new, "/dev", flags=MS_MOVE)


def takes_direct_io(directory: str) -> bool:
    """True when a file in directory can be opened with O_DIRECT, which sanlock insists on."""
    path = os.path.join(directory, "probe")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    finally:
        os.unlink(path)
    return True


def shared_storage(on_disk: bool, storage: str) -> str:
    """Make LEASES and IMAGES; return the directory on disk behind them, or "" for the tmpfs.

    STORAGE is another host's, "" for one of this host's own.

    tmpfs takes O_DIRECT since Linux 6.6. On an older kernel (or when on_disk asks for it) a
    temporary directory on disk is bound there; main() removes it.
    """
    os.mkdir(LEASES, 0o700)
    os.mkdir(IMAGES, 0o755)
    if not on_disk and not storage and takes_direct_io(LEASES):
        return ""
    backing = storage or tempfile.mkdtemp(prefix="sanlock-stack-", dir="/var/tmp")
    for path in (LEASES, IMAGES):
        part = os.path.join(backing, os.path.basename(path))
        os.makedirs(part, 0o755, exist_ok=bool(storage))
        mount(part, path, flags=MS_BIND)
    return backing


def private_files() -> None:
    """Cover all that the daemons write to."""
    tmpfs("/run")
    os.mkdir(CONTROL, 0o755)
    for path, empty in EMPTY.items():
        veil(path, empty, HIDDEN.get(path, ()))
    for path in ("/var/log", "/var/cache"):
        tmpfs(path)
    for path in ("/var/log/libvirt", "/var/cache/libvirt", "/run/lock", "/run/sanlock"):
        os.mkdir(path)
    for path in HOME:
        if os.path.isdir(path):
            tmpfs(path)
    private_dev()


def syslog_socket() -> socket.socket:
    """/dev/log, as syslog(3) wants it, with the sender's pid in each message."""
    try:
        # The default of 10 makes a crowd of writers wait for a reader on a busy machine.
        with open("/proc/sys/net/unix/max_dgram_qlen", "w") as limit:
            limit.write("512")
    except OSError:
        pass
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    log.bind("/dev/log")
    os.chmod("/dev/log", 0o666)
    return log


def record(log: socket.socket, journal: int) -> None:
    """Append one datagram to the journal, as one line of JSON in one write."""
    data, ancillary, _, _ = log.recvmsg(65536, socket.CMSG_SPACE(12))
    pid = 0
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid = struct.unpack("3i", payload[:12])[0]
    line = {"time": time.time(), "pid": pid, "raw": data.decode("utf-8", "backslashreplace")}
    os.write(journal, json.dumps(line).encode() + b"\n")


def serve(log: socket.socket) -> None:
    """Record syslog until standard input ends."""
    journal = os.open(JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with selectors.DefaultSelector() as selector:
        selector.register(log, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is log:
                    record(log, journal)
                elif not os.read(0, 1):
                    return


def main() -> None:
    """Set up, report that, serve, and leave nothing behind."""
    # Orphans become children of PID 1. Ignoring SIGCHLD makes the kernel reap them at once; a
    # libvirtd whose dead QEMU stays a zombie waits 2 s for each.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parser = argparse.ArgumentParser()
    parser.add_argument("--on-disk", action="store_true")
    parser.add_argument("--hostname", default="")
    parser.add_argument("--storage", default="")
    options = parser.parse_args()
    backing = ""
    try:
        if options.hostname:
            socket.sethostname(options.hostname)
        private_files()
        backing = shared_storage(options.on_disk, options.storage)
        log = syslog_socket()
        print(json.dumps({"backing": backing}), flush=True)
        serve(log)
    finally:
        if backing and not options.storage:
            # A process that still writes there would keep rmtree from finishing.
            os.kill(-1, signal.SIGKILL)
            shutil.rmtree(backing, ignore_errors=True)


if __name__ == "__main__":
    main()
