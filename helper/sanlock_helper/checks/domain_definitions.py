# SPDX-License-Identifier: LGPL-2.1-or-later
"""The domains: does each start under sanlock, with leases, and with an action that its driver accepts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..virt.libvirt_conf import Setting, Value
from ..virt.qemu_sanlock_conf import LockConf
from .finding import Finding, failed, passed, warned
from .leases import STOPPED, expected_leases, locked_disks, unknown_volumes
from .registry import check
from .remedies import called, give, redefine, restart, started_again

if TYPE_CHECKING:
    from ..virt.inventory import KnownDomain
    from .facts import Facts

# virLockManagerSanlockRegisterKillscript() in libvirt src/locking/lock_driver_sanlock.c registers these.
ACCEPTED = ("poweroff", "pause")

# What is written in the place of another one; with a policy for recovery poweroff is restart.
_INSTEAD = {"restart": "poweroff"}


def takes_leases(domain: KnownDomain, conf: LockConf) -> bool:
    """Whether DOMAIN runs under a lease."""
    return bool(expected_leases(domain, conf) or (conf.auto_disk_leases and unknown_volumes(domain)))


@check(
    "on_lockfailure",
    f"{' or '.join(ACCEPTED)} in each domain with a lease",
    reads=lambda facts: (facts.domains, facts.lock_conf),
)
def check_actions(domains: Iterable[KnownDomain], conf: LockConf) -> Finding:
    """Whether libvirt's sanlock driver starts each domain with its on_lockfailure, and registers a killpath.

    Without one sanlock sends SIGTERM at the loss, and the helper never runs.
    """
    refused, absent, number = [], [], 0
    for domain in domains:
        if domain.config is None or not takes_leases(domain, conf):
            continue
        number += 1
        action = domain.config.on_lockfailure
        if action == "default":
            absent.append((domain, action))
        elif action not in ACCEPTED:
            refused.append((domain, action))
    remedy = " && ".join(_with_action(domain, action) for domain, action in (*refused, *absent))
    remedy += "  # what runs has the change from its next start on"
    without = ", ".join(domain.name for domain, _ in absent)
    missing = f"none in {without}: sanlock sends SIGTERM, and runs no helper"
    if refused:
        found = f"sanlock refuses {', '.join(f'{action} of {domain.name}' for domain, action in refused)}"
        found += ": such a domain does not start"
        return failed(f"{found}; {missing}" if absent else found, remedy)
    if absent:
        return warned(missing, remedy)
    return passed(f"{number} domains with a lease")


def _with_action(domain: KnownDomain, action: str) -> str:
    """The command that gives DOMAIN an action in the place of ACTION."""
    accepted = _INSTEAD.get(action, "pause")
    line = f"<on_lockfailure>{accepted}</on_lockfailure>"
    command = redefine(called(domain), "/^  <on_lockfailure>/d", f"s|^  <devices>|  {line}\\n&|")
    if action == "restart":
        command += f" && virt-sanlock-helper policy --recover {called(domain)}"
    return command


def _without_automatic(facts: Facts) -> tuple[object, ...]:
    path = facts.host.etc / "libvirt/qemu-sanlock.conf"
    own = (facts.domains, facts.lock_conf, facts.host.daemon, facts.lock_settings, path, facts.host_id)
    return *own, (facts.host.etc / "vdsm").is_dir()


@check("disks without a lease", "a lease for each domain that writes to a disk", reads=_without_automatic)
def check_leaseless(
    domains: Iterable[KnownDomain],
    conf: LockConf,
    daemon: str,
    settings: Sequence[Setting] = (),
    path: Path = Path("/etc/libvirt/qemu-sanlock.conf"),
    host_id: int = 0,
    is_ovirts: bool = False,
) -> Finding:
    """Whether a domain is without any lease because automatic ones are off.

    libvirt does not start it, or with require_lease_for_disks = 0 starts it unprotected
    (virLockManagerSanlockAcquire() in libvirt src/locking/lock_driver_sanlock.c).  SETTINGS are those of
    PATH, HOST_ID is this host's, 0 where none is known.  IS_OVIRTS: vdsm configures the host, and oVirt's
    engine starts a domain on one host only; it gives a lease to those that an administrator chooses.
    """
    if conf.auto_disk_leases:
        return passed("each disk has one of its own: auto_disk_leases is on")
    bare = [domain for domain in domains if _writes(domain) and not expected_leases(domain, conf)]
    running = [domain for domain in bare if domain.is_active and domain.state not in STOPPED]
    off = [domain.name for domain in bare if domain not in running]
    if not bare:
        return passed("each domain that writes to a disk has a <lease>")
    found = [f"without any lease run {', '.join(domain.name for domain in running)}"] if running else []
    if off:
        would = "do not start" if conf.require_lease_for_disks else "would run unprotected"
        found.append(f"without any lease {would}: {', '.join(off)}")
    if is_ovirts:
        return warned("; ".join(found), "give these a lease in oVirt's engine, where it is meant to be")
    values: list[tuple[str, Value]] = [("auto_disk_leases", 1)]
    values += [] if conf.host_id else [("host_id", host_id)]
    remedy = give(path, settings, values) if host_id else ""
    if not remedy:
        remedy = f"set auto_disk_leases = 1 and host_id in {path}, then {restart(daemon)}"
        return failed("; ".join(found), f"{remedy}; or give each a <lease>")
    remedy = f"{remedy} && {restart(daemon)}"
    return failed("; ".join(found), f"{remedy} && {started_again(running)}" if running else remedy)


def _writes(domain: KnownDomain) -> bool:
    """Whether DOMAIN has a disk of its own to write to: libvirt leaves out those that are shareable."""
    shared = [disk for disk in locked_disks(domain) if disk.shared]
    return bool(len(locked_disks(domain)) > len(shared) or unknown_volumes(domain))
