# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Debian package: built without a warning, clean for lintian, whole after install, gone after purge."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sanlock_helper import __version__
from tests.e2e.preconditions import need, need_programs

from .formats import NAME, Debs
from .machine import STOCK, Machine, missing
from .packages import NEXT_VERSION, ROOT, BuiltDeb

EXECUTABLE = "/usr/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
PRIVATE = "/usr/share/virt-sanlock-helper"
ASIDE = f"{STOCK}.distrib"
PATH_UNIT = "virt-sanlock-helper-recover.path"
SERVICE = "virt-sanlock-helper-recover.service"
AGENT = "virt-sanlock-helper-agent.service"
STATE = "/var/lib/virt-sanlock-helper"
RUNTIME = "/run/virt-sanlock-helper"


def deb(*arguments: str) -> str:
    return subprocess.run(["dpkg-deb", *arguments], capture_output=True, text=True, check=True).stdout


def field(package: Path, name: str) -> list[str]:
    """The words of a field of the control file, between commas."""
    return [word.strip() for word in deb("--field", str(package), name).split(",")]


@pytest.fixture(scope="module")
def unpacked(our_deb: BuiltDeb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the package, and its control files in DEBIAN."""
    folder = tmp_path_factory.mktemp("unpacked")
    deb("--raw-extract", str(our_deb.main), str(folder / "root"))
    return folder / "root"


def test_the_build_has_no_warnings(our_deb: BuiltDeb) -> None:
    assert [
        line for line in our_deb.output.splitlines() if re.search(r"\b(warning|error)\b", line, re.I)
    ] == []
    kinds = (".deb", ".changes", ".dsc", ".orig.tar.gz", ".debian.tar.xz")
    folder = our_deb.main.parent
    for kind in kinds:
        assert [path for path in folder.iterdir() if path.name.endswith(kind)], kind


def test_lintian_is_content_and_every_override_is_needed(our_deb: BuiltDeb) -> None:
    need_programs("lintian")
    command = ["lintian", "--allow-root", "--display-info", "--show-overrides", str(our_deb.changes)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in result.stdout.splitlines() if line.startswith(("E:", "W:"))] == []
    assert "O: virt-sanlock-helper: package-uses-local-diversion" in result.stdout
    assert "unused-override" not in result.stdout


def test_what_is_in_it(unpacked: Path) -> None:
    modules = list((unpacked / PRIVATE[1:]).rglob("*.py"))
    sources = [
        *(ROOT / "helper").rglob("sanlock_helper/**/*.py"),
        *(ROOT / "auth").rglob("libvirt_auth/**/*.py"),
    ]
    assert len(modules) == len(sources) > 20
    # The host's Python compiles them.
    assert list(unpacked.rglob("*.pyc")) == []
    executable = unpacked / EXECUTABLE[1:]
    assert executable.read_bytes() == (ROOT / "helper/libvirt_sanlock_helper").read_bytes()
    assert executable.stat().st_mode & 0o777 == 0o755
    drop_in = unpacked / "usr/lib/systemd/system/sanlock.service.d/50-virt-sanlock-helper.conf"
    assert drop_in.read_text().splitlines()[-1] == f"BindReadOnlyPaths=-{EXECUTABLE}:{STOCK}"
    for name in (
        "usr/bin/virt-sanlock-helper",
        "usr/lib/tmpfiles.d/virt-sanlock-helper.conf",
        "usr/lib/systemd/catalog/virt-sanlock-helper.catalog",
        "usr/share/bash-completion/completions/virt-sanlock-helper",
        "usr/share/zsh/vendor-completions/_virt-sanlock-helper",
        "usr/share/doc/virt-sanlock-helper/changelog.Debian.gz",
        "usr/share/doc/virt-sanlock-helper/docs/install.md.gz",
    ):
        assert (unpacked / name).is_file(), name
    units = {path.name for pattern in ("*.service", "*.path") for path in (ROOT / "packaging").glob(pattern)}
    systemd = unpacked / "usr/lib/systemd/system"
    assert units == {path.name for path in systemd.iterdir() if path.is_file()}
    pages = {f"{path.stem}.gz" for path in (ROOT / "packaging").glob("man/*.rst")}
    assert pages == {path.name for path in unpacked.glob("usr/share/man/man*/*")}
    # The owner of libvirt's helper stays its owner; /lib is an alias.
    assert [path for path in unpacked.rglob("libvirt_sanlock_helper") if path != executable] == []
    assert not (unpacked / "lib").exists()


def test_what_it_needs(our_deb: BuiltDeb) -> None:
    depends = field(our_deb.main, "Depends")
    # Debian 13 and newer, Debian 12.
    assert "libvirt-daemon-plugin-sanlock | libvirt-sanlock" in depends
    assert {"libsanlock-client1 | libsanlock1", "python3-libvirt", "sanlock"} <= set(depends)
    assert [word for word in depends if word.startswith("python3:") or word == "python3"]
    # Debian 14 has none.
    assert field(our_deb.main, "Recommends") == ["python3-sanlock"]
    assert field(our_deb.main, "Architecture") == ["all"]
    assert field(our_deb.main, "Version") == [f"{__version__}-1"]


def test_sanlock_is_never_restarted_and_nothing_is_diverted(unpacked: Path) -> None:
    scripts = {name: (unpacked / "DEBIAN" / name).read_text() for name in ("postinst", "prerm", "postrm")}
    for text in scripts.values():
        assert not re.search(r"(restart|stop|reload)[^\n]* '?sanlock(\.service)?\b", text)
        assert "dpkg-divert --add" not in text
        assert "@" not in text.replace('"$@"', "")
    # An update of ours stops nothing.
    assert not (unpacked / "DEBIAN/preinst").exists()
    assert "upgrade" not in scripts["prerm"]


def test_changelog_entries() -> None:
    changelog = runpy.run_path(str(ROOT / "packaging/make-debian"))["changelog"]
    text = (
        "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- `a`: 100% new,\n  on two lines.\n\n"
        "## [0.2.0]\n\n- not dated, not released\n\n## [0.1.0] - 2026-01-05\n\n### Fixed\n\n- b\n"
    )
    signed = " -- virt-sanlock-helper developers <developers@virt-sanlock-helper.invalid>  "
    assert changelog(text, "0.3.0", 1795305661.0) == (
        "virt-sanlock-helper (0.3.0-1) unstable; urgency=medium\n\n  * a: 100% new, on two lines.\n\n"
        f"{signed}Sun, 22 Nov 2026 00:01:01 +0000\n\n"
        "virt-sanlock-helper (0.1.0-1) unstable; urgency=medium\n\n  * b\n\n"
        f"{signed}Mon, 05 Jan 2026 00:00:00 +0000\n"
    )


# On a host.


@pytest.fixture(scope="module")
def machine_with_dpkg(owners: Path, our_deb: BuiltDeb, our_next_deb: BuiltDeb) -> Iterator[Debs]:
    need(missing(), "no machine can be booted here")
    with Machine() as machine:
        yield Debs(machine, owners, our_deb, our_next_deb)


@pytest.fixture
def debs(machine_with_dpkg: Debs) -> Debs:
    machine_with_dpkg.machine.stop_sanlock()
    machine_with_dpkg.reset()
    return machine_with_dpkg


def left(machine: Machine) -> list[str]:
    """What is there by our name, links that lead nowhere included; not the packages themselves."""
    found = machine.run("find", "/etc", "/usr", "/var", "/run", "-name", f"*{NAME}*").stdout.split()
    return [name for name in found if not name.startswith("/var/tmp/")]


def states(machine: Machine, unit: str) -> tuple[str, str]:
    asked = (machine.run("systemctl", verb, unit, check=False) for verb in ("is-enabled", "is-active"))
    enabled, active = (result.stdout.strip() for result in asked)
    return enabled, active


def test_byte_code_is_there_for_this_python_as_long_as_the_program(debs: Debs) -> None:
    debs.install()
    modules = set(debs.machine.run("find", PRIVATE, "-name", "*.py").stdout.split())
    compiled = debs.machine.run("find", PRIVATE, "-name", "*.pyc").stdout.split()
    assert {re.sub(r"__pycache__/(\w+)\.cpython-\d+\.pyc$", r"\1.py", name) for name in compiled} == modules
    # And it is taken: to compile one again fails here.
    code = (
        f"import sys; sys.path.insert(0, '{PRIVATE}')\n"
        "from importlib.machinery import SourceFileLoader as loader; loader.source_to_code = None\n"
        "import sanlock_helper.killpath, sanlock_helper.agent.service"
    )
    debs.machine.run("/usr/bin/python3", "-ISB", "-c", code)
    debs.update()
    debs.machine.run("/usr/bin/python3", "-ISB", "-c", code)


def test_installed_it_is_ready(debs: Debs) -> None:
    debs.install()
    assert states(debs.machine, PATH_UNIT) == ("enabled", "active")
    assert states(debs.machine, SERVICE) == ("enabled", "inactive")
    # It comes with sanlock, which does not run.
    assert states(debs.machine, AGENT) == ("enabled", "inactive")
    assert debs.machine.run("stat", "-c", "%U %G %a", RUNTIME).stdout == "root root 700\n"
    # One of the identifiers of the catalogue that it brings.
    catalogue = (ROOT / "packaging/virt-sanlock-helper.catalog").read_text()
    identifier = re.findall(r"^-- ([0-9a-f]{32})$", catalogue, re.MULTILINE)[0]
    assert debs.machine.run("journalctl", "--dump-catalog", identifier).stdout.startswith(f"-- {identifier}")


def test_units_that_an_administrator_wants_disabled_are(debs: Debs) -> None:
    preset = "/etc/systemd/system-preset/10-local.preset"
    debs.machine.write(preset, f"disable {SERVICE}\n")
    try:
        debs.install()
    finally:
        debs.machine.run("rm", preset)
    assert states(debs.machine, SERVICE) == ("disabled", "inactive")
    debs.update()
    assert states(debs.machine, SERVICE) == ("disabled", "inactive")
    assert states(debs.machine, PATH_UNIT) == ("enabled", "active")


def test_an_update_leaves_a_recovery_under_way_alone(debs: Debs) -> None:
    debs.install()
    drop_in = "/etc/systemd/system/virt-sanlock-helper-recover.service.d/test.conf"
    debs.machine.write(drop_in, "[Service]\nExecStart=\nExecStart=/bin/sleep 600\n")
    debs.machine.write(f"{STATE}/x.record", "")
    debs.machine.run("systemctl", "daemon-reload")
    try:
        debs.machine.run("systemctl", "start", SERVICE)
        assert states(debs.machine, SERVICE)[1] == "active"
        pid = debs.machine.run("systemctl", "show", "--property=MainPID", "--value", SERVICE).stdout
        debs.update()
        assert debs.machine.run("systemctl", "show", "--property=MainPID", "--value", SERVICE).stdout == pid
        # Without the program there is none.
        debs.dpkg("--remove", NAME)
        assert not Path(f"/proc/{debs.machine.init_pid}/root/proc/{pid.strip()}").exists()
    finally:
        debs.machine.run("rm", "-r", str(Path(drop_in).parent))


def test_removed_and_installed_again_and_purged(debs: Debs) -> None:
    debs.install()
    stock = debs.machine.path(STOCK).read_bytes()
    debs.machine.write(f"{STATE}/x.record", "")
    assert debs.dpkg("--remove", NAME) == ""
    assert debs.status() == "config-files"
    assert debs.machine.path(STOCK).read_bytes() == stock
    # The records stay for the administrator, and what dpkg and systemd note of a package that is not purged.
    kept = ("/etc/systemd/", "/var/lib/dpkg/", "/var/lib/systemd/", STATE)
    assert [name for name in left(debs.machine) if not name.startswith(kept)] == []
    assert debs.install() == ""
    assert states(debs.machine, PATH_UNIT) == ("enabled", "active")
    debs.machine.run("virt-sanlock-helper", "--version")
    assert debs.dpkg("--purge", NAME) == ""
    assert left(debs.machine) == []
    assert debs.status() == "not-installed"


def test_what_activate_did_is_undone_and_libvirts_helper_is_never_away(debs: Debs) -> None:
    debs.install()
    debs.machine.run(NAME, "activate", "--yes")
    debs.owner("2", "")
    assert debs.machine.path(ASIDE).read_bytes().endswith(b" 2")
    debs.update()
    assert debs.machine.run(STOCK, "--version").stdout.split()[-1] == NEXT_VERSION
    # A reader that sees it missing, even once, ends with 1.
    watch = f"while [ ! -e /run/enough ]; do [ -x {STOCK} ] || exit 1; done"
    watching = debs.machine.popen("sh", "-c", watch)
    debs.dpkg("--remove", NAME)
    debs.machine.run("touch", "/run/enough")
    try:
        assert watching.wait(10) == 0
    finally:
        debs.machine.run("rm", "/run/enough")
    assert debs.machine.path(STOCK).read_bytes().endswith(b" 2")
    assert debs.machine.path(STOCK).read_bytes()[:4] == b"\x7fELF"
    assert not debs.machine.path(ASIDE).exists()
    assert "libvirt_sanlock_helper" not in debs.machine.run("dpkg-divert", "--list").stdout


# How ours may be when it is removed.
DAMAGE = {
    "its files are gone": f"rm -r {PRIVATE}/sanlock_helper /usr/bin/virt-sanlock-helper {EXECUTABLE}",
    # dpkg runs no prerm then.
    "never configured": "dpkg --unpack /var/tmp/NEXT",
    "libvirt's package is gone": "dpkg --purge --force-depends OWNER",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_link_is_left_whatever_is_broken(debs: Debs, our_next_deb: BuiltDeb, damage: str) -> None:
    debs.install()
    debs.machine.run(NAME, "activate", "--yes")
    debs.machine.run("systemctl", "start", AGENT)
    shutil.copy(our_next_deb.main, debs.machine.path("/var/tmp"))
    command = DAMAGE[damage].replace("NEXT", our_next_deb.main.name).replace("OWNER", debs.owner_names[0])
    debs.machine.run("sh", "-ec", command)
    debs.machine.run("dpkg", "--purge", NAME)
    found = debs.machine.run(
        "find", str(Path(STOCK).parent), "-name", "libvirt_sanlock_helper*"
    ).stdout.split()
    assert found == ([] if damage.startswith("libvirt") else [STOCK])
    assert not debs.machine.path(STOCK).is_symlink()
    assert "libvirt_sanlock_helper" not in debs.machine.run("dpkg-divert", "--list").stdout
    # Nothing of ours runs that would make it again.
    assert {states(debs.machine, unit)[1] for unit in (AGENT, PATH_UNIT, SERVICE)} == {"inactive"}
    assert not debs.machine.path(RUNTIME).exists()


def test_anothers_diversion_is_left_alone(debs: Debs) -> None:
    debs.install()
    divert = f"dpkg-divert --local --rename --divert {ASIDE} {{}} {STOCK}"
    debs.machine.run("sh", "-ec", f"{divert.format('--add')}; cp /bin/true {STOCK}")
    stock, own = (debs.machine.path(name).read_bytes() for name in (ASIDE, STOCK))
    try:
        refused = debs.machine.run(NAME, "activate", "--yes", check=False)
        assert refused.returncode == 1
        assert f"{ASIDE} is there already" in refused.stderr
        assert "nothing to undo" in debs.machine.run(NAME, "activate", "--undo").stdout
        debs.owner("1", "")
        debs.erase()
        assert debs.machine.path(ASIDE).read_bytes() == stock
        assert debs.machine.path(STOCK).read_bytes() == own
        assert STOCK in debs.machine.run("dpkg-divert", "--list").stdout
    finally:
        debs.machine.run("sh", "-ec", f"rm -f {STOCK}; {divert.format('--remove')}")


def test_an_image_is_made_without_an_init(debs: Debs, our_deb: BuiltDeb) -> None:
    """As mmdebstrap and debootstrap install: no systemd runs, and none is asked."""
    shutil.copy(our_deb.main, debs.machine.path("/var/tmp"))
    script = f"mount -t tmpfs tmpfs /run; dpkg -i /var/tmp/{our_deb.main.name}; dpkg --purge {NAME}"
    debs.machine.run("unshare", "--mount", "sh", "-ec", script)
    assert debs.status() == "not-installed"
