# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `pip install .` brings: the Python packages, and a command that names the way to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed this checkout, from an archive of it, with what is here."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("pip")
    subprocess.run([str(TOP / "packaging/make-source"), str(folder)], check=True)
    (archive,) = folder.glob("*.tar.gz")
    target = folder / "target"
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", f"--target={target}"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(archive)], check=True)
    return target


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_every_command_of_it_names_the_way_to_install(installed: Path) -> None:
    commands = list((installed / "bin").iterdir())
    # None that an administrator could put in libvirt's place.
    assert [path.name for path in commands] == ["virt-sanlock-helper"]
    for arguments in (), ("--version",), ("check",), ("install-check",), ("activate", "--yes"):
        code = f"import sys; sys.path.insert(0, {str(installed)!r}); sys.argv[1:] = {arguments!r}; "
        code += f"exec(open({str(commands[0])!r}).read())"
        result = run(sys.executable, "-I", "-c", code)
        assert (result.returncode, result.stdout) == (1, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith("virt-sanlock-helper: pip install: this is not the way to install it")
        assert "make deb" in line


def test_the_packages_are_whole(installed: Path) -> None:
    for name, root in ("sanlock_helper", "helper"), ("libvirt_auth", "auth"):
        sources = {path.relative_to(TOP / root) for path in (TOP / root / name).rglob("*.py")}
        assert {path.relative_to(installed) for path in (installed / name).rglob("*.py")} == sources
        assert (installed / name / "py.typed").exists()
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); import libvirt_auth as a; print(a.__file__)"
    assert run(sys.executable, "-I", "-c", code).stdout.startswith(str(installed))
