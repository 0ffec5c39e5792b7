# SPDX-License-Identifier: LGPL-2.1-or-later
"""A /run of a command's own: with the machine's spool, one agent would serve the requests of two tests."""

from __future__ import annotations

import os

# Put before a command.  A spool that cannot be used, without root, is shared with no other process either.
PRIVATE_RUN: list[str] = []
if os.geteuid() == 0:
    PRIVATE_RUN = [
        "/usr/bin/unshare",
        "--mount",
        "/bin/sh",
        "-c",
        '/bin/mount -t tmpfs run /run && exec "$@"',
        "sh",
    ]
