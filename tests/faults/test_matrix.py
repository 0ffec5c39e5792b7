# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each fault at each stage of each action: the machine is safe in its budget, and one true outcome is logged.

Each fault here leaves libvirtd, where it is away at all, more than 10 s of the budget.  `make test` runs each
fault once, at its worst stage, and some with an agent that stands; `make faults` runs them all, with one and
without, beside libvirt's own helper, which has to do
nothing here: what it does is for the table of docs/reliability.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.lease_loss import AUTH_CONF
from tests.e2e.pair import Pair
from tests.e2e.preconditions import require_machine
from tests.e2e.stack import Stack

from . import results
from .cell import OURS, STOCK, Cell, cells, prepare_host, reason_to_leave_out
from .fault import NO_AGENT, Fault

IS_QUICK = os.environ.get("SANLOCK_HELPER_FAULTS") != "full"
# One for each process of the run: its cells share a stack.
GROUPS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


@pytest.fixture(scope="module")
def host() -> Iterator[Stack]:
    """A stack that the cells of one process share: each leaves it as it was."""
    require_machine()
    with Stack(daemon="libvirtd") as stack:
        prepare_host(stack)
        yield stack


@pytest.fixture(scope="module")
def login_host() -> Iterator[Stack]:
    """The same, whose libvirtd asks for a login; the credentials are in /etc/libvirt."""
    require_machine()
    with Stack(daemon="libvirtd") as stack:
        stack.enable_sasl("sanlock", "open sesame")
        stack.write_auth_conf(AUTH_CONF.format("sanlock", "open sesame"))
        prepare_host(stack)
        yield stack


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two hosts, the first of which is one for cells."""
    require_machine()
    with (
        Stack(daemon="libvirtd", on_disk=True, host_id=1) as source,
        Stack(daemon="libvirtd", host_id=2, storage=source.backing) as target,
    ):
        prepare_host(source)
        yield Pair(source, target)


def _group(number: int, fault: Fault) -> str:
    """The cells that one process runs: in the quick run all that need a stack of their own kind."""
    if IS_QUICK and (fault.hosts == 2 or fault.login):
        return f"faults-{fault.hosts}-{fault.login}"
    return f"faults-{number % GROUPS}"


def _parameters() -> Iterator[object]:
    for number, (kind, fault, stage, action, agent) in enumerate(cells(IS_QUICK)):
        for helper in (OURS,) if IS_QUICK else (OURS, STOCK):
            if not reason_to_leave_out(kind, fault, stage, helper, agent) or helper == OURS:
                name = f"{kind}-{fault.name}-{stage}-{action}-{helper}" + f"-{agent}" * (agent != NO_AGENT)
                yield pytest.param(
                    *(kind, fault, stage, action, helper, agent),
                    id=name.replace(" ", "_").replace("/", ""),
                    marks=pytest.mark.xdist_group(_group(number, fault)),
                )


@pytest.mark.parametrize(("kind", "fault", "stage", "action", "helper", "agent"), list(_parameters()))
def test_cell(
    request: pytest.FixtureRequest,
    kind: str,
    fault: Fault,
    stage: str,
    action: str,
    helper: str,
    agent: str,
) -> None:
    reason = reason_to_leave_out(kind, fault, stage, helper, agent)
    if reason:
        pytest.skip(reason)
    pair = request.getfixturevalue("pair") if fault.hosts == 2 else None
    host = pair.source if pair else request.getfixturevalue("login_host" if fault.login else "host")
    verdict = Cell(host, kind, fault, stage, action, helper, agent, pair).run()
    results.keep(verdict)
    if helper == OURS:
        assert verdict.is_safe, verdict
        assert verdict.is_true, verdict
        assert not verdict.unwanted, verdict
        # A stage that is not reached is no test of it; a few faults have no such stage for an action.
        assert verdict.reached or not IS_QUICK, verdict
