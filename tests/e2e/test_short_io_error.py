# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that stops by an I/O error in an outage too short to lose a lockspace: see test_io_errors.py."""

from __future__ import annotations

from .io_errors import stand, stop, stopping_domain
from .recovery import records, wait_for_line, wait_for_state
from .stack import Stack
from .waiting import wait_for


def test_a_short_outage_in_which_no_lockspace_is_lost(stack: Stack) -> None:
    stand(stack)
    domain, disk = stopping_domain(stack, "short")
    pid = domain.qemu_pid()

    stop(domain, disk)
    wait_for_line(stack, f"recover short {domain.uuid}: stopped by an I/O error")
    assert domain.leases() == []
    disk.serve()
    wait_for_state(domain, "running")
    wait_for(lambda: not records(stack), 10, "the end of all records")
    assert domain.qemu_pid() == pid
    assert [lease.state for lease in domain.leases()] == [""]
    assert stack.helper_calls() == []
