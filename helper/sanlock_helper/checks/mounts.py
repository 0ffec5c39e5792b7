# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the filesystems of the leases are mounted again when the host boots."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PermanentError
from ..regular_file import read_regular
from .finding import Finding, passed, warned
from .hindered_units import freed
from .lease_dir import SHARED, Mount, lease_places, mount_of, unescape
from .registry import check
from .system import unit_states
from .unit_files import ENABLED, UnitFiles

if TYPE_CHECKING:
    from .facts import Facts

# What vdsm, oVirt's agent, mounts itself.
_VDSM = "/rhev/data-center/"

# A cluster of a thousand resources has some 2 MB.
_MOST_BYTES = 16 * 1024 * 1024

_DOT = r"\\x2e"


@dataclass(frozen=True)
class FstabEntry:
    """A line of fstab(5), counted from 1: the mount point and the options."""

    line: int
    point: str
    options: frozenset[str]


def parse_fstab(text: str) -> list[FstabEntry]:
    """The entries of fstab(5)."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if len(words) >= 3 and not words[0].startswith("#"):
            options = frozenset(words[3].split(",")) if len(words) > 3 else frozenset()
            found.append(FstabEntry(number, unescape(words[1]).rstrip("/") or "/", options))
    return found


def unit_name(point: str) -> str:
    """systemd's name for the mount at POINT (systemd-escape(1))."""
    text = "".join(map(_escaped, point.strip("/"))) or "-"
    # A file that begins with a dot is hidden.
    return f"{re.sub('^[.]', _DOT, text)}.mount"


def _escaped(letter: str) -> str:
    if letter == "/":
        return "-"
    if re.fullmatch(r"[A-Za-z0-9:_.]", letter):
        return letter
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class BootMount:
    """A mount, and what mounts it at boot: "" where nothing is known that does.

    noauto: the line of fstab that has it, and does not mount it.  unit, state: its unit that is not started
    at boot, and what `systemctl is-enabled` prints of that.
    """

    mount: Mount
    by: str
    noauto: int = 0
    unit: str = ""
    state: str = ""


def _mounts(facts: Facts) -> tuple[list[BootMount]]:
    entries = parse_fstab(read_text(facts.host.etc / "fstab"))
    cib = read_text(facts.host.var / "lib/pacemaker/cib/cib.xml")
    places = [place.mount for place in lease_places(facts) if place.exists and not place.is_device]
    mounts = dict.fromkeys(mount for mount in places if _has_to_be_mounted(mount))
    files = UnitFiles(facts.host)
    return ([_found(mount, entries, files, cib, facts.mountinfo) for mount in mounts],)


def read_text(path: Path) -> str:
    """The text of the file at PATH, "" where there is none.

    Raises PermanentError for what is no regular file or is too large, OSError where it cannot be read.
    """
    try:
        data = read_regular(path, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if len(data) > _MOST_BYTES:
        raise PermanentError(f"read {path}", f"it is longer than {_MOST_BYTES} bytes", f"ls -l {path}")
    return data.decode("utf-8", "surrogateescape")


def _has_to_be_mounted(mount: Mount) -> bool:
    """What is local is reported by another check, and is there without an entry, as / is."""
    return mount.point != "/" and (mount.fstype in SHARED or mount.fstype.startswith("fuse"))


def _found(
    mount: Mount, entries: Iterable[FstabEntry], files: UnitFiles, cib: str, mountinfo: str
) -> BootMount:
    entry = next((entry for entry in entries if entry.point == mount.point), None)
    if entry is not None:
        waits = "noauto" in entry.options and "x-systemd.automount" not in entry.options
        return BootMount(mount, "" if waits else "fstab", entry.line if waits else 0)
    by_unit = _unit(mount, files)
    if by_unit is not None and by_unit.by:
        return by_unit
    if mount.point.startswith(_VDSM):
        return BootMount(mount, "vdsm")
    if f'"{mount.point}"' in cib:
        return BootMount(mount, "pacemaker")
    automount = mount_of(mount.point, mountinfo, ("autofs",))
    if automount.point not in ("", "/"):
        return BootMount(mount, "autofs")
    return by_unit or BootMount(mount, "")


def _unit(mount: Mount, files: UnitFiles) -> BootMount | None:
    """MOUNT, and whether its unit is started at boot; None where it has none of an administrator's."""
    unit = unit_name(mount.point)
    # What is made of a line of fstab stays until systemd is reloaded, also when that line has gone.
    if not files.has(unit) or "/etc/fstab" in files.values(unit, "SourcePath"):
        return None
    states = unit_states([unit, f"{unit.removesuffix('.mount')}.automount"])
    starts = states is None or any(state in ENABLED for state in states.values())
    if starts or files.target(unit) or files.starter(unit) or files.starter_of_mount(mount.point):
        return BootMount(mount, unit)
    return BootMount(mount, "", unit=unit, state=(states or {})[unit])


@check("lease mount", "mounted at boot, by fstab, a mount unit, autofs or a cluster", reads=_mounts)
def check_mounts(mounts: Iterable[BootMount]) -> Finding:
    """Whether MOUNTS, which the leases are on, come back: libvirt would use the empty directory below."""
    mounts = list(mounts)
    bad = [mount for mount in mounts if not mount.by]
    if not bad:
        return passed(", ".join(f"{one.mount.point} by {one.by}" for one in mounts) or "no shared filesystem")
    found = ", ".join(
        f"{one.mount.point} is noauto in fstab"
        if one.noauto
        else f"{one.unit} is {one.state}"
        if one.unit
        else f"{one.mount.point} was mounted by hand"
        for one in bad
    )
    remedy = " && ".join(map(_entered, bad))
    return warned(f"{found}: after a boot libvirt finds an empty directory there", remedy)


def _entered(one: BootMount) -> str:
    """The command that has it mounted at boot: by its unit, or by fstab."""
    if one.noauto:
        return rf"sed -i '{one.noauto}s/\bnoauto\b/auto/' /etc/fstab"
    if one.unit:
        unit = shlex.quote(one.unit)
        if one.state == "static":
            return f"systemctl add-wants remote-fs.target {unit}"
        freeing = freed({unit: one.state}, " && ") if one.state.startswith("masked") else ""
        return f"{freeing}systemctl enable {unit}"
    mount = one.mount
    # mount(8) finds a program for glusterfs, and reads fuse.ceph as it is.
    fstype = "glusterfs" if mount.fstype == "fuse.glusterfs" else mount.fstype
    words = (_escape(mount.source), _escape(mount.point), fstype, "defaults,_netdev", "0", "0")
    return f"printf '%s\\n' {shlex.quote(' '.join(words))} >> /etc/fstab"


def _escape(text: str) -> str:
    return re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", text)
