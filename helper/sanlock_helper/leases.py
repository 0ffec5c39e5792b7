# SPDX-License-Identifier: LGPL-2.1-or-later
"""What sanlock says, from its memory, of the leases that a process holds."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

from .errors import PassingError

try:
    import sanlock
except ImportError:
    sanlock = None

# libvirt's QEMU driver keeps a pid file per running domain there (src/qemu/qemu_process.c, stateDir).
QEMU_STATE_DIR = "/run/libvirt/qemu"
SANLOCK_RUN_DIR = "/run/sanlock"

BUSY_TRIES = 25
BUSY_SECONDS = 0.02


class LeasesUnknownError(Exception):
    """sanlock could not be asked; the text says why."""

    absent = False


class Lease:
    """One resource lease: names as text, the version that sanlock counts up at each acquire, its place."""

    __slots__ = ("lockspace", "offset", "path", "resource", "shared", "version")

    def __init__(
        self,
        lockspace: str,
        resource: str,
        version: int,
        path: str = "",
        offset: int = 0,
        shared: bool = False,
    ) -> None:
        self.lockspace = lockspace
        self.resource = resource
        self.version = version
        self.path = path
        self.offset = offset
        self.shared = shared

    def __str__(self) -> str:
        return f"{self.lockspace}:{self.resource}"


class Lockspace:
    """One lockspace as this host joins it; io_timeout in seconds, 0 for sanlock's default.

    generation: sanlock's count of this host's joins, noted while the lockspace was healthy; 0 when it was
    not, or when that is not known.
    """

    __slots__ = ("generation", "host_id", "io_timeout", "name", "offset", "path")

    def __init__(
        self, name: str, host_id: int, path: str, offset: int = 0, io_timeout: int = 0, generation: int = 0
    ) -> None:
        self.name = name
        self.host_id = host_id
        self.path = path
        self.offset = offset
        self.io_timeout = io_timeout
        self.generation = generation

    def __str__(self) -> str:
        return self.name


def qemu_pid(name: str, state_dir: str = QEMU_STATE_DIR) -> int | None:
    """The process id of the running domain NAME, or None when libvirt keeps no pid file of it."""
    try:
        # Bytes: a codec would be looked up on the disk.
        with open(f"{state_dir}/{name}.pid", "rb") as pid_file:
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
    join_sanlock_group()
    try:
        resources = inquire(pid)
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
    return [_lease(found) for found in resources]


def inquire(pid: int) -> Any:
    """sanlock.inquire() of process PID; asked again for a moment while somebody else's command for it runs.

    sanlock does one command for a process at a time and refuses others with EBUSY (sanlock src/main.c,
    process_cmd_thread_registered()).
    """
    for _ in range(BUSY_TRIES):
        try:
            return sanlock.inquire(pid=pid)
        except sanlock.SanlockException as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(BUSY_SECONDS)
    return sanlock.inquire(pid=pid)


def release(pid: int) -> None:
    """Give up all leases that process PID holds; needs root, as libvirt's own release does.

    Raises LeasesUnknownError when sanlock does not do it.
    """
    try:
        for found in inquire(pid):
            sanlock.release(found["lockspace"], found["resource"], found["disks"], pid=pid)
    except sanlock.SanlockException as error:
        raise LeasesUnknownError(f"sanlock does not release them: {error}") from error


def noted(pid: int) -> tuple[tuple[Lockspace, ...], tuple[Lease, ...]]:
    """The lockspaces that process PID holds leases in, and those leases; no storage is read.

    Raises LeasesUnknownError when sanlock cannot be asked.
    """
    held = held_by(pid)
    names = {lease.lockspace for lease in held}
    try:
        found = sanlock.get_lockspaces()
    except sanlock.SanlockException as error:
        raise LeasesUnknownError(f"sanlock does not answer: {error}") from error
    lockspaces = (_lockspace(lockspace) for lockspace in found)
    return tuple(lockspace for lockspace in lockspaces if lockspace.name in names), tuple(held)


def _lease(found: dict[str, Any]) -> Lease:
    # libvirt's leases have one disk each (SANLK_MAX_DISK is 4).
    path, offset = found["disks"][0] if found["disks"] else ("", 0)
    shared = bool(found["flags"] & sanlock.RES_SHARED)
    return Lease(text(found["lockspace"]), text(found["resource"]), found["version"], path, offset, shared)


def _lockspace(found: dict[str, Any]) -> Lockspace:
    name, host_id = found["lockspace"], found["host_id"]
    try:
        hosts = sanlock.get_hosts(name, host_id)
    except sanlock.SanlockException:
        hosts = []  # joined or lost a moment ago
    lockspace = Lockspace(text(name), host_id, found["path"], found["offset"])
    if hosts:
        lockspace.io_timeout = hosts[0]["io_timeout"]
        if is_renewed(hosts[0], time.monotonic()):
            lockspace.generation = hosts[0]["generation"]
    return lockspace


def is_renewed(host: dict[str, Any], now: float) -> bool:
    """Whether a lockspace that sanlock has joined is being renewed, by what it says of this host itself.

    NOW is CLOCK_MONOTONIC, which sanlock's timestamps are of.  sanlock keeps a lockspace on its list for as
    long as it is losing it.  It knows its own last timestamp, read back from storage at the next renewal, 2
    io_timeout later; sanlock itself warns 6 io_timeout after the last renewal, and the lease is lost after 8
    (sanlock src/timeouts.h).
    """
    age: float = now - host["timestamp"]
    return age <= 6 * (host["io_timeout"] or 10)


def text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def join_sanlock_group() -> None:
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
