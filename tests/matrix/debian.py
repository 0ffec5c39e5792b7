# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's roots: made with mmdebstrap, with all that the tests need, and with the modular daemons."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from . import settings
from .root import Root

CHECKOUT = Path(__file__).parents[2]
SOURCE = "/src"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# What decides what is in a root.
INPUTS = (
    "packaging/dependencies",
    "packaging/newer-glib",
    "packaging/newer-sanlock",
    "packaging/requirements-test.txt",
    "tests/matrix/debian.py",
)
MODULAR_INPUTS = ("tests/matrix/build-modular",)
# What `make .venv/.done` takes.
_TO_BUILD = ("Makefile", *INPUTS[:4])

# /etc/machine-id is what libvirt and journald take a host's identity from; an image begins without.
_MACHINE_ID = "5a" * 16 + "\n"
# Nothing is started by the installation of packages: there is no init.
_POLICY = "#!/bin/sh\nexit 101\n"


def inputs() -> list[bytes]:
    """The contents of INPUTS, with their names."""
    return _named(INPUTS)


def modular_inputs(root: Path) -> list[bytes]:
    """What decides what the modular daemons of ROOT are: of its packages the source of its libvirt alone.

    Raises CalledProcessError.
    """
    query = ("dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${source:Version}", "libvirt0")
    version = subprocess.run(query, check=True, capture_output=True).stdout
    return [version, *_named(MODULAR_INPUTS)]


def _named(names: Iterable[str]) -> list[bytes]:
    return [part for name in names for part in (name.encode(), (CHECKOUT / name).read_bytes())]


def bootstrap(suite: str, target: Path) -> None:
    """A Debian of SUITE in TARGET: apt and little more.  Raises CalledProcessError and MissingArchive."""
    # The Release file of a suite that changes daily is valid for a week; a mirror's may be older.
    checked = [] if suite == "trixie" else ['Acquire::Check-Valid-Until "false";']
    options = [f"--aptopt={line}" for line in (*settings.apt_options(), *checked)]
    # /dev is the machine's: see pivot.py.
    words = ["--quiet", "--variant=apt", "--include=ca-certificates,make,python3", "--skip=output/dev"]
    sources = f"deb [signed-by={KEYRING}] {settings.archive()} {suite} main"
    command = ["mmdebstrap", *words, *options, suite, str(target), sources]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def make_root(suite: str, target: Path) -> None:
    """A Debian of SUITE in TARGET with the packages of `dependencies test` and the virtual environment."""
    bootstrap(suite, target)
    root = Root(target)
    root.write("/etc/machine-id", _MACHINE_ID)
    root.write("/usr/sbin/policy-rc.d", _POLICY, 0o755)
    for name in _TO_BUILD:
        root.write(
            f"{SOURCE}/{name}", (CHECKOUT / name).read_text(), (CHECKOUT / name).stat().st_mode & 0o777
        )
    passed = settings.environment(os.environ)
    root.must("make", "-C", SOURCE, "deps", env=passed)
    root.write("/etc/pip.conf", settings.pip_conf(settings.pip_settings()))
    root.must("make", "-C", SOURCE, ".venv/.done", env=passed, binds=settings.named_paths())
    root.must("apt-get", "clean")


def make_modular(root: Root, target: Path) -> None:
    """virtqemud and virtproxyd, built in a copy of ROOT from the source package of its libvirt, in TARGET.

    Debian has neither in a package.  Raises CalledProcessError.
    """
    root.write("/root/build-modular", (CHECKOUT / "tests/matrix/build-modular").read_text(), 0o755)
    root.must("/root/build-modular", "/root/modular", env=settings.environment(os.environ))
    shutil.copytree(root.folder / "root/modular", target, dirs_exist_ok=True)
