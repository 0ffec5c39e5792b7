# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checks on configuration and on the sanlock daemon: pass, warn and fail."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.configuration import check_host_id, check_io_timeout, check_lock_manager
from sanlock_helper.checks.facts import Facts, HostPaths, sanlock_settings
from sanlock_helper.checks.plan import CHECKS
from sanlock_helper.checks.sanlock import (
    Claim,
    Slot,
    check_clock,
    check_fire_timeout,
    check_grace,
    check_lockspace,
    check_running,
    check_unique,
    check_watchdog,
    is_this_host,
    lockspaces_without_clock,
    parse_dump,
    refusing_file,
)
from sanlock_helper.checks.unit_files import UnitFiles
from sanlock_helper.errors import PermanentError
from sanlock_helper.leases.sanlock_status import JoinedLockspace, SanlockStatus, parse_status
from sanlock_helper.leases.timeline import Timeline, timeline_of
from sanlock_helper.virt.libvirt_conf import Setting
from sanlock_helper.virt.qemu_sanlock_conf import LockConf, make_lock_conf

CONF = LockConf(True, 1, 0, "/var/lib/libvirt/sanlock", None, None)
SPACE = JoinedLockspace(
    "__LIBVIRT__DISKS__", 1, "/var/lib/libvirt/sanlock/__LIBVIRT__DISKS__", 0, {"io_timeout": "10"}
)


def status(*spaces: JoinedLockspace, **daemon: str) -> SanlockStatus:
    return SanlockStatus({"our_host_name": "host1", "version_str": "3.9.5", **daemon}, spaces, ())


@pytest.mark.parametrize(
    ("value", "verdict"), [("sanlock", "pass"), ("lockd", "fail"), (None, "fail"), ("nop", "fail")]
)
def test_lock_manager(value: str | None, verdict: str) -> None:
    assert check_lock_manager(value, "libvirtd").verdict == verdict


@pytest.mark.parametrize(
    ("number", "joined", "verdict"),
    [
        (1, None, "pass"),
        (2000, None, "pass"),
        (0, None, "fail"),
        (2001, None, "fail"),
        (1, 1, "pass"),
        (2, 1, "warn"),
    ],
)
def test_host_id(number: int, joined: int | None, verdict: str) -> None:
    space = replace(SPACE, host_id=joined) if joined else None
    assert check_host_id(replace(CONF, host_id=number), space).verdict == verdict
    assert check_host_id(replace(CONF, host_id=number, auto_disk_leases=False), space).verdict == "pass"


@pytest.mark.parametrize(("seconds", "verdict"), [(0, "pass"), (10, "pass"), (20, "warn")])
def test_io_timeout(seconds: int, verdict: str) -> None:
    assert check_io_timeout(replace(CONF, io_timeout=seconds), SPACE).verdict == verdict
    assert check_io_timeout(replace(CONF, io_timeout=seconds), None).verdict == "pass"


def test_a_setting_of_a_wrong_type_is_an_error_that_names_it() -> None:
    for values in ({"host_id": "1"}, {"auto_disk_leases": 2}, {"host_id": -1}, {"user": 5}):
        with pytest.raises(PermanentError, match=f"qemu-sanlock.conf: {next(iter(values))}"):
            make_lock_conf(values)


def test_running() -> None:
    assert check_running(status()).found == "sanlock 3.9.5 runs"


@pytest.mark.parametrize(("grace", "verdict"), [("40", "pass"), ("10", "warn"), ("0", "fail"), ("", "warn")])
def test_grace(grace: str, verdict: str) -> None:
    assert check_grace(status(kill_grace_seconds=grace)).verdict == verdict


def test_a_grace_that_the_watchdog_shortens() -> None:
    # As sanlock 3.9.5 answers.
    found = check_grace(status(kill_grace_seconds="15", watchdog_fire_timeout="45"))
    assert found.verdict == "warn"
    assert found.remedy.startswith("raise watchdog_fire_timeout: with 45 s it is this short")
    whole = check_grace(status(kill_grace_seconds="0", watchdog_fire_timeout="60"))
    assert (whole.verdict, "kill_grace_seconds in sanlock.conf" in whole.remedy) == ("fail", True)


@pytest.mark.parametrize(
    ("used", "words", "wdmd", "verdict"),
    [
        ("1", [], True, "pass"),
        ("1", [], False, "fail"),
        ("0", ["sanlock", "daemon", "-w", "0"], False, "pass"),
        ("0", ["sanlock", "daemon", "-w0"], False, "pass"),
        ("0", ["sanlock", "daemon"], False, "warn"),
        ("", [], True, "warn"),
    ],
)
def test_watchdog(used: str, words: list[str], wdmd: bool, verdict: str) -> None:
    assert check_watchdog(status(use_watchdog=used), words, wdmd).verdict == verdict


# What Debian 12 has there, and Debian 13.
INIT_SCRIPT = '[ -r /etc/default/$NAME ] && . /etc/default/$NAME\n[ "$enabled" = 1 ] || exit 0\nexit 3\n'
PROBE = "exec=/usr/sbin/wdmd\nexit 0\n"


@pytest.mark.parametrize("script", [INIT_SCRIPT, PROBE, None])
@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("enabled=1\n", True),
        ('# Set to 1 to start.\nenabled="1"\n', True),
        ("enabled=0\n", False),
        ("enabled=1\nenabled=0\n", False),
        ("#enabled=1\n", False),
        (None, False),
    ],
)
def test_debians_unit_of_wdmd_fails_with_what_its_file_asks_for(
    tmp_path: Path, script: str | None, text: str | None, fails: bool
) -> None:
    """By Debian 12's own script too, where it is here."""
    (tmp_path / "lib/systemd/system").mkdir(parents=True)
    program = tmp_path / "lib/systemd/systemd-wdmd"
    if script is not None:
        program.write_text(script)
    unit = f"[Service]\nExecStartPre={program} watchdog-check\nExecStart=/usr/sbin/wdmd\n"
    (tmp_path / "lib/systemd/system/wdmd.service").write_text(unit)
    path = tmp_path / "default/wdmd"
    path.parent.mkdir()
    if text is not None:
        path.write_text(text)
    files = UnitFiles(HostPaths(etc=tmp_path, run=tmp_path, lib=tmp_path / "lib"))
    fails = fails and script == INIT_SCRIPT
    assert refusing_file(tmp_path, files) == (str(path) if fails else "")
    debians = Path("/lib/systemd/systemd-wdmd")
    # Debian 13's loads a module of the kernel.
    if script == INIT_SCRIPT and debians.exists() and "/etc/default/" in debians.read_text():
        copy = tmp_path / "script"
        copy.write_text(debians.read_text().replace("/etc/default/$NAME", str(path)))
        assert (subprocess.run(["sh", str(copy), "watchdog-check"], check=False).returncode != 0) == fails
    if fails:
        found = check_watchdog(status(use_watchdog="1"), [], False, refusing=str(path))
        command = found.remedy.partition(" && systemctl enable --now wdmd")[0]
        subprocess.run(["sh", "-ec", command], check=True)
        assert refusing_file(tmp_path, files) == ""


def test_settings_of_sanlock_are_given_by_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "my sanlock/sanlock.conf"
    for remedy in (
        check_watchdog(status(use_watchdog="0"), [], False, path=str(path)).remedy,
        check_fire_timeout(status(watchdog_fire_timeout="20"), str(path)).remedy,
    ):
        command, _, rest = remedy.partition(" && systemctl restart sanlock  # ")
        assert rest
        for text in (None, "", "use_watchdog = 0\nx = 1\nwatchdog_fire_timeout=20\n# end", "use_watchdog=1"):
            if text is None:
                shutil.rmtree(path.parent, ignore_errors=True)
            else:
                path.write_text(text)
            subprocess.run(["sh", "-ec", command], check=True)
            values = [(setting.name, setting.value) for setting in sanlock_settings(str(path))]
            if "watchdog_fire_timeout = 60" in command:
                assert [value for name, value in values if name == "watchdog_fire_timeout"] == ["60"]
            else:
                assert "use_watchdog" not in dict(values)
            assert ("x", "1") in values or "x = 1" not in (text or "")


def test_the_grace_is_given_where_the_daemon_reads_it(tmp_path: Path) -> None:
    (tmp_path / "lib/systemd/system").mkdir(parents=True)
    (tmp_path / "default").mkdir()
    unit = f"EnvironmentFile=-{tmp_path}/default/sanlock\nExecStart=/usr/sbin/sanlock daemon $sanlock_opts\n"
    (tmp_path / "lib/systemd/system/sanlock.service").write_text(f"[Service]\n{unit}")
    (tmp_path / "default/sanlock").write_text('sanlock_opts="-w 0 -g 0"\n')
    grace = next(check for check in CHECKS if check.name == "kill_grace_seconds")

    def follow(version: str) -> None:
        facts = Facts(HostPaths(etc=tmp_path, lib=tmp_path / "lib", run=tmp_path), uid=0)
        facts.__dict__["sanlock"] = status(kill_grace_seconds="0", version_str=version)
        command = grace.run(facts).remedy.partition(" && systemctl restart")[0]
        subprocess.run(["sh", "-ec", command], check=True)

    follow("3.9.5")
    assert sanlock_settings(str(tmp_path / "sanlock/sanlock.conf"))[-1].value == "40"
    follow("3.8.5")
    assert (tmp_path / "default/sanlock").read_text().splitlines()[-1] == 'sanlock_opts="-w 0 -g 40"'


def test_a_watchdogs_daemon_that_systemd_does_not_start() -> None:
    used = status(use_watchdog="1")
    masked = check_watchdog(used, [], False, [], lambda: {"wdmd.service": "masked"})
    assert masked.remedy.startswith("systemctl unmask wdmd.service; systemctl enable --now wdmd  # ")
    assert "systemd: wdmd.service masked" in masked.found
    failed = check_watchdog(used, [], False, [], lambda: {"wdmd.service": "exit-code"})
    assert failed.remedy.startswith("systemctl reset-failed wdmd.service; systemctl enable --now wdmd  # ")
    assert check_watchdog(used, [], True, [], lambda: {"wdmd.service": "x"}).verdict == "pass"


@pytest.mark.parametrize(("fire", "verdict"), [("60", "pass"), ("", "pass"), ("30", "warn"), ("29", "fail")])
def test_fire_timeout(fire: str, verdict: str) -> None:
    assert check_fire_timeout(status(watchdog_fire_timeout=fire)).verdict == verdict


def test_the_clock_of_the_defaults_is_that_of_the_readme() -> None:
    clock = timeline_of(status(), [SPACE.name])
    assert clock == Timeline(10, 40, 60)
    finding = check_clock(clock, watchdog=True)
    assert finding.verdict == "pass"
    for words in ("warning 60 s", "lost 80 s", "SIGKILL 120 s", "reset 130 to 139 s", "another host 140 s"):
        assert words in finding.found


@pytest.mark.parametrize(
    ("grace", "fire", "watchdog", "verdict"),
    [(40, 60, False, "pass"), (55, 60, True, "warn"), (55, 60, False, "pass"), (60, 60, False, "fail")],
)
def test_clock(grace: int, fire: int, watchdog: bool, verdict: str) -> None:
    assert check_clock(Timeline(10, grace, fire), watchdog).verdict == verdict


def test_the_joined_lockspace_counts_for_the_clock() -> None:
    space = replace(SPACE, values={"io_timeout": "3"})
    assert timeline_of(status(space, kill_grace_seconds="7"), [SPACE.name], 20) == Timeline(3, 7, 60)


def test_lockspace() -> None:
    assert check_lockspace(status(SPACE), CONF, "libvirtd").verdict == "pass"
    assert check_lockspace(status(), CONF, "libvirtd").verdict == "fail"
    other = replace(SPACE, name="other")
    assert check_lockspace(status(other), CONF, "libvirtd").verdict == "fail"
    assert check_lockspace(status(other), replace(CONF, auto_disk_leases=False), "libvirtd").verdict == "pass"
    failing = replace(SPACE, values={"renewal_last_result": "-90"})
    assert check_lockspace(status(failing), CONF, "libvirtd").verdict == "warn"
    lost = replace(SPACE, values={"killing_pids": "1"})
    assert check_lockspace(status(lost), CONF, "libvirtd").verdict == "fail"


DUMP = """\
  offset    lockspace    resource  timestamp  own  gen lver
00000000                   __LIBVIRT__DISKS__    host1 0000002633 0001 0001
00000512                   __LIBVIRT__DISKS__    host2 0000000000 0002 0003
"""


def test_a_dump_is_read() -> None:
    assert parse_dump(DUMP) == {1: Slot("host1", 2633), 2: Slot("host2", 0)}


# What sanlock names itself when it is not given a name: of a UUID, and of the node's name as far as it fits.
GENERATED = "2b0c1f0a-6d0e-4c53-9a3e-0f1f4b9d3c77"


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ({}, {}, "pass"),
        ({1: Slot("host2", 0)}, {}, "pass"),
        ({1: Slot("host1", 5)}, {1: Slot("host1", 5)}, "pass"),
        ({1: Slot("host2", 5)}, {1: Slot("host2", 5)}, "warn"),
        ({1: Slot("host2", 5)}, {1: Slot("host2", 25)}, "fail"),
        # This host's, of an earlier run.
        ({1: Slot(f"{GENERATED}.node1", 5)}, {1: Slot(f"{GENERATED}.node1", 5)}, "pass"),
        # One that is alive is another, whatever its name: a clone.
        ({1: Slot(f"{GENERATED}.node1", 5)}, {1: Slot(f"{GENERATED}.node1", 25)}, "fail"),
        ({1: Slot(f"{GENERATED}.node2", 5)}, {1: Slot(f"{GENERATED}.node2", 5)}, "warn"),
        ({1: Slot(f"{GENERATED}.node", 5)}, {1: Slot(f"{GENERATED}.node", 5)}, "warn"),
        ({1: Slot(f"{GENERATED}.node11", 5)}, {1: Slot(f"{GENERATED}.node11", 5)}, "warn"),
        ({1: Slot("x.node1", 5)}, {1: Slot("x.node1", 5)}, "warn"),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_unique(first: dict[int, Slot], second: dict[int, Slot], verdict: str, waits: bool) -> None:
    slept: list[float] = []
    answers = iter((first, second))
    space = replace(SPACE, state="ADD", values={"list": "add", "io_timeout": "10"})
    known = status(space) if waits else status()
    finding = check_unique(
        known, CONF, lambda _claim: next(answers), lambda _claim, free: f"take {free}", slept.append, "node1"
    )
    assert finding.verdict == verdict
    # One renewal comes every 2 * io_timeout.
    assert slept in ([], [21])
    if verdict != "pass":
        assert finding.remedy.startswith("take 2  # or another host_id on ")


@pytest.mark.parametrize(("waits", "verdict"), [(True, "pass"), (False, "fail")])
def test_another_host_with_the_same_name(waits: bool, verdict: str) -> None:
    """Of two hosts with one configuration; only a sanlock that was asked to join renews a place."""
    answers = iter(({1: Slot("host1", 5)}, {1: Slot("host1", 25)}))
    space = replace(SPACE, state="ADD", values={"list": "add"})
    known = status(space) if waits else status()
    finding = check_unique(known, CONF, lambda _claim: next(answers), sleep=lambda _seconds: None)
    assert finding.verdict == verdict


@pytest.mark.parametrize(
    ("owner", "node", "same"),
    [
        (f"{GENERATED}.hypervisor-", "hypervisor-01.example.com", True),
        (f"{GENERATED}.hypervisor-", "hypervisor-", True),
        (f"{GENERATED}.hypervisor-", "hypervisor", False),
        (f"{GENERATED}.other-hyper", "hypervisor-01", False),
        (f"{GENERATED}.short", "short.example.com", False),
        (f"{GENERATED}.", "node", False),
        ("", "", False),
    ],
)
def test_a_name_that_sanlock_made_for_an_earlier_run(owner: str, node: str, same: bool) -> None:
    assert is_this_host(owner, "host1", node) == same
    assert is_this_host("host1", "host1", node)


def test_a_joined_host_id_is_not_read_from_storage() -> None:
    def never(_claim: Claim) -> dict[int, Slot]:
        raise AssertionError

    assert check_unique(status(SPACE), CONF, never).verdict == "pass"
    assert check_unique(status(), replace(CONF, auto_disk_leases=False), never).verdict == "pass"


def test_a_lockspace_of_a_lease_element_waits_for_another_host() -> None:
    """Whether automatic leases are on or not; the worst of several counts."""
    read: list[Claim] = []

    def slots(claim: Claim) -> dict[int, Slot]:
        read.append(claim)
        return {7: Slot("host9", len(read)), 1: Slot("host1", 1)}

    space = JoinedLockspace("mine", 7, "/x", 512, {"list": "add", "io_timeout": "2"}, "ADD")
    leaving = JoinedLockspace("old", 7, "/y", 0, {}, "REM")
    conf = replace(CONF, auto_disk_leases=False)
    slept: list[float] = []
    finding = check_unique(status(space, leaving), conf, slots, sleep=slept.append)
    assert (finding.verdict, slept) == ("fail", [5])
    assert "does not join mine until that ends" in finding.found
    assert read[0] == Claim("mine", 7, "/x", 512, 2)
    read.clear()
    assert check_unique(status(space), CONF, slots, sleep=slept.append).verdict == "fail"


@pytest.mark.parametrize(
    ("names", "used", "verdict", "words"),
    [
        (("mine",), ["mine"], "pass", "mine as host 1"),
        ((), ["mine"], "fail", "none is joined"),
        (("__LIBVIRT__DISKS__",), ["__LIBVIRT__DISKS__", "mine"], "fail", "not joined: mine"),
        # What no domain uses does not count.
        (("__LIBVIRT__DISKS__",), ["mine"], "fail", "none is joined"),
        (("other",), [], "pass", "other as host 1"),
        ((), [], "fail", "none is joined"),
    ],
)
def test_lockspaces_in_use(names: tuple[str, ...], used: list[str], verdict: str, words: str) -> None:
    known = status(*(replace(SPACE, name=name) for name in names))
    found = check_lockspace(known, CONF, "libvirtd", used, {"mine": "join mine"})
    assert (found.verdict, words in found.found) == (verdict, True)
    if verdict == "fail" and used:
        assert found.remedy == "join mine"


def test_what_a_remedy_does_not_know_is_explained() -> None:
    found = check_lockspace(status(), CONF, "libvirtd", ["mine"], {"mine": "join mine:HOST_ID:PATH:0"})
    assert found.remedy == (
        "join mine:HOST_ID:PATH:0  # HOST_ID: this host's own number, 1 to 2000, PATH: the file or device "
        "that it was made in"
    )
    both = check_lockspace(status(), CONF, "libvirtd", [SPACE.name, "mine"], {"mine": "join mine"})
    assert both.remedy == "systemctl restart libvirtd && join mine"


def test_the_clock_is_that_of_the_lockspaces_in_use() -> None:
    unused = replace(SPACE, values={"io_timeout": "1"})
    used = JoinedLockspace("mine", 1, "/x", 0, {"io_timeout": "20"})
    assert timeline_of(status(unused, used), ["mine"]).io_timeout == 20


@pytest.mark.parametrize(
    ("version", "value", "verdict"),
    [
        ("5.1.1", "0", "pass"),
        ("4.0.0", "0", "pass"),
        ("5.1.1", "1", "warn"),
        ("3.8.5", "0", "warn"),
        ("", "0", "warn"),
    ],
)
def test_a_unit_without_options_has_the_watchdog_in_its_file(version: str, value: str, verdict: str) -> None:
    conf = [Setting("use_watchdog", "1", 1), Setting("use_watchdog", value, 2)]
    found = check_watchdog(status(use_watchdog="0", version_str=version), ["sanlock", "daemon"], False, conf)
    assert found.verdict == verdict
    if verdict == "warn":
        assert ("-w 0" in found.remedy) == (version in ("3.8.5", ""))


@pytest.mark.parametrize(
    ("version", "option"), [("3.8.5", True), ("", True), ("3.9.5", False), ("5.1.1", False)]
)
def test_the_option_is_named_where_it_is_one(version: str, option: bool) -> None:
    found = check_grace(status(kill_grace_seconds="0", version_str=version), lambda: "set it")
    assert found.remedy.startswith("set it && systemctl restart sanlock  # with no VM running")
    assert ("-g" in found.remedy) == option
    assert "kill_grace_seconds in sanlock.conf" in found.remedy


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"no_timeout": "1", "no_watchdog": "0"},
            ["disks: no_timeout, no other host takes its leases by itself"],
        ),
        ({"no_timeout": "0", "no_watchdog": "1"}, ["disks: no_watchdog, the host is not reset for it"]),
        ({"no_timeout": "1", "no_watchdog": "1"}, ["no_timeout", "no_watchdog"]),
        ({"no_timeout": "0", "no_watchdog": "0"}, []),
        ({}, []),
    ],
)
def test_lockspaces_that_the_clock_does_not_hold_for(values: dict[str, str], words: list[str]) -> None:
    text = "daemon 1\n    use_watchdog=1\ns disks:1:/leases/disks:0\n    io_timeout=10\n"
    text += "".join(f"    {name}={value}\n" for name, value in values.items())
    without = lockspaces_without_clock(parse_status(text))
    assert len(without) == len(words)
    finding = check_clock(Timeline(10, 40, 60), True, without)
    assert finding.verdict == ("warn" if words else "pass")
    for word in words:
        assert word in finding.found
