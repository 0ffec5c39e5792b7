# SPDX-License-Identifier: LGPL-2.1-or-later
"""The text format of OpenMetrics, read back by the reference implementation's parser."""

from __future__ import annotations

import pytest

pytest.importorskip("libvirt")
pytest.importorskip("prometheus_client")

from prometheus_client import parser as older
from prometheus_client.openmetrics import parser

from sanlock_helper.agent_state import AgentState
from sanlock_helper.checks.finding import Finding
from sanlock_helper.cli.metrics import agent_lines, check_lines, print_metrics, status_lines
from sanlock_helper.history.forecast import AT_LOSS, AtLoss, Row
from sanlock_helper.history.outages import OutageEvent
from sanlock_helper.virt.inventory import KnownDomain

Samples = dict[str, dict[tuple[str, ...], float]]


def samples(text: str) -> Samples:
    """The values by metric and the values of its labels; the older format of Prometheus reads the same."""
    found = {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    }
    again = {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in older.text_string_to_metric_families(text)
    }
    assert again == found
    assert {family.type for family in parser.text_string_to_metric_families(text)} == {"gauge"}  # type: ignore[no-untyped-call]
    return {name.removeprefix("virt_sanlock_helper_"): values for name, values in found.items()}


def printed(lines: list[str], capsys: pytest.CaptureFixture[str]) -> Samples:
    print_metrics(lines)
    out = capsys.readouterr().out
    assert out.endswith("\n# EOF\n")
    return samples(out)


def test_checks(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("a check", "pass", "x"), Finding("b", "warn", "x"), Finding("c", "fail", "x")]
    found = printed(check_lines(findings, is_ready=False), capsys)
    assert found["ready"] == {(): 0.0}
    assert found["checks"] == {("pass",): 1.0, ("warn",): 1.0, ("fail",): 1.0}
    assert found["check_failed"] == {("a check",): 0.0, ("b",): 0.0, ("c",): 1.0}
    assert found["check_warned"] == {("a check",): 0.0, ("b",): 1.0, ("c",): 0.0}
    assert printed(check_lines(findings[:1], is_ready=True), capsys)["ready"] == {(): 1.0}


def _domain(name: str) -> KnownDomain:
    return KnownDomain(name, "u", 1, "running", None)


NAMES = {
    "vm1": "vm1",
    'a"b': 'a"b',
    "a\\b": "a\\b",
    "a\\nb": "a\\nb",
    "a\nb": "a\nb",
    "a{b},c=d#e f": "a{b},c=d#e f",
    "日本\u0301": "日本\u0301",
    "\U0001f468\u200d\U0001f469": "\U0001f468\u200d\U0001f469",
    # What moves a cursor, and what is not UTF-8.
    "a\x1b[2J\r\x9b": "a\\x1b[2J\\r\\x9b",
    "n\udcff": "n\\udcff",
    "": "",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_a_label(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row(_domain(name), {f"L{name}": 2}, (), AtLoss("", kind="pause"), None)
    found = printed(status_lines([row], 0, [], 0), capsys)
    assert found["domain_leases"] == {(NAMES[name], "u"): 2.0}
    assert found["leases"] == {(f"L{NAMES[name]}",): 2.0}


def test_status(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["pause", "pause", "nothing", "unknown"]
    leases: list[dict[str, int] | None] = [{"A": 1, "B": 2}, {"A": 3}, {}, None]
    rows = [
        Row(_domain(f"vm{number}"), held, ("A",) if number == 1 else (), AtLoss("", kind=kind), None)
        for number, (kind, held) in enumerate(zip(kinds, leases))
    ]
    events = [OutageEvent(time, kind) for time, kind in ((5.0, "lost"), (9.5, "lost"), (20.0, "done"))]
    found = printed(status_lines(rows, 3, events, 1), capsys)
    assert {kind: number for (kind,), number in found["domains"].items()} == {
        **dict.fromkeys(AT_LOSS, 0.0), "pause": 2.0, "nothing": 1.0, "unknown": 1.0,
    }  # fmt: skip
    assert found["leases"] == {("A",): 4.0, ("B",): 2.0}
    # What is not known has no sample: 0 would be a guess.
    assert set(found["domain_leases"]) == {("vm0", "u"), ("vm1", "u"), ("vm2", "u")}
    assert found["domain_leases_lost"][("vm1", "u")] == 1.0
    assert (found["records_waiting"], found["problems"]) == ({(): 3.0}, {(): 1.0})
    assert found["last_outage_timestamp_seconds"] == {(): 9.5}


def test_what_cannot_be_read_is_not_zero(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(status_lines([], None, None, 2), capsys)
    assert "records_waiting" not in found
    assert "last_outage_timestamp_seconds" not in found
    assert printed(status_lines([], 0, [], 0), capsys)["last_outage_timestamp_seconds"] == {}


@pytest.mark.parametrize("is_stopped", [False, True])
@pytest.mark.parametrize("locked", [0, 900])
def test_an_agent_that_stands(capsys: pytest.CaptureFixture[str], is_stopped: bool, locked: int) -> None:
    agent = AgentState(77, 1795305600.25, 36, locked, is_stopped)
    assert printed(agent_lines(agent), capsys) == {
        "agent_stands": {(): 1.0},
        "agent_stopped": {(): float(is_stopped)},
        "agent_start_timestamp_seconds": {(): 1795305600.25},
        "agent_resident_memory_bytes": {(): 36.0 * 1024 * 1024},
        "agent_locked_memory_bytes": {(): locked * 1024.0 * 1024},
    }


def test_no_agent_has_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(agent_lines(None), capsys)
    assert found.pop("agent_stands") == {(): 0.0}
    assert set(map(str, found.values())) == {"{}"}
