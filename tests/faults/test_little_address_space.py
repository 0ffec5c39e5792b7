# SPDX-License-Identifier: LGPL-2.1-or-later
"""A storm of calls, each process with the least address space that this program does with.

GLib aborts a process that gets no memory, and with it the agent of all others.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.lease_loss import HELPER, story
from tests.e2e.preconditions import require_machine
from tests.e2e.stack import Stack
from tests.e2e.testdriver import URI, TestDomains
from tests.e2e.waiting import wait_for

from .address_space import ENOUGH, LITTLE

pytestmark = pytest.mark.xdist_group("faults-1")

NUMBER = 40


@pytest.fixture(scope="module")
def host() -> Iterator[Stack]:
    require_machine()
    with Stack(daemon="libvirtd") as stack:
        stack.use_stock_helper(record=False)
        yield stack


def storm(host: Stack, action: str, mebibytes: int) -> list[list[str]]:
    """Call for NUMBER domains at once, and wait until all are safe; returns the lines about each."""
    domains = TestDomains(host, NUMBER)
    try:
        script = (
            f"ulimit -v {mebibytes << 10}; while read uuid; do"
            f' "{HELPER}" {URI} $uuid {action} </dev/null >/dev/null 2>&1 & done'
        )
        host.run("sh", "-c", script, input="".join(f"{uuid}\n" for uuid in domains.uuids))
        wait_for(domains.safe, 30, "all to be safe")
        wait_for(lambda: not host.processes("libvirt_sanlock"), 15, "all helpers to end")
        messages = [line.message for line in story(host)]
        return [[line for line in messages if uuid in line] for uuid in domains.uuids]
    finally:
        domains.close()


def test_with_what_is_asked_for_no_agent_dies(host: Stack) -> None:
    for lines in storm(host, "pause", ENOUGH):
        assert [": done after" in line for line in lines] == [True], lines


def test_with_less_libvirts_own_helper_serves_each(host: Stack) -> None:
    # Two processes may find the same request at the same time, and then both have libvirt's helper serve it.
    for lines in storm(host, "poweroff", LITTLE):
        assert lines
        assert all("takes over, to poweroff" in line for line in lines), lines
