# SPDX-License-Identifier: LGPL-2.1-or-later
"""One recovery at a time, and one drill: its lock has the process id of its holder in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..errors import PermanentError
from .directory import INSTANCE_LOCK
from .file_lock import locked

_HINT = "see journalctl -t virt-sanlock-helper, and recover --list"


@contextlib.contextmanager
def only_instance(
    path: str = INSTANCE_LOCK, verb: str = "recover", what: str = "recovery", hint: str = _HINT
) -> Iterator[None]:
    """Hold the lock at PATH.  Raises PermanentError, with the holder's process id, when another one does.

    VERB, WHAT and HINT are for that error.
    """
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            why = f"another {what} is at work, process {_holder(path)}"
            raise PermanentError(verb, why, hint) from None
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield


def _holder(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read(16).strip() or "unknown"
