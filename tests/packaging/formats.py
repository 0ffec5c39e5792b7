# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine whose packages are RPMs, or Debian's: ours and libvirt's installed, updated and erased."""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from . import packages
from .machine import STOCK, Machine
from .packages import OLD_OWNER, OWNER, Built, BuiltDeb

NAME = "virt-sanlock-helper"

# What dpkg prints of each package.
_PROGRESS = re.compile(
    r"\(Reading database|Selecting |Preparing |Unpacking |Setting up |Removing |Purging |Processing triggers "
    r"|dpkg: warning: (downgrading|overriding)|Created symlink "
)


class Packages(ABC):
    """Our package and libvirt's on MACHINE; what the tests of both kinds of package need."""

    owner_names: tuple[str, ...]

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def _copy(self, package: Path) -> str:
        """Where a package is inside."""
        shutil.copy(package, self.machine.path("/var/tmp"))
        return f"/var/tmp/{package.name}"

    @abstractmethod
    def install(self) -> str:
        """Install ours; returns what is printed, but for the tool's progress."""

    @abstractmethod
    def update(self) -> str:
        """Install the later version of ours."""

    @abstractmethod
    def inside(self) -> str:
        """Where the package of ours is inside."""

    @abstractmethod
    def next_inside(self) -> str:
        """Where the package of the later version is inside."""

    @abstractmethod
    def erase(self) -> str:
        """Erase ours, whole."""

    @abstractmethod
    def owner(self, version: str, name: str) -> str:
        """Install or update the package that owns libvirt's helper, to a stand-in that is another file."""

    @abstractmethod
    def verify(self, name: str) -> str:
        """What differs of the files of a package."""

    @abstractmethod
    def reset(self) -> None:
        """Without ours, and with the owner's version 1."""


class Rpms(Packages):
    """RPMs, of a database in which there is nothing else."""

    owner_names = (OWNER, OLD_OWNER)

    def __init__(self, machine: Machine, owners: Path, ours: Built, ours_next: Built) -> None:
        super().__init__(machine)
        self._owners = owners
        self._ours = ours
        self._next = ours_next

    def inside(self) -> str:
        return self._copy(self._ours.main)

    def next_inside(self) -> str:
        return self._copy(self._next.main)

    def install(self) -> str:
        return self.machine.rpm("-U", self.inside())

    def update(self) -> str:
        return self.machine.rpm("-U", self.next_inside())

    def erase(self, name: str = NAME) -> str:
        return self.machine.rpm("-e", name)

    def owner(self, version: str, name: str) -> str:
        others = (other for other in self.owner_names if other != name)
        for other in filter(self._is_there, others):
            self.erase(other)
        return self.machine.rpm("-U", self._copy(packages.owner(self._owners, name, version)))

    def verify(self, name: str) -> str:
        return self.machine.rpm("-V", name)

    def reset(self) -> None:
        for name in (NAME, OWNER, OLD_OWNER):
            if self._is_there(name):
                self.erase(name)
        self.owner("1", OWNER)

    def _is_there(self, name: str) -> bool:
        return self.machine.run("rpm", "-q", name, check=False).returncode == 0


class Debs(Packages):
    """Debian packages, beside all that the machine's own dpkg has installed."""

    def __init__(self, machine: Machine, owners: Path, ours: BuiltDeb, ours_next: BuiltDeb) -> None:
        super().__init__(machine)
        self.owner_names = (packages.deb_owner(),)
        self._owners = owners
        self._ours = ours
        self._next = ours_next

    def dpkg(self, *arguments: str) -> str:
        """Run dpkg inside; returns all that it prints, but for its progress."""
        result = self.machine.run("dpkg", *arguments)
        printed = (result.stdout + result.stderr).splitlines()
        return "\n".join(line for line in printed if not _PROGRESS.match(line))

    def inside(self) -> str:
        return self._copy(self._ours.main)

    def next_inside(self) -> str:
        return self._copy(self._next.main)

    def install(self) -> str:
        # Without --force: what it depends on is there.
        return self.dpkg("-i", self.inside())

    def update(self) -> str:
        return self.dpkg("-i", self.next_inside())

    def erase(self) -> str:
        return self.dpkg("--purge", NAME)

    def owner(self, version: str, name: str) -> str:
        return self.dpkg("--force-all", "-i", self._copy(packages.owner_deb(self._owners, version)))

    def verify(self, name: str) -> str:
        return self.machine.run("dpkg", "--verify", name, check=False).stdout

    def status(self) -> str:
        """dpkg's word for the state of ours: installed, config-files, not-installed."""
        asked = self.machine.run("dpkg-query", "-W", "-f", "${db:Status-Status}", NAME, check=False)
        return asked.stdout or "not-installed"

    def reset(self) -> None:
        if self.status() != "not-installed":
            self.erase()
        assert "libvirt_sanlock_helper" not in self.machine.run("dpkg-divert", "--list").stdout
        assert not self.machine.path(f"{STOCK}.distrib").exists()
        self.owner("1", packages.deb_owner())
