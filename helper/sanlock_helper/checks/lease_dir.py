# SPDX-License-Identifier: LGPL-2.1-or-later
"""The directory of the automatic disk leases: where it is mounted from, room, owner and mode."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..numbers import whole_number
from ..virt.qemu_sanlock_conf import LockConf
from .finding import Finding, failed, not_checked, passed, warned
from .leases import missing_leases, present
from .registry import check

if TYPE_CHECKING:
    from .facts import Facts

MIB = 1024 * 1024

# Filesystems that several hosts mount at the same time.
SHARED = frozenset(
    [
        "nfs",
        "nfs4",
        "gfs2",
        "ocfs2",
        "ceph",
        "cifs",
        "smb3",
        "lustre",
        "gpfs",
        "beegfs",
        "glusterfs",
        "fuse.glusterfs",
        "fuse.ceph",
        "fuse.beegfs",
    ]
)

# Those among them whose server may map root to another user; the rest are on a shared block device.
SQUASHING = SHARED - {"gfs2", "ocfs2"}

SQUASHED_UID = 65534


@dataclass(frozen=True)
class Mount:
    """Where something is mounted, its filesystem type and source."""

    point: str
    fstype: str
    source: str


def mount_of(path: str, mountinfo: str) -> Mount:
    """The mount that PATH (resolved) is on, from the text of /proc/PID/mountinfo (see proc(5))."""
    best = Mount("", "unknown", "")
    # The kernel escapes blanks and "\n", and nothing else that ends a line or a word elsewhere.
    for line in mountinfo.split("\n"):
        fields, _, rest = line.partition(" - ")
        words, behind = fields.split(" "), rest.split(" ")
        if len(words) < 5 or len(behind) < 2:
            continue
        point = _unescape(words[4])
        is_on_it = path == point or path.startswith(f"{point.rstrip('/')}/")
        # The last one covers those before it.
        if is_on_it and len(point) >= len(best.point):
            best = Mount(point, behind[0], _unescape(behind[1]))
    return best


def lease_mount(facts: Facts) -> Mount:
    """The mount that the lease directory is on."""
    return mount_of(os.path.realpath(facts.lock_conf.disk_lease_dir), facts.mountinfo)


def owner_of(path: str) -> Owner | None:
    """The owner of the file at PATH, None when it is not there."""
    return Owner.of(path) if os.path.exists(path) else None


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


@check(
    "lease directory",
    reads=lambda facts: (
        facts.lock_conf.disk_lease_dir,
        os.path.isdir(facts.lock_conf.disk_lease_dir),
        lease_mount(facts),
    ),
)
def check_shared(path: str, exists: bool, mount: Mount) -> Finding:
    """Whether the lease directory PATH is on storage that other hosts see, too."""
    wanted = f"{path} on a filesystem shared by all hosts"
    if not exists:
        return failed(f"{path} is not there", f"mkdir -m 0700 {path}, and mount it", wanted=wanted)
    found = f"{path} is on {mount.fstype} ({mount.source})"
    if mount.fstype not in SHARED:
        remedy = "mount NFS, GFS2 or the like there; on local storage the leases guard against no other host"
        return warned(found, remedy, wanted=wanted)
    return passed(found, wanted=wanted)


@check("lease path", "no blank in it", reads=lambda facts: (facts.lock_conf.disk_lease_dir,))
def check_path(path: str) -> Finding:
    """Whether libvirt can release a lease in the directory PATH.

    It asks sanlock for a process's leases first, and sanlock makes no text of a path with a blank: -ELIBSCN,
    cmd_inquire() in sanlock src/cmd.c.
    """
    if " " not in path:
        return passed(path)
    found = f"{path!r}: libvirt cannot release a lease there, and sanlock kills each VM that is paused by it"
    remedy = (
        "power all VMs off, then set disk_lease_dir in /etc/libvirt/qemu-sanlock.conf and restart libvirt"
    )
    return failed(found, remedy)


def _room(facts: Facts) -> tuple[str, int, int, int]:
    path = facts.lock_conf.disk_lease_dir
    found = os.statvfs(path)
    align = (facts.joined and whole_number(facts.joined.values.get("align_size", ""))) or MIB
    missing = missing_leases(facts.domains, present(facts)) if facts.lock_conf.auto_disk_leases else set()
    return path, found.f_bavail * found.f_frsize, len(missing), align


@check("lease room", reads=_room)
def check_room(path: str, free: int, missing: int, align: int) -> Finding:
    """FREE bytes at PATH against the MISSING leases (of disks that have none yet), of ALIGN bytes each."""
    wanted = f"{align // MIB} MiB for each disk"
    needed = missing * align
    found = f"{free // MIB} MiB free, {missing} disks have no lease yet ({needed // MIB} MiB)"
    remedy = f"enlarge the filesystem of {path}, or run virt-sanlock-cleanup"
    if free < needed:
        return failed(found, remedy, wanted=wanted)
    if free < needed + 10 * align:
        return warned(f"{found}; not 10 more", remedy, wanted=wanted)
    return passed(found, wanted=wanted)


@dataclass(frozen=True)
class Owner:
    """Owner, permissions and kind (stat.S_IFDIR, ...) of a file."""

    path: str
    uid: int
    gid: int
    mode: int
    kind: int = stat.S_IFDIR

    @classmethod
    def of(cls, path: str) -> Owner:
        """Those of PATH.  Raises OSError."""
        return cls._of(path, os.stat(path))

    @classmethod
    def of_entry(cls, path: str) -> Owner:
        """Those of PATH itself, where it is a symbolic link.  Raises OSError."""
        return cls._of(path, os.lstat(path))

    @classmethod
    def _of(cls, path: str, found: os.stat_result) -> Owner:
        mode = found.st_mode
        return cls(path, found.st_uid, found.st_gid, stat.S_IMODE(mode), stat.S_IFMT(mode))

    def __str__(self) -> str:
        return f"{self.path} {self.uid}:{self.gid} {self.mode:04o}"


@dataclass(frozen=True)
class Identity:
    """The user and groups that the sanlock daemon runs as."""

    uid: int
    groups: frozenset[int]

    def may(self, owner: Owner, bits: int) -> bool:
        """Whether all BITS (4 read, 2 write, 1 search) are granted."""
        if self.uid == 0:
            return True
        shift = 6 if self.uid == owner.uid else 3 if owner.gid in self.groups else 0
        return owner.mode >> shift & bits == bits


def identity_of(status: str) -> Identity:
    """Read the text of /proc/PID/status."""
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    groups = [values["Gid"].split()[1], *values.get("Groups", "").split()]
    return Identity(int(values["Uid"].split()[1]), frozenset(map(int, groups)))


@check(
    "lease owner",
    reads=lambda facts: (
        facts.lock_conf,
        Owner.of(facts.lock_conf.disk_lease_dir),
        owner_of(str(facts.lockspace_path)),
        identity_of((facts.sanlock_proc / "status").read_text()),
    ),
)
def check_owner(conf: LockConf, folder: Owner, lockspace: Owner | None, daemon: Identity) -> Finding:
    """Whether the sanlock DAEMON can use the lease FOLDER and the LOCKSPACE file, which libvirt makes."""
    wanted = (
        f"usable by sanlock, which runs as uid {daemon.uid}; user {conf.user}, group {conf.group} configured"
    )
    try:
        uid, gid = _uid(conf.user), _gid(conf.group)
    except KeyError as error:
        remedy = "correct user or group in /etc/libvirt/qemu-sanlock.conf"
        return failed(f"{error.args[0]}: there is no such account", remedy, wanted=wanted)
    found = "; ".join(map(str, filter(None, (folder, lockspace))))
    if not daemon.may(folder, 1):
        return failed(found, f"chown {daemon.uid} {folder.path}, or chmod o+x", wanted=wanted)
    if lockspace is not None and not daemon.may(lockspace, 6):
        remedy = (
            "set user and group in /etc/libvirt/qemu-sanlock.conf to sanlock's, then restart libvirt's daemon"
        )
        return failed(found, remedy, wanted=wanted)
    # Without user and group libvirt does not change the owner.
    if lockspace is not None and (uid not in (None, lockspace.uid) or gid not in (None, lockspace.gid)):
        remedy = "restart libvirt's daemon: it changes the owner, unless root_squash forbids that (see there)"
        return warned(f"{found}: not what is configured", remedy, wanted=wanted)
    if folder.mode & 0o002:
        return warned(f"{found}: every user may write", f"chmod o-w {folder.path}", wanted=wanted)
    return passed(found, wanted=wanted)


def _uid(user: str | None) -> int | None:
    if user is None:
        return None
    number = whole_number(user.lstrip("+"))
    return pwd.getpwnam(user).pw_uid if number is None else number


def _gid(group: str | None) -> int | None:
    if group is None:
        return None
    number = whole_number(group.lstrip("+"))
    return grp.getgrnam(group).gr_gid if number is None else number


@check(
    "root_squash",
    "root may change owners on a network filesystem (NFS: no_root_squash) where user or group is set",
    reads=lambda facts: (facts.lock_conf, lease_mount(facts), owner_of(str(facts.lockspace_path))),
)
def check_root_squash(conf: LockConf, mount: Mount, lockspace: Owner | None) -> Finding:
    """With user or group configured libvirt must change owners, which a server with root_squash forbids.

    libvirt then removes the LOCKSPACE that it has just made, or fails on one that has another owner.
    """
    if mount.fstype not in SQUASHING:
        return passed(f"no network filesystem: {mount.fstype}")
    if conf.user is None and conf.group is None:
        return passed("no user and no group is set: libvirt changes no owner")
    remedy = f"export {mount.source} with no_root_squash, then restart libvirt's daemon"
    if lockspace is None:
        why = f"no file of libvirt's shows how {mount.source} is exported; with root_squash none ever will"
        return not_checked(why, remedy)
    if lockspace.uid == SQUASHED_UID:
        return failed(f"{lockspace}: created as uid {SQUASHED_UID}: the server squashes root", remedy)
    return passed(f"{lockspace}: libvirt could set the owner")
