# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory of a stack that cannot be changed (chattr +i).

tmpfs has immutable files since Linux 6.0, where the kernel is built with its extended attributes
(CONFIG_TMPFS_XATTR; shmem_fileattr_set() in mm/shmem.c).  ext4 has them everywhere, so the directory is put
on an ext4 of its own, in a file on the stack's tmpfs: it ends with the stack, whatever becomes of the test.
"""

from __future__ import annotations

import functools
import subprocess
from typing import TYPE_CHECKING

from .preconditions import need
from .unshared import ENVIRONMENT

if TYPE_CHECKING:
    from .stack import Stack

IMAGE = "/run/stack/immutable.img"
# The argument: the directory.  An inode of 256 bytes has times of a nanosecond, as tmpfs has them.  The
# kernel chooses the loop device, which has to have a node in the stack's own /dev.
MOUNT = f"""
set -e
[ -e /dev/loop-control ] || mknod -m 0600 /dev/loop-control c 10 237
for number in $(seq 0 63); do [ -e /dev/loop$number ] || mknod -m 0600 /dev/loop$number b 7 $number; done
rm -f {IMAGE}
truncate -s 4M {IMAGE}
mkfs.ext4 -q -F -O ^has_journal -I 256 -m 0 {IMAGE}
mkdir -p "$1"
mount -o loop {IMAGE} "$1"
rmdir "$1/lost+found"
chmod 0700 "$1"
"""
PROBE = f"""
mount -t tmpfs run /run && mount -t tmpfs dev /dev && mkdir /run/stack || exit 1
mknod -m 0666 /dev/null c 1 3
set -- /run/probe
{MOUNT}
chattr +i /run/probe && ! mkdir /run/probe/new && chattr -i /run/probe
"""


@functools.lru_cache(maxsize=1)
def no_immutable_directories() -> str:
    """Why a stack's directories cannot be made immutable here; "" if they can."""
    command = ["unshare", "--mount", "sh", "-c", PROBE]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=20)
    return f"no directory can be made immutable here: {done.stderr.strip()}" if done.returncode else ""


def require_immutable_directories() -> None:
    """Skip where there are none; fail if the environment requires everything."""
    reason = no_immutable_directories()
    need((reason,) if reason else (), "chattr +i on an ext4 in a file")


def put_on_ext4(stack: Stack, folder: str) -> None:
    """Make FOLDER one of root alone, empty, in which directories can be made immutable."""
    stack.run("sh", "-c", MOUNT, "sh", folder)


def set_immutable(stack: Stack, folder: str, files: bool = False) -> None:
    """Nothing can be made, removed or renamed in FOLDER and below, until clear_immutable().

    FILES: what is in there cannot be opened to be written to either.
    """
    kind = "" if files else "-type d"
    stack.run("sh", "-c", f'find "$1" -depth {kind} -exec chattr +i {{}} +', "sh", folder)


def clear_immutable(stack: Stack, folder: str) -> None:
    """All of FOLDER can be changed again."""
    stack.run("chattr", "-R", "-i", folder)
