# SPDX-License-Identifier: LGPL-2.1-or-later
"""The QEMU domains of this host, as far as the host itself knows them: libvirt's status files, /proc,
sanlock.

All of it is in memory, and libvirtd is not asked.  Each wait is bounded all the same: a process whose memory
hangs in the kernel, or a sanlock that does not answer, must not keep its virtual machine from being made
safe.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, TypeVar

from ..errors import TransientError
from ..leases import held as leases
from ..leases.held import Lease
from ..threads import NoAnswerError, call_with_timeout
from .processes import Process, Processes, process_start, prove, unread
from .status_files import Status

T = TypeVar("T")

# Memory answers in a millisecond.
SECONDS = 1.0


class Run(NamedTuple):
    """The run of a domain that lost its leases.

    status: libvirt's status file of the domain.  process: the run's own, None where none is proven.  is_over:
    whether the status is that of another run, started since.
    """

    status: Status | None
    process: Process | None
    is_over: bool


class LocalDomains:
    """What the host knows.  Several threads may use one; methods raise TransientError without an answer."""

    def __init__(self, processes: Processes | None = None, seconds: float = SECONDS) -> None:
        """SECONDS bounds each answer."""
        self._processes = processes or Processes()
        self._seconds = seconds

    def run(self, uuid: str, since: float, pid: int | None = None) -> Run:
        """The run of domain UUID that lost its leases at SINCE, in seconds of CLOCK_MONOTONIC.

        PID is the process that sanlock passed, where its caller asked for that; it needs proof as any other.
        """

        def find() -> Run:
            status, process = self._processes.first(self._processes.files.matching(uuid))
            known = prove(pid, uuid) if pid else None
            is_over = process is not None and (
                process.started_after(since) or (known is not None and known != process)
            )
            return Run(status, known or (None if is_over else process), is_over)

        try:
            return self._ask("find its process", find)
        except TransientError:
            # The status files are on tmpfs; what could not be read is the memory of a process.
            status = self._processes.files.find(uuid)
            if status is None:
                raise
        process = unread(status)
        is_over = process is not None and process.started_after(since)
        return Run(status, None if is_over else process, is_over)

    def processes(self, uuid: str, since: float) -> list[Process]:
        """All that may be processes of domain UUID, but for those younger than SINCE."""
        found = self._ask("find its processes", lambda: self._processes.scan(uuid))
        return [process for process in found if not process.started_after(since)]

    def is_another_run(self, uuid: str, id: int, since: float) -> bool:
        """Whether the active run of domain UUID, by its libvirt ID, began after SINCE."""
        pids = [status.pid for status in self._of_run(uuid, id)]
        found = [Process(pid, start) for pid in pids if (start := process_start(pid))]
        return any(process.started_after(since) for process in found)

    def has_no_job(self, uuid: str, id: int | None) -> bool:
        """Whether libvirt has noted no job that takes long for the run of domain UUID with the libvirt ID.

        False where no status file is about that run.
        """
        found = self._of_run(uuid, id)
        return bool(found) and not any(status.has_job for status in found)

    def block_jobs(self, uuid: str, id: int | None) -> set[str] | None:
        """The targets of the disks on which libvirt has noted a block job, for that run.

        None where no status file is about it.
        """
        found = self._of_run(uuid, id)
        return {target for status in found for target in status.block_jobs} if found else None

    def _of_run(self, uuid: str, id: int | None) -> list[Status]:
        return [status for status in self._processes.files.matching(uuid) if status.id == id]

    def held_by(self, process: Process) -> list[Lease]:
        """The leases that PROCESS holds; LeasesUnknownError where sanlock cannot be asked."""
        what = f"read the leases of process {process.pid}"
        return self._ask(what, lambda: leases.held_by(process.pid))

    def release(self, process: Process, uuid: str) -> None:
        """Give up all leases of PROCESS, if it is domain UUID's; LeasesUnknownError where sanlock refuses."""

        def release() -> None:
            # Checked again: what is released here must not be another virtual machine's.
            if prove(process.pid, uuid) != process:
                raise TransientError("release its leases", f"process {process.pid} is over or another's")
            leases.release(process.pid)

        self._ask("release its leases", release)

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        try:
            answer: Any = call_with_timeout(call, self._seconds)
        except NoAnswerError as error:
            raise TransientError(what, str(error)) from error
        except OSError as error:
            raise TransientError(what, error.strerror or str(error)) from error
        found: T = answer
        return found
