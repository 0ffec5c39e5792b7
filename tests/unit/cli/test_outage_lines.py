# SPDX-License-Identifier: LGPL-2.1-or-later
"""The countdown of `status`: its words, its JSON and its gauges."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.cli.metrics import lockspace_metrics
from sanlock_helper.cli.outage_lines import lockspace_json, lockspace_lines, outage_json, outage_line
from sanlock_helper.history.current_outage import CurrentOutage, LockspaceRow
from sanlock_helper.leases.renewals import renewals_of
from tests.schemas import FOLDER

VALUES = {"list": "spaces", "io_timeout": "10", "renewal_last_success": "1000", "renew_fail": "0"}


def row(domains: int = 2, waiting: int = 0, watchdog: str = "1", **values: str) -> LockspaceRow:
    found = renewals_of("space", {**VALUES, **values}, {"use_watchdog": watchdog})
    return LockspaceRow("space", found, domains, waiting)


ABSENT = LockspaceRow("space", None, 0, 1, is_joined=False)


@pytest.mark.parametrize(
    ("shown", "age", "text"),
    [
        (row(), 29.9, None),
        (
            row(),
            30.0,
            "no renewal for 30 s; lost in 50 s, SIGKILL in 90 s, reset of this host in 100 to 109 s",
        ),
        (row(), 79.4, "no renewal for 79 s; lost in 1 s, SIGKILL in 41 s, reset of this host in 51 to 60 s"),
        (
            row(watchdog="0"),
            60.0,
            "no renewal for 60 s; lost in 20 s, SIGKILL in 60 s, no reset of this host",
        ),
        (row(no_timeout="1"), 500.0, "no renewal for 500 s; sanlock does not give it up (no_timeout)"),
        (
            row(renew_fail="1"),
            85.0,
            "LOST, no renewal for 85 s; 2 domains hold leases in it still: SIGKILL in 35 s, reset of this "
            "host in 45 to 54 s",
        ),
        (
            row(1, renew_fail="1"),
            150.0,
            "LOST, no renewal for 150 s; 1 domain holds leases in it still: SIGKILL in 0 s, reset of this "
            "host in 0 to 0 s",
        ),
        (row(0, renew_fail="1"), 85.0, "LOST, no renewal for 85 s; no domain holds a lease in it"),
        (row(killing_pids="1"), 5.0, "it is removed, and sanlock ends what holds a lease in it"),
        (ABSENT, 0.0, "not joined, 1 domain waits for recovery to join it"),
        (ABSENT._replace(waiting=3), 0.0, "not joined, 3 domains wait for recovery to join it"),
        (LockspaceRow("space", None), 0.0, None),
    ],
)
def test_a_line(shown: LockspaceRow, age: float, text: str | None) -> None:
    lines = [piece.text for piece in lockspace_lines([shown], 1000.0 + age)]
    assert lines == ([] if text is None else [f"lockspace space: {text}"])


def test_a_name_moves_no_cursor() -> None:
    (line,) = lockspace_lines([row()._replace(name="a\x1b[2J\n")], 1040.0)
    assert line.text.startswith("lockspace a\\x1b[2J\\n: no renewal")


@pytest.mark.parametrize(
    ("shown", "age", "expected"),
    [
        (row(), 5.4, ("renewed", 10, 5, 75, 115, 125)),
        (row(), 61.0, ("near", 10, 61, 19, 59, 69)),
        (row(watchdog="0"), 61.0, ("near", 10, 61, 19, 59, None)),
        (row(no_timeout="1"), 61.0, ("near", 10, 61, None, None, None)),
        # Its content was destroyed: it is lost at once, and its grace goes by its renewals.
        (row(corrupt_result="-223"), 5.0, ("lost", 10, 5, 0, 115, 125)),
        (row(renew_fail="1"), 500.0, ("lost", 10, 500, 0, 0, 0)),
        (ABSENT, 0.0, ("absent", None, None, None, None, None)),
        (LockspaceRow("space", None), 0.0, (None, None, None, None, None, None)),
    ],
)
def test_json(shown: LockspaceRow, age: float, expected: tuple[object, ...]) -> None:
    found = lockspace_json(shown, 1000.0 + age)
    assert tuple(found[key] for key in list(found)[1:7]) == expected
    properties = json.loads((FOLDER / "status.json").read_text())["properties"]["lockspaces"]["items"]
    assert list(found) == properties["required"] == list(properties["properties"])
    assert found["stage"] in properties["properties"]["stage"]["enum"]


def test_gauges() -> None:
    lines = lockspace_metrics([row(), row(no_timeout="1")._replace(name="kept"), ABSENT], 1031.0)
    samples = [line for line in lines if not line.startswith("#")]
    assert samples == [
        'virt_sanlock_helper_lockspace_renewal_age_seconds{lockspace="space"} 31',
        'virt_sanlock_helper_lockspace_renewal_age_seconds{lockspace="kept"} 31',
        'virt_sanlock_helper_lockspace_loss_age_seconds{lockspace="space"} 80',
        'virt_sanlock_helper_lockspace_lost{lockspace="space"} 0',
        'virt_sanlock_helper_lockspace_lost{lockspace="kept"} 0',
    ]


def test_the_outage() -> None:
    outage = CurrentOutage(0.0, {"done": 12, "failed": 1}, 10)
    assert re.fullmatch(
        r"outage since \S+ \S+: 12 done, 1 failed; 10 domains wait for recovery", outage_line(outage).text
    )
    assert outage_line(CurrentOutage(0.0, {}, 1)).text.endswith(
        ": nothing on record; 1 domain waits for recovery"
    )
    assert outage_json(outage) == {
        "began": "1970-01-01T00:00:00.000Z",
        "outcomes": {"done": 12, "failed": 1},
        "waiting": 10,
    }
    assert outage_json(None) is None
