# SPDX-License-Identifier: LGPL-2.1-or-later
"""The distribution of this host, for remedies that can be pasted: its installer and its packages.

os-release(5) names the distribution (ID), its version and the ones that it is made of (ID_LIKE).  Where it is
none that is known here, a remedy has the commands of both families.
"""

from __future__ import annotations

import re

from .errors import PermanentError
from .regular_file import read_regular

DEBIAN = "debian"
FEDORA = "fedora"

# os-release(5), in its order.
PATHS = ("/etc/os-release", "/usr/lib/os-release")

_MOST_BYTES = 64 * 1024

_FAMILIES = {
    **dict.fromkeys(("debian", "ubuntu"), DEBIAN),
    **dict.fromkeys(("fedora", "rhel", "centos"), FEDORA),
}

_INSTALLERS = {DEBIAN: "apt install", FEDORA: "dnf install"}
# What puts the files of a package back.
_REINSTALLERS = {DEBIAN: "apt install --reinstall", FEDORA: "dnf reinstall"}

# What is installed, by the name that it has in this program: the package in each family.
PACKAGES = {
    "python3": {DEBIAN: "python3", FEDORA: "python3"},
    "libvirt-python": {DEBIAN: "python3-libvirt", FEDORA: "python3-libvirt"},
    "sanlock-python": {DEBIAN: "python3-sanlock", FEDORA: "python3-sanlock"},
    "sanlock": {DEBIAN: "sanlock", FEDORA: "sanlock"},
    "wdmd": {DEBIAN: "sanlock", FEDORA: "sanlock"},
    "sanlock's library": {DEBIAN: "libsanlock-client1", FEDORA: "sanlock-lib"},
    "libvirt's sanlock driver": {
        DEBIAN: "libvirt-daemon-plugin-sanlock",
        FEDORA: "libvirt-daemon-plugin-sanlock",
    },
    "libvirt's lockd driver": {DEBIAN: "libvirt-daemon-plugin-lockd", FEDORA: "libvirt-daemon-plugin-lockd"},
    "libvirtd": {DEBIAN: "libvirt-daemon-system", FEDORA: "libvirt-daemon"},
    "virtqemud": {DEBIAN: "libvirt-daemon-system", FEDORA: "libvirt-daemon-driver-qemu"},
}

# By ID or ID_LIKE: the first version whose package has the name above, and the name before.  libvirt 9.1
# split its daemon; Debian and Ubuntu followed with 10.6.
_RENAMED = {
    "libvirt's sanlock driver": {
        "debian": ((13,), "libvirt-sanlock"),
        "ubuntu": ((24, 10), "libvirt-sanlock"),
        "rhel": ((9,), "libvirt-lock-sanlock"),
    },
    "libvirt's lockd driver": {
        "debian": ((13,), "libvirt-daemon"),
        "ubuntu": ((24, 10), "libvirt-daemon"),
        "rhel": ((9,), "libvirt-daemon"),
    },
}


class Distribution:
    """`family` is DEBIAN, FEDORA or "" where it is not known; `name` its ID, `version` its numbers."""

    __slots__ = ("family", "name", "version")

    def __init__(self, family: str = "", name: str = "", version: tuple[int, ...] = ()) -> None:
        self.family = family
        self.name = name
        self.version = version

    @classmethod
    def parse(cls, text: str) -> Distribution:
        """The distribution of an os-release file with this TEXT; lines that are none are skipped."""
        values = _values(text)
        name = values.get("ID", "").lower()
        for word in (name, *values.get("ID_LIKE", "").lower().split()):
            if word in _FAMILIES:
                family = _FAMILIES[word]
                break
        else:
            return cls(name=name)
        if name not in _FAMILIES:
            # A derivative counts its versions by itself, but for the rebuilds of RHEL.
            name = "rhel" if "rhel" in values.get("ID_LIKE", "").split() else name
        numbers = re.findall(r"[0-9]{1,6}", values.get("VERSION_ID", ""))[:3]
        return cls(family, name, tuple(map(int, numbers)))

    @classmethod
    def read(cls, paths: tuple[str, ...] = PATHS) -> Distribution:
        """The distribution that the first of PATHS that can be read is of; none known without one."""
        for path in paths:
            try:
                return cls.parse(read_regular(path, _MOST_BYTES).decode("utf-8", "replace"))
            except (PermanentError, OSError):
                continue
        return cls()

    def package(self, what: str, family: str = "") -> str:
        """The name of the package that has WHAT, one of PACKAGES, here or in FAMILY."""
        first, before = _RENAMED.get(what, {}).get(self.name, ((), ""))
        if before and self.version and self.version < first:
            return before
        return PACKAGES[what][family or self.family]

    def install(self, *what: str) -> str:
        """The command that installs WHAT, each one of PACKAGES; of both families where none is known."""
        return self._command(_INSTALLERS, what)

    def reinstall(self, *what: str) -> str:
        """The command that puts the files of WHAT back, likewise."""
        return self._command(_REINSTALLERS, what)

    def _command(self, commands: dict[str, str], what: tuple[str, ...]) -> str:
        families = [self.family] if self.family else [DEBIAN, FEDORA]
        return ", or ".join(
            f"{commands[family]} {' '.join(self.package(each, family) for each in what)}"
            for family in families
        )


# One that is not known: its remedies have the commands of both families.
UNKNOWN = Distribution()


def _values(text: str) -> dict[str, str]:
    """The assignments of TEXT: a shell's, without expansions."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            values[name] = value
    return values
