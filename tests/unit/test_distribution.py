# SPDX-License-Identifier: LGPL-2.1-or-later
"""Remedies for the distribution of this host, by os-release(5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanlock_helper.distribution import PACKAGES, UNKNOWN, Distribution

pytestmark = pytest.mark.pure

PLUGIN = "libvirt's sanlock driver"
NEW, OLD = "libvirt-daemon-plugin-sanlock", "libvirt-sanlock"
DEB, RPM = "apt install sanlock", "dnf install sanlock"
BOTH = f"{DEB}, or {RPM}"


@pytest.mark.parametrize(
    ("text", "plugin", "sanlock"),
    [
        ('ID=debian\nVERSION_ID="12"', OLD, DEB),
        ('ID=debian\nVERSION_ID="13"', NEW, DEB),
        ("ID=debian\nPRETTY_NAME='Debian sid'", NEW, DEB),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"', OLD, DEB),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="25.10"', NEW, DEB),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="22"', NEW, DEB),
        ("ID=fedora\nVERSION_ID=42", NEW, RPM),
        ('ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.6"', NEW, RPM),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="8.10"', "libvirt-lock-sanlock", RPM),
        ("  ID = x\nID=centos\n", NEW, RPM),
        ("ID=arch", NEW, BOTH),
        ("ID=opensuse-leap\nID_LIKE='suse opensuse'", NEW, BOTH),
        ("", NEW, BOTH),
        ("#ID=debian\n=\nID\nID=\n\x00", NEW, BOTH),
        ("ID=debian\nVERSION_ID=" + "9" * 5000, NEW, DEB),
    ],
    ids=lambda value: ascii(value)[:50],
)  # fmt: skip
def test_by_os_release(text: str, plugin: str, sanlock: str) -> None:
    found = Distribution.parse(text)
    assert found.install("sanlock") == sanlock
    assert found.install(PLUGIN).split(", or ")[0].endswith(f" {plugin}")


def test_the_first_file_counts(tmp_path: Path) -> None:
    paths = (str(tmp_path / "a"), str(tmp_path / "b"))
    assert Distribution.read(paths).family == ""
    (tmp_path / "b").write_text("ID=fedora\n")
    assert Distribution.read(paths).family == "fedora"
    (tmp_path / "a").write_bytes(b"ID=debian\nNAME=\xff\n")
    assert Distribution.read(paths).family == "debian"
    (tmp_path / "a").unlink()
    (tmp_path / "a").mkdir()
    assert Distribution.read(paths).family == "fedora"


@pytest.mark.parametrize("what", PACKAGES)
def test_where_it_is_not_known_both_families_are_named(what: str) -> None:
    debian, fedora = UNKNOWN.install(what).split(", or ")
    assert debian.startswith("apt install ")
    assert fedora.startswith("dnf install ")
