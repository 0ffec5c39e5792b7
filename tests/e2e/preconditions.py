# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine must have to run a stack."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

import pytest

from . import helper
from .unshared import ENVIRONMENT, PYTHON

# Set by CI, where a skipped test would be a lie.
REQUIRE = "SANLOCK_HELPER_REQUIRE"

PROGRAMS = (
    "sanlock",
    "libvirtd",
    "virtlogd",
    "virsh",
    "qemu-system-x86_64",
    "saslpasswd2",
    "unshare",
    "nsenter",
    "setpriv",
)
MODULES = ("libvirt", "sanlock")


def need(found_missing: tuple[str, ...], what: str) -> None:
    """Skip where something is missing; fail if the environment says that nothing may be."""
    if not found_missing:
        return
    message = f"{what}; missing: {', '.join(found_missing)}"
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def need_programs(*names: str) -> None:
    """The same for programs on PATH."""
    need(tuple(name for name in names if shutil.which(name) is None), "programs are missing")


def require_machine() -> None:
    """The same for a machine that can run a stack."""
    need(missing(), "no stack can run here")


@functools.cache
def missing() -> tuple[str, ...]:
    """What is missing, one line each; empty when a stack can be started."""
    if os.geteuid() != 0:
        return ("root: namespaces, mounts and sanlock need it",)
    found = [f"program {name}" for name in PROGRAMS if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
    found += [f"{PYTHON}: module {name}" for name in MODULES if not _imports(name)]
    if helper.stock_path() is None:
        found.append("libvirt's libvirt_sanlock_helper (package libvirt-sanlock)")
    if "program unshare" not in found and not _unshares():
        found.append("namespaces: unshare fails (in a container, run it privileged)")
    return tuple(found)


def _imports(module: str) -> bool:
    command = [PYTHON, "-I", "-c", f"import {module}"]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _unshares() -> bool:
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--ipc", "--net", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
