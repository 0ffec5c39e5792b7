# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checks on domains and pools, on the volumes of pools, and the remedies that are commands."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

import libvirt

from sanlock_helper.checks.domain_definitions import check_actions, check_leaseless
from sanlock_helper.checks.facts import Facts, HostPaths
from sanlock_helper.checks.remedies import give, remove
from sanlock_helper.checks.storage_pools import check_pools
from sanlock_helper.virt.inventory import Disk, DomainConfig, KnownDomain, parse_domain
from sanlock_helper.virt.libvirt_conf import Value, in_force, parse_settings
from sanlock_helper.virt.qemu_sanlock_conf import LockConf, make_lock_conf
from sanlock_helper.virt.storage_pools import Pool, Volumes

from ..libvirt_errors import libvirt_error

CONF = LockConf(True, 1, 0, "/leases", None, None)
OFF = replace(CONF, auto_disk_leases=False, require_lease_for_disks=True)
DISK = Disk("/a.img", "file", False, False)


def vm(
    *disks: Disk, action: str = "pause", state: str = "running", leases: tuple[tuple[str, str], ...] = ()
) -> KnownDomain:
    config = DomainConfig(action, False, disks, leases)
    return KnownDomain("vm1", "uuid", 1 if state != "shut off" else None, state, config)


@pytest.mark.parametrize(
    ("action", "verdict"),
    [("pause", "pass"), ("poweroff", "pass"), ("default", "warn"), ("restart", "fail"), ("ignore", "fail")],
)
def test_actions(action: str, verdict: str) -> None:
    assert check_actions([vm(DISK, action=action)], CONF).verdict == verdict
    explicit = vm(DISK, action=action, leases=(("space", "key"),))
    assert check_actions([explicit], OFF).verdict == verdict
    # Without any lease there is nothing to lose.
    assert check_actions([vm(DISK, action=action)], OFF).verdict == "pass"
    assert check_actions([vm(replace(DISK, readonly=True), action=action)], CONF).verdict == "pass"


@pytest.mark.parametrize(
    ("disk", "leases", "state", "require", "words"),
    [
        (DISK, (), "shut off", 1, "do not start: vm1"),
        (DISK, (), "shut off", 0, "would run unprotected: vm1"),
        (DISK, (), "running", 0, "without any lease run vm1"),
        (DISK, (), "pmsuspended", 1, "without any lease run vm1"),
        (DISK, (("space", "key"),), "shut off", 1, ""),
        (replace(DISK, readonly=True), (), "shut off", 1, ""),
        (replace(DISK, shared=True), (), "shut off", 1, ""),
        (Disk("", "volume", False, False, "p", "v"), (), "shut off", 1, "do not start: vm1"),
    ],
)
def test_leaseless(
    disk: Disk, leases: tuple[tuple[str, str], ...], state: str, require: int, words: str
) -> None:
    conf = make_lock_conf({"host_id": 1, "require_lease_for_disks": require})
    found = check_leaseless([vm(disk, leases=leases, state=state)], conf, "libvirtd", [], Path("/c"), 1)
    assert (found.verdict, words in found.found) == ("fail" if words else "pass", True)
    assert check_leaseless([vm(disk, leases=leases, state=state)], CONF, "libvirtd").verdict == "pass"
    # oVirt's engine chooses; its vdsm would take a changed file back.
    ovirts = check_leaseless(
        [vm(disk, leases=leases, state=state)], conf, "libvirtd", [], Path("/c"), 1, True
    )
    assert (ovirts.verdict, "auto_disk_leases" in ovirts.remedy) == ("warn" if words else "pass", False)


def test_without_automatic_leases_libvirt_asks_for_one() -> None:
    """As virLockManagerSanlockLoadConfig() has it."""
    assert make_lock_conf({}).require_lease_for_disks
    assert not make_lock_conf({"auto_disk_leases": 1}).require_lease_for_disks
    assert not make_lock_conf({"require_lease_for_disks": 0}).require_lease_for_disks


@pytest.mark.parametrize(
    "text", ["", "a = 1", "a = 0\n", "# c\nb = 2 # x\na = 3\na = 4\n", "c = [ 1,\n2 ]\na = 7"]
)
def test_a_setting_is_given(tmp_path: Path, text: str) -> None:
    """By a shell, and read again: the rest of the file stays."""
    path = tmp_path / "a file.conf"
    path.write_text(text)
    before = in_force(parse_settings(text)) if text else {}
    values: list[tuple[str, Value]] = [("a", 5), ("n", "x y")]
    command = give(path, parse_settings(text) if text else [], values)
    subprocess.run(["sh", "-ec", command], check=True)
    assert in_force(parse_settings(path.read_text())) == {**before, "a": 5, "n": "x y"}


@pytest.mark.parametrize("text", ["a = 1; b = 2\n", "a = [ 1,\n2 ]\n", 'a = """x\ny"""\n'])
def test_a_line_that_holds_more_is_left(text: str) -> None:
    settings = parse_settings(text)
    assert give("/c", settings, [("a", 5)]) == ""
    assert remove("/c", settings, [1]) == ""
    assert remove("/c", settings, []) == ""


@pytest.mark.parametrize(
    ("kind", "target", "verdict"),
    [
        ("iscsi", "/dev", "fail"),
        ("iscsi", "/dev/", "fail"),
        ("iscsi", "/dev//", "fail"),
        ("iscsi", "", "fail"),
        ("iscsi", "/mnt", "fail"),
        ("scsi", "/dev", "fail"),
        ("disk", "/dev", "fail"),
        # A slip of libvirt's own page.
        ("iscsi", "/dev/disks/by-path", "fail"),
        ("iscsi", "/dev/disk/by-path", "pass"),
        ("iscsi", "/dev/disk/by-path/", "pass"),
        ("scsi", "/dev/disk/by-id", "pass"),
        ("logical", "/dev/vg", "pass"),
        ("dir", "/dev", "pass"),
        ("netfs", "/images", "pass"),
        ("mpath", "/dev/mapper", "pass"),
        ("iscsi-direct", "", "pass"),
    ],
)
def test_pools(kind: str, target: str, verdict: str) -> None:
    assert check_pools([Pool("p", kind, target, False)]).verdict == verdict


@pytest.mark.parametrize(("socket", "names"), [(True, ["p"]), (False, [])])
def test_modular_daemons_have_pools_in_one_of_their_own(
    tmp_path: Path, socket: bool, names: list[str]
) -> None:
    class Connection:
        def listAllStoragePools(self, _flags: int) -> list[Connection]:
            return [self]

        def name(self) -> str:
            return "p"

        def isActive(self) -> int:
            return 1

        def XMLDesc(self, _flags: int) -> str:
            return "<pool type='iscsi'><target><path>/dev</path></target></pool>"

    run = tmp_path / "run/libvirt"
    run.mkdir(parents=True)
    (run / "virtqemud-sock").touch()
    if socket:
        (run / "virtstoraged-sock").touch()
    host = HostPaths(etc=tmp_path, run=tmp_path / "run", proc=tmp_path, lib=tmp_path, programs=())
    facts = Facts(host, lambda _uri: Connection())  # type: ignore[arg-type, return-value]
    assert [pool.name for pool in facts.pools] == names


XML = """<domain><name>vm1</name><devices>
  <disk type='volume'><source pool='p' volume='file'/></disk>
  <disk type='volume'><source pool='p' volume='block'/><shareable/></disk>
  <disk type='volume'><source pool='p' volume='network'/></disk>
  <disk type='volume'><source pool='p' volume='gone'/></disk>
  <disk type='volume'><source pool='p' volume='block' mode='direct'/></disk>
  <disk type='volume' device='cdrom'><source pool='p' volume='file'/></disk>
  <disk type='file'><source file='/a.img'/></disk>
</devices></domain>"""


class FakePools:
    """A connection, its pool p and the volumes there."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def storagePoolLookupByName(self, name: str) -> FakePools:
        assert name == "p"
        return self

    def storageVolLookupByName(self, name: str) -> FakePools:
        self.asked.append(name)
        if name == "gone":
            raise libvirt_error(libvirt.VIR_ERR_NO_STORAGE_VOL)
        return self

    def path(self) -> str:
        return f"/p/{self.asked[-1]}"

    def info(self) -> list[int]:
        return [("file", "block", "dir", "network").index(self.asked[-1]), 1, 1]


def test_a_volume_is_a_path_to_libvirt() -> None:
    pools = FakePools()
    domain = KnownDomain("vm1", "uuid", 1, "running", parse_domain(XML))
    found = Volumes(pools).resolve(domain)  # type: ignore[arg-type]
    assert found.config is not None
    assert [(disk.path, disk.kind, disk.readonly) for disk in found.config.disks] == [
        ("/p/file", "file", False),
        ("/p/block", "block", False),
        ("", "volume", False),
        ("/p/file", "file", True),
        ("/a.img", "file", False),
    ]
    # Each once.
    assert pools.asked == ["file", "block", "network", "gone"]
