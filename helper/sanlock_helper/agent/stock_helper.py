# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's own helper, as a child process of ours."""

from __future__ import annotations

import posix

# LIBEXECDIR of Fedora and RHEL, then of Debian; put aside by dpkg-divert and `virt-sanlock-helper activate`;
# and what the host has below the mount of sanlock.service.
PATHS = ("/usr/libexec/libvirt_sanlock_helper", "/usr/lib/libvirt/libvirt_sanlock_helper")
_CANDIDATES = ("/proc/1/root{}.distrib", "/proc/1/root{}", "{}.distrib", "{}")


def stock_helper(paths: tuple[str, ...] = PATHS) -> str | None:
    """Where libvirt's own helper is: an ELF program, which ours is not; None when it is not here."""
    for path in paths:
        for candidate in _CANDIDATES:
            try:
                name = candidate.format(path)
                descriptor = posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
                try:
                    if posix.read(descriptor, 4) == b"\x7fELF":
                        return name
                finally:
                    posix.close(descriptor)
            except OSError:
                continue
    return None


def arguments(path: str, uri: str, uuid: str, action: str) -> list[str]:
    """Its arguments.  It does not know restart; the half of that which makes the VM safe it does."""
    return [path, uri, uuid, "poweroff" if action == "restart" else action]
