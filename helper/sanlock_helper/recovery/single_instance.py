# SPDX-License-Identifier: LGPL-2.1-or-later
"""One recovery at a time: a lock that the kernel frees when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from ..errors import PermanentError
from ..records.directory import INSTANCE_LOCK


@contextlib.contextmanager
def only_instance(path: str = INSTANCE_LOCK) -> Iterator[None]:
    """Hold the lock at PATH.  Raises PermanentError, with the holder's process id, when another one does."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    with open(path, "a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read(16).strip() or "unknown"
            raise PermanentError(
                "recover",
                f"another recovery is at work, process {pid}",
                "see journalctl -t virt-sanlock-helper, and recover --list",
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
