# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is started and mounted at boot, options for sanlock, and units that systemd has given up."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks import boot, mounts, unit_files
from sanlock_helper.checks.boot import Service, check_services
from sanlock_helper.checks.facts import ConnectionAttempt, Facts, HostPaths
from sanlock_helper.checks.hindered_units import freed, hindered_units
from sanlock_helper.checks.lease_dir import LeasePlace, Mount, lease_mount
from sanlock_helper.checks.libvirtd import check_libvirtd
from sanlock_helper.checks.mounts import BootMount, FstabEntry, check_mounts, parse_fstab, unit_name
from sanlock_helper.checks.plan import CHECKS
from sanlock_helper.checks.sanlock_options import Options, UnitOptions, check_options, unit_options, written
from sanlock_helper.checks.unit_files import UnitFiles
from sanlock_helper.errors import TransientError
from sanlock_helper.leases.sanlock_status import SanlockStatus
from sanlock_helper.virt.qemu_sanlock_conf import LockConf


@pytest.mark.parametrize(
    ("state", "starter", "verdict", "remedy"),
    [
        ("enabled", "", "pass", ""),
        ("alias", "", "pass", ""),
        ("generated", "", "pass", ""),
        ("disabled", "", "fail", "systemctl enable sanlock.service"),
        ("disabled", "vdsmd.service", "pass", ""),
        ("static", "vdsmd.service", "pass", ""),
        ("static", "", "fail", "systemctl add-wants multi-user.target sanlock.service"),
        ("indirect", "", "fail", "systemctl enable sanlock.service"),
        # Until the next boot only.
        ("enabled-runtime", "", "fail", "systemctl enable sanlock.service"),
        ("linked", "", "fail", "systemctl enable sanlock.service"),
        ("masked", "", "fail", "systemctl unmask sanlock.service && systemctl enable sanlock.service"),
        (
            "masked",
            "vdsmd.service",
            "fail",
            "systemctl unmask sanlock.service && systemctl enable sanlock.service",
        ),
        (
            "masked-runtime",
            "",
            "fail",
            "systemctl unmask --runtime sanlock.service && systemctl enable sanlock.service",
        ),
        ("not-found", "", "fail", "apt install sanlock"),
    ],
)
def test_services(state: str, starter: str, verdict: str, remedy: str) -> None:
    service = Service("sanlock.service", state, starter, "apt install sanlock")
    found = check_services([service, Service("libvirtd.service", "enabled", "", "")])
    assert (found.verdict, found.remedy) == (verdict, remedy)


def test_a_watchdog_that_sanlock_alone_starts() -> None:
    def found(starter: str) -> str:
        return check_services([Service("wdmd.service", "disabled", starter, "")]).verdict

    assert (found("sanlock.service"), found("vdsmd.service"), found("")) == ("warn", "pass", "fail")
    assert check_services(None).verdict == "warn"


def units(tmp_path: Path, **files: str) -> UnitFiles:
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_S", ".service")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return UnitFiles(HostPaths(etc=tmp_path / "etc", run=tmp_path / "run", lib=tmp_path / "lib"))


def test_a_unit_and_its_drop_ins(tmp_path: Path) -> None:
    files = units(
        tmp_path,
        lib__systemd__system__sanlock_S="ExecStart=/a $x\nEnvironmentFile=-/etc/default/sanlock\n",
    )
    assert files.values("sanlock.service", "ExecStart") == ["/a $x"]
    drop_in = tmp_path / "etc/systemd/system/sanlock.service.d/a.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("ExecStart=\nExecStart=/b ${y}\n")
    assert files.values("sanlock.service", "ExecStart") == ["/b ${y}"]
    assert unit_options(files) == UnitOptions(((Path("/etc/default/sanlock"), "y"),), "/b ${y}")
    assert files.has("sanlock.service")
    assert not files.has("wdmd.service")
    masked = tmp_path / "etc/systemd/system/wdmd.service"
    masked.symlink_to("/dev/null")
    assert files.text("wdmd.service") == ""


DEBIAN = UnitOptions(
    ((Path("/etc/default/sanlock"), "sanlock_opts"),), "/usr/sbin/sanlock daemon $sanlock_opts"
)
FEDORA = UnitOptions((), "/usr/sbin/sanlock daemon")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('SANLOCKOPTS="-w 0"\n', ("-w", "0")),
        ("SANLOCKOPTS=-w0\n", ("-w0",)),
        ("SANLOCKOPTS='-w 0' # no\n", ("-w", "0")),
        ("  export SANLOCK_OPTIONS='-w 0 -g 30'\n", ("-w", "0", "-g", "30")),
        ("SANLOCKOPTS='-w 1'\nSANLOCKOPTS='-w 0'\n", ("-w", "0")),
        ("sanlock_opts=\n", ()),
        ("# SANLOCKOPTS='-w 0'\n", None),
        ("enabled=1\n", None),
        ("SANLOCKOPTS='-w 0\n", ()),
    ],
)
def test_options_that_are_written(tmp_path: Path, text: str, words: tuple[str, ...] | None) -> None:
    (tmp_path / "sysconfig").mkdir()
    (tmp_path / "sysconfig/sanlock").write_text(text)
    assert [options.words for options in written(tmp_path)] == ([] if words is None else [words])


WRONG = Options(Path("/etc/sysconfig/sanlock"), "SANLOCKOPTS", ("-w", "0"))
NAMED = Options(Path("/etc/default/sanlock"), "SANLOCKOPTS", ("-w0",))
RIGHT = Options(Path("/etc/default/sanlock"), "sanlock_opts", ("-w", "0"))
LINE = ["/usr/sbin/sanlock", "daemon", "-w", "0"]
BARE = LINE[:2]


@pytest.mark.parametrize(
    ("given", "unit", "line", "unused", "verdict", "remedy"),
    [
        (
            [WRONG],
            DEBIAN,
            BARE,
            False,
            "warn",
            "printf '%s\\n' 'sanlock_opts=\"-w 0\"' >> /etc/default/sanlock",
        ),
        (
            [NAMED],
            DEBIAN,
            BARE,
            False,
            "warn",
            "printf '%s\\n' 'sanlock_opts=\"-w 0\"' >> /etc/default/sanlock",
        ),
        (
            [WRONG],
            DEBIAN,
            None,
            False,
            "warn",
            "printf '%s\\n' 'sanlock_opts=\"-w 0\"' >> /etc/default/sanlock",
        ),
        ([WRONG], FEDORA, BARE, False, "warn", "mkdir -p /etc/systemd/system/sanlock.service.d && printf "),
        # In force all the same.
        ([WRONG], DEBIAN, LINE, True, "pass", ""),
        ([WRONG, RIGHT], DEBIAN, LINE, True, "pass", ""),
        ([RIGHT], DEBIAN, None, False, "pass", ""),
        ([], DEBIAN, BARE, False, "pass", ""),
        # Read, but not yet.
        ([RIGHT], DEBIAN, BARE, False, "warn", "systemctl restart sanlock"),
        ([WRONG], UnitOptions((), "/lib/systemd/systemd-sanlock start"), BARE, False, "warn", ""),
    ],
)
def test_options_where_the_unit_reads_them(
    given: list[Options], unit: UnitOptions, line: list[str] | None, unused: bool, verdict: str, remedy: str
) -> None:
    found = check_options(given, unit, line, unused)
    assert (found.verdict, found.remedy.startswith(remedy)) == (verdict, True), found
    assert bool(found.remedy) == bool(remedy)


def test_options_that_are_there_stay() -> None:
    there = Options(Path("/etc/default/sanlock"), "sanlock_opts", ("-H", "100", "-w", "1"))
    found = check_options([there, WRONG], DEBIAN, [*BARE, "-H", "100", "-w", "1"])
    assert found.remedy.startswith(
        "printf '%s\\n' 'sanlock_opts=\"-H 100 -w 0\"' >> /etc/default/sanlock && "
    )


def test_where_sanlock_conf_has_what_options_were() -> None:
    found = check_options([WRONG], FEDORA, BARE, by_file=True)
    assert found.remedy.startswith("printf '%s\\n' 'use_watchdog = 0' >> /etc/sanlock/sanlock.conf && ")


def test_fstab() -> None:
    text = "# /a /b nfs\n\n/dev/sda1 / ext4 rw 0 1\ns:/e\\040x /my\\040dir/ nfs noauto,rw 0 0\nshort line\n"
    assert parse_fstab(text) == [
        FstabEntry(3, "/", frozenset(["rw"])),
        FstabEntry(4, "/my dir", frozenset(["noauto", "rw"])),
    ]


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ("/var/lib/libvirt/sanlock", "var-lib-libvirt-sanlock.mount"),
        ("/", "-.mount"),
        ("/a-b", r"a\x2db.mount"),
        ("/my dir/é", r"my\x20dir-\xc3\xa9.mount"),
        ("/.hidden/x.y", r"\x2ehidden-x.y.mount"),
    ],
)
def test_the_name_of_a_mount_unit(point: str, name: str) -> None:
    """As systemd-escape -p --suffix=mount prints it."""
    assert unit_name(point) == name


def test_mounts() -> None:
    nfs = Mount("/leases", "nfs4", "server:/my export")
    assert check_mounts([BootMount(nfs, "fstab")]).verdict == "pass"
    assert check_mounts([]).verdict == "pass"
    found = check_mounts([BootMount(nfs, "")])
    assert found.verdict == "warn"
    line = r"'server:/my\040export /leases nfs4 defaults,_netdev 0 0'"
    assert found.remedy == rf"printf '%s\n' {line} >> /etc/fstab"
    assert check_mounts([BootMount(nfs, "", 7)]).remedy == r"sed -i '7s/\bnoauto\b/auto/' /etc/fstab"


UNIT = r"srv-my\x2dleases.mount"


@pytest.mark.parametrize(
    ("files", "states", "by", "remedy"),
    [
        ({UNIT: ""}, {UNIT: "enabled"}, UNIT, ""),
        ({UNIT: ""}, None, UNIT, ""),
        ({UNIT: ""}, {UNIT: "disabled"}, "", f"systemctl enable '{UNIT}'"),
        ({UNIT: ""}, {UNIT: "masked"}, "", f"systemctl unmask '{UNIT}' && systemctl enable '{UNIT}'"),
        ({UNIT: ""}, {UNIT: "static"}, "", f"systemctl add-wants remote-fs.target '{UNIT}'"),
        ({UNIT: "", f"remote-fs.target.wants/{UNIT}": ""}, {UNIT: "static"}, UNIT, ""),
        ({UNIT: ""}, {UNIT: "disabled", UNIT.replace(".mount", ".automount"): "enabled"}, UNIT, ""),
        ({UNIT: "", "x.service": "RequiresMountsFor=/srv/my-leases/a\n"}, {UNIT: "static"}, UNIT, ""),
        ({UNIT: "", "x.service.d/y.conf": "WantsMountsFor=/a /srv/my-leases\n"}, {UNIT: "static"}, UNIT, ""),
        ({UNIT: "", "x.service": "RequiresMountsFor=/srv/my-leases2\n"}, {UNIT: "disabled"}, "", "enable"),
        # Of a line of fstab that has been taken away since.
        ({UNIT: "SourcePath=/etc/fstab\n"}, {UNIT: "generated"}, "", ">> /etc/fstab"),
        ({}, {}, "", ">> /etc/fstab"),
    ],
)
def test_a_mount_unit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    states: dict[str, str] | None,
    by: str,
    remedy: str,
) -> None:
    """One that is there is not yet one that is started at boot."""
    for name, text in files.items():
        path = tmp_path / "etc/systemd/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for module in (mounts, unit_files):
        monkeypatch.setattr(module, "unit_states", lambda names: states)
    facts = Facts(HostPaths(etc=tmp_path / "etc", run=tmp_path, lib=tmp_path, var=tmp_path), uid=0)
    facts.mountinfo = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n24 22 0:44 / /srv/my-leases rw - nfs4 server:/x rw\n"
    )
    facts.__dict__["lock_conf"] = LockConf(True, 1, 0, "/srv/my-leases", None, None)
    monkeypatch.setattr(mounts, "lease_places", lambda facts: [LeasePlace("/x", True, lease_mount(facts))])
    found = next(check for check in CHECKS if check.name == "lease mount").run(facts)
    assert (found.verdict, by in found.found) == ("pass" if by else "warn", True)
    assert remedy in found.remedy
    assert ("was mounted by hand" in found.found) == (">> /etc/fstab" in remedy)


SHOWN = """#!/bin/sh
printf 'Id=libvirtd.socket\nActiveState={socket}\nResult={result}\n\n'
printf 'Id=libvirtd.service\nActiveState={service}\nResult=start-limit-hit\n'
"""


@pytest.mark.parametrize(
    ("socket", "result", "service", "expected"),
    [
        ("active", "success", "inactive", ["libvirtd.service"]),
        ("failed", "service-start-limit-hit", "failed", ["libvirtd.socket", "libvirtd.service"]),
    ],
)
def test_units_that_systemd_has_given_up(
    tmp_path: Path, socket: str, result: str, service: str, expected: list[str]
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(SHOWN.format(socket=socket, result=result, service=service))
    program.chmod(0o755)
    given_up = hindered_units(["libvirtd.socket", "libvirtd.service"], str(program))
    assert list(given_up) == expected
    refused = ConnectionAttempt(0.1, TransientError("connect", "refused", "a hint"))
    start = "systemctl start libvirtd.socket; journalctl -u libvirtd -n 20"
    found = check_libvirtd(refused, "libvirtd", "qemu:///system", start, given_up)
    assert found.remedy == f"systemctl reset-failed {' '.join(expected)}; {start}"
    assert "libvirtd.service start-limit-hit" in found.found
    assert check_libvirtd(refused, "libvirtd", "qemu:///system", start, {}).remedy == "a hint"
    assert hindered_units(["x.service"], f"{tmp_path}/none") == {}


MASKED = """#!/bin/sh
printf 'Id=a.socket\nLoadState=masked\nUnitFileState=masked\nActiveState=inactive\nResult=success\n\n'
printf 'Id=a.service\nLoadState=masked\nUnitFileState=masked-runtime\nActiveState=failed\nResult=timeout\n\n'
printf 'Id=b.service\nLoadState=loaded\nActiveState=failed\nResult=exit-code\n\n'
printf 'Id=c.service\nLoadState=not-found\nActiveState=inactive\nResult=success\n'
"""


def test_units_that_are_masked(tmp_path: Path) -> None:
    program = tmp_path / "systemctl"
    program.write_text(MASKED)
    program.chmod(0o755)
    hindered = hindered_units(["a.socket", "a.service", "b.service", "c.service"], str(program))
    assert hindered == {"a.socket": "masked", "a.service": "masked-runtime", "b.service": "exit-code"}
    assert freed(hindered) == (
        "systemctl unmask a.socket; systemctl unmask --runtime a.service; systemctl reset-failed b.service; "
    )
    assert freed({}) == ""


def test_a_socket_that_is_masked_on_purpose() -> None:
    """As libvirtd(8) has it for a daemon that runs from boot on: its service is started."""
    refused = ConnectionAttempt(0.1, TransientError("connect", "refused"))
    start = "systemctl start libvirtd.socket; journalctl -u libvirtd -n 20"
    by_service = "systemctl start libvirtd.service; journalctl -u libvirtd -n 20"

    def remedy(**reasons: str) -> str:
        hindered = {f"libvirtd.{kind}": reason for kind, reason in reasons.items()}
        return check_libvirtd(refused, "libvirtd", "qemu:///system", start, hindered).remedy

    assert remedy(socket="masked") == by_service
    both = "systemctl unmask libvirtd.socket libvirtd.service; "
    assert remedy(socket="masked", service="masked") == f"{both}{start}"
    assert remedy(service="masked") == f"systemctl unmask libvirtd.service; {start}"
    assert remedy(socket="start-limit-hit") == f"systemctl reset-failed libvirtd.socket; {start}"


def test_a_socket_that_wdmd_left_when_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "wdmd").mkdir()
    facts = Facts(HostPaths(etc=tmp_path, run=tmp_path), uid=0)
    facts.sanlock_pid = os.getpid()
    facts.__dict__["sanlock"] = SanlockStatus({"use_watchdog": "1"}, (), ())
    watchdog = next(check for check in CHECKS if check.name == "watchdog")
    assert watchdog.run(facts).verdict == "fail"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/wdmd/wdmd.sock")
        listener.listen()
        assert watchdog.run(facts).verdict == "pass"
    found = watchdog.run(facts)
    assert (found.verdict, found.found[:38]) == ("fail", "sanlock uses it, and wdmd does not run")


def test_a_unit_without_install_section_that_a_target_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the remedy for a static unit makes it; is-enabled still prints static then."""
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    facts = Facts(HostPaths(etc=tmp_path / "etc", run=tmp_path, lib=tmp_path), uid=0)
    monkeypatch.setattr(boot, "unit_states", lambda names: dict.fromkeys(names, "static"))
    monkeypatch.setattr(unit_files, "unit_states", lambda names: {})
    check = next(check for check in CHECKS if check.name == "services")
    remedy = check.run(facts).remedy
    assert "systemctl add-wants multi-user.target sanlock.service" in remedy
    wants = folder / "multi-user.target.wants"
    wants.mkdir()
    for name in re.findall(r"\S+\.service", remedy):
        (wants / name).symlink_to(f"/lib/systemd/system/{name}")
    found = check.run(facts)
    assert (found.verdict, "sanlock.service static, started by multi-user.target" in found.found) == (
        "pass",
        True,
    )
