# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packages made for the tests: ours, a later version of ours, and a stand-in for libvirt's."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.e2e import helper

ROOT = Path(__file__).parents[2]
NEXT_VERSION = "99.0"

# Libvirt's package, since 9.1.0 and before.
OWNER = "libvirt-daemon-plugin-sanlock"
OLD_OWNER = "libvirt-lock-sanlock"

_OWNER_SPEC = """\
Name: {name}
Version: {version}
Release: 1
%global __os_install_post %{{nil}}
%global debug_package %{{nil}}
Summary: Stands for the package that owns libvirt's helper
License: LGPL-2.1-or-later
%description
%{{summary}}.
%install
install -D -m 755 {helper} %{{buildroot}}{path}
# Another version is another file, and the same program.
printf ' %s' {name} {version} >>%{{buildroot}}{path}
%files
{path}
"""


# As dpkg-deb wants it.
_OWNER_CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: test <test@localhost>
Description: stands for libvirt's
"""


class BuiltDeb(NamedTuple):
    """What one run of make-deb wrote, and all it printed."""

    main: Path
    changes: Path
    output: str


class Built(NamedTuple):
    """What one run of rpmbuild wrote, and all it printed."""

    main: Path
    selinux: Path | None
    source: Path | None
    spec: Path
    output: str


def _rpmbuild(what: str, top: Path, spec: Path, *options: str) -> str:
    folders = ("_sourcedir", "_srcrpmdir", "_rpmdir", "_topdir")
    defines = [word for name in folders for word in ("--define", f"{name} {top}")]
    command = ["rpmbuild", what, "--nodeps", *defines, *options, str(spec)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def _written(output: str) -> list[Path]:
    return [Path(name) for name in re.findall(r"^Wrote: (\S+\.rpm)$", output, re.MULTILINE)]


def _built(spec: Path, output: str) -> Built:
    written = _written(output)
    (main,) = (path for path in written if re.match(r"virt-sanlock-helper-\d.*\.noarch", path.name))
    selinux = [path for path in written if "-selinux-" in path.name]
    source = [path for path in written if path.name.endswith(".src.rpm")]
    return Built(main, selinux[0] if selinux else None, source[0] if source else None, spec, output)


def make_source(checkout: Path, folder: Path) -> Path:
    """Run make-source of CHECKOUT; returns the spec file in FOLDER."""
    subprocess.run([str(checkout / "packaging/make-source"), str(folder)], check=True)
    return folder / "virt-sanlock-helper.spec"


def build_ours(folder: Path) -> Built:
    """`rpmbuild -ba` of this checkout, %check and policy module included."""
    spec = make_source(ROOT, folder)
    return _built(spec, _rpmbuild("-ba", folder, spec, "--define", f"check_python {sys.executable}"))


def _next_checkout(archives: Path, folder: Path) -> Path:
    """The source archive in ARCHIVES, unpacked in FOLDER as a later version."""
    (archive,) = archives.glob("virt-sanlock-helper-*.tar.gz")
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)
    (checkout,) = (path for path in folder.iterdir() if path.is_dir())
    init = checkout / "helper/sanlock_helper/__init__.py"
    init.write_text(re.sub('__version__ = ".*"', f'__version__ = "{NEXT_VERSION}"', init.read_text()))
    return checkout


def build_next(ours: Built, folder: Path) -> Built:
    """The same program as a later version, from the source archive of OURS."""
    checkout = _next_checkout(ours.spec.parent, folder)
    spec = make_source(checkout, folder / "dist")
    shutil.rmtree(checkout)
    return _built(spec, _rpmbuild("-bb", folder / "dist", spec, "--without", "check", "--without", "selinux"))


def build_deb(folder: Path, checkout: Path = ROOT) -> BuiltDeb:
    """The Debian package of CHECKOUT; the unit tests are left out, which the RPM's build has run."""
    command = [str(checkout / "packaging/make-deb"), str(folder), "-d"]
    environ = {**os.environ, "DEB_BUILD_OPTIONS": "nocheck"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}\n{result.stderr}"
    (main,), (changes,) = (list(folder.glob(f"*.{kind}")) for kind in ("deb", "changes"))
    return BuiltDeb(main, changes, result.stdout + result.stderr)


def build_next_deb(ours: BuiltDeb, folder: Path) -> BuiltDeb:
    """The same program as a later version, from the source archive of OURS."""
    checkout = _next_checkout(ours.main.parent, folder)
    built = build_deb(folder / "dist", checkout)
    shutil.rmtree(checkout)
    return built


@functools.cache
def deb_owner() -> str:
    """The package that owns libvirt's helper here (libvirt-sanlock in Debian 12); "" where none does."""
    if shutil.which("dpkg-query") is None:
        return ""
    path = str(helper.stock_path())
    printed = subprocess.run(["dpkg-query", "-S", path], capture_output=True, text=True, check=False).stdout
    return next((line.split(":")[0] for line in printed.splitlines() if line.endswith(f": {path}")), "")


@functools.cache
def owner_deb(folder: Path, version: str) -> Path:
    """A Debian package of that name: libvirt's sanlock driver and helper, another file in each VERSION."""
    tree = folder / f"{deb_owner()}-{version}"
    control = tree / "DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(_OWNER_CONTROL.format(name=deb_owner(), version=f"99.{version}"))
    stock = helper.stock_path()
    assert stock
    listed = subprocess.run(["dpkg", "-L", deb_owner()], capture_output=True, text=True, check=True).stdout
    for name in (
        name for name in listed.splitlines() if name.startswith("/usr/lib/") and Path(name).is_file()
    ):
        (tree / name[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, tree / name[1:])
    path = tree / stock[1:]
    path.write_bytes(Path(stock).read_bytes() + f" {version}".encode())
    path.chmod(0o755)
    built = f"{tree}.deb"
    subprocess.run(["dpkg-deb", "--build", "-Znone", str(tree), built], check=True, capture_output=True)
    return Path(built)


@functools.cache
def owner(folder: Path, name: str, version: str) -> Path:
    """A package with libvirt's own helper."""
    path = helper.stock_path()
    assert path
    spec = folder / f"{name}-{version}.spec"
    spec.write_text(_OWNER_SPEC.format(name=name, version=version, helper=path, path=path))
    (built,) = _written(_rpmbuild("-bb", folder, spec))
    return built
