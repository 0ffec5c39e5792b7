# SPDX-License-Identifier: LGPL-2.1-or-later
"""One domain and its record, and what recovery makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sanlock_helper.leases.held import Lockspace
from sanlock_helper.records.directory import RecordDirectory
from sanlock_helper.records.store import RecordStore
from sanlock_helper.recovery.domain import DomainRecovery
from sanlock_helper.recovery.verdict import VisitResult
from sanlock_helper.virt.host_conf import HostConf

from ..fakes import RecordedJournal
from ..recovery_world import OFF, UUID, FakeSanlock, RecoveryWorld


class Scene:
    """A RecoveryWorld and a DomainRecovery in it, with records in a directory."""

    def __init__(self, path: Path, action: str = "pause", **changes: Any) -> None:
        self.path = path
        self.world = RecoveryWorld()
        # The lockspace that libvirt is configured for.
        self.default: Lockspace | None = None
        self.conf = HostConf()
        self.is_held = False
        self.record = self.world.record(action, **changes)
        self.journal = RecordedJournal()
        RecordDirectory(f"{path}/run").write(self.record)
        self.store = RecordStore(self.journal, f"{path}/run", f"{path}/state")  # type: ignore[arg-type]
        self.store.gather()

    def domain_recovery(self) -> DomainRecovery:
        world = self.world
        return DomainRecovery(
            world.connect,  # type: ignore[arg-type]
            FakeSanlock(world),  # type: ignore[arg-type]
            self.store,
            boot=lambda: "boot",
            process_started=lambda pid: 99 if pid == world.pid else 0,
            pid_of=lambda uuid: world.pid if world.vm != OFF and world.is_process_known else None,
            default_lockspace=lambda: self.default,
            ended=lambda name, since: world.log,
            host_conf=lambda: self.conf,
            is_held=lambda: self.is_held,
        )

    def visit(self, ready: bool = True, **options: Any) -> VisitResult:
        record = self.store.gather().get(UUID, self.record)
        return self.domain_recovery().visit(record, ready, **options)

    def mark(self) -> str:
        return self.store.gather()[UUID].mark
