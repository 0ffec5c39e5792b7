# SPDX-License-Identifier: LGPL-2.1-or-later
"""A storm of calls, each process with the least address space that this program does with.

GLib aborts a process that gets no memory, and with it the agent of all others.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack

from . import limited_storm
from .address_space import ENOUGH, LITTLE
from .limited_storm import storm

pytestmark = pytest.mark.xdist_group("faults-1")


@pytest.fixture(scope="module")
def host() -> Iterator[Stack]:
    with limited_storm.host() as stack:
        yield stack


def about_each(host: Stack, action: str, mebibytes: int) -> list[list[str]]:
    """The lines about each domain of a storm of ACTION."""
    uuids, messages = storm(host, action, f"-v {mebibytes << 10}")
    return [[line for line in messages if uuid in line] for uuid in uuids]


def test_with_what_is_asked_for_no_agent_dies(host: Stack) -> None:
    for lines in about_each(host, "pause", ENOUGH):
        assert [": done after" in line for line in lines] == [True], lines


def test_with_less_libvirts_own_helper_serves_each(host: Stack) -> None:
    # Two processes may find the same request at the same time, and then both have libvirt's helper serve it.
    for lines in about_each(host, "poweroff", LITTLE):
        assert lines
        assert all("takes over, to poweroff" in line for line in lines), lines
