# SPDX-License-Identifier: LGPL-2.1-or-later
"""The QEMU process of a domain, proven.

What is done to a process harms another virtual machine if the process is not the domain's: a lease released
for the wrong one, a lease not read that is still held.  So a process id, wherever it comes from, counts only
when that process has the domain's UUID on its command line, where libvirt puts it (qemuBuildCommandLine() in
libvirt src/qemu/qemu_command.c).  A QEMU that is ending has no command line any more; then libvirt's own
status file counts, if it was written after the process started: a process id that was given again is younger.

Nothing here needs libvirtd.  Reading a command line may wait for the process's memory, so a caller that must
not wait reads it in a thread of its own.  Functions raise OSError when /proc cannot be read.
"""

from __future__ import annotations

import os
import time

from .status_files import Status, StatusFiles

# Fields 3, 20 and 22 of proc(5): the state, the number of threads, the start in clock ticks since boot.
_STATE, _THREADS, _START = 0, 17, 19

# A command line is some 10 KiB long, and a quarter of the stack limit at most.
_MAX_BYTES = 4 * 1024 * 1024

_UUID_OPTION = b"\0-uuid\0"
# Longer than a UUID is: what is cut off equals none.
_UUID_LENGTH = 64

_PART_BYTES = 32 * 1024

_TICKS = os.sysconf("SC_CLK_TCK")

# How much later than its status file a process may seem to have started: the time of day is adjusted.
_CLOCK_SECONDS = 1.0

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Process:
    """One process of this boot: its id, and its start in clock ticks since boot."""

    __slots__ = ("pid", "start")

    def __init__(self, pid: int, start: int) -> None:
        self.pid = pid
        self.start = start

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and (self.pid, self.start) == (other.pid, other.start)

    def __hash__(self) -> int:
        return hash((self.pid, self.start))

    def __repr__(self) -> str:
        return f"Process({self.pid}, {self.start})"

    def is_over(self) -> bool:
        """Whether nothing of it is left that could write to a disk.

        A process whose first thread has ended while another hangs in the kernel is a zombie with threads.
        """
        found = _stat(self.pid)
        return found is None or int(found[_START]) != self.start or _is_empty(found)

    def started_after(self, monotonic: float) -> bool:
        """Whether it started after a moment, given in seconds of CLOCK_MONOTONIC.

        The kernel counts a start in CLOCK_BOOTTIME, which goes on while the host is suspended.
        """
        suspended = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
        return self.start / _TICKS > monotonic + suspended


class Processes:
    """The QEMU processes of this host.  Several threads may use one."""

    def __init__(self, files: StatusFiles | None = None) -> None:
        self.files = files or StatusFiles()

    def find(self, uuid: str) -> Process | None:
        """The process of domain UUID, None where none is proven: it is off, or not QEMU's, or not known."""
        return self.first(self.files.matching(uuid))[1]

    def first(self, statuses: list[Status]) -> tuple[Status | None, Process | None]:
        """The first of a domain's STATUSES whose process is proven, and that; else the first alone.

        A copy of a status file that was left beside it, of an earlier run, may be the newer file.
        """
        for status in statuses:
            process = self.of(status)
            if process is not None:
                return status, process
        return (statuses[0] if statuses else None), None

    def of(self, status: Status) -> Process | None:
        """The process that STATUS names, None when it is over or is not the domain's."""
        return prove(status.pid, status.uuid) or _ending(status)

    def scan(self, uuid: str) -> list[Process]:
        """All processes with UUID on their command line, where libvirt has no status file of the domain.

        Any user may start one with such a command line.  It holds no lease: only root and sanlock's group can
        register a process with sanlock.
        """
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [process for pid in pids if (process := prove(pid, uuid))]


def find(uuid: str) -> Process | None:
    """The QEMU process of domain UUID on this host: see Processes.find()."""
    return Processes().find(uuid)


def prove(pid: int, uuid: str) -> Process | None:
    """Process PID, if it is the QEMU of domain UUID by its command line."""
    start = _start(pid)
    if not start or uuid_in(command_line(pid)) != uuid:
        return None
    # The same process all the while.
    return Process(pid, start) if _start(pid) == start else None


def unread(status: Status) -> Process | None:
    """The process of STATUS by libvirt's word alone, where its command line cannot be read.

    A process whose memory hangs blocks every process that reads it, and it holds its leases all the same.
    """
    start = _start(status.pid)
    return Process(status.pid, start) if start and _is_older(start, status) else None


def boot_id(path: str = _BOOT_ID) -> str:
    """The kernel's id of this boot, "" when it cannot be read."""
    try:
        # Bytes: a codec would be loaded from the disk.
        with open(path, "rb") as file:
            return file.read(64).decode("ascii").strip()
    except (OSError, ValueError):
        return ""


def process_start(pid: int) -> int:
    """When process PID started, in clock ticks since boot; 0 when there is none."""
    found = _stat(pid)
    return int(found[_START]) if found else 0


def command_line(pid: int) -> bytes:
    """The command line of process PID, a NUL behind each word; empty when it has none (any more)."""
    return _read(pid, "cmdline", _MAX_BYTES)


def uuid_in(line: bytes) -> str:
    """The UUID on QEMU's command LINE, "" where there is none.

    The first -uuid is libvirt's own; what a domain's <qemu:commandline> adds comes last.  The line is not
    taken apart: any user's process may have millions of words on its own.
    """
    at = 0 if line.startswith(_UUID_OPTION[1:]) else line.find(_UUID_OPTION) + 1
    start = at + len(_UUID_OPTION) - 1
    end = line.find(b"\0", start)
    found = line.startswith(_UUID_OPTION[1:], at) and end >= 0
    return line[start:end][:_UUID_LENGTH].decode("ascii", "replace").lower() if found else ""


def _ending(status: Status) -> Process | None:
    """The process of STATUS if it has no command line any more, and is not over."""
    start = _start(status.pid)
    if not start or b"\0" in command_line(status.pid):
        return None
    return Process(status.pid, start) if _is_older(start, status) else None


def _is_older(start: int, status: Status) -> bool:
    """Whether a process that started at START, in ticks, did so before STATUS was written."""
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + start / _TICKS
    return started <= status.written + _CLOCK_SECONDS


def _start(pid: int) -> int:
    found = _stat(pid)
    return 0 if found is None or _is_empty(found) else int(found[_START])


def _is_empty(stat: list[bytes]) -> bool:
    return stat[_STATE] in (b"Z", b"X") and int(stat[_THREADS]) <= 1


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat behind the name, which may hold blanks and parentheses."""
    return fields_of(_read(pid, "stat", 4096))


def fields_of(stat: bytes) -> list[bytes] | None:
    """The fields of a process's STAT behind its name, None where not all are there: the process has ended."""
    fields = stat.rpartition(b")")[2].split()
    numbers = fields[_THREADS : _START + 1 : _START - _THREADS]
    return fields if len(numbers) == 2 and all(number.isdigit() for number in numbers) else None


def _read(pid: int, name: str, size: int) -> bytes:
    """The file NAME of process PID, empty when there is no such process.

    Any other error is raised: a process that cannot be read, for want of a descriptor, is not over.
    """
    parts, length = [], 0
    try:
        with open(f"/proc/{pid}/{name}", "rb", 0) as file:
            # In parts: a read makes room for all that it may get.
            while length < size and (part := file.read(_PART_BYTES)):
                parts.append(part)
                length += len(part)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    return b"".join(parts)[:size]
