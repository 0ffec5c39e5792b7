# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of guests that stop by an I/O error share."""

from __future__ import annotations

from collections.abc import Sequence

from .domains import Domain
from .failing_disk import FailingDisk
from .leases import Lease
from .recovery import HELPER, IDENTIFIER, POLICY, path_unit
from .stack import Stack
from .standing import CONNECTIONS, StandingAgent, connections
from .waiting import wait_for


def stopping_domain(
    stack: Stack, name: str, metadata: str | None = POLICY, leases: Sequence[Lease] = ()
) -> tuple[Domain, FailingDisk]:
    """A domain that runs and uses its second disk, over which it can be made to stop."""
    domain = stack.domain(name, "pause", metadata=metadata, leases=leases)
    disk = FailingDisk(stack, domain)
    return domain.start(), disk


def stop(domain: Domain, disk: FailingDisk) -> None:
    """Make the disk fail, and wait until the guest has stopped."""
    disk.fail()
    wait_for(lambda: domain.state() == ("paused", "I/O error"), 20, f"{domain.name} to stop")


def stand(stack: Stack) -> StandingAgent:
    """Our helper, an agent that stands and listens, and what systemd does when a record appears."""
    stack.install_helper(HELPER)
    agent = StandingAgent(stack)
    agent.wait_ready()
    path_unit(stack)
    wait_for(lambda: connections(stack) == CONNECTIONS, 10, "the agent's connections")
    return agent


def stopped_lines(stack: Stack, domain: Domain) -> list[str]:
    """What the agent has logged of the domain's stops."""
    words = f"recover {domain.name} {domain.uuid}: stopped by an I/O error"
    return [line.message for line in stack.journal(IDENTIFIER) if words in line.message]
