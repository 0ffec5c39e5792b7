# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checks on the lease directory, the leases and the rest of the host: pass, warn and fail."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks import system
from sanlock_helper.checks.facts import Facts, HostPaths
from sanlock_helper.checks.finding import Finding
from sanlock_helper.checks.lease_dir import (
    MIB,
    Identity,
    LeasePlace,
    Mount,
    Owner,
    check_owner,
    check_path,
    check_room,
    check_root_squash,
    check_shared,
    identity_of,
    mount_of,
)
from sanlock_helper.checks.leases import (
    check_disk_paths,
    check_leases,
    lease_name,
    missing_leases,
    stable_names,
)
from sanlock_helper.checks.plan import CHECKS
from sanlock_helper.checks.runtime import check_runtime_dir
from sanlock_helper.leases.sanlock_status import HeldLease, SanlockStatus
from sanlock_helper.virt.inventory import Disk, DomainConfig, KnownDomain
from sanlock_helper.virt.qemu_sanlock_conf import LockConf

DIR = "/var/lib/libvirt/sanlock"
CONF = LockConf(True, 1, 0, DIR, None, None)
NFS = Mount(DIR, "nfs4", "server:/export")
EXT4 = Mount("/", "ext4", "/dev/sda1")

MOUNTINFO = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /run rw,nosuid - tmpfs tmpfs rw,mode=755
24 22 0:44 / /var/lib/libvirt/sanlock rw - nfs4 server:/export\040one rw,vers=4.2
25 22 0:45 / /var/lib/libvirt/sanlock-old rw - xfs /dev/sdb1 rw
"""


def test_the_mount_of_a_path() -> None:
    assert mount_of(f"{DIR}/x", MOUNTINFO) == Mount(DIR, "nfs4", "server:/export one")
    assert mount_of("/var/lib/libvirt", MOUNTINFO).fstype == "ext4"
    assert mount_of("/run/virt-sanlock-helper", MOUNTINFO).fstype == "tmpfs"
    again = f"{MOUNTINFO}26 22 0:46 / {DIR} rw - gfs2 /dev/vg/lv rw\n"
    assert mount_of(DIR, again).fstype == "gfs2"


def test_shared() -> None:
    shared, local = LeasePlace(DIR, True, NFS), LeasePlace(DIR, True, EXT4)
    missing = LeasePlace("/gone", False, EXT4)
    assert check_shared([shared]).verdict == "pass"
    assert check_shared([local]).verdict == "warn"
    assert check_shared([LeasePlace(DIR, False, NFS)]).verdict == "fail"
    # The lockspaces of <lease> elements, too.
    assert check_shared([shared, local]).verdict == "warn"
    assert check_shared([shared, local, missing]).found == "/gone is not there"
    assert check_shared([LeasePlace("/dev/vg/ids", True, EXT4, is_device=True)]).verdict == "pass"
    assert check_shared([]).verdict == "pass"


@pytest.mark.parametrize(("free", "verdict"), [(100, "pass"), (15, "warn"), (9, "fail")])
def test_room(free: int, verdict: str) -> None:
    assert check_room(DIR, free * MIB, 10, MIB).verdict == verdict
    # With 4 KiB sectors a lease has 8 MiB.
    assert check_room(DIR, free * 8 * MIB, 10, 8 * MIB).verdict == verdict


ROOT = Identity(0, frozenset({0}))
SANLOCK = Identity(179, frozenset({179}), 179)


@pytest.mark.parametrize(
    ("folder", "lockspace", "daemon", "verdict"),
    [
        (Owner(DIR, 0, 0, 0o700), Owner("f", 0, 0, 0o600), ROOT, "pass"),
        # The next file that libvirt makes is root's alone.
        (Owner(DIR, 0, 0, 0o755), Owner("f", 0, 179, 0o660), SANLOCK, "fail"),
        (Owner(DIR, 0, 0, 0o755), Owner("f", 0, 0, 0o600), SANLOCK, "fail"),
        (Owner(DIR, 0, 0, 0o700), Owner("f", 0, 179, 0o660), SANLOCK, "fail"),
        (Owner(DIR, 0, 0, 0o755), None, SANLOCK, "fail"),
        # No user is configured: libvirt changes no owner.
        (Owner(DIR, 0, 0, 0o700), Owner("f", 5, 0, 0o600), ROOT, "pass"),
        (Owner(DIR, 0, 0, 0o777), Owner("f", 0, 0, 0o600), ROOT, "warn"),
    ],
)
def test_owner(folder: Owner, lockspace: Owner | None, daemon: Identity, verdict: str) -> None:
    assert check_owner(CONF, folder, lockspace, daemon).verdict == verdict


@pytest.mark.parametrize(
    ("user", "group", "folder", "verdict"),
    [
        ("+179", "+179", 0o711, "pass"),
        ("+179", None, 0o711, "pass"),
        ("179", None, 0o711, "pass"),
        # libvirt lets the group read and write where one is set.
        (None, "+179", 0o711, "pass"),
        (None, "+5", 0o711, "fail"),
        ("+5", None, 0o711, "fail"),
        ("root", "root", 0o711, "fail"),
        ("+5", "+179", 0o711, "pass"),
        ("+179", "+179", 0o700, "fail"),
    ],
)
def test_user_and_group_against_the_daemons(
    user: str | None, group: str | None, folder: int, verdict: str
) -> None:
    conf = replace(CONF, user=user, group=group)
    found = check_owner(conf, Owner(DIR, 0, 0, folder), None, SANLOCK, "set them", "libvirtd")
    assert found.verdict == verdict
    chown = f"chown -R 179:179 {DIR} && systemctl restart libvirtd"
    if verdict == "fail":
        assert found.remedy == (chown if folder == 0o700 else f"set them && {chown}")
    assert check_owner(conf, None, None, SANLOCK).verdict == "pass"


def test_an_account_that_is_not_there() -> None:
    for conf in (replace(CONF, user="no such user"), replace(CONF, group="no such group")):
        assert check_owner(conf, Owner(DIR, 0, 0, 0o700), None, ROOT).verdict == "fail"
    numeric = replace(CONF, user="+179", group="179")
    folder = Owner(DIR, 0, 0, 0o700)
    for other in (Owner("f", 5, 179, 0o660), Owner("f", 179, 5, 0o660)):
        assert check_owner(numeric, folder, other, ROOT).verdict == "warn"
    assert check_owner(numeric, folder, Owner("f", 179, 179, 0o660), ROOT).verdict == "pass"


def test_an_account_that_is_not_there_is_replaced_by_the_daemons() -> None:
    conf = replace(CONF, user="no such user")
    found = check_owner(conf, Owner(DIR, 0, 0, 0o700), None, ROOT, "set them", "virtqemud")
    assert found.remedy == "set them && systemctl restart virtqemud"


def test_a_directory_above_that_sanlock_may_not_search() -> None:
    conf = replace(CONF, user="+179", group="+179")
    folder = Owner(DIR, 179, 179, 0o700)
    above = Owner("/my srv", 0, 0, 0o700)
    assert check_owner(conf, folder, None, SANLOCK).verdict == "pass"
    found = check_owner(conf, folder, None, SANLOCK, "set them", "libvirtd", above)
    assert (found.verdict, found.remedy) == ("fail", "chmod a+x '/my srv'")
    assert "/my srv 0:0 0700: sanlock may not search it" in found.found


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory below which each user may search."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_lease_that_sanlock_may_not_open(open_path: Path) -> None:
    """As of a directory that was filled from a backup; the lockspace is in order."""
    leases = open_path / "my leases"
    leases.mkdir()
    for name in ("__LIBVIRT__DISKS__", "a", "b"):
        (leases / name).touch(0o600)
        os.chown(leases / name, 179, 179)
    (leases / "link").symlink_to("gone")
    (leases / "folder").mkdir()
    os.chown(leases, 179, 179)
    os.chown(leases / "b", 0, 0)
    facts = Facts(HostPaths(etc=open_path, run=open_path, proc=open_path), uid=0)
    facts.sanlock_pid = 7
    (open_path / "7").mkdir()
    (open_path / "7/status").write_text("Uid:\t179\t179\nGid:\t179\t179\nGroups:\t179 \n")
    facts.__dict__["lock_conf"] = replace(CONF, disk_lease_dir=str(leases), user="+179", group="+179")
    check = next(check for check in CHECKS if check.name == "lease owner")
    found = check.run(facts)
    assert found.verdict == "fail"
    assert f"1 files that sanlock may not open, the first is {leases}/b 0:0 0600" in found.found
    subprocess.run(["sh", "-ec", found.remedy], check=True)
    assert check.run(facts).verdict == "pass"
    open_path.chmod(0o700)
    found = check.run(facts)
    assert (found.verdict, found.remedy) == ("fail", f"chmod a+x {open_path}")
    subprocess.run(["sh", "-ec", found.remedy], check=True)
    assert check.run(facts).verdict == "pass"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nothing", "my leases is not there"),
        ("no parent", "my leases is not there"),
        ("file", "my leases is a file"),
        ("link", "my leases is a symbolic link to {}/gone, which is not there"),
    ],
)
def test_what_is_in_the_place_of_the_directory(tmp_path: Path, what: str, words: str) -> None:
    """One line for one cause; its remedy is run, and makes the directory."""
    folder = tmp_path / ("srv/my leases" if what == "no parent" else "my leases")
    if what == "file":
        folder.write_text("kept")
    elif what == "link":
        folder.symlink_to("gone")
    (tmp_path / "libvirt").mkdir()
    conf = f'auto_disk_leases = 1\nhost_id = 1\ndisk_lease_dir = "{folder}"\n'
    (tmp_path / "libvirt/qemu-sanlock.conf").write_text(conf)

    def found() -> dict[str, Finding]:
        facts = Facts(HostPaths(etc=tmp_path, run=tmp_path), uid=0)
        facts.sanlock_pid = os.getpid()
        facts.__dict__["domains"] = []
        facts.mountinfo = MOUNTINFO
        names = ("lease directory", "lease room", "lease owner", "lease mount")
        return {check.name: check.run(facts) for check in CHECKS if check.name in names}

    before = found()
    assert before["lease directory"].found.endswith(words.format(tmp_path))
    follow = {name for name, finding in before.items() if finding.cause == "lease directory"}
    assert follow == {"lease room", "lease owner"}
    subprocess.run(["sh", "-ec", before["lease directory"].remedy], check=True)
    assert folder.is_dir()
    after = found()
    assert after["lease directory"].verdict == "warn"  # it is local
    assert {after[name].verdict for name in ("lease room", "lease owner")} == {"pass"}
    if what == "file":
        assert folder.with_name("my leases.away").read_text() == "kept"


def test_a_lockspace_whose_file_is_gone_is_no_directory_to_make() -> None:
    found = check_shared([LeasePlace("/ids", False, EXT4, is_file=True)])
    assert (found.verdict, found.remedy) == ("fail", "see lockspace file")


@pytest.mark.parametrize("path", ["", "leases", "./leases", "var/lib/libvirt/sanlock"])
def test_a_path_that_is_not_absolute(path: str) -> None:
    found = check_path(path, lambda: "make it so")
    assert (found.verdict, found.remedy) == ("fail", "make it so")
    assert check_path("/leases").verdict == check_path(None).verdict == "pass"
    assert check_path("/my leases").verdict == "fail"


def test_the_user_and_group_of_the_daemon() -> None:
    text = "Name:\tsanlock\nUid:\t179\t179\t179\t179\nGid:\t179\t179\t179\t179\nGroups:\t6 36 179 \n"
    assert identity_of(text) == Identity(179, frozenset({6, 36, 179}), 179)


def test_root_squash() -> None:
    conf = replace(CONF, user="sanlock")
    assert check_root_squash(conf, EXT4, None).verdict == "pass"
    # A cluster's own filesystem has no server.
    assert check_root_squash(conf, Mount(DIR, "gfs2", "/dev/vg/lv"), None).verdict == "pass"
    assert check_root_squash(CONF, NFS, None).verdict == "pass"
    assert check_root_squash(conf, NFS, None).verdict == "warn"
    assert check_root_squash(conf, NFS, Owner("f", 179, 179, 0o660)).verdict == "pass"
    squashed = check_root_squash(conf, NFS, Owner("f", 65534, 65534, 0o660))
    assert squashed.verdict == "fail"
    assert squashed.remedy == "export server:/export with no_root_squash, then restart libvirt's daemon"
    gluster = Mount(DIR, "fuse.glusterfs", "server:/volume")
    assert check_root_squash(conf, gluster, Owner("f", 65534, 65534, 0o660)).verdict == "fail"


def vm(*paths: str, kind: str = "file", state: str = "running", readonly: bool = False) -> KnownDomain:
    disks = tuple(Disk(path, kind, readonly, False) for path in paths)
    return KnownDomain("vm1", "uuid", 1, state, DomainConfig("pause", False, disks, ()), "", 77)


def held(*names: str) -> SanlockStatus:
    leases = tuple(HeldLease("__LIBVIRT__DISKS__", name, f"{DIR}/{name}", 0, 77) for name in names)
    return SanlockStatus({}, (), leases)


def test_a_lease_is_named_as_on_libvirts_page() -> None:
    assert lease_name("/var/lib/libvirt/images/demo.img") == "bfa0240911bc17753e0b473688822159"


def test_leases() -> None:
    name = lease_name("/a.img")
    assert check_leases([vm("/a.img")], CONF, held(name), [name]).verdict == "pass"
    not_held = check_leases([vm("/a.img")], CONF, held(), [name])
    assert (not_held.verdict, not_held.found) == ("fail", f"vm1: {name} of /a.img is not held")
    assert "is not there" in check_leases([vm("/a.img")], CONF, held(name), []).found
    assert check_leases([vm("/a.img", state="paused")], CONF, held(), [name]).verdict == "pass"
    assert check_leases([vm("/a.img", readonly=True)], CONF, held(), []).verdict == "pass"
    assert check_leases([vm("/a.img")], replace(CONF, auto_disk_leases=False), held(), []).verdict == "pass"
    assert missing_leases([vm("/a.img", "/b.img")], [name]) == {lease_name("/b.img")}


def test_explicit_leases_are_expected_as_well() -> None:
    config = DomainConfig("pause", False, (), (("space", "key"),))
    domain = KnownDomain("vm1", "uuid", 1, "running", config, "", 77)
    assert "key of lease key is not held" in check_leases([domain], CONF, held(), []).found
    status = SanlockStatus({}, (), (HeldLease("space", "key", "/x", 0, 77),))
    assert check_leases([domain], CONF, status, []).verdict == "pass"


@pytest.mark.parametrize(
    ("path", "kind", "verdict"),
    [
        ("/dev/disk/by-path/ip-1", "block", "pass"),
        ("/dev/disk/by-id/wwn-1", "block", "pass"),
        ("/dev/vg/volume", "block", "pass"),
        ("/dev/mapper/mpatha", "block", "warn"),
        ("/dev/mapper/360a98000", "block", "pass"),
        ("/dev/sdb", "block", "fail"),
        ("/dev/nvme0n1p2", "block", "fail"),
        ("/dev/dm-3", "block", "fail"),
        # A block device all the same.
        ("/dev/sdb", "file", "fail"),
        ("/dev//sdb", "file", "fail"),
        ("//dev/sdb", "block", "fail"),
        ("/images/sdb", "file", "pass"),
        ("/images/dev/sdb", "file", "pass"),
        ("/dev/sdaa12", "block", "fail"),
        ("/dev/rbd0", "block", "fail"),
        ("/dev/rbd12p3", "block", "fail"),
        ("/dev/rbd/pool/image", "block", "pass"),
        ("/dev/nbd0", "block", "fail"),
        ("/dev/nbd15p1", "block", "fail"),
        ("/dev/nvme12n1", "block", "fail"),
        ("/dev/nvme1c1n1", "block", "fail"),
        ("/dev/loop7p1", "block", "fail"),
        ("/dev/mmcblk0p1", "block", "fail"),
        ("/dev/pmem0s", "block", "pass"),
        ("/dev/pmem0", "block", "fail"),
        ("/dev/bcache0", "block", "fail"),
        ("/dev/zd16", "block", "fail"),
        ("/dev/zvol/tank/vm1", "block", "pass"),
        ("/dev/md127", "block", "fail"),
        ("/dev/md/data", "block", "pass"),
        ("/dev/vda", "block", "fail"),
        ("/dev/xvdb1", "block", "fail"),
        ("/dev/dasda1", "block", "fail"),
        ("/dev/cciss/c0d0p1", "block", "fail"),
        ("/dev/block/8:16", "block", "fail"),
        ("/dev/drbd0", "block", "pass"),
        ("/dev/drbd/by-res/r0/0", "block", "pass"),
        ("/dev/etherd/e0.0", "block", "pass"),
        ("/dev/mapper/vg-lv", "block", "pass"),
        ("/dev/mpathb", "block", "warn"),
        ("/dev/mapper/mpathaap1", "file", "warn"),
        ("/dev/disk/by-uuid/1", "block", "pass"),
        ("/dev/sdb.old", "file", "pass"),
    ],
)
def test_disk_paths(path: str, kind: str, verdict: str) -> None:
    assert check_disk_paths([vm(path, kind=kind)]).verdict == verdict


def test_a_name_that_stays_is_in_the_remedy(tmp_path: Path) -> None:
    for link, device in (
        ("by-path/pci-1", "sdb"),
        ("by-id/ata-1", "sdb"),
        ("by-id/wwn-1", "sdb"),
        ("x", "sdc"),
    ):
        path = tmp_path / "disk" / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(f"{tmp_path}/{device}")
    names = stable_names(tmp_path)
    assert names == {f"{tmp_path}/sdb": f"{tmp_path}/disk/by-id/wwn-1"}
    found = check_disk_paths(
        [vm("/dev/sdb", "/dev/sdc", kind="block")], {"/dev/sdb": "/dev/disk/by-id/wwn-1"}
    )
    assert found.remedy == (
        """virsh dumpxml --inactive --security-info vm1 | sed -e 's|'"'"'/dev/sdb'"'"'|"""
        """'"'"'/dev/disk/by-id/wwn-1'"'"'|' | virsh define /dev/stdin && """
        "virsh edit vm1  # name it by /dev/disk/by-path or by-id: ls -l /dev/disk/by-*"
    )
    # What libvirt takes no lease for is named as it likes.
    assert check_disk_paths([vm("/dev/sdb", kind="block", readonly=True)]).verdict == "pass"


@pytest.mark.parametrize(
    ("state", "verdict"), [("crashed", "pass"), ("paused", "pass"), ("pmsuspended", "fail")]
)
def test_a_guest_that_does_not_run(state: str, verdict: str) -> None:
    name = lease_name("/a.img")
    assert check_leases([vm("/a.img", state=state)], CONF, held(), [name]).verdict == verdict
    assert check_leases([vm("/a.img", state=state)], CONF, held(name), [name]).verdict == "pass"


@pytest.mark.parametrize(
    ("fstype", "verdict"),
    [
        *((name, "pass") for name in ("nfs", "nfs4", "gfs2", "ocfs2", "ceph", "cifs", "smb3", "lustre")),
        *((name, "pass") for name in ("beegfs", "gpfs", "fuse.glusterfs", "fuse.ceph-fuse", "fuse.ceph")),
        *((name, "pass") for name in ("fuse.mfs", "fuse.moosefs", "fuse.lizardfs", "fuse.juicefs")),
        *(
            (name, "not known")
            for name in ("fuse", "fuse.sshfs", "fuse.bindfs", "fuse.xyz", "9p", "virtiofs")
        ),
        *((name, "warn") for name in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk")),
    ],
)
def test_filesystems(fstype: str, verdict: str) -> None:
    found = check_shared([LeasePlace(DIR, True, Mount(DIR, fstype, "source"))])
    assert found.verdict == verdict.replace("not known", "warn")
    assert ("not checked: it is not known" in found.found) == (verdict == "not known")
    assert "shared" in found.wanted


RUN = Mount("/run", "tmpfs", "tmpfs")


def test_runtime_dir() -> None:
    path = "/run/virt-sanlock-helper"
    assert check_runtime_dir(path, Owner(path, 0, 0, 0o700), RUN).verdict == "pass"
    assert check_runtime_dir(path, Owner(path, 0, 0, 0o755), RUN).verdict == "warn"
    assert check_runtime_dir(path, None, RUN).verdict == "warn"
    assert check_runtime_dir(path, Owner(path, 0, 0, 0o777), RUN).verdict == "fail"
    assert check_runtime_dir(path, Owner(path, 5, 0, 0o700), RUN).verdict == "fail"
    assert check_runtime_dir(path, Owner(path, 0, 0, 0o700), EXT4).verdict == "fail"


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ({"a.path": "enabled", "a.service": "static"}, "pass"),
        ({"a.path": "disabled", "a.service": "enabled"}, "warn"),
        ({"a.path": "not-found"}, "fail"),
        (None, "warn"),
    ],
)
def test_recovery_units(states: dict[str, str] | None, verdict: str) -> None:
    assert system.check_recovery_units(states).verdict == verdict


def test_recovery_units_that_are_masked() -> None:
    found = system.check_recovery_units({"a.path": "masked", "a.service": "enabled"})
    assert found.verdict == "fail"
    assert found.remedy.startswith("systemctl unmask a.path; systemctl enable --now ")
    # What cannot be pasted has no quotation mark that a shell would wait for.
    assert "'" not in system.check_recovery_units({"a.path": "not-found"}).remedy


def test_cleanup(tmp_path: Path) -> None:
    def check_now() -> str:
        return system.check_cleanup(system.schedules(tmp_path, tmp_path, tmp_path)).verdict

    assert check_now() == "warn"
    (tmp_path / "cron.d").mkdir()
    (tmp_path / "cron.d/x").write_text("# 0 3 * * 0 root virt-sanlock-cleanup\n")
    assert check_now() == "warn"
    (tmp_path / "cron.weekly").mkdir()
    (tmp_path / "cron.weekly/clean").symlink_to("/usr/sbin/virt-sanlock-cleanup")
    assert check_now() == "pass"
    (tmp_path / "cron.weekly/clean").unlink()
    wants = tmp_path / "systemd/system/timers.target.wants"
    wants.mkdir(parents=True)
    (tmp_path / "systemd/system/clean.service").write_text("[Service]\nExecStart=virt-sanlock-cleanup\n")
    assert check_now() == "pass"


@pytest.mark.parametrize("name", ["cleanup.sh", "clean up", "cleanup.", "virt-sanlock-cleanup", "clean_up2"])
def test_what_debians_cron_leaves_out(tmp_path: Path, name: str) -> None:
    is_run = name in ("virt-sanlock-cleanup", "clean_up2")
    for folder in ("cron.weekly", "cron.d"):
        root = tmp_path / folder
        script = root / folder / name
        script.parent.mkdir(parents=True)
        script.write_text("@weekly root virt-sanlock-cleanup\n")
        script.chmod(0o755)
        assert system.check_cleanup(system.schedules(root, root, root, True)).verdict == (
            "pass" if is_run else "warn"
        )
        assert system.check_cleanup(system.schedules(root, root, root)).verdict == "pass"


def test_the_remedy_for_debians_own_file_is_run(tmp_path: Path) -> None:
    (tmp_path / "cron.weekly").mkdir()
    script = tmp_path / "cron.weekly/my cleanup"
    script.write_text(
        "#!/bin/sh\n\n# Disabled by default\nexit 0\n\n/usr/sbin/virt-sanlock-cleanup -q\nexit 0\n"
    )
    script.chmod(0o755)

    def found() -> Finding:
        return system.check_cleanup(system.schedules(tmp_path, tmp_path, tmp_path))

    assert found().verdict == "warn"
    subprocess.run(["sh", "-ec", found().remedy], check=True)
    assert found().verdict == "pass"
    assert script.read_text().endswith("\n# exit 0\n\n/usr/sbin/virt-sanlock-cleanup -q\nexit 0\n")


RUNS = "/usr/sbin/virt-sanlock-cleanup -q\n"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        # As Debian ships it.
        (f"#!/bin/sh\n\n# Disabled by default\nexit 0\n\n{RUNS}exit 0\n", "warn"),
        (f"#!/bin/sh\n\n{RUNS}exit 0\n", "pass"),
        (f"#!/bin/sh\nexit\n{RUNS}", "warn"),
        (f"#!/bin/sh\nexit 0 # not here\n{RUNS}", "warn"),
        (f"#!/bin/sh\nexit 1; {RUNS}", "warn"),
        (f"#!/bin/sh\n# exit 0\n{RUNS}", "pass"),
        (f"#!/bin/sh\n[ -x /usr/sbin/virt-sanlock-cleanup ] || exit 0\n{RUNS}", "pass"),
        (f"#!/bin/sh\ntest -x /usr/sbin/virt-sanlock-cleanup || exit 0\nexit 0\n{RUNS}", "warn"),
        (f"#!/bin/sh\nif ! [ -d /x ]; then\n    exit 0\nfi\nexec {RUNS}", "pass"),
        (f"#!/bin/sh\n# {RUNS}", "warn"),
    ],
)
def test_a_script_that_ends_before_it_runs_the_clean_up(tmp_path: Path, text: str, verdict: str) -> None:
    script = tmp_path / "cron.weekly/libvirt-sanlock"
    script.parent.mkdir()
    script.write_text(text)
    script.chmod(0o755)

    def check_now() -> Finding:
        return system.check_cleanup(system.schedules(tmp_path, tmp_path, tmp_path))

    finding = check_now()
    assert finding.verdict == verdict
    if verdict == "warn" and "# /usr" not in text:
        assert f"{script} is there, and ends before it runs it" in finding.found
        assert str(script) in finding.remedy
    # run-parts runs neither.
    script.chmod(0o644)
    assert check_now().verdict == "warn"
    script.chmod(0o755)
    script.rename(f"{script}.rpmsave")
    assert check_now().verdict == "warn"


def test_debians_own_file() -> None:
    """The machine's own, where it is there as it was shipped."""
    path = Path("/etc/cron.weekly/libvirt-sanlock")
    if not path.exists() or "Disabled by default" not in path.read_text():
        pytest.skip(f"no {path}")
    assert system.check_cleanup({str(path): path.read_text()}).verdict == "warn"
