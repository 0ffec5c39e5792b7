# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checks on libvirtd and its authentication: pass, warn and fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

import libvirt_auth
from sanlock_helper.checks.auth_conf import check_auth_file, check_auth_groups, check_auth_mode
from sanlock_helper.checks.facts import ConnectionAttempt, Facts, HostPaths
from sanlock_helper.checks.finding import Finding
from sanlock_helper.checks.libvirtd import check_authentication, check_libvirtd, check_limits
from sanlock_helper.checks.remedies import give
from sanlock_helper.cli.verbs.auth import group_steps
from sanlock_helper.errors import PermanentError, TransientError
from sanlock_helper.virt.libvirt_conf import in_force, parse_settings

URI = "qemu:///system"

GOOD = "[auth-libvirt-localhost]\ncredentials=a\n[credentials-a]\nauthname=x\npassword=hush\n"


def refused() -> PermanentError:
    error = PermanentError("connect", "authentication failed", "compare the credentials")
    error.__cause__ = libvirt_auth.AuthRefusedError("/etc/libvirt/auth.conf", "refused")
    return error


@pytest.mark.parametrize(
    ("attempt", "answers", "lets_in"),
    [
        (ConnectionAttempt(0.01, None), "pass", "pass"),
        (ConnectionAttempt(3.0, None), "warn", "pass"),
        (ConnectionAttempt(0.01, TransientError("connect", "Connection refused")), "fail", "warn"),
        (ConnectionAttempt(0.01, refused()), "pass", "fail"),
    ],
)
def test_the_answer_and_the_authentication(attempt: ConnectionAttempt, answers: str, lets_in: str) -> None:
    assert check_libvirtd(attempt, "virtqemud", URI).verdict == answers
    finding = check_authentication(attempt, "sasl", "virtqemud")
    assert finding.verdict == lets_in
    if lets_in == "fail":
        assert finding.remedy == "compare the credentials"
    if answers == "fail":
        assert "systemctl start virtqemud.socket" in check_libvirtd(attempt, "virtqemud", URI).remedy


def test_limits() -> None:
    assert check_limits({}, 100, 40).verdict == "pass"
    low = check_limits({"max_clients": 50}, 100, 40)
    assert (low.verdict, low.remedy) == ("warn", "raise max_clients to 120")
    assert check_limits({"max_client_requests": 1}, 1, 40).remedy == "raise max_client_requests to 2"
    late = check_limits({"max_workers": 1}, 200, 40)
    assert late.verdict == "fail"
    assert "50.0 s, there are 40" in late.found
    assert check_limits({"max_workers": "many"}, 1, 40).verdict == "fail"


def test_a_daemon_that_its_socket_starts_is_no_failure() -> None:
    finding = check_libvirtd(ConnectionAttempt(3.0, None, activated=True), "virtqemud", URI)
    assert (finding.verdict, "started by its socket" in finding.found) == ("pass", True)
    busy = check_libvirtd(ConnectionAttempt(3.0, None), "virtqemud", URI)
    assert "virt-admin -c virtqemud:///system server-threadpool-info virtqemud" in busy.remedy


def test_a_socket_that_no_process_listens_on() -> None:
    attempt = ConnectionAttempt(
        0.1, TransientError("connect", "Connection refused"), stale="/run/libvirt/virtqemud-sock"
    )
    finding = check_libvirtd(attempt, "libvirtd", URI, "rm it")
    assert "the client takes /run/libvirt/virtqemud-sock, on which no process listens" in finding.found
    assert finding.remedy == "rm it"


@pytest.mark.parametrize(("daemon", "other"), [("virtqemud", "libvirtd"), ("libvirtd", "virtqemud")])
def test_the_daemons_own_file_counts(tmp_path: Path, daemon: str, other: str) -> None:
    """Its limits, and whether it asks for credentials; the other daemon's file does not count."""
    (tmp_path / "libvirt").mkdir()
    sockets = tmp_path / "run/libvirt"
    sockets.mkdir(parents=True)
    # Both sockets, as on a host with modular daemons; libvirtd has one.
    for name in ("virtqemud-sock", "libvirt-sock")[daemon == "libvirtd" :]:
        (sockets / name).touch()
    (tmp_path / f"libvirt/{daemon}.conf").write_text('max_clients = 5\nauth_unix_rw = "sasl"\n')
    (tmp_path / f"libvirt/{other}.conf").write_text("max_workers = 1\n")
    facts = Facts(HostPaths(etc=tmp_path, run=tmp_path / "run", proc=tmp_path, lib=tmp_path, programs=()))
    assert facts.host.daemon == daemon
    assert facts.asks_for_sasl
    finding = check_limits(facts.daemon_conf, 100, 40, daemon)
    assert finding.verdict == "warn"
    assert finding.remedy == (
        f"raise max_clients to 120 in /etc/libvirt/{daemon}.conf, then restart {daemon}"
    )


def test_limits_are_raised_by_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "libvirtd.conf"
    path.write_text("max_clients = 5 # few\nmax_workers = 7")

    def found() -> Finding:
        settings = parse_settings(path.read_text())
        return check_limits(in_force(settings), 100, 40, "libvirtd", lambda low: give(path, settings, low))

    command, _, rest = found().remedy.partition(" && systemctl restart libvirtd  # ")
    assert rest.startswith("raise max_clients to 120, max_workers to 20 in /etc/libvirt/libvirtd.conf")
    subprocess.run(["sh", "-ec", command], check=True)
    assert found().verdict == "pass"


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """No file of this machine's."""
    monkeypatch.setattr("libvirt_auth.files.SYSTEM_FILE", str(tmp_path / "etc.conf"))
    return {"HOME": str(tmp_path)}


def test_the_file_in_force(environ: dict[str, str], tmp_path: Path) -> None:
    assert check_auth_file(URI, environ).found == "none"
    (tmp_path / "etc.conf").write_text(GOOD)
    assert check_auth_file(URI, environ).verdict == "pass"
    users = tmp_path / ".config/libvirt"
    users.mkdir(parents=True)
    (users / "auth.conf").write_text(GOOD)
    finding = check_auth_file(URI, environ)
    assert finding.verdict == "warn"
    assert finding.found == f"{users}/auth.conf is in force and hides {tmp_path}/etc.conf"
    forced = check_auth_file(URI, {**environ, "LIBVIRT_AUTH_FILE": "/missing"})
    assert (forced.verdict, forced.remedy) == ("fail", "correct LIBVIRT_AUTH_FILE, which names it")
    # A link to the very same file hides nothing.
    (users / "auth.conf").unlink()
    (users / "auth.conf").symlink_to(tmp_path / "etc.conf")
    assert check_auth_file(URI, environ).verdict == "pass"


@pytest.mark.parametrize(
    ("text", "asked", "verdict", "words"),
    [
        (GOOD, True, "pass", "authname, password"),
        (GOOD.replace("password=hush\n", ""), True, "fail", "without password"),
        (GOOD.replace("password=hush\n", ""), False, "warn", "without password"),
        (GOOD.replace("localhost", "otherhost"), True, "fail", "no group for it"),
        (GOOD.replace("localhost", "otherhost"), False, "pass", "asks for none"),
        (
            GOOD.replace("[credentials-a]", "[credentials-b]"),
            True,
            "fail",
            "[credentials-a], which is not there",
        ),
        (f"{GOOD}oops\n", True, "fail", ":6: neither"),
        (f"{GOOD}oops\n", False, "warn", ":6: neither"),
    ],
)
def test_groups(
    environ: dict[str, str], tmp_path: Path, text: str, asked: bool, verdict: str, words: str
) -> None:
    (tmp_path / "etc.conf").write_text(text)
    finding = check_auth_groups(URI, environ, asked)
    assert finding.verdict == verdict
    assert words in finding.found
    assert "hush" not in str(finding)
    assert bool(finding.remedy) == (verdict != "pass")


@pytest.mark.parametrize(
    ("version", "verdict"), [((2, 74, 6), "warn"), ((2, 78, 0), "warn"), ((2, 84, 4), "fail")]
)
@pytest.mark.parametrize("value", ["hu\\\\\\sh", "C:\\dir", "hush\\"])
def test_a_password_that_not_every_glib_reads(
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    version: tuple[int, int, int],
    verdict: str,
) -> None:
    monkeypatch.setattr("libvirt_auth.glib.loaded_version", lambda: version)
    (tmp_path / "etc.conf").write_text(GOOD.replace("hush", value))
    finding = check_auth_groups(URI, environ, asked=True)
    if value == "hu\\\\\\sh":
        assert finding.verdict == "pass"
        return
    if value.endswith("\\") and version == (2, 78, 0):
        verdict = "fail"
    assert (finding.verdict, finding.remedy) == (
        verdict,
        "write each backslash of password in [credentials-a] twice",
    )
    assert "no value for GLib from 2.79 on" in finding.found
    assert value not in f"{finding}"
    # As `auth check` shows it.
    monkeypatch.setattr("os.environ", environ)
    steps = [step for step in group_steps(URI) if step.result == "warning"]
    assert [step.what for step in steps] == ["field password"]
    assert "write each backslash twice" in steps[0].why
    # What the remedy asks for.
    (tmp_path / "etc.conf").write_text(GOOD.replace("hush", value.replace("\\", "\\\\")))
    assert check_auth_groups(URI, environ, asked=True).verdict == "pass"
    assert not [step for step in group_steps(URI) if step.result == "warning"]


def test_no_file_where_one_is_asked_for(environ: dict[str, str]) -> None:
    assert check_auth_groups(URI, environ, asked=True).verdict == "fail"
    assert check_auth_groups(URI, environ, asked=False).verdict == "pass"


@pytest.mark.parametrize(
    ("mode", "verdict"), [(0o600, "pass"), (0o640, "warn"), (0o644, "fail"), (0o602, "fail")]
)
def test_mode(tmp_path: Path, mode: int, verdict: str) -> None:
    path = tmp_path / "auth.conf"
    path.touch()
    path.chmod(mode)
    assert check_auth_mode(str(path)).verdict == verdict
    assert check_auth_mode(None).verdict == "pass"
