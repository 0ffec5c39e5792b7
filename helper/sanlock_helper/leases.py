# SPDX-License-Identifier: LGPL-2.1-or-later
"""What sanlock says of the leases that a process holds."""

from __future__ import annotations

import errno
import os

from .errors import PassingError

try:
    import sanlock
except ImportError:
    sanlock = None

# libvirt's QEMU driver keeps a pid file per running domain there (src/qemu/qemu_process.c, stateDir).
QEMU_STATE_DIR = "/run/libvirt/qemu"
SANLOCK_RUN_DIR = "/run/sanlock"


class LeasesUnknownError(Exception):
    """sanlock could not be asked; the text says why."""


class Lease:
    """One resource lease: names as text, the version that sanlock counts up at each acquire."""

    __slots__ = ("lockspace", "resource", "version")

    def __init__(self, lockspace: str, resource: str, version: int) -> None:
        self.lockspace = lockspace
        self.resource = resource
        self.version = version

    def __str__(self) -> str:
        return f"{self.lockspace}:{self.resource}"


def qemu_pid(name: str, state_dir: str = QEMU_STATE_DIR) -> int | None:
    """The process id of the running domain NAME, or None when libvirt keeps no pid file of it."""
    try:
        with open(f"{state_dir}/{name}.pid", encoding="ascii") as pid_file:
            return int(pid_file.read(16))
    except (OSError, ValueError):
        return None


def held_by(pid: int) -> list[Lease]:
    """The leases that process PID holds now, from the sanlock daemon's memory: no storage is read.

    A process that sanlock does not know holds none.  Raises LeasesUnknownError when sanlock cannot be asked,
    PassingError when it has no time for this now.
    """
    if sanlock is None:
        raise LeasesUnknownError("the module sanlock is missing, install python3-sanlock")
    _join_sanlock_group()
    try:
        resources = sanlock.inquire(pid=pid)
    except sanlock.SanlockException as error:
        # No client of that process is registered: sanlock src/main.c, process_cmd_thread_registered().
        if error.errno == errno.ESRCH:
            return []
        # Another command for the same process is under way, such as the release that is waited for.
        if error.errno == errno.EBUSY:
            raise PassingError(
                f"ask sanlock for the leases of process {pid}", "it is busy with it"
            ) from error
        raise LeasesUnknownError(f"sanlock does not answer: {error}") from error
    return [
        Lease(_text(found["lockspace"]), _text(found["resource"]), found["version"]) for found in resources
    ]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _join_sanlock_group() -> None:
    """Take the group of sanlock's socket, which is 0660 sanlock:sanlock.

    sanlock starts its killpath without supplementary groups, and SELinux gives sanlock_t no dac_override.
    """
    run_dir = os.environ.get("SANLOCK_RUN_DIR", SANLOCK_RUN_DIR)
    try:
        group = os.stat(f"{run_dir}/sanlock.sock").st_gid
    except OSError:
        return  # no socket: the inquiry says so
    if os.geteuid() == 0 and group != os.getegid() and group not in os.getgroups():
        os.setgroups([*os.getgroups(), group])
