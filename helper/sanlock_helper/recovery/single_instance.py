# SPDX-License-Identifier: LGPL-2.1-or-later
"""One recovery at a time: its lock has the process id of its holder in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..errors import PermanentError
from ..records.directory import INSTANCE_LOCK
from ..records.file_lock import locked


@contextlib.contextmanager
def only_instance(path: str = INSTANCE_LOCK) -> Iterator[None]:
    """Hold the lock at PATH.  Raises PermanentError, with the holder's process id, when another one does."""
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            raise PermanentError(
                "recover",
                f"another recovery is at work, process {_holder(path)}",
                "see journalctl -t virt-sanlock-helper, and recover --list",
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield


def _holder(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read(16).strip() or "unknown"
