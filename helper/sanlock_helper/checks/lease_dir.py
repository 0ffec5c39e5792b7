# SPDX-License-Identifier: LGPL-2.1-or-later
"""The directory of the automatic disk leases: where it is mounted from, room, owner and mode."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shlex
import stat
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from ..errors import PermanentError
from ..numbers import whole_number
from ..virt.qemu_sanlock_conf import DEFAULT_DIRECTORY, LockConf
from .facts import UnreadError
from .finding import PASS, Finding, failed, not_checked, passed, warned, worst
from .leases import missing_leases, present
from .registry import check
from .remedies import give, joined_anew, restart

if TYPE_CHECKING:
    from .facts import Facts

MIB = 1024 * 1024

# Filesystems that several hosts mount at the same time, by their types in proc(5)'s mountinfo: of clusters on
# a shared block device, then those with a server, then the same by FUSE.
_CLUSTER = frozenset(("gfs", "gfs2", "ocfs2", "acfs", "cvfs", "gpfs", "vxfs", "vmfs"))
_SERVED = frozenset(
    (
        *("nfs", "nfs3", "nfs4", "ceph", "cifs", "smb3", "smbfs", "lustre", "beegfs", "fhgfs", "glusterfs"),
        *("afs", "panfs", "pvfs2", "wekafs", "quobyte", "vzfs"),
    )
)
_FUSE = frozenset(
    f"fuse.{name}"
    for name in (
        *("glusterfs", "ceph", "ceph-fuse", "beegfs", "mfs", "moosefs", "lizardfs", "saunafs", "juicefs"),
        *("orangefs", "quobyte", "gpfs", "seaweedfs", "xtreemfs", "dfuse", "vstorage"),
    )
)
SHARED = _CLUSTER | _SERVED | _FUSE

# Those among them whose server may map root to another user.
SQUASHING = SHARED - _CLUSTER

# On this host's own disks, or in its memory.
_LOCAL = frozenset(
    (
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "zfs", "f2fs", "jfs", "nilfs2", "reiserfs"),
        *(
            "vfat",
            "msdos",
            "exfat",
            "ntfs",
            "ntfs3",
            "hfsplus",
            "udf",
            "fuseblk",
            "iso9660",
            "squashfs",
            "erofs",
        ),
        *("tmpfs", "ramfs", "devtmpfs", "overlay", "aufs", "rootfs", "hugetlbfs"),
    )
)

SQUASHED_UID = 65534


@dataclass(frozen=True)
class Mount:
    """Where something is mounted, its filesystem type and source."""

    point: str
    fstype: str
    source: str


def mount_of(path: str, mountinfo: str, kinds: Container[str] = ()) -> Mount:
    """The mount that PATH (resolved) is on, from the text of /proc/PID/mountinfo (see proc(5)).

    With KINDS, only of mounts of these types, also where another one covers them.
    """
    best = Mount("", "unknown", "")
    # The kernel escapes blanks and "\n", and nothing else that ends a line or a word elsewhere.
    for line in mountinfo.split("\n"):
        fields, _, rest = line.partition(" - ")
        words, behind = fields.split(" "), rest.split(" ")
        if len(words) < 5 or len(behind) < 2:
            continue
        point = unescape(words[4])
        is_on_it = path == point or path.startswith(f"{point.rstrip('/')}/")
        # The last one covers those before it.
        if is_on_it and len(point) >= len(best.point) and (not kinds or behind[0] in kinds):
            best = Mount(point, behind[0], unescape(behind[1]))
    return best


def lease_mount(facts: Facts) -> Mount:
    """The mount that the lease directory is on."""
    return mount_of(os.path.realpath(facts.lock_conf.disk_lease_dir), facts.mountinfo)


def owner_of(path: str) -> Owner | None:
    """The owner of the file at PATH, None when it is not there."""
    return Owner.of(path) if os.path.exists(path) else None


def unescape(text: str) -> str:
    """TEXT of mountinfo or fstab(5), which have blanks and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


@dataclass(frozen=True)
class LeasePlace:
    """A directory of leases, or the file of a lockspace, and the mount that it is on; or a block device.

    instead: what is at the path of a directory that is not there, as in "a file".
    """

    path: str
    exists: bool
    mount: Mount
    is_device: bool = False
    is_file: bool = False
    instead: str = ""


def lease_places(facts: Facts) -> list[LeasePlace]:
    """Where the leases in use are: libvirt's directory, and the lockspaces of <lease> elements."""
    found = []
    if facts.lock_conf.auto_disk_leases:
        path = facts.lock_conf.disk_lease_dir
        found.append(LeasePlace(path, os.path.isdir(path), lease_mount(facts), instead=_instead(path)))
    for file in filter(None, facts.explicit_places.values()):
        mount = mount_of(os.path.realpath(file), facts.mountinfo)
        is_device = os.path.exists(file) and stat.S_ISBLK(os.stat(file).st_mode)
        found.append(LeasePlace(file, os.path.exists(file), mount, is_device, is_file=True))
    return found


def _instead(path: str) -> str:
    """What is at PATH that is no directory, "" where nothing is, or a directory."""
    if os.path.isdir(path) or not os.path.lexists(path):
        return ""
    return "a file" if os.path.exists(path) else f"a symbolic link to {os.path.realpath(path)}"


def _directory(facts: Facts) -> str:
    """The lease directory.  Raises UnreadError where it is not there, which another check reports."""
    path = facts.lock_conf.disk_lease_dir
    if not os.path.isdir(path):
        raise UnreadError(PermanentError(f"read {path}", "there is no such directory"), "lease directory")
    return path


@check("lease directory", reads=lambda facts: (lease_places(facts),))
def check_shared(places: Iterable[LeasePlace]) -> Finding:
    """Whether the leases are on storage that other hosts see, too."""
    found = [_shared(place) for place in places]
    if not found:
        return passed("no lease is in use, and auto_disk_leases is off")
    most = worst(found)
    if most.verdict != PASS:
        return most
    return passed("; ".join(finding.found for finding in found), "; ".join(one.wanted for one in found))


def _shared(place: LeasePlace) -> Finding:
    path, mount = place.path, place.mount
    wanted = f"{path} on a filesystem shared by all hosts"
    if not place.exists:
        return replace(_missing(place), wanted=wanted)
    if place.is_device:
        return passed(f"{path} is a block device", wanted=f"{path} on a disk shared by all hosts")
    found = f"{path} is on {mount.fstype} ({mount.source})"
    if mount.fstype in SHARED:
        return passed(found, wanted=wanted)
    remedy = "mount NFS, GFS2 or the like there; on local storage the leases guard against no other host"
    if mount.fstype not in _LOCAL:
        # FUSE may be anything; so may what is exported to a virtual machine (9p, virtiofs).
        return replace(not_checked(f"it is not known whether {found} is shared", remedy), wanted=wanted)
    return warned(found, remedy, wanted=wanted)


def _missing(place: LeasePlace) -> Finding:
    path = place.path
    if place.is_file:
        return failed(f"{path} is not there", "see lockspace file")
    folder = os.path.realpath(path)
    parents = "" if os.path.isdir(os.path.dirname(folder)) else "-p "
    make = f"mkdir {parents}-m 0700 {shlex.quote(folder)}"
    mount = "# and mount the shared filesystem there"
    if place.instead == "a file":
        quoted = shlex.quote(path)
        return failed(f"{path} is a file", f"mv -n {quoted} {quoted}.away && {make}  {mount}")
    if place.instead:
        return failed(f"{path} is {place.instead}, which is not there", f"{make}  {mount}")
    return failed(f"{path} is not there", f"{make}  {mount}")


def _absolute(facts: Facts) -> str:
    """The command that gives libvirt the lease directory by an absolute path."""
    conf, path = facts.host.etc / "libvirt/qemu-sanlock.conf", facts.lock_conf.disk_lease_dir
    # libvirt's daemon and sanlock run in the root directory.
    folder = os.path.join("/", path) if path else DEFAULT_DIRECTORY
    given = give(conf, facts.lock_settings, [("disk_lease_dir", folder)])
    given = given or f'set disk_lease_dir = "{folder}" in {conf}'
    daemon = facts.host.daemon
    begin = joined_anew(facts.joined, daemon) if facts.joined else restart(daemon)
    return f"mkdir -p -m 0700 {shlex.quote(folder)} && {given} && {begin}"


@check(
    "lease path",
    "an absolute one, and no blank in it",
    reads=lambda facts: (
        facts.lock_conf.disk_lease_dir if facts.lock_conf.auto_disk_leases else None,
        lambda: _absolute(facts),
    ),
)
def check_path(path: str | None, absolute: Callable[[], str] = lambda: "") -> Finding:
    """Whether libvirt can release a lease in the directory PATH, which is None where it is not used.

    ABSOLUTE: the command that makes it absolute.  libvirt asks sanlock for a process's leases first, and
    sanlock makes no text of a path with a blank: -ELIBSCN, cmd_inquire() in sanlock src/cmd.c.
    """
    if path is None:
        return passed("not used: auto_disk_leases is off")
    if not os.path.isabs(path):
        found = f"{path!r} is not absolute: it is another directory for each process, by where it runs"
        return failed(found, absolute())
    if " " not in path:
        return passed(path)
    found = f"{path!r}: libvirt cannot release a lease there, and sanlock kills each VM that is paused by it"
    remedy = (
        "power all VMs off, then set disk_lease_dir in /etc/libvirt/qemu-sanlock.conf and restart libvirt"
    )
    return failed(found, remedy)


def _room(facts: Facts) -> tuple[str, int, int, int]:
    path = facts.lock_conf.disk_lease_dir
    align = (facts.joined and whole_number(facts.joined.values.get("align_size", ""))) or MIB
    if not facts.lock_conf.auto_disk_leases:
        return "", 0, 0, align
    found = os.statvfs(_directory(facts))
    return path, found.f_bavail * found.f_frsize, len(missing_leases(facts.domains, present(facts))), align


@check("lease room", reads=_room)
def check_room(path: str, free: int, missing: int, align: int) -> Finding:
    """FREE bytes at PATH against the MISSING leases (of disks that have none yet), of ALIGN bytes each.

    PATH is "" where there are no automatic leases.
    """
    wanted = f"{align // MIB} MiB for each disk"
    if not path:
        return passed("not used: auto_disk_leases is off", wanted=wanted)
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
    gid: int = 0

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
    return Identity(int(values["Uid"].split()[1]), frozenset(map(int, groups)), int(groups[0]))


def _owners(facts: Facts) -> tuple[object, ...]:
    conf, path = facts.lock_conf, facts.host.etc / "libvirt/qemu-sanlock.conf"
    folder = Owner.of(_directory(facts)) if conf.auto_disk_leases else None
    daemon = identity_of((facts.sanlock_proc / "status").read_text())
    above = os.path.realpath(conf.disk_lease_dir)
    parents = [Owner.of(str(parent)) for parent in reversed(Path(above).parents)] if folder else []
    closed = [lease for lease in _leases(above) if not daemon.may(lease, 6)] if folder else []
    barred = next((parent for parent in parents if not daemon.may(parent, 1)), None)
    user, group = _account(daemon)
    given = give(path, facts.lock_settings, [("user", user), ("group", group)])
    given = given or f'set user = "{user}" and group = "{group}" in {path}'
    return conf, folder, owner_of(str(facts.lockspace_path)), daemon, given, facts.host.daemon, barred, closed


def _leases(folder: str) -> Iterator[Owner]:
    """The owners of the files in FOLDER."""
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # it has been removed
            owner = Owner.of_entry(entry.path)
            if owner.kind == stat.S_IFREG:
                yield owner


@check("lease owner", reads=_owners)
def check_owner(
    conf: LockConf,
    folder: Owner | None,
    lockspace: Owner | None,
    daemon: Identity,
    given: str = "",
    name: str = "libvirtd",
    barred: Owner | None = None,
    closed: Sequence[Owner] = (),
) -> Finding:
    """Whether the sanlock DAEMON can use the lease FOLDER and the files in it, which libvirt makes.

    LOCKSPACE is one that is there.  GIVEN: the command that sets user and group in qemu-sanlock.conf to those
    of the daemon.  NAME: libvirt's daemon.  BARRED: a directory above FOLDER that the daemon may not search.
    CLOSED: files in FOLDER that it may not open.
    """
    wanted = (
        f"usable by sanlock, which runs as uid {daemon.uid}; user {conf.user}, group {conf.group} configured"
    )
    found = _check_owner(conf, folder, lockspace, daemon, given, name)
    if barred is not None and found.verdict == PASS:
        found = failed(f"{barred}: sanlock may not search it", f"chmod a+x {shlex.quote(barred.path)}")
    if closed and folder is not None and found.verdict == PASS:
        # As of leases that were copied by root: a VM whose lease that is does not start.
        why = f"{len(closed)} files that sanlock may not open, the first is {closed[0]}"
        found = failed(f"{found.found}; {why}", _chown(folder, daemon))
    return replace(found, wanted=wanted)


def _check_owner(
    conf: LockConf, folder: Owner | None, lockspace: Owner | None, daemon: Identity, given: str, name: str
) -> Finding:
    if folder is None:
        return passed("not used: auto_disk_leases is off")
    try:
        uid, gid = _uid(conf.user), _gid(conf.group)
    except KeyError as error:
        why = f"{error.args[0]}: there is no such account, and libvirt's driver for QEMU does not start"
        return failed(why, f"{given} && {restart(name)}")
    found = "; ".join(map(str, filter(None, (folder, lockspace))))
    mend = f"{_chown(folder, daemon)} && {restart(name)}"
    # As virLockManagerSanlockCreateLease() in libvirt src/locking/lock_driver_sanlock.c makes it.
    made = Owner("a new file", uid or 0, gid or 0, 0o600 if gid is None else 0o660)
    if not daemon.may(made, 6):
        lacking = (
            "no user and no group is set" if uid is None and gid is None else "user and group are others"
        )
        why = f"{found}: {lacking}, so libvirt makes files that sanlock may not open ({made})"
        return failed(why, f"{given} && {mend}")
    if not daemon.may(folder, 1) or (lockspace is not None and not daemon.may(lockspace, 6)):
        return failed(found, mend)
    return _odd_owner(folder, lockspace, (uid, gid), f"{restart(name)}  # {_CHANGES}") or passed(found)


_CHANGES = "to restart libvirt's daemon changes the owner, unless root_squash forbids that (see there)"


def _odd_owner(
    folder: Owner, lockspace: Owner | None, configured: tuple[int | None, int | None], remedy: str
) -> Finding | None:
    """The finding on files that are not as CONFIGURED (uid and gid), or open to others; None for neither."""
    found = "; ".join(map(str, filter(None, (folder, lockspace))))
    # Without user and group libvirt does not change the owner.
    uid, gid = configured
    if lockspace is not None and (uid not in (None, lockspace.uid) or gid not in (None, lockspace.gid)):
        return warned(f"{found}: not what is configured", remedy)
    if folder.mode & 0o002:
        return warned(f"{found}: every user may write", f"chmod o-w {shlex.quote(folder.path)}")
    return None


def _chown(folder: Owner, daemon: Identity) -> str:
    user, group = (name.lstrip("+") for name in _account(daemon))
    return f"chown -R {user}:{group} {shlex.quote(folder.path)}"


def _account(daemon: Identity) -> tuple[str, str]:
    """The names of sanlock's user and group, as libvirt's configuration takes them; numbers without names."""
    try:
        user = pwd.getpwuid(daemon.uid).pw_name
    except KeyError:
        user = f"+{daemon.uid}"
    try:
        return user, grp.getgrgid(daemon.gid).gr_name
    except KeyError:
        return user, f"+{daemon.gid}"


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
    if not conf.auto_disk_leases:
        return passed("not used: auto_disk_leases is off")
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
