# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make install`, and Debian: the same program without an RPM, in libvirt's place by dpkg's own means."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.preconditions import need, need_programs

from .machine import STOCK, Machine
from .packages import ROOT, deb_owner, owner_deb

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
COMMAND = "/usr/local/bin/virt-sanlock-helper"
EXECUTABLE = "/usr/local/libexec/virt-sanlock-helper/libvirt_sanlock_helper"


def make_install(folder: Path, prefix: str) -> None:
    command = ["make", "-s", "-C", str(ROOT), "install", f"DESTDIR={folder}", f"PREFIX={prefix}"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local", "/opt/sanlock helper"])
def test_make_install(tmp_path: Path, prefix: str) -> None:
    make_install(tmp_path, prefix)
    assert {path.name for path in tmp_path.iterdir()} == {prefix.split("/")[1]}
    root = tmp_path / prefix[1:]
    executable = root / "libexec/virt-sanlock-helper/libvirt_sanlock_helper"
    for path in (executable, root / "bin/virt-sanlock-helper"):
        assert path.stat().st_mode & 0o777 == 0o755
        assert f'INSTALLED = "{prefix}/share/virt-sanlock-helper"\n' in path.read_text()
    drop_in = root / "lib/systemd/system/sanlock.service.d/50-virt-sanlock-helper.conf"
    ours = f"{prefix}/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
    assert drop_in.read_text().splitlines()[-1] == f"BindReadOnlyPaths=-{ours}:{STOCK}"
    assert "d /run/virt-sanlock-helper 0700" in (root / "lib/tmpfiles.d/virt-sanlock-helper.conf").read_text()
    catalogue = root / "lib/systemd/catalog/virt-sanlock-helper.catalog"
    assert catalogue.read_bytes() == (ROOT / "packaging/virt-sanlock-helper.catalog").read_bytes()
    modules = list((root / "share/virt-sanlock-helper").rglob("*.py"))
    assert len(modules) > 20
    assert len(list((root / "share/virt-sanlock-helper").rglob("*.pyc"))) == len(modules)
    # Byte code names its source, in messages: the place where it will be, not where it was put together.
    for path in (root / "share/virt-sanlock-helper").rglob("*.pyc"):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_prefix_usr_gives_the_executable_of_the_checkout(tmp_path: Path) -> None:
    make_install(tmp_path, "/usr")
    installed = tmp_path / "usr/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
    assert installed.read_bytes() == (ROOT / "helper/libvirt_sanlock_helper").read_bytes()


@pytest.fixture(scope="module")
def debian(booted: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A Debian with the program installed by make."""
    need_programs("dpkg-divert", "dpkg-deb")
    need(() if deb_owner() else ("libvirt-daemon-plugin-sanlock",), "dpkg does not own libvirt's helper")
    folder = tmp_path_factory.mktemp("destdir")
    make_install(folder, "/usr/local")
    subprocess.run(["cp", "-a", f"{folder}/.", str(booted.path("/"))], check=True)
    booted.run("systemctl", "daemon-reload")
    booted.run("systemd-tmpfiles", "--create", "virt-sanlock-helper.conf")
    return booted


def test_the_drop_in_serves_there_too(debian: Machine) -> None:
    pid = debian.start_sanlock()
    assert debian.seen_by_sanlock() == debian.path(EXECUTABLE).read_bytes()
    result = debian.run(STOCK, "test:///default", UUID, "poweroff", within=pid)
    assert "verified off" in result.stderr
    assert debian.run(COMMAND, "install-check", check=False).returncode == 0
    debian.stop_sanlock()


def documented(heading: str) -> str:
    """The first block of commands behind HEADING in docs/install.md."""
    text = (ROOT / "docs/install.md").read_text().split(f"{heading}\n", 1)[1]
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    "))
    block = []
    for line in lines[first:]:
        if line and not line.startswith("    "):
            break
        block.append(line[4:])
    return "\n".join(block)


@pytest.mark.parametrize("how", ["activate", "document"])
def test_a_diversion_outlives_the_owners_update(debian: Machine, tmp_path: Path, how: str) -> None:
    before = debian.path(STOCK).read_bytes()
    if how == "activate":
        debian.run(COMMAND, "activate", "--yes")
    else:
        debian.run("sh", "-euc", documented("### Debian, by hand"))
    assert deb_owner() in debian.run("dpkg-query", "-S", STOCK).stdout
    assert f"local diversion of {STOCK} to {STOCK}.distrib" in debian.run("dpkg-divert", "--list").stdout
    debian.start_sanlock()
    try:
        assert debian.seen_by_sanlock() == debian.path(EXECUTABLE).read_bytes()
        update = owner_deb(tmp_path, how)
        shutil.copy(update, debian.path("/var/tmp"))
        debian.run("dpkg", "--force-all", "-i", f"/var/tmp/{update.name}")
        assert debian.seen_by_sanlock() == debian.path(EXECUTABLE).read_bytes()
        assert debian.path(f"{STOCK}.distrib").read_bytes().endswith(how.encode())
        debian.run(COMMAND, "install-check")
    finally:
        debian.stop_sanlock()
    debian.run(COMMAND, "activate", "--undo")
    assert debian.path(STOCK).read_bytes().endswith(how.encode())
    assert debian.path(STOCK).read_bytes() != before
    assert not debian.path(f"{STOCK}.distrib").exists()
    assert "libvirt_sanlock_helper" not in debian.run("dpkg-divert", "--list").stdout
