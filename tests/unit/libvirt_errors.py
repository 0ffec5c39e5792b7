# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirtError objects as libvirt raises them, made without libvirt's per-thread error state."""

from __future__ import annotations

import libvirt


def libvirt_error(
    code: int, domain: int = libvirt.VIR_FROM_QEMU, message: str = "it did not work"
) -> libvirt.libvirtError:
    """A libvirtError with CODE (virErrorNumber) from DOMAIN (virErrorDomain)."""
    error = libvirt.libvirtError(message)
    error.err = (code, domain, message, libvirt.VIR_ERR_ERROR, None, None, None, -1, -1)
    return error
