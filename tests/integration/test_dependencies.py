# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/dependencies on this machine, and with apt's lists away."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.preconditions import need_programs

DEPENDENCIES = Path(__file__).parents[2] / "packaging/dependencies"


@pytest.mark.parametrize("has_lists", [True, False])
def test_what_another_package_has_put_there_is_not_missing(tmp_path: Path, has_lists: bool) -> None:
    """Debian 13 has packages of what Debian 12's libvirt-daemon has; there none of them is to be had."""
    need_programs("apt-get", "virtlockd", "virtlogd")
    (tmp_path / "apt.conf").write_text(f'Dir::State::lists "{tmp_path}";\n')
    environ = dict(os.environ)
    if not has_lists:
        environ["APT_CONFIG"] = str(tmp_path / "apt.conf")
    command = [str(DEPENDENCIES), "--check", "test"]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert result.stdout == ""
    for package in ("lock", "plugin-lockd", "driver-storage-iscsi", "driver-storage-scsi"):
        assert f"libvirt-daemon-{package}" not in result.stderr
    assert (result.returncode == 0) == (result.stderr == "")


def test_what_may_be_missing_is_not_asked_for(tmp_path: Path) -> None:
    """python3-sanlock, where an administrator has none though the distribution does."""
    need_programs("apt-get")
    query = tmp_path / "dpkg-query"
    without = "case $* in *python3-sanlock*) exit 1 ;; esac"
    query.write_text(f'#!/bin/sh\n{without}\nexec /usr/bin/dpkg-query "$@"\n')
    query.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(DEPENDENCIES), "--check", "run"]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
