# SPDX-License-Identifier: LGPL-2.1-or-later
"""The spec file as each distribution's own macros expand it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sanlock_helper import __version__
from tests.e2e.preconditions import need_programs

from .packages import ROOT, make_source

MACROS = Path(__file__).with_name("macros")
FEDORA = ("fedora42", "fedora43", "fedora44")
RHEL = ("rhel9", "rhel10")
DEBIAN = "debian"

# Fedora's form: weekday, month, day, year, name, address, version.
ENTRY = re.compile(r"\* (\w{3} \w{3} \d\d \d{4}) [^<>]+ <[^<>@\s]+@[^<>@\s]+> - (\d[\w.]*-\d+)")

# What RHEL has in none of its repositories; EPEL is no part of it.
NOT_IN_RHEL = {"python3-hypothesis", "python3-pytest-mock"}

# Folders of packages that every installation has, or that ours requires: filesystem, systemd.
OWNED = (
    *(
        "/usr/bin",
        "/usr/libexec",
        "/usr/share",
        "/usr/share/man/man7",
        "/usr/share/man/man8",
        "/var/lib",
        "/run",
    ),
    *("/usr/lib/systemd/system", "/usr/lib/systemd/system-preset", "/usr/lib/tmpfiles.d"),
    "/usr/lib/systemd/catalog",
    *("/usr/share/bash-completion/completions", "/usr/share/zsh/site-functions"),
)


SECTIONS = (
    r"description|package|prep|build|install|check|pre|post|preun|postun|posttrans|trigger\w+|files|changelog"
)


class Spec:
    """The expanded spec, by section."""

    def __init__(self, distribution: str, folder: Path) -> None:
        need_programs("rpmspec")
        spec = make_source(ROOT, folder)
        load = [] if distribution == DEBIAN else [f"--load={MACROS / distribution}"]
        command = ["rpmspec", "-P", f"--define=_sourcedir {folder}", *load, str(spec)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert [line for line in result.stderr.splitlines() if re.search("error|warning", line, re.I)] == []
        self.text = result.stdout
        self._parts = re.split(rf"^%(?=(?:{SECTIONS})\b)", self.text, flags=re.MULTILINE)

    def sections(self, name: str) -> list[str]:
        """The bodies of the sections of a name, its arguments in the first line of each."""
        found = [part[len(name) :] for part in self._parts[1:] if re.match(rf"{name}\b", part)]
        return [re.sub(r"^#.*\n", "", body, flags=re.MULTILINE) for body in found]

    def tags(self, name: str) -> set[str]:
        """The values of a tag, of all packages."""
        return set(re.findall(rf"^{name}(?:\([^)]*\))?:\s*(.*\S)", self.text, re.MULTILINE))


@pytest.fixture(scope="module", params=[*FEDORA, *RHEL, DEBIAN])
def distribution(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def spec(distribution: str, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    return Spec(distribution, tmp_path_factory.mktemp(distribution))


def test_every_macro_is_expanded(spec: Spec) -> None:
    body = spec.text.split("\n%changelog", 1)[0]
    assert re.findall(r"%\{?[?!]*[a-z_]+\}?", re.sub(r"^%.*$", "", body, flags=re.MULTILINE)) == []


def test_what_a_build_needs_is_there(spec: Spec, distribution: str) -> None:
    needed = spec.tags("BuildRequires")
    assert {"make", "python3-devel", "python3-docutils", "systemd-rpm-macros"} <= needed
    tested = bool(spec.sections("check"))
    assert tested == (distribution not in RHEL)
    assert ("python3-hypothesis" in needed) == ("python3-pytest" in needed) == tested
    if distribution in RHEL:
        assert needed & NOT_IN_RHEL == set()


def test_what_a_host_needs_is_there(spec: Spec) -> None:
    # RHEL 10, Fedora 44 and Debian 14 have no python3-sanlock.
    assert spec.tags("Recommends") == {"python3-sanlock"}
    required = spec.tags("Requires")
    assert {"sanlock", "sanlock-lib", "python3-libvirt"} <= required
    assert not [name for name in required if "python3-sanlock" in name]


def test_the_changelog_has_fedoras_form_and_each_version_once(spec: Spec) -> None:
    (changelog,) = spec.sections("changelog")
    heads = [line for line in changelog.splitlines() if line.startswith("*")]
    matches = [ENTRY.fullmatch(head) for head in heads]
    assert all(matches), heads
    versions = [match[2] for match in matches if match]
    assert versions[0] == f"{__version__}-1"
    assert len(versions) == len(set(versions))
    points = [line for line in changelog.splitlines() if line.startswith("- ")]
    assert len(points) == len(set(points)) > 5
    assert spec.text.count("\n%changelog\n") == 1


def test_tmpfiles_are_made_where_no_file_trigger_does(spec: Spec, distribution: str) -> None:
    scripts = "\n".join(body for name in ("post", "pre", "posttrans") for body in spec.sections(name))
    assert ("systemd-tmpfiles --create virt-sanlock-helper.conf" in scripts) == (distribution == DEBIAN)
    assert "TMPFILES-CREATE" not in scripts
    assert ("journalctl --update-catalog" in scripts) == (distribution == DEBIAN)


def test_the_helpers_path_is_the_distributions_or_the_build_machines(spec: Spec, distribution: str) -> None:
    (install,) = spec.sections("install")
    (given,) = re.findall(r"STOCK_HELPER=(\S*)", install)
    assert given == ("" if distribution == DEBIAN else "/usr/libexec/libvirt_sanlock_helper")
    (post,) = (body for body in spec.sections("post") if body.startswith(" selinux"))
    assert re.search(r"restorecon -R\s+(\S+)", post)


def test_no_file_is_in_a_folder_without_an_owner(spec: Spec) -> None:
    """What the spec lists; files.list has the rest, in folders of OWNED alone."""
    listed: set[str] = set()
    owned = set(OWNED)
    for body in spec.sections("files"):
        for line in body.splitlines()[1:]:
            words = re.sub(r"%(attr|verify|config)\([^)]*\)", "", line).split()
            paths = [word for word in words if word.startswith("/")]
            listed |= set(paths)
            # A folder that is listed without %dir is listed with all that is below it.
            if "%dir" in words or not Path(paths[0] if paths else "x").suffix:
                owned |= set(paths)
    assert len(listed) > 10
    assert {path for path in listed if str(Path(path).parent) not in owned} == set()


def test_the_macros_of_the_distribution_do_their_part(spec: Spec, distribution: str) -> None:
    expected = 0 if distribution == DEBIAN else 1
    for name in (
        "PY-BYTE-COMPILE",
        "RELABEL-PRE targeted",
        "RELABEL-POST targeted",
        "MODULES-INSTALL targeted",
    ):
        assert spec.text.count(f"FEDORA-{name}") == expected
    assert spec.text.count("FEDORA-MODULES-INSTALL targeted") == expected
    assert spec.text.count("FEDORA-MODULES-UNINSTALL targeted virt_sanlock_helper\n") == expected
