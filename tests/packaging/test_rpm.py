# SPDX-License-Identifier: LGPL-2.1-or-later
"""The packages: built without a warning, clean for rpmlint, whole after install, gone after erase."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest

from sanlock_helper import __version__
from tests.e2e.preconditions import need_programs

from .packages import ROOT, Built, make_source

EXECUTABLE = "/usr/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
PRIVATE = "/usr/share/virt-sanlock-helper"


def rpm(*arguments: str, check: bool = True) -> str:
    result = subprocess.run(["rpm", *arguments], capture_output=True, text=True, check=False)
    # Debian's rpm advises against itself, each time.
    printed = [line for line in (result.stdout + result.stderr).splitlines() if not line.startswith("rpm: ")]
    assert not check or result.returncode == 0, f"rpm {' '.join(arguments)}: {printed}"
    return "\n".join(printed)


def files(package: Path) -> list[str]:
    return rpm("-qpl", str(package)).splitlines()


def test_the_build_has_no_warnings_and_ran_the_unit_tests(ours: Built) -> None:
    assert [line for line in ours.output.splitlines() if re.search(r"\b(warning|error)\b", line, re.I)] == []
    assert re.search(r"^\d+ passed", ours.output, re.MULTILINE)
    assert ours.source is not None
    assert ours.selinux is not None


def test_rpmlint_is_content(ours: Built) -> None:
    need_programs("rpmlint")
    command = ["rpmlint", "--config", str(ROOT / "packaging/rpmlintrc.toml")]
    words = [str(path) for path in (ours.spec, ours.main, ours.selinux, ours.source)]
    result = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    logged = [line for line in result.stdout.splitlines() if re.search(r": [EW]: ", line)]
    assert logged == []
    assert " 0 errors, " in result.stdout


def test_every_filter_of_rpmlint_is_needed_and_justified(ours: Built) -> None:
    need_programs("rpmlint")
    text = (ROOT / "packaging/rpmlintrc.toml").read_text()
    printed = subprocess.run(["rpmlint", "--version"], capture_output=True, text=True, check=True).stdout
    version = printed.strip().rpartition(".")[0]
    found = re.findall(r"^    (?:\"|')(.*)(?:\"|'),(?:  # ([\d.]+))?$", text, re.MULTILINE)
    filters = [pattern for pattern, only in found if only in ("", version)]
    words = [str(path) for path in (ours.spec, ours.main, ours.selinux, ours.source)]
    plain = subprocess.run(["rpmlint", *words], capture_output=True, text=True, check=False).stdout
    assert len(filters) > 5
    unused = [pattern for pattern in filters if not re.search(pattern, plain)]
    if not (ROOT / "packaging/man").exists():
        unused = [pattern for pattern in unused if not pattern.startswith("manpage")]
    assert unused == []


def test_install_verify_erase(ours: Built, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("rpm --root needs root")
    database = ("--root", str(tmp_path), "--dbpath", "/var/lib/rpm")
    packages = [str(ours.main), str(ours.selinux)]
    rpm(*database, "--nodeps", "--noscripts", "-i", *packages)
    names = ("virt-sanlock-helper", "virt-sanlock-helper-selinux")
    assert rpm(*database, "--nodeps", "-V", *names) == ""
    # -V sees what was changed, or the line above shows nothing.
    (tmp_path / EXECUTABLE[1:]).write_text("changed")
    assert EXECUTABLE in rpm(*database, "--nodeps", "-V", *names, check=False)
    rpm(*database, "--nodeps", "--noscripts", "-e", *names)
    left = {path for path in tmp_path.rglob("*") if not path.is_dir() and "var/lib/rpm" not in str(path)}
    assert left == set()
    folders = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*sanlock*")}
    assert folders == set()


def test_what_is_in_it(ours: Built) -> None:
    listed = files(ours.main)
    modules = [name for name in listed if name.startswith(f"{PRIVATE}/") and name.endswith(".py")]
    sources = [
        *(ROOT / "helper").rglob("sanlock_helper/**/*.py"),
        *(ROOT / "auth").rglob("libvirt_auth/**/*.py"),
    ]
    assert len(modules) == len(sources) > 20
    # Each has its byte code: root writes none.
    compiled = [name for name in listed if name.endswith(".pyc")]
    assert len(compiled) == len(modules)
    for name in (
        EXECUTABLE,
        "/usr/bin/virt-sanlock-helper",
        "/usr/lib/systemd/system/sanlock.service.d/50-virt-sanlock-helper.conf",
        "/usr/lib/tmpfiles.d/virt-sanlock-helper.conf",
        "/run/virt-sanlock-helper",
        "/var/lib/virt-sanlock-helper",
    ):
        assert name in listed
    units = {path.name for pattern in ("*.service", "*.path") for path in (ROOT / "packaging").glob(pattern)}
    assert units == {Path(name).name for name in listed if name.endswith((".service", ".path"))}
    pages = {path.stem for path in (ROOT / "packaging").glob("man/*.rst")}
    assert pages == {Path(name).name.replace(".gz", "") for name in listed if "/man/man" in name}
    # The owner of libvirt's helper stays its owner.
    assert not any(name.endswith("/libvirt_sanlock_helper") for name in listed if name != EXECUTABLE)


def test_the_executable_is_the_same_in_every_version(ours: Built, ours_next: Built) -> None:
    digests = set()
    for built in (ours, ours_next):
        table = rpm("-qp", "--qf", "[%{FILENAMES} %{FILEDIGESTS}\n]", str(built.main))
        digests.add(dict(line.split(" ", 1) for line in table.splitlines() if " " in line)[EXECUTABLE])
    assert len(digests) == 1


def test_what_it_needs(ours: Built) -> None:
    requires = rpm("-qp", "--requires", str(ours.main)).splitlines()
    assert "(libvirt-daemon-plugin-sanlock or libvirt-lock-sanlock)" in requires
    assert f"(virt-sanlock-helper-selinux = {__version__}-1 if selinux-policy-targeted)" in requires
    assert {"python3-libvirt", "sanlock-lib", "sanlock", "/usr/bin/python3"} <= set(requires)
    # Newer distributions have none: it must not be needed.
    assert "python3-sanlock" not in requires
    assert "python3-sanlock" in rpm("-qp", "--recommends", str(ours.main)).splitlines()
    # Independent of Python's minor version.
    assert not any(name.startswith("python(abi)") for name in requires)
    triggers = rpm("-qp", "--triggers", str(ours.main))
    for name in ("libvirt-daemon-plugin-sanlock", "libvirt-lock-sanlock"):
        assert re.search(rf"triggerin.* -- .*{name}", triggers)


def test_sanlock_is_never_restarted(ours: Built) -> None:
    for package in (ours.main, ours.selinux):
        scripts = rpm("-qp", "--scripts", str(package)) + rpm("-qp", "--triggers", str(package))
        assert scripts
        for verb in ("restart", "stop", "condrestart", "reload"):
            assert not re.search(rf"systemctl\b[^\n]*\b{verb}\b[^\n]*sanlock\.service", scripts)
            assert f"{verb} sanlock" not in scripts


def test_the_version_and_the_changelog_come_from_the_checkout(ours: Built) -> None:
    assert ours.main.name.startswith(f"virt-sanlock-helper-{__version__}-1.")
    text = rpm("-qp", "--changelog", str(ours.main))
    assert text.splitlines()[0].endswith(f"- {__version__}-1")
    assert "- libvirt_auth: libvirt's client authentication file" in text


def test_changelog_entries() -> None:
    changelog = runpy.run_path(str(ROOT / "packaging/make-spec"))["changelog"]
    text = (
        "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- `a`: 100% new,\n  on two lines.\n\n"
        "## [0.2.0]\n\n- not dated, not released\n\n## [0.1.0] - 2026-01-05\n\n### Fixed\n\n- b\n"
    )
    maintainer = "virt-sanlock-helper developers <developers@virt-sanlock-helper.invalid>"
    assert changelog(text, "0.3.0", 1795305600.0) == (
        f"* Sun Nov 22 2026 {maintainer} - 0.3.0-1\n- a: 100%% new, on two lines.\n\n"
        f"* Mon Jan 05 2026 {maintainer} - 0.1.0-1\n- b"
    )
    # The version is not raised yet: one entry all the same.
    assert changelog(text, "0.1.0", 1795305600.0) == (
        f"* Sun Nov 22 2026 {maintainer} - 0.1.0-1\n- a: 100%% new, on two lines.\n- b"
    )


def test_the_source_archive_is_reproducible(ours: Built, tmp_path: Path) -> None:
    make_source(ROOT, tmp_path)
    (again,) = tmp_path.glob("*.tar.gz")
    (first,) = ours.spec.parent.glob("*.tar.gz")
    assert again.read_bytes() == first.read_bytes()
