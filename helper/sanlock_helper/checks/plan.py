# SPDX-License-Identifier: LGPL-2.1-or-later
"""All checks, in the order in which an administrator mends what they find."""

from __future__ import annotations

from . import (
    auth_conf,
    boot,
    configuration,
    domain_definitions,
    killpath,
    lease_dir,
    leases,
    libvirtd,
    lockspace_files,
    mounts,
    multipath,
    recovery,
    runtime,
    sanlock,
    sanlock_options,
    selinux,
    storage_pools,
    system,
)
from .registry import Check, registered

# The installation first: without it nothing else matters.
GROUPS = (
    ("Installation", (killpath, selinux, runtime)),
    ("libvirt", (libvirtd, auth_conf, configuration)),
    ("sanlock", (sanlock, sanlock_options, boot, lockspace_files)),
    ("Leases", (lease_dir, mounts, leases, domain_definitions, storage_pools)),
    ("Recovery", (recovery,)),
    ("Host", (multipath, system)),
)

CHECKS: tuple[Check, ...] = tuple(
    check for _, modules in GROUPS for module in modules for check in registered(module.__name__)
)

# The heading of each check, by its name.
HEADINGS = {
    check.name: heading
    for heading, modules in GROUPS
    for module in modules
    for check in registered(module.__name__)
}

# What `install-check` reports.
INSTALLATION = tuple(check for check in CHECKS if check.what)
