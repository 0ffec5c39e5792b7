# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the disks of a domain can be read: asked of the storage itself, past the page cache.

A read of a disk that hangs does not return, whatever is sent to the process that reads, and that process
cannot end.  So each disk is read in a process of its own, which is waited for no longer than READ_SECONDS,
and a disk whose last read has not returned is not read again.

Of a network disk it is only known whether its server answers: that is QEMU's own connection.  Where not
even that can be asked, as by a service that may not use the network, the guest finds out.
"""

from __future__ import annotations

import _thread
import errno
import os
import socket
import sys
from typing import Any, Callable, NamedTuple

from ..command import NO_END, run
from ..errors import TransientError
from ..numbers import number_within
from .domain_identity import definition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xml.etree import ElementTree

READ_SECONDS = 5.0

_NO_ANSWER = "no answer"

# The first block, past the page cache where the file system can do that; the exit status is the errno.  A
# block of a device may have 4096 bytes, and the memory for it has to begin where a page does.
_READER = """
import mmap, os, sys
def read(flags):
    descriptor = os.open(sys.argv[1], os.O_RDONLY | os.O_CLOEXEC | flags)
    os.preadv(descriptor, [mmap.mmap(-1, 4096)], 0)
try:
    try:
        read(os.O_DIRECT)
    except OSError as error:
        if error.errno != 22:
            raise
        read(0)
except OSError as error:
    sys.exit(error.errno)
"""

# These errors do not show that the storage fails: an NFS server may refuse root what it gives QEMU's user,
# and recovery's service may not use the network (RestrictAddressFamilies= of its unit).
_REFUSED = (errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT)

_LOOPBACK = "lo"

# The service has folders of its own there (PrivateTmp=).
_PRIVATE = ("/tmp/", "/var/tmp/")

_NBD_PORT = 10809
# What an NBD server sends first (nbd/nbd-internal.h in QEMU): nothing is sent back, and so no export is
# opened, with whose end a server might end.
_NBD_GREETING = b"NBDMAGIC"

# A server's port where a disk's definition has none (virStorageSourceNetworkDefaultPort() in libvirt
# src/conf/storage_source_conf.c).
_PORTS = {
    **{"nbd": _NBD_PORT, "iscsi": 3260, "gluster": 24007, "sheepdog": 7000, "ssh": 22, "vxhs": 9999},
    **{"http": 80, "https": 443, "ftp": 21, "ftps": 990},
}
_MOST_PORT = 65535


class Server(NamedTuple):
    """A server of a network disk: its address, or the path of its socket."""

    protocol: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return f"{self.protocol} server {self.path or f'{self.host}:{self.port}'}"


class Volume(NamedTuple):
    """A volume of a storage pool, by their names."""

    pool: str
    name: str


class Disks(NamedTuple):
    """What a domain reads: the paths of files and devices, and volumes, whether each may be missing; servers.

    Of each network disk there are as many servers as may serve it, one of which is enough.  are_all: no disk
    is of another kind.
    """

    paths: dict[str, bool]
    servers: list[tuple[Server, ...]]
    volumes: dict[Volume, bool]
    are_all: bool


class DiskReads:
    """Reads disks; several threads may use one."""

    def __init__(self, seconds: float = READ_SECONDS) -> None:
        """SECONDS bounds the read of each disk."""
        self._seconds = seconds
        # By path, the process whose read has not returned: see command.Answer.
        self._hanging: dict[str, Any] = {}
        # By pool, held while libvirtd is asked for a volume of it: one that hangs costs one of its workers.
        self._pools: dict[str, _thread.LockType] = {}

    def check(self, xml: str, path_of: Callable[[str, str], str]) -> bool:
        """Read all disks of the definition XML; whether all could be asked, and so have been read.

        PATH_OF has the path of a volume, given its pool and its name; "" where that is not known.  Raises
        TransientError for the first disk that cannot be read.
        """
        found = disks(xml)
        paths = {self._path_of(volume, path_of): missing for volume, missing in found.volumes.items()}
        paths |= found.paths
        answers = [
            found.are_all and "" not in paths,
            *[self._read(path, missing) for path, missing in paths.items() if path],
            *[self._ask(servers) for servers in found.servers],
        ]
        return all(answers)

    def _path_of(self, volume: Volume, path_of: Callable[[str, str], str]) -> str:
        lock = self._pools.setdefault(volume.pool, _thread.allocate_lock())
        if not lock.acquire(timeout=self._seconds):
            raise _unread(f"volume {volume.name} of pool {volume.pool}", _NO_ANSWER)
        try:
            path = path_of(*volume)
        finally:
            lock.release()
        # Of a network pool it is no path.
        return path if os.path.isabs(path) else ""

    def _read(self, path: str, may_be_missing: bool) -> bool:
        """Whether the disk at PATH was read; False where that proves nothing."""
        why = self._why_unread(path, may_be_missing)
        if why:
            raise _unread(path, why)
        return why is not None

    def _ask(self, servers: tuple[Server, ...]) -> bool:
        """Whether one of SERVERS answers; False where that cannot be asked."""
        found = [self._why_silent(server) for server in servers]
        if all(found):
            raise _unread(servers[0], found[0] or "")
        return "" in found

    def _why_unread(self, path: str, may_be_missing: bool) -> str | None:
        """Why the disk at PATH cannot be read, "" where it can; None where that is not known."""
        earlier = self._hanging.get(path)
        if earlier is not None and earlier.poll() is None:
            return _NO_ANSWER
        self._hanging.pop(path, None)
        answer = run([sys.executable, "-ISB", "-c", _READER, path], self._seconds)
        if answer.left is not None:
            self._hanging[path] = answer.left
        if answer.problem:
            return _NO_ANSWER if answer.status == NO_END else answer.problem
        number = answer.status
        if number == 0:
            return ""
        if number in _REFUSED or (may_be_missing and number == errno.ENOENT):
            return None
        return os.strerror(number) if number > 0 else f"signal {-number} ended the process that read it"

    def _why_silent(self, server: Server) -> str | None:
        """Why SERVER does not answer, "" where it does; None where this process cannot ask it."""
        family = socket.AF_UNIX if server.path else socket.AF_INET
        try:
            if server.path:
                connection = socket.socket(family, socket.SOCK_STREAM)
                connection.settimeout(self._seconds)
                connection.connect(server.path)
            else:
                connection = socket.create_connection((server.host, server.port), self._seconds)
            with connection:
                greets = server.protocol != "nbd" or connection.recv(len(_NBD_GREETING)) == _NBD_GREETING
        except (OSError, UnicodeError) as error:
            if getattr(error, "errno", None) in _REFUSED or (_is_without_way(error) and not _has_network()):
                return None
            return getattr(error, "strerror", None) or str(error)
        return "" if greets else "it does not answer as such a server"


def _unread(what: object, why: str) -> TransientError:
    return TransientError("read its disks", f"it stays paused: {what}: {why}")


def _is_without_way(error: Exception) -> bool:
    """Whether ERROR is that a server's name is not known, or that no network leads to it."""
    return (
        isinstance(error, (socket.gaierror, UnicodeError))
        or getattr(error, "errno", None) == errno.ENETUNREACH
    )


def _has_network() -> bool:
    """Whether this process has a network, as recovery's service has not (PrivateNetwork= of its unit).

    Such a one cannot have a name resolved, either.
    """
    try:
        return any(name != _LOOPBACK for _, name in socket.if_nameindex())
    except OSError:
        return False  # it may not even ask: RestrictAddressFamilies=


def disks(xml: str) -> Disks:
    """What is read by the guest whose live definition is XML.  Raises PermanentError for XML that is none."""
    paths: dict[str, bool] = {}
    servers: dict[tuple[Server, ...], None] = {}
    volumes: dict[Volume, bool] = {}
    are_all = True
    for disk in definition(xml).findall("devices/disk"):
        # What was in a drive may have been removed from its folder since: QEMU has it open.
        is_read_only = disk.get("device") in ("cdrom", "floppy") or disk.find("readonly") is not None
        reservations = set(disk.iterfind(".//reservations/source"))
        # Its backing files, too.
        for source in disk.iter("source"):
            if source in reservations:
                continue
            path = source.get("file") or source.get("dev")
            volume = Volume(source.get("pool", ""), source.get("volume", ""))
            found = tuple(_servers(source))
            if path:
                may_be_missing = is_read_only or path.startswith(_PRIVATE)
                paths[path] = may_be_missing and paths.get(path, True)
            elif all(volume):
                volumes[volume] = is_read_only and volumes.get(volume, True)
            elif found:
                servers[found] = None
            else:
                are_all = False
    return Disks(paths, list(servers), volumes, are_all)


def _servers(source: ElementTree.Element) -> list[Server]:
    protocol = source.get("protocol", "")
    found = []
    for host in source.findall("host"):
        path = host.get("socket", "") if host.get("transport") == "unix" else ""
        port = number_within(host.get("port", ""), (1, _MOST_PORT)) or _PORTS.get(protocol, 0)
        if path or (host.get("name") and port and host.get("transport", "tcp") == "tcp"):
            found.append(Server(protocol, host.get("name", ""), port, path))
    return found
