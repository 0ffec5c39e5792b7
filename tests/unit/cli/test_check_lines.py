# SPDX-License-Identifier: LGPL-2.1-or-later
"""How findings are printed: groups, one line for one cause, the result last."""

from __future__ import annotations

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.facts import Facts, HostPaths, UnreadError
from sanlock_helper.checks.finding import Finding, failed, passed, warned
from sanlock_helper.checks.plan import CHECKS
from sanlock_helper.checks.registry import Check
from sanlock_helper.cli.check_lines import Report, print_summary, summary
from sanlock_helper.errors import RUN_AS_ROOT, PermanentError

AWAY = PermanentError("ask sanlock", "it does not answer", "systemctl start sanlock")


def named(name: str, finding: Finding) -> Finding:
    return Finding(name, finding.verdict, finding.found, finding.wanted, finding.remedy)


def unread(name: str, cause: str, error: PermanentError = AWAY, verdict: str = "warn") -> Finding:
    """What the registry makes of a check that cannot be made."""

    def reads(_facts: Facts) -> tuple[str]:
        raise UnreadError(error, cause) if cause else error

    return Check(name, "", reads, passed, verdict).run(Facts(HostPaths(), uid=0))


@pytest.mark.parametrize(
    ("findings", "line", "ready"),
    [
        ([], "0 failed, 0 warnings, 0 passed: READY", True),
        ([passed("x")] * 3, "0 failed, 0 warnings, 3 passed: READY", True),
        ([passed("x"), warned("x")], "0 failed, 1 warning, 1 passed: READY", True),
        ([failed("x"), warned("x"), warned("x")], "1 failed, 2 warnings, 0 passed: NOT READY", False),
        ([unread("a", ""), passed("x")], "0 failed, 1 warning, 1 passed: NOT KNOWN, 1 not checked", False),
        ([unread("a", "b"), failed("x")], "1 failed, 1 warning, 0 passed: NOT READY", False),
    ],
)
def test_the_last_line(
    findings: list[Finding], line: str, ready: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert summary(findings) == (line, ready)
    print_summary(findings)
    assert capsys.readouterr().out == f"{line}\n"


def test_one_line_for_one_cause(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(8)
    # The check that reports the cause comes in the midst of those that follow from it.
    for finding in (
        unread("memory", "sanlock"),
        unread("sanlock", "sanlock", verdict="fail"),
        unread("clock", "sanlock"),
    ):
        report.add(finding, "Group")
    report.end()
    assert capsys.readouterr().out.splitlines() == [
        "Group:",
        "sanlock   fail  ask sanlock: it does not answer",
        "                remedy: systemctl start sanlock",
        "",
        "Not checked:",
        "because of sanlock: memory, clock",
    ]  # fmt: skip


def test_the_same_reason_is_printed_once_whatever_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(6)
    other = PermanentError("read /x", "Input/output error")
    for finding in (unread("first", "", other), unread("second", "", other), unread("third", "", AWAY)):
        report.add(finding)
    report.end()
    text = capsys.readouterr().out
    assert text.count("Input/output error") == 1
    assert text.endswith("because of first: second\n")
    assert "third   warn  not checked: ask sanlock" in text


def test_a_cause_that_no_check_has_found_is_named_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(8)
    hangs = PermanentError("list the domains", "no answer within 10 s")
    for finding in (named("libvirtd", passed("answers")), unread("leases", "libvirtd", hangs)):
        report.add(finding)
    report.end()
    assert capsys.readouterr().out.endswith(
        "because of libvirtd (list the domains: no answer within 10 s): leases\n"
    )


def test_headings_stand_above_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(1, quiet=True)
    for group, finding in (("One", passed("x")), ("Two", warned("y", "do")), ("Three", passed("z"))):
        report.add(named("n", finding), group)
    report.end()
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["Two:", "n  warn  y"]
    assert "One" not in out
    assert "Three" not in out


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_wanted_and_remedy_have_lines_of_their_own(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("check_lines", "terminal"):
        monkeypatch.setattr(f"sanlock_helper.cli.{name}.columns_of", lambda *_: width)
    remedy = "move the VMs away; or: systemctl bind --read-only sanlock.service /usr/a /usr/b"
    report = Report(22)
    report.add(named("a check", failed("found " * 30, remedy, "wanted " * 20)), "Group")
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    stripped = [line.strip() for line in lines]
    assert any(line.startswith("wanted: wanted") for line in stripped)
    assert any(line.startswith("remedy: move the VMs") for line in stripped)
    if width >= 80:
        assert "systemctl bind --read-only sanlock.service /usr/a /usr/b" in stripped


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_as_another_user_no_check_fails(check: Check) -> None:
    finding = check.run(Facts(HostPaths(uri="test:///default"), uid=65534))
    if finding.verdict != "pass":
        assert (finding.verdict, finding.remedy) == ("warn", RUN_AS_ROOT)


def test_a_daemon_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask() -> None:
        asked.append(1)
        raise AWAY

    monkeypatch.setattr("sanlock_helper.checks.facts.ask_sanlock", ask)
    facts = Facts(HostPaths(), uid=0)
    checks = [
        check for check in CHECKS if check.name in ("sanlock", "watchdog", "kill_grace_seconds", "lockspace")
    ]
    found = [check.run(facts) for check in checks]
    assert len(asked) == 1
    assert {finding.unread for finding in found} - {""} == {"ask sanlock: it does not answer"}
