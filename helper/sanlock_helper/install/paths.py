# SPDX-License-Identifier: LGPL-2.1-or-later
"""The killpath executables of this host: libvirt's path, and our own."""

from __future__ import annotations

import os
from pathlib import Path

# LIBEXECDIR of Fedora and RHEL, then of Debian.
KILLPATHS = ("/usr/libexec/libvirt_sanlock_helper", "/usr/lib/libvirt/libvirt_sanlock_helper")

NAME = "libvirt_sanlock_helper"


def our_executable() -> Path:
    """The executable that belongs to this package, installed under any prefix or in a checkout."""
    root = Path(__file__).resolve().parents[2]
    if root.parts[-2:] == ("share", "virt-sanlock-helper"):
        return root.parents[1] / "libexec" / "virt-sanlock-helper" / NAME
    return root / NAME


def killpath(candidates: tuple[str, ...] = KILLPATHS) -> str:
    """The path that libvirt registers with sanlock; the first candidate when none is there."""
    return next((path for path in candidates if os.path.exists(path)), candidates[0])
