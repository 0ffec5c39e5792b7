# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the checks look at: where it is on this host, and what more than one check needs, gathered once."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable

import libvirt_auth

from ..errors import HelperError, PermanentError
from ..install.paths import killpath
from ..leases.sanlock_status import SanlockStatus, ask_sanlock
from ..threads import within
from ..virt.connection import connect
from ..virt.inventory import KnownDomain, take_inventory
from ..virt.libvirt_conf import Setting, Value, in_force, read_settings
from ..virt.libvirt_daemon import VIRTQEMUD, Daemon, HostFiles, daemon_in_force, stale_socket
from ..virt.qemu_sanlock_conf import LockConf, make_lock_conf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect

# A libvirtd that takes longer is of no use to a helper with 35 s for all.
CONNECT_SECONDS = 10.0

# What systemd gives a service; sanlock gives its own environment on.
SERVICE_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True)
class HostPaths:
    """Where things are."""

    uri: str = "qemu:///system"
    etc: Path = Path("/etc")
    run: Path = Path("/run")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    var: Path = Path("/var")
    lib: Path = Path("/usr/lib")
    programs: tuple[Path, ...] = (Path("/usr/sbin"), Path("/usr/bin"))

    @property
    def runtime_dir(self) -> Path:
        """The helper's own."""
        return self.run / "virt-sanlock-helper"

    @property
    def files(self) -> HostFiles:
        """What tells which of libvirt's daemons is in force."""
        return HostFiles(self.run, self.etc, self.lib, self.proc, self.programs)

    @cached_property
    def libvirt(self) -> Daemon:
        """libvirt's daemon that is in force."""
        return daemon_in_force(self.files)

    @property
    def is_modular(self) -> bool:
        """Whether virtqemud serves the QEMU driver, and no monolithic libvirtd."""
        return self.libvirt == VIRTQEMUD

    @property
    def daemon(self) -> str:
        """The name of libvirt's daemon."""
        return self.libvirt.name


@dataclass(frozen=True)
class ConnectionAttempt:
    """One connection to libvirt's daemon: how long it took, and the error if it failed.

    activated: the daemon did not run before, and was started by being asked.  stale: the socket that the
    client takes and nobody listens on, "" when there is none.
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
    if not os.path.exists(path):
        return found
    text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        name = re.split("[ \\t=]", line, maxsplit=1)[0]
        if name and not name.startswith("#") and "=" in line and name != "debug_cmd":
            found.append(Setting(name, line.partition("=")[2].strip(), number))
    return found


class Facts:
    """Gathered when a check first asks.  Raises HelperError for what cannot be had."""

    def __init__(self, host: HostPaths, open_uri: Callable[[str], VirConnect] = connect) -> None:
        self.host = host
        self._open = open_uri

    @cached_property
    def sanlock_pid(self) -> int | None:
        """The running daemon's, None when there is none."""
        try:
            pid = int((self.host.run / "sanlock/sanlock.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return pid if (self.host.proc / str(pid)).exists() else None

    @property
    def sanlock_proc(self) -> Path:
        """Where proc(5) tells of the running daemon."""
        if self.sanlock_pid is None:
            raise PermanentError("look at sanlock", "it does not run", "systemctl start sanlock")
        return self.host.proc / str(self.sanlock_pid)

    @cached_property
    def environ(self) -> dict[str, str]:
        """The environment that sanlock gives its killpath: its own."""
        try:
            raw = (self.host.proc / str(self.sanlock_pid) / "environ").read_bytes()
        except OSError:
            return dict(SERVICE_ENVIRONMENT)
        words = (os.fsdecode(word).partition("=") for word in raw.split(b"\0") if b"=" in word)
        return {name: value for name, _, value in words}

    @cached_property
    def killpath(self) -> str:
        """The path that libvirt registers."""
        return killpath()

    @cached_property
    def seen_killpath(self) -> str:
        """The same file as sanlock sees it: systemd may have bound ours there for sanlock alone."""
        root = self.host.proc / str(self.sanlock_pid) / "root"
        return f"{root}{self.killpath}" if self.sanlock_pid and os.path.isdir(root) else self.killpath

    @cached_property
    def sanlock(self) -> SanlockStatus:
        """What the daemon says."""
        return ask_sanlock()

    @cached_property
    def qemu_conf(self) -> dict[str, Value]:
        """libvirt's qemu.conf."""
        return in_force(self._settings("libvirt/qemu.conf"))

    @cached_property
    def daemon_conf(self) -> dict[str, Value]:
        """libvirtd.conf, or virtqemud.conf."""
        return in_force(self._settings(f"libvirt/{self.host.daemon}.conf"))

    @cached_property
    def lock_conf(self) -> LockConf:
        """qemu-sanlock.conf."""
        return make_lock_conf(in_force(self._settings("libvirt/qemu-sanlock.conf")))

    def _settings(self, name: str) -> list[Setting]:
        return read_settings(self.host.etc / name)

    @property
    def sanlock_conf(self) -> str:
        """The path of sanlock's configuration file."""
        return str(self.host.etc / "sanlock/sanlock.conf")

    @cached_property
    def files(self) -> dict[str, list[Setting] | HelperError]:
        """The configuration files that are there: path to settings, or why libvirt would not read it."""
        found: dict[str, list[Setting] | HelperError] = {}
        for name in ("qemu.conf", f"{self.host.daemon}.conf", "qemu-sanlock.conf"):
            path = self.host.etc / "libvirt" / name
            try:
                if path.exists():
                    found[str(path)] = read_settings(path)
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

    @cached_property
    def domains(self) -> list[KnownDomain]:
        """All domains."""
        attempt, connection = self._connected
        if attempt.error is not None:
            raise attempt.error
        return within(CONNECT_SECONDS, "list the domains", lambda: take_inventory(connection))

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
        return (self.host.proc / pid / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
