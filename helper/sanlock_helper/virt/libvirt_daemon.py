# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of libvirt's daemons serves QEMU on a host: libvirtd, or virtqemud with virtproxyd beside it.

libvirt's client takes virtqemud's socket where it is there, else libvirtd's (remoteGetUNIXSocketHelper() in
libvirt ``src/remote/remote_sockets.c``), which virtproxyd serves on a host with modular daemons.  The units
of the one kind end those of the other (Conflicts=): to name the wrong one in a remedy does harm.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..distribution import Distribution


@dataclass(frozen=True)
class Daemon:
    """A daemon that serves qemu:///system.

    name: of the program, its units, its configuration file and its server.  socket: in /run/libvirt.
    """

    name: str
    socket: str

    @property
    def units(self) -> tuple[str, ...]:
        """Its units; that of its socket, which starts the daemon when it is asked, comes first."""
        return f"{self.name}.socket", f"{self.name}.service"


VIRTQEMUD = Daemon("virtqemud", "virtqemud-sock")
LIBVIRTD = Daemon("libvirtd", "libvirt-sock")

# A line of proc(5)'s maps; of its status.
_LOCK_DRIVER = re.compile(r"/lock-driver/(\w+)\.so(?: \(deleted\))?$", re.MULTILINE)
_ROOTS = re.compile(r"^Uid:\s+0\s", re.MULTILINE)

# In the order in which the client goes.
DAEMONS = (VIRTQEMUD, LIBVIRTD)

# Serves libvirtd's socket for the modular daemons.
PROXY = "virtproxyd"


@dataclass(frozen=True)
class HostFiles:
    """The directories of a host that decide which daemon is in force; in tests, temporary ones."""

    run: Path = Path("/run")
    etc: Path = Path("/etc")
    lib: Path = Path("/usr/lib")
    proc: Path = Path("/proc")
    programs: tuple[Path, ...] = (Path("/usr/sbin"), Path("/usr/bin"))

    def socket(self, daemon: Daemon) -> Path:
        """The path of its socket."""
        return self.run / "libvirt" / daemon.socket

    def listens(self, daemon: Daemon) -> bool:
        """Whether a process, perhaps systemd in its stead, listens on its socket."""
        return self.is_listening(self.socket(daemon))

    def is_listening(self, path: Path) -> bool:
        """Whether a process listens on the socket at PATH; nothing connects to it."""
        if not path.exists():
            return False
        try:
            lines = (self.proc / "net/unix").read_text(errors="replace").splitlines()
        except OSError:
            return True  # not known: it is there
        wanted = os.path.realpath(path)
        return any(_is_listening(line) and os.path.realpath(_path(line)) == wanted for line in lines)

    def is_enabled(self, name: str) -> bool:
        """Whether the socket or the service NAME is started at boot: a mask leaves the links of before."""
        folders = (self.etc / "systemd/system", self.lib / "systemd/system")
        if self.is_masked(f"{name}.service"):
            return False
        kinds = [unit for unit in (f"{name}.socket", f"{name}.service") if not self.is_masked(unit)]
        wants = [place for folder in folders for place in folder.glob("*.wants")]
        return any(os.path.lexists(place / kind) for place in wants for kind in kinds)

    def is_masked(self, unit: str) -> bool:
        """Whether systemd starts UNIT in no way: its file is a link to /dev/null, or empty."""
        places = (top / "systemd/system" / unit for top in (self.etc, self.run))
        return any(_is_mask(place) for place in places)

    def is_installed(self, daemon: Daemon) -> bool:
        """Whether the program is there."""
        return any((folder / daemon.name).exists() for folder in self.programs)

    def runs(self, name: str) -> bool:
        """Whether a process of that name runs."""
        return bool(self.pids(name))

    def pids(self, name: str) -> list[int]:
        """The processes of that name."""
        found = []
        for comm in self.proc.glob("[0-9]*/comm"):
            try:
                if comm.read_text(errors="replace").strip() == name:
                    found.append(int(comm.parent.name))
            except OSError:
                continue  # it has ended
        return sorted(found)

    def lock_driver(self, daemon: Daemon) -> str | None:
        """The lock driver that the running DAEMON has loaded, as in "sanlock"; "" for none.

        None where it does not run, or this cannot be read.  Of several processes, as with a user's session
        daemon, those of root count.  The built-in driver nop is no file (virLockManagerPluginNew() in
        libvirt ``src/locking/lock_manager.c``).
        """
        for pid in self.pids(daemon.name):
            try:
                maps = (self.proc / str(pid) / "maps").read_text(errors="replace")
                status = (self.proc / str(pid) / "status").read_text(errors="replace")
            except OSError:
                continue
            if _ROOTS.search(status):
                # A driver that was replaced by an update is marked as deleted.
                found = _LOCK_DRIVER.search(maps)
                return found[1] if found else ""
        return None


def _is_mask(path: Path) -> bool:
    try:
        return os.path.realpath(path) == os.devnull or path.stat().st_size == 0
    except OSError:
        return False


def _is_listening(line: str) -> bool:
    # proc(5): the flag is __SO_ACCEPTCON of the kernel's include/linux/net.h.  No path has a NUL.
    words = line.split()
    return len(words) >= 8 and words[3] == "00010000" and "\0" not in line


def _path(line: str) -> str:
    return line.split(maxsplit=7)[7]


def daemon_in_force(files: HostFiles) -> Daemon:
    """The daemon that serves QEMU on this host, or that would if it were started.

    By the sockets on which a process listens, then by what is enabled, then by sockets that were left, then
    by what is installed, one whose service is masked last; libvirtd where nothing is.
    """
    if files.listens(VIRTQEMUD):
        return VIRTQEMUD
    if files.listens(LIBVIRTD):
        return VIRTQEMUD if _is_proxied(files) else LIBVIRTD
    enabled = [daemon for daemon in DAEMONS if files.is_enabled(daemon.name)]
    left = [daemon for daemon in DAEMONS if files.socket(daemon).exists()]
    installed = [daemon for daemon in DAEMONS if files.is_installed(daemon)]
    found = sorted([*enabled, *left, *installed], key=lambda daemon: files.is_masked(daemon.units[1]))
    return next(iter(found), LIBVIRTD)


def _is_proxied(files: HostFiles) -> bool:
    """Whether virtproxyd, not libvirtd, answers on libvirtd's socket."""
    if files.runs(LIBVIRTD.name):
        return False
    if files.runs(PROXY):
        return True
    # systemd listens, for one of the two.
    return files.is_enabled(PROXY) and not files.is_enabled(LIBVIRTD.name)


def stale_socket(files: HostFiles) -> str:
    """The socket that the client would take and on which no process listens, "" when there is none."""
    for daemon in DAEMONS:
        if files.socket(daemon).exists():
            return "" if files.listens(daemon) else str(files.socket(daemon))
    return ""


def remedy(files: HostFiles) -> str:
    """What to do where the daemon in force does not answer."""
    daemon = daemon_in_force(files)
    if not any((files.is_installed(daemon), files.is_enabled(daemon.name), files.socket(daemon).exists())):
        places = (str(files.etc / "os-release"), str(files.lib / "os-release"))
        return Distribution.read(places).install(daemon.name)
    # The socket starts the service when it is asked, and is what stops nothing of the other kind.
    start = f"systemctl start {daemon.units[0]}; journalctl -u {daemon.name} -n 20"
    stale = stale_socket(files)
    if stale and daemon == LIBVIRTD and stale != str(files.socket(LIBVIRTD)):
        # virtqemud's, left by a unit that was stopped; the client would take it all the same.
        return f"rm {stale}; {start}"
    return start
