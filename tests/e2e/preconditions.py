# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine must have to run a stack."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from . import helper
from .daemons import DAEMON
from .unshared import ENVIRONMENT, PYTHON

# Set by CI, where a skipped test would be a lie.
REQUIRE = "SANLOCK_HELPER_REQUIRE"

PROGRAMS = (
    "sanlock",
    "virtlogd",
    "virsh",
    "qemu-system-x86_64",
    "saslpasswd2",
    "unshare",
    "nsenter",
    "setpriv",
)
MODULES = ("libvirt",)

NEWER_SANLOCK = Path(__file__).parents[2] / ".venv" / "sanlock" / "sanlock"


def need(found_missing: tuple[str, ...], what: str) -> None:
    """Skip where something is missing; fail if the environment requires everything."""
    if not found_missing:
        return
    message = f"{what}; missing: {', '.join(found_missing)}"
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def need_programs(*names: str) -> None:
    """The same for programs on PATH."""
    need(tuple(name for name in names if shutil.which(name) is None), "programs are missing")


def need_module(name: str) -> None:
    """The same for a module of the distribution's Python."""
    need(() if _imports(name) else (f"{PYTHON}: module {name}",), "a module is missing")


def need_fire_timeout() -> str:
    """The path of a sanlock that has watchdog_fire_timeout: this machine's, or packaging/newer-sanlock's."""
    candidates = (shutil.which("sanlock"), str(NEWER_SANLOCK))
    for program in candidates:
        if program is not None and _version(program) >= (3, 9):
            return program
    need(("sanlock 3.9 or newer (packaging/newer-sanlock .venv/sanlock)",), "watchdog_fire_timeout")
    raise AssertionError("need() has not returned")


def _version(program: str) -> tuple[int, ...]:
    try:
        answer = subprocess.run([program, "version"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(number) for number in answer.split()[0].split(".")[:2])


def require_machine() -> None:
    """The same for a machine that can run a stack."""
    need(missing(), "no stack can run here")


@functools.cache
def missing() -> tuple[str, ...]:
    """What is missing, one line each; empty when a stack can be started."""
    if os.geteuid() != 0:
        return ("root: namespaces, mounts and sanlock need it",)
    modular = os.environ.get(DAEMON) == "virtqemud"
    programs = (*PROGRAMS, *(("virtqemud", "virtproxyd") if modular else ("libvirtd",)))
    found = [f"program {name}" for name in programs if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
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
