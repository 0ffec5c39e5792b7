# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the helper writes down before it touches a domain, so that recovery can bring it back.

The virtual machine's safety comes first: nothing here waits for long, nothing reads a disk, and whatever
fails is told and goes no further.  Whether the domain is to be brought back at all is not asked here: reading
its metadata is one more call that libvirtd may not serve now.  Recovery asks, once the machine is safe.
"""

from __future__ import annotations

import time
from typing import Callable

from . import leases
from .bounded import bounded
from .journal import Journal
from .record import Record
from .records import Records

# sanlock answers from memory, in a millisecond; one that was silent so often in a row is not asked again.
SANLOCK_SECONDS = 1.0
SANLOCK_TRIES = 3

# How long the XML of a transient domain may take, and how long once libvirtd has kept one waiting so long.
XML_SECONDS = 3.0
IMPATIENT_XML_SECONDS = 0.2

BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Notes:
    """The notes of one process on all the domains it serves; used by several threads."""

    def __init__(
        self,
        records: Records,
        journal: Journal,
        wall: Callable[[], float] = time.time,
        ask_sanlock: Callable[[int], tuple[tuple[leases.Lockspace, ...], tuple[leases.Lease, ...]]]
        | None = None,
    ) -> None:
        """WALL is the time of day; ASK_SANLOCK gives the lockspaces and the leases of a process id."""
        self._records = records
        self._journal = journal
        self._wall = wall
        self._ask_sanlock = ask_sanlock or leases.noted
        self._silences = 0
        self._boot = ""
        self.xml_seconds = XML_SECONDS

    def xml_came(self, came: bool) -> None:
        """Whether libvirtd gave a domain's XML in time: if it did not, the others wait for less."""
        self.xml_seconds = XML_SECONDS if came else IMPATIENT_XML_SECONDS

    def write(self, record: Record, pid: int | None) -> bool:
        """Complete RECORD with what process PID holds now, and write it; False when that failed, and told.

        libvirt's embedded test driver ends with this process: there is nothing to come back to.
        """
        if record.uri.startswith("test:///"):
            return False
        record.time = self._wall()
        self._boot = record.boot = self._boot or boot_id()
        if pid is None:
            record.unknown = "its process id was not known"
        else:
            record.pid, record.pid_start = pid, process_start(pid)
            self._note_leases(record, pid)
        try:
            self._records.write(record)
        except Exception as error:
            self._journal.warning(
                f"{record.action} {record}: no recovery record: {error}; the VM is made safe all the same, "
                "but recovery will not bring it back"
            )
            return False
        return True

    def drop(self, uuid: str) -> None:
        """The domain is back: there is nothing to recover."""
        try:
            self._records.remove(uuid)
        except OSError as error:
            self._journal.warning(f"remove the recovery record of {uuid}: {error}")

    def _note_leases(self, record: Record, pid: int) -> None:
        if self._silences >= SANLOCK_TRIES:
            record.unknown = "sanlock: it did not answer for others"
            return
        try:
            record.lockspaces, record.leases = bounded(lambda: self._ask_sanlock(pid), SANLOCK_SECONDS)
            self._silences = 0
        except TimeoutError as error:
            self._silences += 1
            record.unknown = f"sanlock: {error}"
        except Exception as error:
            record.unknown = str(error)


def boot_id(path: str = BOOT_ID) -> str:
    """The kernel's id of this boot, "" when it does not say."""
    try:
        # Bytes: a codec would be looked up on the disk.
        with open(path, "rb") as file:
            return file.read(64).decode("ascii").strip()
    except (OSError, ValueError):
        return ""


def process_start(pid: int) -> int:
    """When process PID started, in clock ticks since boot; 0 when there is none (proc(5), field 22)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
