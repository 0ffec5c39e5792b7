# SPDX-License-Identifier: LGPL-2.1-or-later
"""All checks, in the order in which an administrator mends what they find."""

from __future__ import annotations

from . import (
    auth_conf,
    configuration,
    killpath,
    lease_dir,
    leases,
    libvirtd,
    runtime,
    sanlock,
    selinux,
    system,
)
from .registry import Check, registered

# The installation first: without it nothing else matters.
SECTIONS = (
    killpath,
    selinux,
    runtime,
    libvirtd,
    auth_conf,
    configuration,
    sanlock,
    lease_dir,
    leases,
    system,
)

CHECKS: tuple[Check, ...] = tuple(check for section in SECTIONS for check in registered(section.__name__))

# What `install-check` reports.
INSTALLATION = tuple(check for check in CHECKS if check.what)
