# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a host knows of its domains, for unit tests: a stand-in for local_domains.LocalDomains."""

from __future__ import annotations

from sanlock_helper.agent.requests import Request
from sanlock_helper.leases.grace import Deadline
from sanlock_helper.leases.held import Lease
from sanlock_helper.virt.local_domains import LocalDomains, Run
from sanlock_helper.virt.processes import Process
from sanlock_helper.virt.status_files import Status

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
URI = "qemu:///system"


def make_request(action: str = "poweroff", uuid: str = UUID, pid: int | None = None) -> Request:
    """A request that came at 0 on a clock that no test reads."""
    return Request(URI, uuid, action, Deadline(0.0, 40), pid)


class FakeProcess(Process):
    """A process that ends when the test ends it."""

    __slots__ = ("over",)

    def __init__(self, pid: int = 4711, start: int = 99) -> None:
        super().__init__(pid, start)
        self.over = False

    def is_over(self) -> bool:
        return self.over


class FakeLocal(LocalDomains):
    """One domain's process and leases, and its status file."""

    def __init__(self) -> None:
        self.process: FakeProcess | None = FakeProcess()
        # What has the domain's UUID on its command line, where no status file names the process.
        self.found: list[Process] = [self.process]
        self.held: dict[Process, list[Lease]] = {}
        self.raises: dict[str, Exception] = {}
        self.released: list[int] = []
        # The libvirt id of a run that began after the request.
        self.another: int | None = None
        self.status: Status | None = None
        self.no_job = False
        # The disks with a block job by libvirt's status file; None where there is no such file.
        self.noted_block_jobs: set[str] | None = set()

    def run(self, uuid: str, since: float, pid: int | None = None) -> Run:
        if "run" in self.raises:
            raise self.raises["run"]
        is_over = self.status is not None and self.status.id == self.another
        return Run(self.status, self.process if self.status and not is_over else None, is_over)

    def processes(self, uuid: str, since: float) -> list[Process]:
        return self.found

    def is_another_run(self, uuid: str, id: int, since: float) -> bool:
        return id == self.another

    def has_no_job(self, uuid: str, id: int | None) -> bool:
        return self.no_job

    def block_jobs(self, uuid: str, id: int | None) -> set[str] | None:
        return self.noted_block_jobs

    def held_by(self, process: Process) -> list[Lease]:
        if "held_by" in self.raises:
            raise self.raises["held_by"]
        return self.held.get(process, [])

    def release(self, process: Process, uuid: str) -> None:
        self.released.append(process.pid)
        if "release" in self.raises:
            raise self.raises["release"]
        self.held.pop(process, None)
