# SPDX-License-Identifier: LGPL-2.1-or-later
"""The units of the recovery under systemd: what starts the service, and what does not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.waiting import wait_for

from . import packages
from .machine import Machine
from .packages import OWNER, Built

COMMAND = "virt-sanlock-helper"
PATH = "virt-sanlock-helper-recover.path"
SERVICE = "virt-sanlock-helper-recover.service"
RUN_RECORDS = "/run/virt-sanlock-helper/records"
STATE_RECORDS = "/var/lib/virt-sanlock-helper"
UUID = "0f6b2a3e-7d2c-4a6b-9a53-5d1a4b1b7c11"

# A record as the helper writes one; sys.argv[1] is the directory.
WRITE = f"""\
import sys
sys.path[:0] = ["/usr/share/virt-sanlock-helper"]
from sanlock_helper.records.record import Record
from sanlock_helper.records.directory import RecordDirectory
RecordDirectory(sys.argv[1]).write(Record("{UUID}", "vm1", "qemu:///system", "poweroff"))
"""


class Units:
    """A booted machine with our package on it, and no libvirtd: recovery that is started waits for one."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def write_record(self, folder: str) -> None:
        self.machine.run("/usr/bin/python3", "-c", WRITE, folder)

    def forget(self) -> None:
        """Take the record away, and wait until the service has noticed."""
        self.machine.run(COMMAND, "recover", "--forget", UUID)
        wait_for(lambda: self.state(SERVICE) == "inactive", 20, "the end of the service")

    def state(self, unit: str) -> str:
        return self.machine.run("systemctl", "is-active", unit, check=False).stdout.strip()

    def show(self, name: str) -> str:
        return self.machine.run("systemctl", "show", f"--property={name}", "--value", SERVICE).stdout.strip()

    def wait_for_recovery(self) -> None:
        """Wait until the service runs, and the record is in its hands."""
        wait_for(lambda: self.state(SERVICE) == "active", 20, "the service to run")
        kept = self.machine.path(f"{STATE_RECORDS}/{UUID}.record")
        wait_for(kept.exists, 20, "recovery to copy the record to disk")
        wait_for(lambda: f"recover vm1 {UUID}: " in self.machine.journal(), 20, "recovery to log a line")


@pytest.fixture(scope="module")
def units(booted: Machine, owners: Path, ours: Built) -> Units:
    for package in (packages.owner(owners, OWNER, "1"), ours.main):
        shutil.copy(package, booted.path("/var/tmp"))
        booted.rpm("-i", f"/var/tmp/{package.name}")
    # The machine boots into a target of its own, and that must do what multi-user.target does.
    wanted = [booted.run("systemctl", "is-enabled", unit, check=False).stdout for unit in (PATH, SERVICE)]
    assert wanted == ["enabled\n", "enabled\n"]
    booted.run("systemctl", "add-wants", "test.target", PATH, SERVICE)
    return Units(booted)


@pytest.fixture(autouse=True, scope="module")
def no_libvirtd(units: Units) -> Iterator[None]:
    """Nor after a reboot: it knows no vm1, and recovery would drop the record."""
    libvirtd = ("libvirtd.socket", "libvirtd.service")
    units.machine.run("systemctl", "mask", "--now", *libvirtd)
    yield
    units.machine.run("systemctl", "unmask", *libvirtd)


def test_a_record_starts_the_service_each_time(units: Units) -> None:
    for _ in range(2):
        assert (units.state(PATH), units.state(SERVICE)) == ("active", "inactive")
        units.write_record(RUN_RECORDS)
        units.wait_for_recovery()
        assert list(units.machine.path(RUN_RECORDS).glob("[!.]*")) == []
        units.forget()
    assert (units.show("Result"), units.show("NRestarts")) == ("success", "0")


def test_at_boot_a_record_on_disk_starts_the_service(units: Units) -> None:
    units.write_record(STATE_RECORDS)
    # The path unit does not watch that.
    assert units.state(SERVICE) == "inactive"
    units.machine.reboot()
    units.wait_for_recovery()
    units.forget()


def test_at_boot_without_a_record_it_does_not_start(units: Units) -> None:
    units.machine.reboot()
    assert (units.state(PATH), units.state(SERVICE)) == ("active", "inactive")
    assert (units.show("ConditionResult"), units.show("ExecMainStartTimestamp")) == ("no", "")
    # A record that comes after the boot does start it.
    units.write_record(RUN_RECORDS)
    units.wait_for_recovery()
    units.forget()
