# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures: the packages, built once, and a booted machine for each module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.preconditions import need, need_programs

from . import packages
from .formats import Debs, Packages, Rpms
from .machine import Machine, missing
from .packages import Built, BuiltDeb, deb_owner


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder in one of pytest-xdist's processes: packages are built and machines booted once."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("packaging"))


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Our packages, of this checkout."""
    need_programs("rpmbuild", "rpm", "checkmodule")
    if not Path("/usr/share/selinux/devel/Makefile").exists():
        need(("selinux-policy-dev",), "the policy module cannot be built")
    return packages.build_ours(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="session")
def ours_next(ours: Built, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A later version of them."""
    return packages.build_next(ours, tmp_path_factory.mktemp("next"))


@pytest.fixture(scope="session")
def our_deb(tmp_path_factory: pytest.TempPathFactory) -> BuiltDeb:
    """Our Debian package, of this checkout."""
    if shutil.which("dpkg") is None:
        pytest.skip("this distribution has no dpkg")
    need_programs("dpkg-buildpackage", "dh", "dh_python3")
    need(() if deb_owner() else ("libvirt-daemon-plugin-sanlock",), "dpkg does not own libvirt's helper")
    return packages.build_deb(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def our_next_deb(our_deb: BuiltDeb, tmp_path_factory: pytest.TempPathFactory) -> BuiltDeb:
    """A later version of it."""
    return packages.build_next_deb(our_deb, tmp_path_factory.mktemp("next-deb"))


@pytest.fixture(scope="session")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the stand-ins for libvirt's package."""
    return tmp_path_factory.mktemp("owner")


@pytest.fixture(scope="module")
def booted() -> Iterator[Machine]:
    """A machine with systemd as PID 1, shared by a module's tests."""
    need(missing(), "no machine can be booted here")
    with Machine() as machine:
        yield machine


FIXTURES = {"rpm": ("ours", "ours_next"), "deb": ("our_deb", "our_next_deb")}


@pytest.fixture(scope="module", params=["rpm", "deb"])
def installed(request: pytest.FixtureRequest, owners: Path) -> Iterator[Packages]:
    """A machine for the packages of each kind."""
    need(missing(), "no machine can be booted here")
    made = [request.getfixturevalue(name) for name in FIXTURES[request.param]]
    with Machine() as machine:
        yield Rpms(machine, owners, *made) if request.param == "rpm" else Debs(machine, owners, *made)
