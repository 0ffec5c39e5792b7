# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain under a migration between two libvirtds at the moment its lease is lost (A9).

What counts is seen from outside the helper: each host's libvirtd, sanlock and /proc.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from .domains import Domain
from .pair import Migration, Pair
from .preconditions import require_machine
from .recovery import COMMAND, HELPER, IDENTIFIER, LOSS, URI, records
from .stack import Stack
from .waiting import wait_for

# The two stacks are made once.
pytestmark = pytest.mark.xdist_group("migration")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two hosts that the tests share."""
    require_machine()
    with Stack(on_disk=True, host_id=1) as source, Stack(host_id=2, storage=source.backing) as target:
        source.install_helper(HELPER)
        yield Pair(source, target)


def call(host: Stack, domain: Domain, action: str, budget: int = 20) -> subprocess.Popen[str]:
    """The helper on HOST, by hand."""
    return host.popen(str(HELPER), f"--budget={budget}", URI, domain.uuid, action)


def line(helper: subprocess.Popen[str]) -> str:
    """The last line of a helper, which has done what it was asked for."""
    _, errors = helper.communicate(timeout=30)
    assert helper.returncode == 0, errors
    return errors.strip().splitlines()[-1]


def wait_until_stopped(pair: Pair, domain: Domain) -> None:
    """Wait until its guest has stopped on the source, and libvirt has released its leases."""
    wait_for(lambda: domain.state(pair.source).name == "paused", LOSS, "the pause on the source")
    wait_for(lambda: not domain.leases(), 10, "the release")


def check_moved(pair: Pair, domain: Domain) -> None:
    """It runs on the target alone, with its lease, and nothing on the source will start it."""
    assert domain.state(pair.source).name in ("shut off", "absent")
    assert pair.qemu_pids(pair.source, domain) == []
    assert pair.source.leases() == []
    assert domain.state(pair.target).name == "running"
    (pid,) = pair.qemu_pids(pair.target, domain)
    assert [lease.pid for lease in pair.target.leases()] == [pid]


def check_recovery_leaves(pair: Pair, domain: Domain) -> None:
    """Recovery has nothing to do for it on the source."""
    done = pair.source.run(str(COMMAND), "recover", check=False)
    assert done.returncode == 0, done.stderr
    assert domain.uuid not in records(pair.source)
    check_moved(pair, domain)


def post_copy(pair: Pair, migration: Migration) -> None:
    """Switch to post-copy, at 1 MiB a second: the guest goes on on the target."""
    domain = migration.domain
    pair.source.virsh("migrate-postcopy", domain.uuid)
    wait_for(lambda: domain.state(pair.source) == ("paused", "post-copy"), 10, "the switch")
    wait_for(pair.target.leases, 10, "the guest to run on the target")


POST_COPY = ("--postcopy", "--postcopy-bandwidth", "1")


# Before the switch


@pytest.mark.parametrize(
    ("transient", "options"),
    [(False, ()), (False, ("--persistent", "--undefinesource")), (True, ())],
    ids=["persistent", "undefined", "transient"],
)
def test_a_migration_is_left_to_end(pair: Pair, transient: bool, options: tuple[str, ...]) -> None:
    domain = pair.domain(f"leaves{transient:d}{len(options)}", transient=transient)
    with pair.migrating(domain, *options) as migration:
        helper = call(pair.source, domain, "pause")
        wait_until_stopped(pair, domain)
        assert helper.poll() is None
        migration.hurry()
        assert migration.wait() == ""
        found = line(helper)
        assert "verified off" in found
        assert found.endswith("it was migrated to another host")
        check_moved(pair, domain)
        check_recovery_leaves(pair, domain)


def test_a_migration_that_is_given_up_ends_in_a_pause(pair: Pair) -> None:
    """libvirt lets the guest run on here, with its leases taken again."""
    domain = pair.domain("stays")
    with pair.migrating(domain) as migration:
        helper = call(pair.source, domain, "pause")
        wait_until_stopped(pair, domain)
        migration.abort()
        assert line(helper).endswith("suspended, verified paused, no lease held")
        assert "canceled" in migration.wait()
        assert domain.state(pair.source) == ("paused", "user")
        assert (pair.source.leases(), pair.target.leases()) == ([], [])
        assert pair.qemu_pids(pair.target, domain) == []
        assert domain.uuid in records(pair.source)


def test_a_lost_lease_stops_the_guest_and_its_migration(pair: Pair) -> None:
    """sanlock's own call. On storage the lease is the source's still: the target cannot have it."""
    pair.source.forget_helper_calls()
    domain = pair.domain("loses")
    with pair.migrating(domain) as migration:
        pair.lose()
        wait_for(pair.source.helper_calls, LOSS, "the call")
        wait_until_stopped(pair, domain)
        migration.hurry()
        (made,) = wait_for(
            lambda: [c for c in pair.source.helper_calls() if c.end is not None], 30, "the end of the call"
        )
        assert made.status == 0, made.stderr
        assert "verified paused, no lease held" in made.stderr
        assert "acquire" in migration.wait()
        assert domain.state(pair.source).name == "paused"
        assert (pair.source.leases(), pair.target.leases()) == ([], [])
        assert pair.qemu_pids(pair.target, domain) == []
        assert pair.source.sigkills() == []
    pair.restore()
    pair.source.join_lockspace()


@pytest.mark.parametrize("action", ["poweroff", "restart"])
def test_a_domain_that_migrates_is_powered_off(pair: Pair, action: str) -> None:
    domain = pair.domain(f"off-{action}")
    with pair.migrating(domain) as migration:
        assert "found running, destroyed" in line(call(pair.source, domain, action))
        assert migration.wait() != ""
        assert pair.qemu_pids(pair.target, domain) == []
        running = pair.qemu_pids(pair.source, domain)
        assert [lease.pid for lease in pair.source.leases()] == running
        assert len(running) == (action == "restart")
        assert pair.target.leases() == []


# The last phase


def test_the_last_phase_of_a_migration_is_no_pause(pair: Pair) -> None:
    """Paused (migrating) is not "verified paused": it ends here or there."""
    domain = pair.domain("last")
    with pair.migrating(domain) as migration:
        pair.target.libvirtd.freeze()
        try:
            migration.hurry()
            wait_until_stopped(pair, domain)
            assert domain.state(pair.source) == ("paused", "migrating")
            helper = call(pair.source, domain, "pause")
            with pytest.raises(subprocess.TimeoutExpired):
                helper.wait(1.5)
        finally:
            pair.target.libvirtd.thaw()
        assert migration.wait() == ""
        assert line(helper).endswith("verified off; it was migrated to another host")
        check_recovery_leaves(pair, domain)


# After the switch to post-copy, and after the end


@pytest.mark.parametrize("action", ["pause", "poweroff", "restart"])
def test_a_guest_that_has_moved_is_left_alone(pair: Pair, action: str) -> None:
    """Post-copy: to destroy the source killed the guest on the other host, where its lease is held."""
    domain = pair.domain(f"moved-{action}")
    with pair.migrating(domain, *POST_COPY) as migration:
        post_copy(pair, migration)
        found = line(call(pair.source, domain, action, budget=5))
        assert "nothing to do, verified paused, no lease held" in found
        assert "runs on another host" in found
        assert len(pair.target.leases()) == 1
        set_speed = '{"execute":"migrate-set-parameters","arguments":{"max-postcopy-bandwidth":0}}'
        pair.source.virsh("qemu-monitor-command", domain.uuid, set_speed)
        assert migration.wait() == ""
        if action == "pause":
            check_recovery_leaves(pair, domain)
        # Once it has gone it is not started here either.
        found = line(call(pair.source, domain, action, budget=5))
        assert found.endswith("verified off; it was migrated to another host")
        check_moved(pair, domain)


def test_a_guest_whose_post_copy_fails_stays_paused(pair: Pair) -> None:
    """It has run on the other host: "FAILED ... sanlock sends SIGKILL", and it holds no lease."""
    domain = pair.domain("failed")
    with pair.migrating(domain, *POST_COPY) as migration:
        post_copy(pair, migration)
        (pid,) = pair.qemu_pids(pair.target, domain)
        pair.target.signal(pid, signal.SIGKILL)
        wait_for(lambda: domain.state(pair.source).reason == "post-copy failed", 10, "the failure")
        found = line(call(pair.source, domain, "pause", budget=5))
        assert "nothing to do, verified paused, no lease held" in found
        assert domain.uuid not in records(pair.source)


# The target


def test_a_guest_that_comes_from_another_host(pair: Pair) -> None:
    """Its QEMU holds no lease yet; libvirtd has no statistics of such a job."""
    domain = pair.domain("comes")
    with pair.migrating(domain) as migration:
        wait_for(lambda: domain.state(pair.target).reason == "migrating", 10, "the target's QEMU")
        helper = call(pair.target, domain, "pause")
        wait_for(
            lambda: [m for m in pair.target.journal(IDENTIFIER) if domain.uuid in m.message], 10, "a try"
        )
        migration.hurry()
        assert migration.wait() == ""
        _, errors = helper.communicate(timeout=30)
        assert "it is being migrated to this host, which is left to end" in errors
        assert helper.returncode == 0, errors
        assert domain.state(pair.target) == ("paused", "user")
        assert (pair.source.leases(), pair.target.leases()) == ([], [])
        assert pair.qemu_pids(pair.source, domain) == []


def test_a_guest_that_comes_is_powered_off_and_goes_on_where_it_was(pair: Pair) -> None:
    domain = pair.domain("back")
    with pair.migrating(domain) as migration:
        wait_for(lambda: domain.state(pair.target).reason == "migrating", 10, "the target's QEMU")
        assert "destroyed, verified off" in line(call(pair.target, domain, "poweroff"))
        assert migration.wait() != ""
        wait_for(lambda: domain.state(pair.source).name == "running", 10, "it to go on")
        (pid,) = pair.qemu_pids(pair.source, domain)
        assert [lease.pid for lease in pair.source.leases()] == [pid]
        assert pair.qemu_pids(pair.target, domain) == []
