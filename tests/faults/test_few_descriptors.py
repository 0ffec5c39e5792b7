# SPDX-License-Identifier: LGPL-2.1-or-later
"""A storm of calls, each process with a low limit of open files: libvirt's client ends a process over that.

One more connection than the limit has room for, and GLib ends the agent by SIGTRAP.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.lease_loss import HELPER, story
from tests.e2e.preconditions import require_machine
from tests.e2e.stack import Stack
from tests.e2e.testdriver import URI, TestDomains
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.xdist_group("faults-0")

NUMBER = 40


@pytest.fixture(scope="module")
def host() -> Iterator[Stack]:
    require_machine()
    with Stack(daemon="libvirtd") as stack:
        stack.use_stock_helper(record=False)
        yield stack


@pytest.mark.parametrize("limit", [16, 24, 48])
@pytest.mark.parametrize("action", ["pause", "poweroff"])
def test_a_storm_with_few_descriptors(host: Stack, action: str, limit: int) -> None:
    domains = TestDomains(host, NUMBER)
    try:
        script = (
            f"ulimit -n {limit}; while read uuid; do"
            f' "{HELPER}" {URI} $uuid {action} </dev/null >/dev/null 2>&1 & done'
        )
        host.run("sh", "-c", script, input="".join(f"{uuid}\n" for uuid in domains.uuids))
        wait_for(domains.safe, 30, "all to be safe")
        wait_for(lambda: not host.processes("libvirt_sanlock"), 15, "all helpers to end")
        lines = [line.message for line in story(host) if line.message.startswith(f"{action} ")]
        done = [line.split(": done after")[0][-36:] for line in lines if ": done after" in line]
        assert sorted(uuid for uuid in done if uuid in domains.uuids) == sorted(domains.uuids)
        # No agent has died.
        assert not [line for line in lines if "died" in line or "this program failed" in line]
    finally:
        domains.close()
