# SPDX-License-Identifier: LGPL-2.1-or-later
"""RPMs made for the tests: ours, a later version of ours, and a stand-in for libvirt's."""

from __future__ import annotations

import functools
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


def build_next(ours: Built, folder: Path) -> Built:
    """The same program as a later version, from the source archive of OURS."""
    (archive,) = ours.spec.parent.glob("*.tar.gz")
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)
    (checkout,) = (path for path in folder.iterdir() if path.is_dir())
    init = checkout / "helper/sanlock_helper/__init__.py"
    init.write_text(re.sub('__version__ = ".*"', f'__version__ = "{NEXT_VERSION}"', init.read_text()))
    spec = make_source(checkout, folder / "dist")
    shutil.rmtree(checkout)
    return _built(spec, _rpmbuild("-bb", folder / "dist", spec, "--without", "check", "--without", "selinux"))


@functools.cache
def owner(folder: Path, name: str, version: str) -> Path:
    """A package with libvirt's own helper."""
    path = helper.stock_path()
    assert path
    spec = folder / f"{name}-{version}.spec"
    spec.write_text(_OWNER_SPEC.format(name=name, version=version, helper=path, path=path))
    (built,) = _written(_rpmbuild("-bb", folder, spec))
    return built
