# SPDX-License-Identifier: LGPL-2.1-or-later
"""A storm of calls on libvirtd's test driver, each process with a limit of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.lease_loss import HELPER, story
from tests.e2e.preconditions import require_machine
from tests.e2e.stack import Stack
from tests.e2e.testdriver import URI, TestDomains
from tests.e2e.waiting import wait_for

NUMBER = 40


@contextmanager
def host() -> Iterator[Stack]:
    """One whose libvirtd has the test driver."""
    require_machine()
    with Stack(daemon="libvirtd") as stack:
        stack.use_stock_helper(record=False)
        yield stack


def storm(host: Stack, action: str, limit: str) -> tuple[list[str], list[str]]:
    """Call for NUMBER domains at once, and wait until all are safe; returns their UUIDs and all lines.

    LIMIT is what ulimit takes.
    """
    domains = TestDomains(host, NUMBER)
    try:
        script = (
            f"ulimit {limit}; while read uuid; do"
            f' "{HELPER}" {URI} $uuid {action} </dev/null >/dev/null 2>&1 & done'
        )
        host.run("sh", "-c", script, input="".join(f"{uuid}\n" for uuid in domains.uuids))
        wait_for(domains.safe, 30, "all to be safe")
        wait_for(lambda: not host.processes("libvirt_sanlock"), 15, "all helpers to end")
        return domains.uuids, [line.message for line in story(host)]
    finally:
        domains.close()
