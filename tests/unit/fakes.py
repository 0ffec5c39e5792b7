# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests put in the place of the journal, of the clock and of libvirt.

Others: fake_local.py (what the host knows of its domains), fake_host.py (its files), agent_world.py (an agent
with its threads) and recovery_world.py (a domain, sanlock and storage for recovery).
"""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import Any, Callable

import libvirt

from sanlock_helper.events import Event

from .fake_local import UUID
from .libvirt_errors import libvirt_error


class Clock:
    """A clock that stands still but for the test."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class RecordedJournal:
    """A journal that keeps its lines, each with its level."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def report(self, event: Event, receipt: Any = None) -> None:
        # Its parts are those of its kind's sentences.
        assert event.text() != f"{event.kind}: {event.parts}"
        self.log(event.level, event, receipt)

    def log(self, level: str, line: str | Event, receipt: Any = None) -> None:
        if receipt is None or receipt.logging():
            self.lines.append((level, str(line)))
            if receipt is not None:
                receipt.logged()

    def __getattr__(self, level: str) -> Callable[[str], None]:
        return lambda line: self.log(level, line)

    def flush(self) -> bool:
        return True

    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def levels(self) -> list[str]:
        return [level for level, _ in self.lines]


NO_DOMAIN = libvirt.VIR_ERR_NO_DOMAIN
BROKEN = libvirt.VIR_ERR_INTERNAL_ERROR


@functools.cache
def parameters(kind: type, name: str) -> inspect.Signature:
    return inspect.signature(getattr(kind, name))


def checked(kind: type, **methods: Callable[..., Any]) -> Any:
    """An object with METHODS alone, which take the arguments that those of KIND do; else it is a TypeError.

    A mock with KIND's specification checks the same, and takes some milliseconds to make.
    """

    def with_parameters(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            # Behind self.
            parameters(kind, name).bind(None, *arguments, **options)
            return method(*arguments, **options)

        return call

    return SimpleNamespace(**{name: with_parameters(name, method) for name, method in methods.items()})


class FakeHost:
    """One domain behind objects as libvirt's: calls change its state as they would a real one's."""

    def __init__(self) -> None:
        self.run: int = 7
        self.state: int = libvirt.VIR_DOMAIN_RUNNING
        self.reason = 0
        self.job: dict[str, int] = {"type": libvirt.VIR_DOMAIN_JOB_NONE}
        # By disk, the virDomainBlockJobType of its block job.
        self.block_jobs: dict[str, int] = {}
        self.known = True
        self.persistent = True
        self.asked_persistent = 0
        self.next_run = 8
        self.on_crash = "destroy"
        self.calls: list[str] = []
        self.connection = checked(
            libvirt.virConnect, lookupByUUIDString=self.lookup, createXML=self.create_xml
        )
        # What a call raises, by its name, after it took effect or instead of it.
        self.raises: dict[str, Exception] = {}
        self.answer_lost: dict[str, Exception] = {}

    def lookup(self, uuid: str) -> Any:
        assert uuid == UUID
        self._call("lookup")
        if not self.known:
            raise libvirt_error(NO_DOMAIN)
        run = self.run
        return checked(
            libvirt.virDomain,
            ID=lambda: run,
            name=lambda: "vm1",
            state=self.get_state,
            isPersistent=self.is_persistent,
            XMLDesc=self.xml,
            destroy=lambda: self._call("destroy", self.off),
            suspend=lambda: self._call("suspend", self.pause),
            jobStats=self.job_stats,
            abortJob=lambda: self._call("abort", self.end_job),
            blockJobInfo=self.block_job_info,
            blockJobAbort=self.abort_block_job,
            create=lambda: self._call("create", self.start),
            pMWakeup=lambda: self._call("wake", self.wake),
        )

    def is_persistent(self) -> int:
        self.asked_persistent += 1
        return int(self.persistent)

    def get_state(self) -> list[int]:
        self._call("state")
        if not self.known:
            raise libvirt_error(NO_DOMAIN)
        return [self.state, self.reason]

    def job_stats(self) -> dict[str, int]:
        self._call("job")
        return self.job

    def block_job_info(self, disk: str) -> dict[str, int]:
        self._call("block job")
        return {"type": self.block_jobs[disk], "cur": 0, "end": 9} if disk in self.block_jobs else {}

    def abort_block_job(self, disk: str, flags: int) -> None:
        assert flags == libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC
        self._call(f"abort {disk}", lambda: self.block_jobs.pop(disk))

    def xml(self, flags: int) -> str:
        if not flags:
            targets = "<disk><target dev='vda'/></disk><interface><target dev='vnet0'/></interface>"
            return f"<domain><on_crash>{self.on_crash}</on_crash><devices>{targets}</devices></domain>"
        assert flags == libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE
        self._call("xml")
        return "<domain/>"

    def create_xml(self, xml: str, flags: int) -> None:
        assert (xml, flags) == ("<domain/>", 0)
        self._call("createXML", self.start)

    def off(self) -> None:
        self.run, self.state, self.known = -1, libvirt.VIR_DOMAIN_SHUTOFF, self.persistent

    def wake(self) -> None:
        self.state, self.reason = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_WAKEUP

    def pause(self) -> None:
        self.state, self.reason = libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER

    def begin_job(self, reason: int, operation: int) -> None:
        self.state, self.reason = libvirt.VIR_DOMAIN_PAUSED, reason
        self.job = {"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "operation": operation}

    def end_job(self) -> None:
        self.state, self.reason = libvirt.VIR_DOMAIN_RUNNING, 0
        self.job = {"type": libvirt.VIR_DOMAIN_JOB_NONE}

    def start(self) -> None:
        self.run, self.state, self.reason, self.known = self.next_run, libvirt.VIR_DOMAIN_RUNNING, 0, True

    def _call(self, name: str, effect: Any = None) -> None:
        self.calls.append(name)
        if name in self.raises:
            raise self.raises[name]
        if effect:
            effect()
        if name in self.answer_lost:
            raise self.answer_lost[name]
