# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the checks read: where it is on this host, and what more than one check needs, gathered once.

Nothing here needs libvirt-python to be loaded: install-check reports that it is missing.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar

import libvirt_auth

from .. import RUNTIME_DIR
from ..distribution import Distribution
from ..errors import HelperError, PermanentError
from ..install.host import SERVICE, Host
from ..leases.grace import DEFAULT_GRACE, read_small
from ..leases.lockspace_places import find_lockspace
from ..leases.sanlock_status import (
    START,
    UNKNOWN,
    JoinedLockspace,
    SanlockStatus,
    SanlockUnknownError,
    ask_sanlock,
)
from ..leases.timeline import Timeline, timeline_of
from ..regular_file import read_regular
from ..threads import within
from ..virt import SYSTEM_URI
from ..virt.libvirt_conf import Setting, Value, in_force, read_settings
from ..virt.libvirt_daemon import VIRTQEMUD, Daemon, HostFiles, daemon_in_force, stale_socket
from ..virt.qemu_sanlock_conf import LOCKSPACE, LockConf, make_lock_conf
from .hindered_units import described, freed, hindered_units

if TYPE_CHECKING:
    from ..virt.api import VirConnect
    from ..virt.inventory import KnownDomain
    from ..virt.storage_pools import Pool

# A libvirtd that takes longer is of no use to a helper with 35 s for all.
CONNECT_SECONDS = 10.0

# Of an ELF file, as far as its machine.
_ELF_BYTES = 20

_LOCK_CONF = "qemu-sanlock.conf"

# What systemd gives a service; sanlock gives its own environment on.
SERVICE_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True)
class HostPaths:
    """Where things are."""

    uri: str = SYSTEM_URI
    etc: Path = Path("/etc")
    run: Path = Path("/run")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")
    sys: Path = Path("/sys")
    var: Path = Path("/var")
    lib: Path = Path("/usr/lib")
    programs: tuple[Path, ...] = (Path("/usr/sbin"), Path("/usr/bin"))

    @property
    def runtime_dir(self) -> Path:
        """The helper's own."""
        return self.run / os.path.basename(RUNTIME_DIR)

    @property
    def files(self) -> HostFiles:
        """The files that decide which of libvirt's daemons is in force."""
        return HostFiles(self.run, self.etc, self.lib, self.proc, self.programs)

    @cached_property
    def libvirt(self) -> Daemon:
        """libvirt's daemon that is in force."""
        return daemon_in_force(self.files)

    @property
    def daemon(self) -> str:
        """The name of libvirt's daemon."""
        return self.libvirt.name


@dataclass(frozen=True)
class ConnectionAttempt:
    """One connection to libvirt's daemon: how long it took, and the error if it failed.

    activated: the daemon did not run before, and was started by being asked.  stale: the socket that the
    client takes and on which no process listens, "" when there is none.
    """

    seconds: float
    error: HelperError | None
    activated: bool = False
    stale: str = ""

    @property
    def is_refused(self) -> bool:
        """Whether libvirtd answered, and authentication failed."""
        return self.error is not None and isinstance(self.error.__cause__, libvirt_auth.AuthError)


def sanlock_settings(path: str) -> list[Setting]:
    """The settings of sanlock.conf, as read_config_file() in sanlock src/main.c reads them; none without one.

    What may come again and adds up (debug_cmd) is left out.
    """
    found: list[Setting] = []
    text = read_small(path).decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        name = re.split("[ \\t=]", line, maxsplit=1)[0]
        if name and not name.startswith("#") and "=" in line and name != "debug_cmd":
            found.append(Setting(name, line.partition("=")[2].strip(), number))
    return found


def _machine(path: str) -> bytes:
    """Class, byte order and machine of the ELF file at PATH (elf(5)); b"" of what is none."""
    try:
        head = read_regular(path, _ELF_BYTES)[:_ELF_BYTES]
    except (PermanentError, OSError):
        return b""
    return head[4:6] + head[18:20] if head.startswith(b"\x7fELF") and len(head) == _ELF_BYTES else b""


def open_uri(uri: str) -> Any:
    """A connection to URI.  Raises HelperError, also where libvirt-python is missing."""
    try:
        from ..virt.connection import connect
    except ImportError as error:
        raise PermanentError(
            f"connect to {uri}", str(error), Distribution.read().install("libvirt-python")
        ) from error
    return connect(uri)


Read = TypeVar("Read")


class UnreadError(HelperError):
    """What a fact of the host could not be had for; `cause` is the check that reports that."""

    def __init__(self, error: HelperError, cause: str) -> None:
        super().__init__(error.what, error.why, error.hint)
        self.cause = cause


class Once(Generic[Read]):
    """A property that is read once: also where that failed, since a daemon that hangs does so each time."""

    def __init__(self, cause: str, read: Callable[[Facts], Read]) -> None:
        """READ is the method; the check CAUSE reports the HelperError that it raises."""
        self._cause = cause
        self._read = read
        self.__doc__ = read.__doc__

    def __set_name__(self, owner: type[Facts], name: str) -> None:
        self._name = name

    def __get__(self, facts: Facts, owner: type[Facts]) -> Read:
        # A value is found in the object before it is asked for here.
        if self._name not in facts.unread:
            try:
                value = facts.__dict__[self._name] = self._read(facts)
                return value
            except HelperError as error:
                cause = error.cause if isinstance(error, UnreadError) else self._cause
                facts.unread[self._name] = UnreadError(error, cause)
        raise facts.unread[self._name]


def once(cause: str) -> Callable[[Callable[[Facts], Read]], Once[Read]]:
    """A method as such a property."""
    return lambda read: Once(cause, read)


class Facts:
    """Gathered when a check first asks.  Raises HelperError for what cannot be had."""

    def __init__(
        self,
        host: HostPaths,
        open_uri: Callable[[str], VirConnect] = open_uri,
        installation: Host | None = None,
        uid: int | None = None,
    ) -> None:
        """UID is that of this process, asked of the kernel without one."""
        self.host = host
        self.uid = os.geteuid() if uid is None else uid
        # Why what is read once could not be had, by its name.
        self.unread: dict[str, UnreadError] = {}
        self._open = open_uri
        self.installation = installation or Host(proc=host.proc, run_dir=host.run)

    @cached_property
    def sanlock_pid(self) -> int | None:
        """The running daemon's, None when there is none."""
        return self.installation.sanlock_pid() or None

    @property
    def sanlock_proc(self) -> Path:
        """The running daemon's directory in proc(5)."""
        if self.sanlock_pid is None:
            error = PermanentError("read sanlock's process", "it does not run", START)
            raise UnreadError(error, "sanlock")
        return self.host.proc / str(self.sanlock_pid)

    @cached_property
    def distribution(self) -> Distribution:
        """Of this host."""
        return Distribution.read((str(self.host.etc / "os-release"), str(self.host.lib / "os-release")))

    @cached_property
    def environ(self) -> dict[str, str]:
        """The environment that sanlock gives its killpath: its own."""
        try:
            raw = (self.host.proc / str(self.sanlock_pid) / "environ").read_bytes()
        except OSError:
            return dict(SERVICE_ENVIRONMENT)
        words = (os.fsdecode(word).partition("=") for word in raw.split(b"\0") if b"=" in word)
        return {name: value for name, _, value in words}

    @once("killpath")
    def killpath(self) -> str:
        """The path that libvirt registers."""
        return self.installation.stock()

    @once("killpath")
    def seen_killpath(self) -> str:
        """The same file as sanlock sees it: systemd may have bound ours there only for sanlock."""
        return self.installation.seen_by(self.sanlock_pid)

    @once("sanlock")
    def sanlock(self) -> SanlockStatus:
        """The daemon's settings, lockspaces and leases."""
        try:
            return ask_sanlock()
        except SanlockUnknownError as error:
            hindered = hindered_units([SERVICE]) if error.hint == START else {}
            if not hindered:
                raise
            why = f"{error.why}; {described(hindered)}"
            raise SanlockUnknownError(error.what, why, f"{freed(hindered)}{error.hint}") from error

    @cached_property
    def joined(self) -> JoinedLockspace | None:
        """libvirt's lockspace as it is joined; None when it is not, or when sanlock does not answer."""
        try:
            space = self.sanlock.lockspace(LOCKSPACE)
        except HelperError:
            return None
        return space if space and space.joined else None

    @cached_property
    def known_domains(self) -> list[KnownDomain]:
        """All domains; where libvirt's daemon does not answer, those that run."""
        try:
            return self.domains
        except HelperError:
            pass
        try:
            from ..virt.inventory import running_domains
        except ImportError:
            return []  # reported by a check of its own
        return running_domains()

    @cached_property
    def explicit_leases(self) -> dict[str, str]:
        """The lockspaces of the domains' <lease> elements, each with the path of one lease in it."""
        configs = [domain.config for domain in self.known_domains if domain.config]
        return {
            space: path
            for config in configs
            for (space, _), path in zip(config.leases, config.lease_paths or [""] * len(config.leases))
        }

    @cached_property
    def used_lockspaces(self) -> list[str]:
        """The lockspaces of this host's leases: libvirt's own, those of <lease>, those of held leases."""
        own = [LOCKSPACE] if self.lock_conf.auto_disk_leases else []
        try:
            held = [lease.lockspace for lease in self.sanlock.leases if lease.lockspace != UNKNOWN]
        except HelperError:
            held = []
        return list(dict.fromkeys([*own, *self.explicit_leases, *held]))

    @cached_property
    def explicit_places(self) -> dict[str, str | None]:
        """Where the lockspaces of <lease> elements are: as sanlock has them, else as found beside a lease."""
        places: dict[str, str | None] = {}
        for name, lease in self.explicit_leases.items():
            try:
                known = self.sanlock.lockspace(name)
            except HelperError:
                known = None
            places[name] = known.path if known else find_lockspace(name, lease)
        return places

    @property
    def timeline(self) -> Timeline:
        """The times of this host after a loss: of the lockspace in use that is lost first."""
        return timeline_of(self.sanlock, self.used_lockspaces, self.lock_conf.io_timeout)

    @property
    def host_id(self) -> int:
        """This host's: as configured, else as it has joined a lockspace; 0 where it has none."""
        if self.lock_conf.host_id:
            return self.lock_conf.host_id
        try:
            return next((space.host_id for space in self.sanlock.lockspaces), 0)
        except HelperError:
            return 0

    @property
    def grace(self) -> int:
        """kill_grace_seconds; sanlock's default when it does not answer."""
        try:
            grace = self.sanlock.number("kill_grace_seconds")
        except HelperError:
            grace = None
        return DEFAULT_GRACE if grace is None else grace

    @property
    def command_line(self) -> list[str]:
        """The running daemon's."""
        raw = (self.sanlock_proc / "cmdline").read_bytes()
        return [os.fsdecode(word) for word in raw.split(b"\0")]

    @property
    def enforce(self) -> str | None:
        """Whether SELinux is enforcing ("1") or permissive ("0"); None without SELinux."""
        path = self.host.sys / "fs/selinux/enforce"
        return path.read_text() if path.exists() else None

    @property
    def lockspace_path(self) -> Path:
        """The file of libvirt's lockspace."""
        return Path(self.lock_conf.disk_lease_dir) / LOCKSPACE

    @cached_property
    def plugins(self) -> dict[str, bool]:
        """libvirt's sanlock drivers by path, and whether each is a library for this machine.

        Below /usr/lib/TRIPLET on Debian, where another machine's may be beside it; below /usr/lib64 on Fedora
        and RHEL.
        """
        lib = self.host.lib
        folders = [lib.with_name("lib64"), lib, *sorted(lib.glob("*-linux-*"))]
        paths = (folder / "libvirt/lock-driver/sanlock.so" for folder in folders)
        ours = _machine("/proc/self/exe")
        return {str(path): _machine(str(path)) == ours for path in paths if path.exists()}

    @property
    def plugin_path(self) -> Path | None:
        """The one of them that serves here."""
        return next((Path(path) for path, serves in self.plugins.items() if serves), None)

    @property
    def sanlock_plugin(self) -> bytes | None:
        """The same driver's content."""
        path = self.plugin_path
        return path.read_bytes() if path else None

    @once("configuration files")
    def qemu_conf(self) -> dict[str, Value]:
        """libvirt's qemu.conf."""
        return in_force(self._settings("libvirt/qemu.conf"))

    @once("configuration files")
    def daemon_conf(self) -> dict[str, Value]:
        """libvirtd.conf, or virtqemud.conf."""
        return in_force(self._settings(f"libvirt/{self.host.daemon}.conf"))

    @once("configuration files")
    def lock_conf(self) -> LockConf:
        """qemu-sanlock.conf."""
        return make_lock_conf(in_force(self._settings(f"libvirt/{_LOCK_CONF}")))

    def _settings(self, name: str) -> list[Setting]:
        return read_settings(self.host.etc / name)

    @property
    def daemon_settings(self) -> list[Setting]:
        """The settings of libvirtd.conf, or virtqemud.conf, each with its line."""
        return self._settings(f"libvirt/{self.host.daemon}.conf")

    @property
    def qemu_settings(self) -> list[Setting]:
        """The settings of qemu.conf, each with its line."""
        return self._settings("libvirt/qemu.conf")

    @property
    def lock_settings(self) -> list[Setting]:
        """The settings of qemu-sanlock.conf, each with its line."""
        return self._settings(f"libvirt/{_LOCK_CONF}")

    @property
    def lock_driver(self) -> str | None:
        """What the running daemon has loaded: see HostFiles.lock_driver()."""
        return self.host.files.lock_driver(self.host.libvirt)

    @property
    def sanlock_conf(self) -> str:
        """The path of sanlock's configuration file."""
        return str(self.host.etc / "sanlock/sanlock.conf")

    @cached_property
    def files(self) -> dict[str, list[Setting] | HelperError]:
        """The configuration files that are there: path to settings, or why libvirt would not take it."""
        found: dict[str, list[Setting] | HelperError] = {}
        for name in ("qemu.conf", f"{self.host.daemon}.conf", _LOCK_CONF):
            path = self.host.etc / "libvirt" / name
            try:
                if path.exists():
                    found[str(path)] = settings = read_settings(path)
                    if name == _LOCK_CONF:
                        make_lock_conf(in_force(settings))
            except HelperError as error:
                found[str(path)] = error
        if os.path.exists(self.sanlock_conf):
            found[self.sanlock_conf] = sanlock_settings(self.sanlock_conf)
        return found

    @cached_property
    def _connected(self) -> tuple[ConnectionAttempt, Any]:
        uri, files, name = self.host.uri, self.host.files, self.host.daemon
        activated = not files.runs(name)
        start = time.monotonic()
        try:
            connection = within(CONNECT_SECONDS, f"connect to {uri}", lambda: self._open(uri))
        except HelperError as error:
            return ConnectionAttempt(time.monotonic() - start, error, stale=stale_socket(files)), None
        seconds = time.monotonic() - start
        return ConnectionAttempt(seconds, None, activated and files.runs(name)), connection

    @property
    def attempt(self) -> ConnectionAttempt:
        """How connecting went."""
        return self._connected[0]

    @property
    def _opened(self) -> Any:
        """The connection.  Raises UnreadError without one."""
        attempt, connection = self._connected
        if attempt.error is not None:
            cause = "authentication" if attempt.is_refused else "libvirtd"
            raise UnreadError(attempt.error, cause) from attempt.error
        return connection

    @once("libvirtd")
    def domains(self) -> list[KnownDomain]:
        """All domains."""
        connection = self._opened
        from ..virt.inventory import take_inventory
        from ..virt.storage_pools import Volumes

        found = within(CONNECT_SECONDS, "list the domains", lambda: take_inventory(connection))
        volumes = Volumes(connection)
        what = "find the volumes of the domains"
        return within(CONNECT_SECONDS, what, lambda: [volumes.resolve(domain) for domain in found])

    @once("libvirtd")
    def pools(self) -> list[Pool]:
        """All storage pools; none where virtqemud has no storage daemon beside it."""
        connection = self._opened
        if self.host.libvirt == VIRTQEMUD and not (self.host.run / "libvirt/virtstoraged-sock").exists():
            return []
        from ..virt.storage_pools import list_pools

        return within(CONNECT_SECONDS, "list the storage pools", lambda: list_pools(connection))

    @property
    def running(self) -> list[KnownDomain]:
        """Those with a process."""
        return [domain for domain in self.domains if domain.is_active]

    @property
    def asks_for_sasl(self) -> bool:
        """Whether libvirtd's configuration asks for credentials on the read-write socket."""
        return self.daemon_conf.get("auth_unix_rw") == "sasl"

    @cached_property
    def mountinfo(self) -> str:
        """The mounts that sanlock sees, else ours."""
        pid = str(self.sanlock_pid or "self")
        # Bytes: a text file's carriage returns become line ends, and a path may hold one.
        return (self.host.proc / pid / "mountinfo").read_bytes().decode("utf-8", "surrogateescape")
