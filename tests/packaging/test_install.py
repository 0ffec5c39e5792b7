# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make install`, and Debian: the same program without an RPM, in libvirt's place by dpkg's own means."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.preconditions import need, need_programs

from .machine import STOCK, Machine
from .packages import ROOT, BuiltDeb, deb_owner, make_source, owner_deb

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
COMMAND = "/usr/local/bin/virt-sanlock-helper"
EXECUTABLE = "/usr/local/libexec/virt-sanlock-helper/libvirt_sanlock_helper"


def make_install(folder: Path, prefix: str) -> None:
    command = ["make", "-s", "-C", str(ROOT), "install", f"DESTDIR={folder}", f"PREFIX={prefix}"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local", "/opt/sanlock helper"])
def test_make_install(tmp_path: Path, prefix: str) -> None:
    make_install(tmp_path, prefix)
    assert {path.name for path in tmp_path.iterdir()} == {prefix.split("/")[1]}
    root = tmp_path / prefix[1:]
    executable = root / "libexec/virt-sanlock-helper/libvirt_sanlock_helper"
    for path in (executable, root / "bin/virt-sanlock-helper"):
        assert path.stat().st_mode & 0o777 == 0o755
        assert f'INSTALLED = "{prefix}/share/virt-sanlock-helper"\n' in path.read_text()
    drop_in = root / "lib/systemd/system/sanlock.service.d/50-virt-sanlock-helper.conf"
    ours = f"{prefix}/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
    assert drop_in.read_text().splitlines()[-1] == f"BindReadOnlyPaths=-{ours}:{STOCK}"
    assert "d /run/virt-sanlock-helper 0700" in (root / "lib/tmpfiles.d/virt-sanlock-helper.conf").read_text()
    catalogue = root / "lib/systemd/catalog/virt-sanlock-helper.catalog"
    assert catalogue.read_bytes() == (ROOT / "packaging/virt-sanlock-helper.catalog").read_bytes()
    modules = list((root / "share/virt-sanlock-helper").rglob("*.py"))
    assert len(modules) > 20
    assert len(list((root / "share/virt-sanlock-helper").rglob("*.pyc"))) == len(modules)
    # Byte code names its source, in messages: the place where it will be, not where it was put together.
    for path in (root / "share/virt-sanlock-helper").rglob("*.pyc"):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_prefix_usr_gives_the_executable_of_the_checkout(tmp_path: Path) -> None:
    make_install(tmp_path, "/usr")
    installed = tmp_path / "usr/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
    assert installed.read_bytes() == (ROOT / "helper/libvirt_sanlock_helper").read_bytes()


def make(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-s", "-C", str(ROOT), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local", "/opt/sanlock helper"])
def test_make_uninstall_takes_away_what_make_install_put_there(tmp_path: Path, prefix: str) -> None:
    folder = tmp_path / "image"
    for file in ("bin/other", "lib/systemd/system/sanlock.service.d/10-other.conf", "share/man/man8/other.8"):
        (folder / prefix[1:] / file).parent.mkdir(parents=True)
        (folder / prefix[1:] / file).touch()
    before = {path for path in folder.rglob("*") if path.is_file()}
    words = (f"DESTDIR={folder}", f"PREFIX={prefix}")
    # An image needs no next step.
    assert make("install", *words).stdout == ""
    assert {path for path in folder.rglob("*") if path.is_file()} > before
    # What a later version does not know any more.
    (folder / prefix[1:] / "share/virt-sanlock-helper/sanlock_helper/old.py").touch()
    result = make("uninstall", *words)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert {path for path in folder.rglob("*") if not path.is_dir()} == before
    assert list(folder.rglob("*virt-sanlock-helper*")) == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("PREFIX=usr",), "PREFIX='usr': no absolute path"),
        (("PREFIX=../x",), "PREFIX='../x': no absolute path"),
        (("PREFIX=/opt/../x",), "neither . nor .. alone"),
        (("PREFIX=/opt/a&b",), "only letters, digits"),
        (("PREFIX=/opt/a|b",), "only letters, digits"),
        (("PREFIX=/opt/a:b",), "only letters, digits"),
        (("PREFIX=/opt/50%",), "only letters, digits"),
        (('PREFIX=/opt/"a"',), "only letters, digits"),
    ],
)
@pytest.mark.parametrize("what", ["install", "uninstall"])
def test_a_prefix_that_no_unit_or_script_can_have(
    tmp_path: Path, words: tuple[str, ...], reason: str, what: str
) -> None:
    """It came out broken, half installed, or beside DESTDIR."""
    folder = tmp_path / "image"
    folder.mkdir()
    result = make(what, f"DESTDIR={folder}", *words)
    assert result.returncode != 0
    assert reason in result.stderr
    assert "nothing was changed" in result.stderr
    assert list(tmp_path.rglob("*")) == [folder]


@pytest.mark.parametrize("prefix", ["/usr/local/", "//usr//local"])
def test_a_prefix_with_more_slashes_than_it_needs(tmp_path: Path, prefix: str) -> None:
    """The path in the drop-in is compared with that of the program, which has none of them."""
    make_install(tmp_path, prefix)
    drop_in = tmp_path / "usr/local/lib/systemd/system/sanlock.service.d/50-virt-sanlock-helper.conf"
    assert drop_in.read_text().splitlines()[-1] == f"BindReadOnlyPaths=-{EXECUTABLE}:{STOCK}"
    assert 'INSTALLED = "/usr/local/share/' in (tmp_path / "usr/local/bin/virt-sanlock-helper").read_text()
    assert make("uninstall", f"DESTDIR={tmp_path}", "PREFIX=/usr/local").returncode == 0
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_make_uninstall_where_nothing_is_installed(tmp_path: Path) -> None:
    result = make("uninstall", f"DESTDIR={tmp_path}", "PREFIX=/opt")
    assert result.returncode != 0
    assert f"no virt-sanlock-helper below {tmp_path}/opt: give the PREFIX= and DESTDIR=" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "aside", "then"),
    [
        ("{ours}/helper", "stock", "stock"),
        ("{link}/helper", "stock", "stock"),
        # By way of a further link, which would lead nowhere.
        ("{root}/wrapper", "stock", "stock"),
        ("{link}/helper", "-> gone", "-> gone"),
        ("{ours}/helper", "", ""),
        ("/opt/another/helper", "stock", "-> /opt/another/helper"),
        ("{root}/gone/helper", "stock", "-> {root}/gone/helper"),
    ],
)
@pytest.mark.parametrize("given", ["ours", "link"])
@pytest.mark.parametrize("is_removed", [False, True])
def test_no_link_is_left_that_leads_nowhere(
    tmp_path: Path, target: str, aside: str, then: str, given: str, is_removed: bool
) -> None:
    """With a prefix that is a link, as /usr/local on another filesystem, and after the files have gone."""
    places = {"root": tmp_path, "ours": tmp_path / "ours", "link": tmp_path / "link"}
    places["ours"].mkdir()
    (places["ours"] / "helper").touch()
    places["link"].symlink_to("ours")
    (tmp_path / "wrapper").symlink_to("link/helper")
    path = tmp_path / "libvirt/libvirt_sanlock_helper"
    path.parent.mkdir()
    path.symlink_to(target.format(**places))
    beside = path.with_name(f"{path.name}.distrib")
    if aside.startswith("-> "):
        beside.symlink_to(aside[3:])
    elif aside:
        beside.write_text(aside)
    script = tmp_path / "put-back"
    script.write_text(
        (ROOT / "packaging/put-back").read_text().replace("/usr/lib/libvirt/", f"{path.parent}/")
    )
    if is_removed:
        (places["ours"] / "helper").unlink()
    subprocess.run(["sh", str(script), f"{places[given]}/helper"], check=True)
    if then.startswith("-> "):
        assert str(path.readlink()) == then[3:].format(**places)
    else:
        assert (path.read_text() if path.exists() else "") == then


@pytest.fixture(scope="module")
def debian(booted: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A Debian with the program installed by make."""
    need_programs("dpkg-divert", "dpkg-deb")
    need(() if deb_owner() else ("libvirt-daemon-plugin-sanlock",), "dpkg does not own libvirt's helper")
    folder = tmp_path_factory.mktemp("destdir")
    make_install(folder, "/usr/local")
    subprocess.run(["cp", "-a", f"{folder}/.", str(booted.path("/"))], check=True)
    booted.run("systemctl", "daemon-reload")
    booted.run("systemd-tmpfiles", "--create", "virt-sanlock-helper.conf")
    return booted


def test_the_drop_in_serves_there_too(debian: Machine) -> None:
    pid = debian.start_sanlock()
    assert debian.seen_by_sanlock() == debian.path(EXECUTABLE).read_bytes()
    result = debian.run(STOCK, "test:///default", UUID, "poweroff", within=pid)
    assert "verified off" in result.stderr
    assert debian.run(COMMAND, "install-check", check=False).returncode == 0
    debian.stop_sanlock()


def documented(heading: str) -> str:
    """The first block of commands behind HEADING in docs/install.md."""
    text = (ROOT / "docs/install.md").read_text().split(f"{heading}\n", 1)[1]
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    "))
    block = []
    for line in lines[first:]:
        if line and not line.startswith("    "):
            break
        block.append(line[4:])
    return "\n".join(block)


@pytest.mark.parametrize("how", ["activate", "document"])
def test_a_diversion_outlives_the_owners_update(debian: Machine, tmp_path: Path, how: str) -> None:
    before = debian.path(STOCK).read_bytes()
    if how == "activate":
        debian.run(COMMAND, "activate", "--yes")
    else:
        debian.run("sh", "-euc", documented("### Debian, by hand"))
    assert deb_owner() in debian.run("dpkg-query", "-S", STOCK).stdout
    assert f"local diversion of {STOCK} to {STOCK}.distrib" in debian.run("dpkg-divert", "--list").stdout
    debian.start_sanlock()
    try:
        assert debian.seen_by_sanlock() == debian.path(EXECUTABLE).read_bytes()
        update = owner_deb(tmp_path, how)
        shutil.copy(update, debian.path("/var/tmp"))
        debian.run("dpkg", "--force-all", "-i", f"/var/tmp/{update.name}")
        assert debian.seen_by_sanlock() == debian.path(EXECUTABLE).read_bytes()
        assert debian.path(f"{STOCK}.distrib").read_bytes().endswith(how.encode())
        debian.run(COMMAND, "install-check")
    finally:
        debian.stop_sanlock()
    debian.run(COMMAND, "activate", "--undo")
    assert debian.path(STOCK).read_bytes().endswith(how.encode())
    assert debian.path(STOCK).read_bytes() != before
    assert not debian.path(f"{STOCK}.distrib").exists()
    assert "libvirt_sanlock_helper" not in debian.run("dpkg-divert", "--list").stdout


SOURCE = "/var/tmp/source"


@pytest.fixture
def checkout(debian: Machine, tmp_path: Path) -> Machine:
    """The same machine with a checkout at SOURCE, and without the program."""
    make_source(ROOT, tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.copy(archive, debian.path("/var/tmp/source.tar.gz"))
    debian.run(
        "sh", "-ec", f"rm -rf {SOURCE}; mkdir {SOURCE}; cd {SOURCE}; tar -xf ../source.tar.gz --strip=1"
    )
    debian.run("make", "-s", "-C", SOURCE, "uninstall", check=False)
    return debian


def steps(printed: str) -> str:
    """The commands of an output."""
    return "\n".join(line[4:] for line in printed.splitlines() if line.startswith("    "))


def left(machine: Machine) -> set[str]:
    """What is there by our name, but for what the tests brought."""
    places = ("/etc", "/usr", "/var/lib", "/run")
    return set(machine.run("find", *places, "-name", "*virt-sanlock-helper*").stdout.split())


def main_pid(machine: Machine) -> int:
    """The process of the agent's service, 0 for none."""
    unit = "virt-sanlock-helper-agent.service"
    return int(machine.run("systemctl", "show", "--property=MainPID", "--value", unit).stdout)


@pytest.mark.parametrize("activated", [False, True])
def test_the_printed_steps_serve_and_uninstall_leaves_nothing(checkout: Machine, activated: bool) -> None:
    stock = checkout.path(STOCK).read_bytes()
    assert left(checkout) == set()
    printed = checkout.run("make", "-s", "-C", SOURCE, "install").stdout
    assert printed.startswith("Installed below /usr/local; no virtual machine was touched")
    checkout.run("sh", "-euc", steps(printed))
    units = ("virt-sanlock-helper-recover.path", "virt-sanlock-helper-agent.service")
    assert checkout.run("systemctl", "is-active", *units).stdout == "active\n" * 2
    before = main_pid(checkout)
    # As for a later version: an agent that stands begins anew with it.
    checkout.run("sh", "-euc", steps(checkout.run("make", "-s", "-C", SOURCE, "install").stdout))
    assert main_pid(checkout) not in (0, before)
    if activated:
        checkout.run(COMMAND, "activate", "--yes")
        # The program may be broken by then.
        checkout.run("rm", "-r", "/usr/local/share/virt-sanlock-helper/sanlock_helper")
    printed = checkout.run("make", "-s", "-C", SOURCE, "uninstall").stdout
    checkout.run("sh", "-euc", steps(printed))
    assert main_pid(checkout) == 0
    assert left(checkout) == set()
    assert checkout.path(STOCK).read_bytes() == stock
    assert not checkout.path(STOCK).is_symlink()
    assert "libvirt_sanlock_helper" not in checkout.run("dpkg-divert", "--list").stdout
    started = checkout.start_sanlock()
    assert started
    assert checkout.seen_by_sanlock() == stock
    checkout.stop_sanlock()


def test_uninstall_does_not_touch_a_packages_files(checkout: Machine, our_deb: BuiltDeb) -> None:
    shutil.copy(our_deb.main, checkout.path("/var/tmp"))
    checkout.run("dpkg", "--force-depends", "-i", f"/var/tmp/{our_deb.main.name}")
    checkout.run("make", "-s", "-C", SOURCE, "install")
    checkout.run("/usr/bin/virt-sanlock-helper", "activate", "--yes")
    try:
        refused = checkout.run("make", "-s", "-C", SOURCE, "uninstall", "PREFIX=/usr", check=False)
        assert refused.returncode != 0
        assert "/usr/bin/virt-sanlock-helper is a package's: apt remove virt-sanlock-helper" in refused.stderr
        # Nor its link and its runtime directory, when the other installation goes.
        installed = "/usr/libexec/virt-sanlock-helper/libvirt_sanlock_helper"
        checkout.run("make", "-s", "-C", SOURCE, "uninstall")
        assert checkout.run("readlink", STOCK).stdout == f"{installed}\n"
        assert checkout.path("/run/virt-sanlock-helper").exists()
        assert not checkout.path(EXECUTABLE).exists()
    finally:
        checkout.run("dpkg", "--purge", "virt-sanlock-helper")
    assert left(checkout) == set()
