# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where libvirt's helper is: what libvirt's own sanlock driver registers, and nothing that is guessed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e import planted
from tests.e2e.preconditions import need
from tests.e2e.unshared import ENVIRONMENT, NAMESPACES, PYTHON

from .machine import STOCK
from .packages import ROOT

FEDORA = "/usr/libexec/libvirt_sanlock_helper"
OTHER = "/opt/libvirt/libexec/libvirt_sanlock_helper"
LIB64 = "/usr/lib64/libvirt/lock-driver"

# The driver of this machine, in a machine of its own.
PREPARE = f"""
folder=libvirt/lock-driver
driver=$(ls /usr/lib*/$folder/sanlock.so /usr/lib*/*/$folder/sanlock.so 2>/dev/null) || :
registers() {{ sed -i "s|{STOCK}|$2|g" "$1"; }}
gone() {{ rm "$driver"; }}
fedora() {{ mkdir -p {LIB64}; cp "$driver" {LIB64}/sanlock.so; registers {LIB64}/sanlock.so {FEDORA}; }}
cd "$1"
"""


def run(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root on a machine like this one, with this checkout as working directory."""
    need(() if os.geteuid() == 0 else ("root",), "a machine of its own cannot be made")
    need(() if Path(STOCK).exists() else ("libvirt-sanlock",), "libvirt's sanlock driver")
    pivot = [PYTHON, "-ISB", str(planted.PIVOT), "/", "--memory", f"--bind={ROOT}={ROOT}", "--"]
    command = ["unshare", *NAMESPACES, *pivot, "sh", "-euc", PREPARE + script, "sh", str(ROOT)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**ENVIRONMENT, **variables}
    )


@pytest.mark.parametrize(
    ("host", "given", "expected"),
    [
        ("", "", STOCK),
        ("", STOCK, STOCK),
        # Its own file may have been put aside, or not be there yet.
        (f"rm {STOCK}", "", STOCK),
        ("mkdir -p /usr/libexec; echo >" + FEDORA, "", STOCK),
        ("fedora; gone", "", FEDORA),
        ("fedora; gone", FEDORA, FEDORA),
        (f"registers $driver {OTHER}", "", OTHER),
        # libvirt is not on the machine that builds.
        ("gone", FEDORA, FEDORA),
        ("gone", OTHER, OTHER),
    ],
)
def test_it_is_what_the_driver_registers(host: str, given: str, expected: str) -> None:
    result = run(f"{host}\npackaging/stock-helper '{given}'")
    assert (result.returncode, result.stdout) == (0, f"{expected}\n"), result.stderr


@pytest.mark.parametrize(
    ("host", "given", "why"),
    [
        ("gone", "", "libvirt's sanlock driver is not here: install libvirt-daemon-plugin-sanlock"),
        ("gone", "libvirt_sanlock_helper", "not an absolute path"),
        ("gone", "/usr/libexec/", "not an absolute path"),
        ("", OTHER, f"{OTHER}: libvirt's sanlock driver here registers {STOCK}"),
        ("fedora", "", "register different paths"),
        ("fedora", FEDORA, "register different paths"),
    ],
)
def test_what_is_not_known_is_one_error(host: str, given: str, why: str) -> None:
    result = run(f"{host}\npackaging/stock-helper '{given}'")
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert why in line


def test_an_installation_follows_the_host() -> None:
    drop_in = "/tmp/d/usr/lib/systemd/system/sanlock.service.d/50-virt-sanlock-helper.conf"
    result = run(f"registers $driver {OTHER}; DESTDIR=/tmp/d PREFIX=/usr packaging/install; cat {drop_in}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith(f":{OTHER}")


def test_an_installation_that_does_not_know_it_leaves_nothing() -> None:
    result = run("gone; DESTDIR=/tmp/d PREFIX=/usr packaging/install || ls /tmp | grep -x d")
    assert result.stdout == ""
    assert "STOCK_HELPER=" in result.stderr
    # And the setting that it names works.
    given = run("gone; DESTDIR=/tmp/d PREFIX=/usr packaging/install; ls /tmp/d", STOCK_HELPER=FEDORA)
    assert (given.returncode, given.stdout) == (0, "usr\n"), given.stderr
