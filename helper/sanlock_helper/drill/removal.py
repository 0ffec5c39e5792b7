# SPDX-License-Identifier: LGPL-2.1-or-later
"""Remove all that a drill has made, of this drill or of one that was killed: what is not there is removed."""

from __future__ import annotations

import errno
import functools
import os
import time
from typing import Callable

from ..errors import HelperError, TransientError
from ..journal import Journal
from ..leases import held as leases
from ..leases.held import Lockspace
from ..leases.lockspaces import FAILING, JOINED, Sanlock, SanlockError
from ..records.store import RecordStore
from ..threads import within
from . import guest, lease_files, lease_holder
from .scratch import Note, Scratch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect

# sanlock leaves a lockspace within seconds of the end of its last process.
LEAVE_SECONDS = 30.0
_STEP = 0.1
_SANLOCK_SECONDS = 10.0

# libvirt's log of each machine: logDir of its src/qemu/qemu_conf.c.
LOG_DIR = "/var/log/libvirt/qemu"

# No daemon runs: nothing is joined.
_NO_DAEMON = (-errno.ECONNREFUSED, -errno.ENOENT)


class Removal:
    """Removes one drill's things."""

    def __init__(
        self,
        scratch: Scratch,
        note: Note,
        connect: Callable[[str], VirConnect],
        journal: Journal,
        log_dir: str = LOG_DIR,
    ) -> None:
        """CONNECT opens a URI and blocks for as long."""
        self._scratch = scratch
        self._note = note
        self._connect = connect
        self._journal = journal
        self._log_dir = log_dir

    def run(self) -> list[str]:
        """Remove all of it; returns what could not be removed, and why.  The note stays where there is any.

        The files go before the lockspace: a join that is still under way fails without them.
        """
        steps = (
            lambda: guest.end(self._scratch, self._connect),
            lambda: lease_holder.end(self._scratch),
            self._forget,
            lambda: lease_files.remove(self._scratch),
            self._leave,
            self._remove_log,
        )
        problems = [problem for step in steps if (problem := _problem(step))]
        if not problems and (problem := _problem(self._note.remove)):
            problems.append(problem)
        return problems

    def _forget(self) -> None:
        """Such a machine is not brought back, whatever version of the helper has written a record of it."""
        RecordStore(self._journal).forget(self._scratch.uuid)

    def _leave(self) -> None:
        name, asked = self._scratch.name, False
        what = f"leave lockspace {name}"
        sanlock = Sanlock()
        until = time.monotonic() + LEAVE_SECONDS
        while True:
            try:
                found = within(_SANLOCK_SECONDS, what, sanlock.lockspaces).get(name)
            except SanlockError as error:
                if error.number in _NO_DAEMON:
                    return
                raise
            if found is None:
                return
            lockspace, state = found
            if state in (JOINED, FAILING) and not asked:
                asked = True
                within(_SANLOCK_SECONDS, what, functools.partial(_begin_to_leave, what, lockspace))
            if time.monotonic() > until:
                hint = f"sanlock client rem_lockspace -s {name}:1:{self._scratch.lockspace_path}:0"
                raise TransientError(what, f"it is {state}", hint)
            time.sleep(_STEP)

    def _remove_log(self) -> None:
        try:
            os.unlink(f"{self._log_dir}/{self._scratch.name}.log")
        except (FileNotFoundError, NotADirectoryError):
            pass


def _begin_to_leave(what: str, lockspace: Lockspace) -> None:
    """Have sanlock leave LOCKSPACE, whose processes it kills.  Raises SanlockError."""
    leases.join_sanlock_group()
    binding = leases.load()
    name, path = leases.raw(lockspace.name), lockspace.path
    try:
        binding.rem_lockspace(name, lockspace.host_id, path, lockspace.offset, wait=False)
    except binding.SanlockException as error:
        # It is gone, or on its way, since it was lost.
        if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
            raise SanlockError(what, error.errno) from error


def _problem(step: Callable[[], None]) -> str:
    """Why STEP failed, "" when it did not."""
    try:
        step()
    except (HelperError, OSError) as error:
        return str(error)
    return ""
