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
        # The process id is for the error of another one: what has no place for it is a lock all the same.
        with contextlib.suppress(OSError):
            os.truncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield


def _holder(path: str) -> str:
    # No FIFO is waited for, and no symbolic link is followed: as when it is locked.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 16).decode("ascii", "replace").strip() or "unknown"
    except BlockingIOError:
        return "unknown"
    finally:
        os.close(descriptor)
