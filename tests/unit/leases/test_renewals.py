# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the age of a renewal to what follows, by sanlock's own clock."""

from __future__ import annotations

from typing import Any

import pytest

from sanlock_helper.leases.renewals import (
    FAILING,
    LOST,
    NEAR,
    REMOVED,
    RENEWED,
    Renewals,
    renewals_of,
)
from sanlock_helper.leases.timeline import Timeline

pytestmark = pytest.mark.pure

# As sanlock 3.8.5 reports a lockspace at an io_timeout of 10 s.
VALUES = {
    "list": "spaces",
    "space_id": "1",
    "io_timeout": "10",
    "host_generation": "4",
    "renew_fail": "0",
    "space_dead": "0",
    "killing_pids": "0",
    "corrupt_result": "0",
    "renewal_last_result": "1",
    "renewal_last_attempt": "1000",
    "renewal_last_success": "1000",
}
SETTINGS = {"use_watchdog": "1", "watchdog_fire_timeout": "60", "kill_grace_seconds": "40"}


def renewals(**changes: str) -> Renewals:
    found = renewals_of("space", {**VALUES, **changes}, SETTINGS)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("io_timeout", "age", "stage"),
    [
        (10, 0.0, RENEWED),
        (10, 29.99, RENEWED),
        (10, 30.0, FAILING),
        (10, 59.99, FAILING),
        (10, 60.0, NEAR),
        (10, 79.99, NEAR),
        (10, 80.0, LOST),
        (2, 5.99, RENEWED),
        (2, 6.0, FAILING),
        # One renewal follows another after 2 to 3.5 s then: 3 s are no failure.
        (1, 3.99, RENEWED),
        (1, 4.0, FAILING),
        (1, 6.0, NEAR),
        (1, 8.0, LOST),
        (20, 59.99, RENEWED),
        (20, 60.0, FAILING),
        (20, 160.0, LOST),
    ],
)
def test_the_stage(io_timeout: int, age: float, stage: str) -> None:
    assert renewals(io_timeout=str(io_timeout)).stage(1000 + age) == stage


def test_the_stage_changes_when_it_is_said_to() -> None:
    for io_timeout in (1, 2, 5, 10, 60):
        found = renewals(io_timeout=str(io_timeout))
        now, stages = 1000.0, [RENEWED]
        while (left := found.next_stage(now)) is not None:
            assert found.stage(now + left - 0.001) == stages[-1]
            now += left
            stages.append(found.stage(now))
        assert stages == [RENEWED, FAILING, NEAR, LOST]


def test_what_is_left() -> None:
    found = renewals()
    assert [found.left(80, 1000 + age) for age in (0.0, 0.4, 0.9, 79.4, 80.0, 500.0)] == [80, 80, 79, 1, 0, 0]
    assert found.until(80, 1000.25) == 79.75
    for quarter in range(4 * 80):
        assert found.age(1000 + quarter / 4) + found.left(80, 1000 + quarter / 4) == 80
    # A renewal of this second may be read a moment before its own time.
    assert found.age(999.9) == 0


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"renew_fail": "1", "space_dead": "1", "killing_pids": "1"}, LOST),
        ({"renew_fail": "1", "space_dead": "1", "killing_pids": "1", "list": "rem"}, LOST),
        # Its content was destroyed: lost at once.
        ({"corrupt_result": "-223"}, LOST),
        # sanlock client rem_lockspace.
        ({"space_dead": "1", "killing_pids": "1"}, REMOVED),
        ({"list": "rem"}, REMOVED),
    ],
)
def test_one_that_is_given_up(changes: dict[str, str], stage: str) -> None:
    found = renewals(**changes)
    # Whatever its renewals do since.
    assert {found.stage(1000 + age) for age in (0, 50, 100)} == {stage}
    assert found.next_stage(1001) is None


def test_one_without_a_timeout_is_never_lost() -> None:
    found = renewals(no_timeout="1")
    assert not found.has_timeout
    assert [found.stage(1000 + age) for age in (30, 60, 80, 8000)] == [FAILING, NEAR, NEAR, NEAR]
    assert found.next_stage(8000.0) is None


@pytest.mark.parametrize(
    ("values", "settings", "has_watchdog"),
    [
        ({}, {"use_watchdog": "0"}, False),
        ({"no_watchdog": "1"}, {}, False),
        ({"no_watchdog": "0"}, {}, True),
        ({}, {}, True),
    ],
)
def test_the_watchdog(values: dict[str, str], settings: dict[str, str], has_watchdog: bool) -> None:
    found = renewals_of("space", {**VALUES, **values}, {**SETTINGS, **settings})
    assert found is not None
    assert found.has_watchdog == has_watchdog


@pytest.mark.parametrize(
    "changes",
    [
        {"list": "add"},
        {"renewal_last_success": "0"},
        {"renewal_last_success": ""},
        {"renewal_last_success": "-1"},
        {"renewal_last_success": "x" * 5000},
        {"renewal_last_success": "9" * 5000},
    ],
)
def test_what_is_not_renewed_yet_or_not_reported(changes: dict[str, str]) -> None:
    assert renewals_of("space", {**VALUES, **changes}, SETTINGS) is None


def test_the_daemons_settings_and_the_defaults() -> None:
    settings: dict[str, Any] = {"watchdog_fire_timeout": "30", "kill_grace_seconds": "0"}
    found = renewals_of("space", VALUES, settings)
    assert found is not None
    assert found.timeline == Timeline(10, 0, 30)
    found = renewals_of("space", {"renewal_last_success": "5"}, {})
    assert found is not None
    assert found.timeline == Timeline(10, 40, 60)


def test_a_join_differs_from_another() -> None:
    assert renewals().joined == renewals(renewal_last_success="1020").joined
    assert renewals().joined != renewals(space_id="2").joined
    assert renewals().joined != renewals(host_generation="5").joined
