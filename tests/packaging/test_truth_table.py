# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rows of the truth table that need systemd: see tests/e2e/test_truth_table.py for the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.waiting import wait_for

from .machine import Machine

DAEMON = "libvirtd"
CONF = "/etc/libvirt/libvirtd.conf"
TOP = Path(__file__).resolve().parents[2]
# A copy: the machine need not see the directory of the checkout.
PROGRAM = "/opt/virt-sanlock-helper"


def line(machine: Machine, name: str) -> dict[str, str]:
    """What `check` finds by the name NAME."""
    document = json.loads(
        machine.run(f"{PROGRAM}/helper/virt-sanlock-helper", "check", "--json", check=False).stdout
    )
    (found,) = (check for check in document["checks"] if check["name"] == name)
    return dict(found)


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """A machine whose libvirtd needs no sanlock, and no authentication."""
    booted.write("/etc/libvirt/qemu.conf", "")
    booted.write(CONF, 'auth_unix_rw = "none"\n')
    for name in ("helper", "auth"):
        shutil.copytree(
            TOP / name,
            booted.path(f"{PROGRAM}/{name}"),
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )
    return booted


def state(machine: Machine, unit: str) -> str:
    return machine.run("systemctl", "show", "--property=ActiveState", "--value", unit).stdout.strip()


def test_systemd_has_given_libvirtd_up(machine: Machine) -> None:
    """A file that libvirt refuses, corrected too late: systemd starts nothing of it any more."""
    units = (f"{DAEMON}.socket", f"{DAEMON}.service")
    machine.run("systemctl", "stop", *units, check=False)
    # Five starts within ten seconds are too many by default; a slow machine takes longer.
    machine.write(
        f"/etc/systemd/system/{DAEMON}.service.d/limit.conf", "[Unit]\nStartLimitIntervalSec=3600\n"
    )
    machine.run("systemctl", "daemon-reload")
    machine.write(CONF, "auth_unix_rw = \n")
    machine.run("systemctl", "start", f"{DAEMON}.service", check=False)
    wait_for(
        lambda: [state(machine, unit) for unit in units] == ["failed"] * 2, 60, "systemd to give libvirtd up"
    )
    machine.write(CONF, 'auth_unix_rw = "none"\n')
    # What the remedy was.
    machine.run("systemctl", "start", f"{DAEMON}.socket", check=False)
    found = line(machine, "libvirtd")
    assert found["verdict"] == "fail"
    # The service itself keeps the result of its last run.
    assert f"{DAEMON}.socket service-start-limit-hit" in found["found"]
    assert found["remedy"].startswith(f"systemctl reset-failed {' '.join(units)}; systemctl start {units[0]}")
    machine.run("sh", "-c", found["remedy"])
    assert line(machine, "libvirtd")["verdict"] == "pass"


def test_services_are_not_enabled(machine: Machine) -> None:
    machine.run("systemctl", "disable", "sanlock.service", f"{DAEMON}.service", f"{DAEMON}.socket")
    found = line(machine, "services")
    assert found["verdict"] == "fail"
    assert "sanlock.service disabled: it is not started at boot" in found["found"]
    machine.run("sh", "-ec", found["remedy"])
    assert line(machine, "services")["verdict"] == "pass"
    assert machine.run("systemctl", "is-enabled", "sanlock.service").stdout == "enabled\n"


def test_a_masked_service(machine: Machine) -> None:
    machine.run("systemctl", "mask", "sanlock.service")
    found = line(machine, "services")
    assert (found["verdict"], "sanlock.service masked" in found["found"]) == ("fail", True)
    machine.run("sh", "-ec", found["remedy"])
    assert line(machine, "services")["verdict"] == "pass"


@pytest.mark.parametrize("runtime", [(), ("--runtime",)])
@pytest.mark.parametrize("kinds", [("service",), ("socket", "service")])
def test_libvirts_daemon_is_masked(
    machine: Machine, kinds: tuple[str, ...], runtime: tuple[str, ...]
) -> None:
    units = [f"{DAEMON}.{kind}" for kind in kinds]
    machine.run("systemctl", "stop", f"{DAEMON}.socket", f"{DAEMON}.service", check=False)
    machine.run("systemctl", "mask", *runtime, *units)
    found = line(machine, "libvirtd")
    assert found["verdict"] == "fail"
    assert all(f"{unit} masked" in found["found"] for unit in units)
    machine.run("sh", "-c", found["remedy"])
    assert line(machine, "libvirtd")["verdict"] == "pass"


def test_sanlock_is_masked(machine: Machine) -> None:
    machine.run("systemctl", "stop", "sanlock.service", check=False)
    machine.run("systemctl", "mask", "sanlock.service")
    found = line(machine, "sanlock")
    assert (found["verdict"], "sanlock.service masked" in found["found"]) == ("fail", True)
    machine.run("sh", "-c", found["remedy"])
    assert line(machine, "sanlock")["verdict"] == "pass"
