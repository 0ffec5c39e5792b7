# SPDX-License-Identifier: LGPL-2.1-or-later
"""The leases that a process holds, from sanlock's memory."""

from __future__ import annotations

import errno
import os
import time
from typing import Any, Callable

from ..errors import LeasesUnknownError, PermanentError, TransientError
from ..numbers import whole_number
from . import sanlock_daemon

# Between the questions while sanlock is busy with a process, half a second over all: most of its commands
# take a millisecond, the release of leases takes as long as the storage does.
BUSY_SECONDS = (0.001, 0.002, 0.004, 0.008, *(0.02,) * 24)

# sanlock's answer about a lockspace holds for so long: a second before it is lost it was healthy too.
LOCKSPACE_SECONDS = 1.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# What a lease is called whose names could not be learned.
UNKNOWN = "?"

# The module libsanlock from load() on, or why there is none.
_loaded: list[Any] = []


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
        return _printable(f"{self.lockspace}:{self.resource}")


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
        return _printable(self.name)


def load() -> Any:
    """The module libsanlock, with sanlock's library in memory; the second time it costs nothing.

    It is not imported with this module: a process that has no domain with leases need not pay for it.  Call
    this before the first action on one, so that nothing waits for a disk then.  Raises LeasesUnknownError,
    with what to install, where the library is missing.
    """
    if not _loaded:
        try:
            from . import libsanlock

            _loaded.append(libsanlock)
        except PermanentError as error:
            _loaded.append(error)
    if isinstance(_loaded[0], PermanentError):
        raise LeasesUnknownError(str(_loaded[0])) from _loaded[0]
    return _loaded[0]


def held_by(pid: int) -> list[Lease]:
    """The leases that process PID holds now, from the sanlock daemon's memory: no storage is read.

    A process that sanlock does not know holds none.  A lease whose names cannot be learned is held all the
    same, under the name UNKNOWN.  Raises LeasesUnknownError when sanlock cannot be asked, TransientError when
    it has no time for this now.
    """
    return [_lease(found) for found in _inquired(pid) or ()]


def is_registered(pid: int) -> bool:
    """Whether sanlock knows process PID, whatever it holds.  Raises as held_by() does."""
    return _inquired(pid) is not None


def _inquired(pid: int) -> list[dict[str, Any]] | None:
    """What sanlock knows of the leases of process PID, None where it does not know the process."""
    binding = load()
    join_sanlock_group()
    try:
        return inquire(pid)
    except binding.SanlockException as error:
        # No client of that process is registered: sanlock src/main.c, process_cmd_thread_registered().
        if error.errno == errno.ESRCH:
            return None
        # Another command for the same process is under way, such as the release that is waited for.
        if error.errno == errno.EBUSY:
            raise TransientError(
                f"ask sanlock for the leases of process {pid}", "it is busy with it"
            ) from error
        raise _no_answer(error) from error


def of_state(state: str, named: Iterable[Lease] = ()) -> list[Lease]:
    """The leases in STATE, as libvirt notes them of a domain that it pauses: what its process held then.

    Names are not escaped in there, but a colon of a path is (sanlock_path_export() in sanlock src/client.c);
    and the file that has the note may be escaped as XML.  What can be read in more than one way is one of
    those that are NAMED, as the domain's definition has them; their versions do not count.  Raises
    LeasesUnknownError for any other.
    """
    heads: dict[bytes, list[Lease]] = {}
    for lease in named:
        for path in {lease.path, lease.path.replace(":", "\\:")}:
            text = f"{lease.lockspace}:{lease.resource}:{path}:{lease.offset}"
            for written in {text, *_as_xml(text)}:
                heads.setdefault(raw(written), []).append(lease)
    return [_of_line(line, heads) for line in raw(state).split(b" ")]


def _as_xml(text: str) -> tuple[str, str]:
    """TEXT with its markup escaped, and with its quotes as well."""
    markup = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return markup, markup.replace('"', "&quot;").replace("'", "&apos;")


def _of_line(line: bytes, heads: dict[bytes, list[Lease]]) -> Lease:
    plain = None if b"&" in line else load().plain_lease(line)
    if plain is not None:
        return _lease(plain)
    head, _, version = line.rpartition(b":")
    found = heads.get(head, [])
    number = whole_number(version.decode("ascii", "replace"))
    if len(found) != 1 or number is None:
        raise LeasesUnknownError("libvirt's note of its leases has more than one meaning")
    lease = found[0]
    return Lease(lease.lockspace, lease.resource, number, lease.path, lease.offset)


def inquire(pid: int) -> list[dict[str, Any]]:
    """libsanlock.inquire() of process PID; asked again for a moment while another command for it runs.

    Raises SanlockException.
    """
    binding = load()
    found: list[dict[str, Any]] = _while_busy(lambda: binding.inquire(pid=pid))
    return found


def _while_busy(call: Callable[[], Any]) -> Any:
    """What CALL returns or raises once sanlock is not busy with the process any more, within half a second.

    sanlock does one command for a process at a time and refuses others with EBUSY (sanlock src/main.c,
    process_cmd_thread_registered()).
    """
    for seconds in BUSY_SECONDS:
        try:
            return call()
        except load().SanlockException as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(seconds)
    return call()


def release(pid: int) -> None:
    """Give up all leases that process PID holds; needs root, as libvirt's own release does.

    By their names, one after the other: sanlock needs no path for that, so this serves where libvirt's own
    release fails because of the path.  SANLK_REL_ALL needs no names either, but cmd_release() in sanlock
    src/cmd.c puts what it finds into an array of 8: the daemon of 3.8.5 died of a process with 64 leases.  A
    lease that sanlock did not want to release and that is gone all the same is released.

    Raises LeasesUnknownError when sanlock does not do it.
    """
    binding = load()
    join_sanlock_group()
    first: Exception | None = None
    try:
        for found in inquire(pid):
            try:
                _release(pid, found)
            except binding.SanlockException as error:
                first = first or error
        if not first or not inquire(pid):
            return
    except binding.SanlockException as error:
        if error.errno == errno.ESRCH:
            return
        first = first or error
    raise LeasesUnknownError(f"sanlock does not release them: {first}", _is_absent(first)) from first


def _release(pid: int, found: dict[str, Any]) -> None:
    binding = load()
    _while_busy(lambda: binding.release(found["lockspace"], found["resource"], [], pid=pid))


class CachedLeases:
    """The leases of one process after the other, with their lockspaces.  Several threads may use one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """CLOCK is in seconds."""
        self._clock = clock
        # By name, what sanlock answered about a lockspace, and when: most processes have leases in the same.
        self._lockspaces: dict[str, tuple[float, Lockspace]] = {}

    def of(self, pid: int) -> tuple[tuple[Lockspace, ...], tuple[Lease, ...]]:
        """The lockspaces that process PID holds leases in, and those leases; no storage is read.

        Raises LeasesUnknownError when sanlock cannot be asked.
        """
        held = held_by(pid)
        return self.lockspaces(held), tuple(held)

    def lockspaces(self, held: list[Lease]) -> tuple[Lockspace, ...]:
        """The lockspaces of the leases HELD, as far as sanlock has them joined; no storage is read.

        Raises LeasesUnknownError when sanlock cannot be asked.
        """
        names = {lease.lockspace for lease in held}
        now = self._clock()
        known = [found for name in names if (found := self._lockspaces.get(name))]
        spaces = [lockspace for seen_at, lockspace in known if now - seen_at < LOCKSPACE_SECONDS]
        if len(spaces) < len(names):
            spaces = _joined(names)
            # One that sanlock had no answer for was joined or lost a moment ago.
            self._lockspaces.update({space.name: (now, space) for space in spaces if space.io_timeout})
        return tuple(spaces)


def _joined(names: set[str]) -> list[Lockspace]:
    """The lockspaces of these NAMES that sanlock has joined."""
    binding = load()
    try:
        found = binding.get_lockspaces()
    except binding.SanlockException as error:
        raise _no_answer(error) from error
    return [_lockspace(entry) for entry in found if text(entry["lockspace"]) in names]


def _no_answer(error: Any) -> LeasesUnknownError:
    return LeasesUnknownError(f"sanlock does not answer: {error}", _is_absent(error))


def _is_absent(error: Any) -> bool:
    """Whether ERROR, of a call to sanlock, is that no daemon runs: no socket, or one that was left behind.

    A daemon whose socket was removed runs on, with its leases, and ends their processes at a loss.
    """
    has_no_socket = error.errno == errno.ECONNREFUSED or (
        error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.exists(_socket())
    )
    return has_no_socket and not sanlock_daemon.daemon_pid(_run_dir())


def _lease(found: dict[str, Any]) -> Lease:
    if not found["resource"]:
        return Lease(UNKNOWN, UNKNOWN, 0)
    # libvirt's leases have one disk each (SANLK_MAX_DISK is 4).
    path, offset = found["disks"][0] if found["disks"] else ("", 0)
    shared = bool(found["flags"] & load().RES_SHARED)
    return Lease(text(found["lockspace"]), text(found["resource"]), found["version"], path, offset, shared)


def _lockspace(found: dict[str, Any]) -> Lockspace:
    binding = load()
    name, host_id = found["lockspace"], found["host_id"]
    try:
        hosts = binding.get_hosts(name, host_id)
    except binding.SanlockException:
        hosts = []  # joined or lost a moment ago
    lockspace = Lockspace(text(name), host_id, found["path"], found["offset"])
    if hosts:
        lockspace.io_timeout = hosts[0]["io_timeout"]
        if is_renewed(hosts[0], time.monotonic()):
            lockspace.generation = hosts[0]["generation"]
    return lockspace


def is_renewed(host: dict[str, Any], now: float) -> bool:
    """Whether a lockspace that sanlock has joined is being renewed, by what it reports of this host itself.

    NOW is CLOCK_MONOTONIC, which sanlock's timestamps are of.  sanlock keeps a lockspace on its list for as
    long as it is losing it.  It knows its own last timestamp, read back from storage at the next renewal, 2
    io_timeout later; sanlock itself warns 6 io_timeout after the last renewal, and the lease is lost after 8
    (sanlock src/timeouts.h).
    """
    age: float = now - host["timestamp"]
    return age <= 6 * (host["io_timeout"] or sanlock_daemon.DEFAULT_IO_TIMEOUT)


def text(name: bytes) -> str:
    """NAME as text; raw() makes the same bytes of it again, whatever they are."""
    return name.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    """The bytes that text() was given."""
    return name.encode("utf-8", "surrogateescape")


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _run_dir() -> str:
    return os.environ.get("SANLOCK_RUN_DIR", sanlock_daemon.RUN_DIR)


def _socket() -> str:
    return f"{_run_dir()}/{sanlock_daemon.SOCKET}"


def join_sanlock_group() -> None:
    """Take the group of sanlock's socket: see sanlock_daemon.join_sanlock_group()."""
    sanlock_daemon.join_sanlock_group(_run_dir())
