# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a lockspace is healthy, and whether it was lost since; see also tests/e2e/test_fake_sanlock.py."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pytest_mock import MockerFixture

from sanlock_helper.errors import PermanentError
from sanlock_helper.leases import held as leases
from sanlock_helper.leases.held import Lockspace
from sanlock_helper.leases.lockspaces import Sanlock
from sanlock_helper.leases.sanlock_status import SanlockUnknownError, parse_status

try:
    from sanlock_helper.leases import libsanlock
except PermanentError as error:
    pytest.skip(str(error), allow_module_level=True)

NOTED = Lockspace("LS", 1, "/LS", 0, 1, generation=4)

STATUS = """\
daemon host1
s LS:1:/LS:0
    list=spaces
    io_timeout=1
    host_generation=4
    space_dead=0
    killing_pids=0
"""


def kept(text: str, lockspace: Lockspace = NOTED) -> bool:
    return Sanlock(status=lambda: parse_status(text)).still_joined_since(lockspace)


def test_joined_all_along() -> None:
    assert kept(STATUS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("host_generation=4", "host_generation=5"),
        ("host_generation=4", "host_generation=44"),
        ("    host_generation=4\n", ""),
        ("killing_pids=0", "killing_pids=1"),
        ("killing_pids=0", "killing_pids=2"),
        ("space_dead=0", "space_dead=1"),
        ("list=spaces", "list=rem"),
        ("s LS:1:", "s LS:2:"),
        ("s LS:", "s other:"),
    ],
)
def test_anything_else_was_lost(before: str, after: str) -> None:
    assert before in STATUS
    assert not kept(STATUS.replace(before, after))


def test_what_was_not_known_to_be_healthy_was_lost() -> None:
    generation_0 = STATUS.replace("host_generation=4", "host_generation=0")
    assert not kept(generation_0, Lockspace("LS", 1, "/LS", 0, 1))


def test_a_sanlock_that_does_not_answer_proves_nothing() -> None:
    def silent() -> Any:
        raise SanlockUnknownError("ask sanlock", "no answer")

    assert not Sanlock(status=silent).still_joined_since(NOTED)


def test_sanlock_is_asked_with_the_group_of_its_socket(mocker: MockerFixture) -> None:
    group = mocker.patch.object(leases, "join_sanlock_group")

    def status() -> Any:
        group.assert_called_once_with()
        return parse_status(STATUS)

    assert Sanlock(status=status).still_joined_since(NOTED)


@pytest.mark.parametrize(("age", "generation"), [(0, 9), (59, 9), (61, 0), (80, 0)])
def test_the_generation_is_noted_of_a_healthy_lockspace_only(
    mocker: MockerFixture, age: float, generation: int
) -> None:
    """At a loss 80 s have passed since the last renewal, with an io_timeout of 10 s."""
    get_hosts = mocker.patch.object(libsanlock, "get_hosts")
    host = {"io_timeout": 10, "timestamp": time.monotonic() - age, "generation": 9}
    get_hosts.return_value = [host]
    entry = {"lockspace": b"LS", "host_id": 1, "path": "/LS", "offset": 0}
    found = leases._lockspace(entry)
    assert (found.name, found.io_timeout, found.generation) == ("LS", 10, generation)
