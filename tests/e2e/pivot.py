# SPDX-License-Identifier: LGPL-2.1-or-later
"""PID 1 of namespaces whose root is a folder: `unshare ... python3 pivot.py ROOT [OPTION...] -- COMMAND...`

Options: --bind SOURCE=TARGET puts a file or folder of the outside at TARGET inside, read-only, and may come
again; --memory keeps ROOT as it is: all that is written goes to memory, and is seen below WRITTEN.  The
command's status is this program's.

This is pivot_root(2), not chroot(2): a process that enters the mount namespace, as nsenter does, gets the
namespace's root, and a chroot does not change that.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys

MS_RDONLY = 1
MS_NOSUID = 2
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
WRITTEN = "/run/written"
# Of the architectures that Debian has QEMU's x86 machines on.
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); raises OSError."""
    words = [os.fsencode(word) for word in (source, target, fstype)]
    _checked(_libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data)), target)


def bind(source: str, target: str) -> None:
    """Put SOURCE at TARGET, read-only; the mount point is made where it is missing."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    mount(source, target, flags=MS_BIND)
    mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def overlay(root: str) -> tuple[str, str]:
    """Cover ROOT with a layer in memory; returns where the two are seen as one, and the layer."""
    layer = "/run"
    mount("tmpfs", layer, "tmpfs", MS_NOSUID, "mode=0755")
    for name in ("upper", "work", "root"):
        os.mkdir(f"{layer}/{name}")
    # The upper layer of the root folder lends its mode to the root.
    os.chmod(f"{layer}/upper", 0o755)
    layers = f"lowerdir={root},upperdir={layer}/upper,workdir={layer}/work"
    mount("overlay", f"{layer}/root", "overlay", data=layers)
    return f"{layer}/root", f"{layer}/upper"


def furnish(root: str, binds: list[str]) -> None:
    """The file systems that a running system has."""
    for path in ("/dev", "/sys", "/proc", "/run", "/tmp"):
        os.makedirs(root + path, exist_ok=True)
    for path in ("/dev", "/sys"):
        mount(path, root + path, flags=MS_BIND | MS_REC)
    mount("proc", root + "/proc", "proc")
    for path, mode in (("/run", "0755"), ("/tmp", "1777")):
        mount("tmpfs", root + path, "tmpfs", MS_NOSUID, f"mode={mode}")
    for words in binds:
        source, target = words.split("=", 1)
        bind(source, root + target)


def pivot(root: str) -> None:
    """Make ROOT, a mount point, the root of this mount namespace; the old one is gone."""
    os.chdir(root)
    _checked(_libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), root)
    # The old root lies over the new one, and goes first.
    _checked(_libc.umount2(b".", MNT_DETACH), root)
    os.chdir("/")


def run(command: list[str]) -> int:
    """Run COMMAND, reap all orphans until it ends; returns its exit status, as a shell would."""
    child = os.fork()
    if child == 0:
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> int:
    """Mount, pivot, run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--bind", action="append", default=[])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    mount("", "/", flags=MS_PRIVATE | MS_REC)
    if options.memory:
        root, layer = overlay(options.root)
        furnish(root, [f"{layer}={WRITTEN}", *options.bind])
    else:
        root = options.root
        mount(root, root, flags=MS_BIND)
        furnish(root, options.bind)
    pivot(root)
    return run(options.command)


if __name__ == "__main__":
    sys.exit(main())
