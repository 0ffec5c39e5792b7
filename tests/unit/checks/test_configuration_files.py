# SPDX-License-Identifier: LGPL-2.1-or-later
"""The configuration files of a host, which is a folder here: refused, and with a setting given twice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks import conf_repair
from sanlock_helper.checks.configuration import check_files
from sanlock_helper.checks.facts import Facts, HostPaths
from sanlock_helper.checks.finding import Finding
from sanlock_helper.checks.plan import CHECKS
from sanlock_helper.errors import PermanentError
from sanlock_helper.virt.libvirt_conf import ConfSyntaxError, in_force, parse_settings
from sanlock_helper.virt.qemu_sanlock_conf import make_lock_conf


def check(etc: Path, **files: str) -> Finding:
    for name, text in files.items():
        folder = etc / ("sanlock" if name == "sanlock" else "libvirt")
        folder.mkdir(exist_ok=True)
        (folder / f"{name.replace('_', '-')}.conf").write_text(text)
    facts = Facts(HostPaths(etc=etc, run=etc / "run", proc=etc, lib=etc, programs=()))
    return check_files(facts.files, facts.sanlock_conf)


def test_nothing_to_read(tmp_path: Path) -> None:
    assert check(tmp_path).verdict == "pass"


def test_each_setting_once(tmp_path: Path) -> None:
    finding = check(
        tmp_path,
        qemu="a = 1\n",
        libvirtd="a = 2\n",
        qemu_sanlock="# a = 1\na = 3\n",
        sanlock="a = 1\n#a = 1\n",
    )
    assert finding.verdict == "pass"
    assert "qemu-sanlock.conf" in finding.found


@pytest.mark.parametrize("name", ["qemu", "libvirtd", "qemu_sanlock"])
def test_of_libvirts_settings_the_first_counts(tmp_path: Path, name: str) -> None:
    finding = check(tmp_path, **{name: "x = 1; y = 2\n\nx = [ ]\nx = 'z'\n"})
    path = tmp_path / "libvirt" / f"{name.replace('_', '-')}.conf"
    assert finding.verdict == "warn"
    assert finding.found == (
        f"{path}: x in line 1 counts, not in line 3; {path}: x in line 1 counts, not in line 4"
    )
    # A list may go on in the next line: no command removes it.
    assert finding.remedy == f"remove line 3 of {path}, line 4 of {path}"


def test_of_sanlocks_settings_the_last_counts(tmp_path: Path) -> None:
    # An indented line is none, and debug_cmd adds up.
    text = "kill_grace_seconds = 1\n kill_grace_seconds = 2\nkill_grace_seconds\t= 3\n"
    text += "debug_cmd = +a\ndebug_cmd = +b\n"
    finding = check(tmp_path, sanlock=text)
    path = tmp_path / "sanlock/sanlock.conf"
    assert (finding.verdict, finding.found) == (
        "warn",
        f"{path}: kill_grace_seconds in line 3 counts, not in line 1",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [("oops\n", "line 1: expecting an assignment"), ("a = [\n1\n", "line 3: list is not closed")],
)
@pytest.mark.parametrize("name", ["qemu", "libvirtd", "qemu_sanlock"])
def test_a_file_that_libvirt_refuses(tmp_path: Path, name: str, text: str, words: str) -> None:
    finding = check(tmp_path, **{name: text})
    assert finding.verdict == "fail"
    assert words in finding.found
    assert finding.remedy == "libvirt refuses the file: correct that line"


# The head of a library for this machine.
HERE = Path("/proc/self/exe").read_bytes()[:20]


@pytest.mark.parametrize(
    ("content", "verdict", "words"),
    [
        (HERE, "pass", ""),
        (b"", "fail", "no library for this machine"),
        (HERE[:10], "fail", "no library for this machine"),
        (b"#!/bin/sh\n" * 9, "fail", "no library for this machine"),
        (HERE[:18] + b"\x03\x00", "fail", "no library for this machine"),
        (HERE[:4] + bytes([3 - HERE[4]]) + HERE[5:], "fail", "no library for this machine"),
        (None, "fail", "sanlock.so is not there"),
    ],
)
def test_the_driver_for_this_machine(tmp_path: Path, content: bytes | None, verdict: str, words: str) -> None:
    """Another machine's, as Debian's multiarch has it, may be beside it."""
    for name in ("i386-linux-gnu", "x86_64-linux-gnu", "zzz-linux-gnu"):
        driver = tmp_path / "lib" / name / "libvirt/lock-driver/sanlock.so"
        driver.parent.mkdir(parents=True)
        if name != "zzz-linux-gnu" and content is not None:
            driver.write_bytes(content if name == "x86_64-linux-gnu" else b"\x7fELF" + bytes(16))
        if content is None:
            driver.parent.rmdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("ID=debian\nVERSION_ID=12\n")
    facts = Facts(HostPaths(etc=tmp_path / "etc", lib=tmp_path / "lib", proc=tmp_path), uid=0)
    found = next(check for check in CHECKS if check.name == "lock driver").run(facts)
    assert (found.verdict, words in found.found) == (verdict, True)
    if words:
        again = " --reinstall" if content is not None else ""
        assert found.remedy == f"apt install{again} libvirt-sanlock"


@pytest.mark.parametrize(
    ("value", "plugin", "verdict"),
    [
        (0, b"", "pass"),
        (1, b"...check_disk_lease_owner...", "pass"),
        (1, b"...auto_disk_leases...", "warn"),
        (1, None, "warn"),
    ],
)
@pytest.mark.parametrize("folder", ["lib64", "lib", "lib/x86_64-linux-gnu"])
def test_the_owner_of_a_lease(
    tmp_path: Path, value: int, plugin: bytes | None, verdict: str, folder: str
) -> None:
    (tmp_path / "lib").mkdir()
    if plugin is not None:
        driver = tmp_path / folder / "libvirt/lock-driver/sanlock.so"
        driver.parent.mkdir(parents=True)
        driver.write_bytes(HERE + plugin)
    facts = Facts(HostPaths(etc=tmp_path, lib=tmp_path / "lib"))
    (tmp_path / "libvirt").mkdir()
    (tmp_path / "libvirt/qemu-sanlock.conf").write_text(f"check_disk_lease_owner = {value}\n")
    checks = {check.name: check for check in CHECKS}
    assert checks["disk lease owner"].run(facts).verdict == verdict


def test_the_owner_is_yes_or_no() -> None:
    with pytest.raises(PermanentError, match="check_disk_lease_owner"):
        make_lock_conf({"check_disk_lease_owner": 2})


def test_a_lock_manager_that_is_hidden_is_mended_by_its_own_check(tmp_path: Path) -> None:
    """To remove the second one would leave the wrong one."""
    text = 'lock_manager = "lockd"\nlock_manager = "sanlock"\n'
    finding = check(tmp_path, qemu=text)
    assert (finding.verdict, finding.remedy) == ("warn", "see lock_manager")
    finding = check(tmp_path, qemu=f"{text}a = 1\na = 2\n")
    path = tmp_path / "libvirt/qemu.conf"
    assert finding.remedy == f"sed -i 4d {path}  # remove line 4 of {path}"


def test_a_line_with_more_than_one_setting_is_left_to_an_editor(tmp_path: Path) -> None:
    finding = check(tmp_path, qemu="a = 1\na = 2; b = 3\n")
    assert finding.remedy == f"remove line 2 of {tmp_path / 'libvirt/qemu.conf'}"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a = sanlock\n", {"a": "sanlock"}),
        ("a = sanlock", {"a": "sanlock"}),
        ("  a=/a b/c # why\nb = 1\n", {"a": "/a b/c", "b": 1}),
        ("b = 1\na = 'x\n", {"b": 1, "a": "x"}),
        ('b = 1\na = x"\n', {"b": 1, "a": "x"}),
        ("a = \u201cx\u201d;\n", {"a": "x"}),
        ("a: 1\nb : on\nc = False\nd no\n", {"a": 1, "b": 1, "c": 0, "d": 0}),
        ("a = '1\n", {"a": "1"}),
        ("\ufeffa = 1\n", {"a": 1}),
        ("\ufeff[x]\na = y\n", {"a": "y"}),
        ("[qemu]\r\na = x\r\n", {"a": "x"}),
        ("# a = x\na = it's\n", {"a": "it's"}),
        ("\n\n", {}),
        (" \t", {}),
    ],
)
def test_what_was_meant(tmp_path: Path, text: str, values: dict[str, object]) -> None:
    """By a shell, and read again: the rest of the file stays."""
    path = tmp_path / "a file.conf"
    path.write_bytes(text.encode())
    with pytest.raises(ConfSyntaxError):
        parse_settings(path.read_bytes())
    command, then = conf_repair.corrected(path, path.read_bytes())
    subprocess.run(["sh", "-ec", command], check=True)
    found = in_force(parse_settings(path.read_bytes()))
    assert found == in_force(parse_settings(then)) == values


@pytest.mark.parametrize(
    "text",
    [
        "oops\n",
        "a = \n",
        "a =\nb = 1\n",
        "a = [ 1\nb = 2\n",
        'a = [\n"x"\n"y"\n]\n',
        "a = b\\c\n",
        'a = "x" "y"\n',
        "= 1\n",
        "1 = 1\n",
        "\udcff = 1\n",
        "a = x\n" * 20,
        "a = [" * 5000,
        "a = \x1b\n",
        'a = """x\n',
        "a" + " " * 100_000 + "\n",
        "a = x" + "; " * 100_000 + "y\n",
        "a = x\n" + " " * (1 << 20),
    ],
    ids=range(17),
)
def test_what_is_not_plain_is_left_to_an_editor(text: str) -> None:
    assert conf_repair.corrected("/c", text.encode("utf-8", "surrogateescape"))[0] == ""


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('host_id = "7"\n', {"host_id": 7}),
        ("host_id = -1\n", {"host_id": 42}),
        ('host_id = "one"\nuser = 107\n', {"host_id": 42, "user": "107"}),
        ("auto_disk_leases = 2\n", {"auto_disk_leases": 1}),
        ("auto_disk_leases = 'No'\n", {"auto_disk_leases": 0}),
        ("io_timeout = '10'\nx = 'y'\n", {"io_timeout": 10, "x": "y"}),
    ],
)
def test_a_value_of_another_type(tmp_path: Path, text: str, values: dict[str, object]) -> None:
    path = tmp_path / "a file.conf"
    path.write_text(text)
    subprocess.run(["sh", "-ec", conf_repair.retyped(path, parse_settings(text), 42)], check=True)
    found = in_force(parse_settings(path.read_text()))
    assert found == values
    make_lock_conf(found)


@pytest.mark.parametrize(
    "text",
    ["auto_disk_leases = 'maybe'\n", "io_timeout = -1\n", "user = [ 'root' ]\n", "host_id = 'x'; a = 1\n"],
)
def test_a_value_that_cannot_be_guessed(text: str) -> None:
    assert conf_repair.retyped("/c", parse_settings(text), 42) == ""


@pytest.mark.parametrize("line", ["host_id = '1'", "user = 107", "auto_disk_leases = 2", "io_timeout = -1"])
def test_a_setting_that_libvirts_driver_refuses_is_reported(tmp_path: Path, line: str) -> None:
    finding = check(tmp_path, qemu_sanlock=f"{line}\n")
    assert finding.verdict == "fail"
    assert f"qemu-sanlock.conf: {line.split(maxsplit=1)[0]}: " in finding.found
    assert finding.remedy == "libvirt refuses the file: correct that setting"
