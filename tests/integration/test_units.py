# SPDX-License-Identifier: LGPL-2.1-or-later
"""The systemd units, as systemd itself reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
UNITS = sorted(
    path.name for suffix in ("path", "service") for path in (TOP / "packaging").glob(f"*.{suffix}")
)
SERVICES = [name for name in UNITS if name.endswith(".service")]

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and os.environ.get("SANLOCK_HELPER_REQUIRE") != "1",
    reason="systemd-analyze is missing",
)


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units, with the program in its place in this checkout."""
    for name in UNITS:
        text = (TOP / "packaging" / name).read_text()
        program = str(TOP / "helper" / "virt-sanlock-helper")
        (tmp_path / name).write_text(text.replace("/usr/bin/virt-sanlock-helper", program))
    return [str(tmp_path / name) for name in UNITS]


def test_verify(units: list[str]) -> None:
    assert UNITS == [
        "virt-sanlock-helper-agent.service",
        "virt-sanlock-helper-recover.path",
        "virt-sanlock-helper-recover.service",
    ]
    command = ["systemd-analyze", "verify", "--man=no", *units]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    # It returns 0 for unknown keys: what it prints counts.
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def analysed(unit: str) -> tuple[float, dict[str, str]]:
    """What systemd makes of UNIT: the exposure, and its words on each setting that could be tighter."""
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert exposure, result.stdout
    lines = (line.split(maxsplit=2) for line in result.stdout.splitlines() if line.startswith("\u2717"))
    return float(exposure[1]), {words[1]: words[2] for words in lines}


@pytest.mark.parametrize("service", SERVICES)
def test_security(units: list[str], service: str) -> None:
    exposure, loose = analysed(units[UNITS.index(service)])
    assert exposure <= 1.5, loose


# What is open, and why it has to be.
NEEDED = {
    "RootDirectory=/RootImage=": "host's root directory",
    "User=/DynamicUser=": "runs as root",  # libvirtd's read-write socket
    "CapabilityBoundingSet=~CAP_(DAC_*|FOWNER|IPC_OWNER)": "",  # see the units
    "RestrictAddressFamilies=~AF_UNIX": "",  # libvirtd, sanlock, syslog
    "ProtectHome=": "read-only",  # root's own auth.conf
    "ProtectProc=": "",  # QEMU's processes
    "ProcSubset=": "",  # the boot's id
    "PrivateUsers=": "",  # sanlock's group
    "DeviceAllow=": "char-rtc:r",  # that is of ProtectClock=
}
NEEDED_BY = {
    "virt-sanlock-helper-agent.service": {
        # The group of sanlock's socket, which SELinux's domain for it cannot do without.
        "SystemCallFilter=~@privileged": "setgroups is allowed",
        "CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)": "",
    },
    "virt-sanlock-helper-recover.service": {
        "PrivateDevices=": "hardware devices",  # disks, which are block devices
        "DeviceAllow=": "char-rtc:r block-*:r",
    },
}


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_open_is_needed(units: list[str], service: str) -> None:
    _, loose = analysed(units[UNITS.index(service)])
    needed = {**NEEDED, **NEEDED_BY[service]}
    assert {name: words for name, words in loose.items() if name not in needed} == {}
    assert all(needed[name] in words for name, words in loose.items())


@pytest.mark.parametrize("service", SERVICES)
def test_no_core_dump_is_left(units: list[str], service: str) -> None:
    """The process cannot see to that itself: the filter forbids setrlimit(2)."""
    assert "LimitCORE=1" in Path(units[UNITS.index(service)]).read_text().splitlines()


def test_the_agent_holds_up_neither_the_start_nor_the_stop_of_sanlock(units: list[str]) -> None:
    lines = Path(units[0]).read_text().splitlines()
    words = [line.partition("=")[0] for line in lines if "sanlock.service" in line and line[:1] != "#"]
    assert words == ["After", "WantedBy"]
    assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(lines)


def documented(folder: Path) -> list[Path]:
    """The units that docs/operate.md shows, written into FOLDER."""
    text = (TOP / "docs/operate.md").read_text()
    block = re.search(r"^    # /etc/systemd/system/.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    assert block
    paths = []
    for part in re.split(r"^    # /etc/systemd/system/", block[0], flags=re.MULTILINE)[1:]:
        name, _, unit = part.partition("\n")
        path = folder / name
        path.write_text(re.sub(r"^ {4}", "", unit, flags=re.MULTILINE))
        paths.append(path)
    return paths


def test_the_timer_of_the_documents(tmp_path: Path) -> None:
    paths = documented(tmp_path)
    assert [path.name for path in paths] == [
        "virt-sanlock-helper-metrics.service", "virt-sanlock-helper-metrics.timer",
    ]  # fmt: skip
    command = ["systemd-analyze", "verify", "--man=no", *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    place = tmp_path / "textfiles"
    place.mkdir()
    environ = {**os.environ, "DIR": str(place), "PATH": f"{TOP}/helper:{os.environ['PATH']}"}
    for line in re.findall(r"^ExecStart=/bin/sh -c '(.*)'$", paths[0].read_text(), re.MULTILINE):
        # On libvirt's test driver, where no libvirtd runs.
        script = line.replace(" --format", " -c test:///default --format")
        subprocess.run(["sh", "-c", script], check=True, env=environ, stderr=subprocess.DEVNULL)
    assert sorted(path.name for path in place.iterdir()) == ["vsh-check.prom", "vsh-status.prom"]
    for path in place.iterdir():
        assert path.read_text().endswith("\n# EOF\n")
