# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that holds the drill's lease, for a host on which no virtual machine can be started.

It registers itself with sanlock as libvirt registers a QEMU: with the same killpath and the same arguments,
and the action `ignore`, for libvirtd has no domain of that UUID.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from typing import Callable

from ..errors import TransientError
from ..leases import held as leases
from ..threads import within
from ..virt import SYSTEM_URI
from ..virt.processes import process_start
from .libvirtd_trial import roots
from .scratch import Scratch

ACTION = "ignore"

START_SECONDS = 30.0

_HOLDS = "holds\n"

# prctl(2): the signal that this process gets when its parent ends.
_PR_SET_PDEATHSIG = 1

_PROGRAM = """\
import sys
sys.path[:0] = sys.argv[1:3]
from sanlock_helper.drill.lease_holder import main
main(*sys.argv[3:])
"""


class LeaseHolder:
    """The process of one drill; it ends with the drill, however that ends."""

    mode = "process"
    action = ACTION
    virt_type = ""

    def __init__(self, scratch: Scratch, killpath: str, started: Callable[[int, int], None]) -> None:
        """KILLPATH is the path that libvirt registers.

        STARTED is called before the lease is taken, with the process id and the start in clock ticks.
        """
        self._scratch = scratch
        self._started = started
        self._killpath = killpath
        # Its process id, 0 while there is none; and whether it was waited for: the id may be another's then.
        self.pid = 0
        self._has_ended = False

    def start(self) -> str:
        """Start it, with its lease; returns what was started.  Raises TransientError."""
        scratch, what = self._scratch, "start a process that holds the drill's lease"
        words = [self._killpath, scratch.uuid, scratch.name, scratch.lease_path]
        its_input, ours = os.pipe()
        theirs, its_output = os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, its_input, 0),
            (os.POSIX_SPAWN_DUP2, its_output, 1),
            (os.POSIX_SPAWN_DUP2, its_output, 2),
        ]
        argv = [sys.executable, "-IB", "-c", _PROGRAM, *roots(), *words]
        # A process group of its own: Ctrl-C at the terminal is the drill's.
        self.pid = os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions, setpgroup=0)
        os.close(its_input)
        os.close(its_output)
        self._started(self.pid, process_start(self.pid))
        os.close(ours)
        with os.fdopen(theirs, encoding="utf-8", errors="backslashreplace") as output:
            first = within(START_SECONDS, what, output.readline)
            if first != _HOLDS:
                why = f"{first}{output.read()}".strip().rpartition("\n")[2]
                raise TransientError(what, why or "it ended", "sanlock client log_dump has the reason")
        return f"process {self.pid}, killpath {self._killpath}"

    def close(self) -> None:
        """End it, and wait for its end."""
        if self.pid and not self._has_ended:
            self._has_ended = True
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)


def end(scratch: Scratch) -> None:
    """End the process of a drill that was killed, known by its id and its start.  Raises OSError."""
    if scratch.holder and scratch.holder_start and process_start(scratch.holder) == scratch.holder_start:
        with contextlib.suppress(ProcessLookupError):
            os.kill(scratch.holder, signal.SIGKILL)


def main(killpath: str, uuid: str, name: str, path: str) -> None:
    """Be the process: register, name the killpath, take the lease, print "holds", sleep."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The end of file: the drill has written down which process this is.
    sys.stdin.read()
    leases.join_sanlock_group()
    binding = leases.load()
    descriptor = binding.register()
    binding.killpath(killpath, [SYSTEM_URI, uuid, ACTION], slkfd=descriptor)
    raw = leases.raw(name)
    binding.acquire(raw, raw, [(path, 0)], slkfd=descriptor)
    os.write(1, _HOLDS.encode())
    while True:
        time.sleep(3600)
