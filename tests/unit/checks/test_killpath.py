# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checks on the killpath: pass, warn and fail."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.killpath import check_killpath, check_modules, check_program
from sanlock_helper.checks.runtime import check_arguments, registered_arguments
from sanlock_helper.checks.selinux import check_booleans, check_selinux, needed_booleans
from sanlock_helper.virt.inventory import DomainConfig, KnownDomain

ENVIRON = {"PATH": "/usr/bin:/bin"}

# Why it is another program, and the step.
CAUSE = ("it was started before", "activate")


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_bytes(text.encode("latin-1"))
    path.chmod(mode)
    return str(path)


def test_ours_passes_and_gets_sanlocks_environment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/root")
    text = '#!/bin/sh\n[ -z "$HOME" ] || exit 3\necho "libvirt_sanlock_helper (virt-sanlock-helper) 1.2"\n'
    path = script(tmp_path / "helper", text)
    finding = check_killpath(path, path, ENVIRON, 7, CAUSE, "1.2")
    assert (finding.verdict, finding.remedy) == ("pass", "")
    older = check_killpath(path, path, ENVIRON, 7, CAUSE, "1.3")
    assert older.verdict == "warn"
    assert "this command is 1.3" in older.found


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("\x7fELF\x02\x01", 0o755, "libvirt's C helper"),
        ("#!/bin/sh\necho 'other 1.0'\n", 0o755, "another program: other 1.0"),
        (
            "#!/bin/sh\necho Traceback >&2\necho 'ImportError: no libvirt' >&2\nexit 1\n",
            0o755,
            "ImportError: no",
        ),
        ("#!/nowhere/python\n", 0o755, "No such file"),
        ("#!/bin/sh\r\necho x\r\n", 0o755, r"(its interpreter /bin/sh\r is not there)"),
        ("#!/bin/sh\n", 0o755, "another program"),
        ("#!/bin/sh\n", 0o644, "not executable"),
    ],
)
def test_what_is_not_ours_fails(tmp_path: Path, text: str, mode: int, words: str) -> None:
    path = script(tmp_path / "helper", text, mode)
    finding = check_killpath("/usr/libexec/libvirt_sanlock_helper", path, ENVIRON, 7, CAUSE)
    assert finding.verdict == "fail"
    assert words in finding.found
    assert "/usr/libexec/libvirt_sanlock_helper" in finding.found
    assert finding.found.endswith(f"; {CAUSE[0]}")
    assert finding.remedy == CAUSE[1]
    program = check_program(path, ENVIRON)
    assert (program.verdict, program.remedy) == ("fail", "reinstall virt-sanlock-helper")
    assert words in program.found


def test_nothing_at_the_path_fails(tmp_path: Path) -> None:
    assert check_killpath("/x", str(tmp_path / "missing"), ENVIRON, 7, CAUSE).verdict == "fail"


def test_a_killpath_that_hangs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanlock_helper.checks.killpath.SECONDS", 0.2)
    path = script(tmp_path / "helper", "#!/bin/sh\nsleep 20\n")
    finding = check_killpath("/x", path, ENVIRON, 7, CAUSE)
    assert (finding.verdict, "no end within 0.2 s" in finding.found) == ("fail", True)


def test_without_a_sanlock_nothing_runs_now(tmp_path: Path) -> None:
    finding = check_killpath("/x", str(tmp_path / "missing"), ENVIRON, None, CAUSE)
    assert (finding.verdict, finding.found) == ("pass", "sanlock does not run")


def test_the_interpreter_of_the_command_needs_libvirt_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    finding = check_modules(script(tmp_path / "ours", "#!/usr/bin/python3 -ISB\n"), ENVIRON)
    assert (finding.verdict, finding.remedy) == (
        "fail",
        "apt install python3-libvirt, or dnf install python3-libvirt",
    )


def test_modules_are_imported_with_the_scripts_own_interpreter(tmp_path: Path) -> None:
    ours = script(tmp_path / "ours", "#!/usr/bin/python3 -ISB\n")
    assert check_modules(ours, ENVIRON).verdict == "pass"
    for answer, verdict in (("sanlock: none", "warn"), ("libvirt: none; sanlock: none", "fail")):
        python = script(tmp_path / "python", f"#!/bin/sh\necho '{answer}'\n")
        finding = check_modules(script(tmp_path / "helper", f"#!{python}\n"), ENVIRON)
        assert finding.verdict == verdict
        assert answer in finding.found
        package = "sanlock-lib" if verdict == "warn" else "python3-libvirt"
        assert f"install {package}" in finding.remedy
    broken = script(tmp_path / "python", "#!/bin/sh\nexit 5\n")
    assert check_modules(script(tmp_path / "helper", f"#!{broken}\n"), ENVIRON).verdict == "fail"


def test_a_library_without_sanlocks_calls_is_none(tmp_path: Path) -> None:
    """As where another program brings one of that name: the killpath refuses it, and no lease is read."""
    (library,) = set(re.findall(r"/\S+/libc[.-]\S+$", Path("/proc/self/maps").read_text(), re.MULTILINE))
    for name in ("libsanlock_client.so.1", "libsanlock.so.1"):
        (tmp_path / name).symlink_to(library)
    ours = script(tmp_path / "ours", "#!/usr/bin/python3 -ISB\n")
    finding = check_modules(ours, {**ENVIRON, "LD_LIBRARY_PATH": str(tmp_path)})
    assert (finding.verdict, "sanlock_inquire" in finding.found) == ("warn", True)
    assert "install sanlock-lib" in finding.remedy


def domain(name: str = "vm1") -> KnownDomain:
    return KnownDomain(name, str(uuid.uuid4()), 1, "running", DomainConfig("poweroff", False, (), ()))


def test_arguments_are_counted_as_libvirt_writes_them() -> None:
    assert registered_arguments("a b\\c", "u", "pause") == b"a\\ b\\\\c u pause"
    assert check_arguments([domain()], "qemu:///system", "/x").verdict == "pass"
    # 127 less the UUID, the action and two blanks.
    uri = "x" * (127 - 36 - len("poweroff") - 2)
    assert check_arguments([domain()], uri, "/x").verdict == "pass"
    finding = check_arguments([domain("long")], f"{uri}x", "/x")
    assert (finding.verdict, finding.found) == ("fail", "long: 128 bytes")
    assert check_arguments([], "qemu:///system", "/x" * 64).verdict == "fail"


@pytest.mark.parametrize(
    ("enforce", "label", "verdict"),
    [
        (None, None, "pass"),
        ("1", "system_u:object_r:virt_sanlock_helper_exec_t:s0", "pass"),
        ("1", "system_u:object_r:bin_t:s0", "fail"),
        ("0\n", "system_u:object_r:bin_t:s0", "warn"),
        ("1", None, "warn"),
        ("1", "system_u:object_r:user_home_t:s0", "warn"),
    ],
)
def test_selinux(enforce: str | None, label: str | None, verdict: str) -> None:
    assert check_selinux(enforce, label).verdict == verdict


@pytest.mark.parametrize(
    ("fstype", "needed"),
    [
        ("tmpfs", ["virt_use_sanlock"]),
        ("gfs2", ["virt_use_sanlock"]),
        ("nfs", ["virt_use_sanlock", "sanlock_use_nfs"]),
        ("nfs4", ["virt_use_sanlock", "sanlock_use_nfs"]),
        ("cifs", ["virt_use_sanlock", "sanlock_use_samba"]),
        ("fuse.glusterfs", ["virt_use_sanlock", "sanlock_use_fusefs"]),
    ],
)
def test_booleans(fstype: str, needed: list[str]) -> None:
    assert needed_booleans(fstype) == needed
    on = dict.fromkeys(needed, "1 1\n")
    assert check_booleans(None, dict.fromkeys(needed, "0 0")).verdict == "pass"
    assert check_booleans("1", on).verdict == "pass"
    for name in needed:
        for state in ("0 0", "0 1\n"):
            finding = check_booleans("1", {**on, name: state})
            assert (finding.verdict, finding.remedy) == ("fail", f"setsebool -P {name}=on")
    assert check_booleans("0", dict.fromkeys(needed, "0 0")).verdict == "warn"
    # "1 0" is on now.
    assert check_booleans("1", dict.fromkeys(needed, "1 0")).verdict == "pass"
