# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sees a host from outside of libvirt and of this program: /proc, each QEMU's own monitor, sanlock's status.

Run inside a stack, by the distribution's Python, until it is killed:

    sampler.py FILE

appends to FILE a line of JSON for each sample: see observations.read_sample().
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

INTERVAL = 0.1
# How long QEMU, and sanlock, may take to answer.
QMP_SECONDS = 0.25
SANLOCK_SECONDS = 1.5

RECORDS = ("/run/virt-sanlock-helper/records", "/var/lib/virt-sanlock-helper")
# While it is there recovery is held.
HOLD = "/var/lib/virt-sanlock-helper/hold"
# Where each machine's own monitor is, by its UUID; libvirt does not know of it.
MONITOR = "/run/stack/{}.qmp"

Process = tuple[int, int]

# From the right: sanlock escapes a colon in a path, and no backslash at its end (sanlock_path_export() in
# sanlock src/client.c).
_LEASE = re.compile(r"r (.*):(?:\d+|SH) p (\d+)(?: (\w+))?", re.DOTALL)


class Monitor:
    """A connection to QEMU's own monitor (docs/interop/qmp-spec.txt in QEMU)."""

    def __init__(self, path: str) -> None:
        """Raises OSError when there is none."""
        self._number = 0
        self._held = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(QMP_SECONDS)
        self._socket.connect(path)
        self._ask("qmp_capabilities")

    def status(self) -> str | None:
        """QEMU's word for its state now; None when it does not answer in time.  Raises OSError at its end."""
        answer = self._ask("query-status")
        return None if answer is None else str(answer["return"]["status"])

    def _ask(self, command: str) -> dict[str, Any] | None:
        self._number += 1
        self._socket.sendall(json.dumps({"execute": command, "id": self._number}).encode() + b"\n")
        end = time.monotonic() + QMP_SECONDS
        while time.monotonic() < end:
            line, newline, rest = self._held.partition(b"\n")
            if newline:
                self._held = rest
                answer: dict[str, Any] = json.loads(line)
                # Events, and answers that came too late to be of now, are passed over.
                if answer.get("id") == self._number and "return" in answer:
                    return answer
                continue
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return None
            if not data:
                raise ConnectionError(command)
            self._held += data
        return None

    def close(self) -> None:
        self._socket.close()


class Monitors:
    """The monitors of all processes that were seen."""

    def __init__(self) -> None:
        self._open: dict[Process, Monitor] = {}

    def status(self, uuid: str, process: Process) -> str | None:
        """The state of that process, None when it is not known."""
        try:
            if process not in self._open:
                self._open[process] = Monitor(MONITOR.format(uuid))
            return self._open[process].status()
        except OSError:
            monitor = self._open.pop(process, None)
            if monitor is not None:
                monitor.close()
            return None

    def keep(self, processes: set[Process]) -> None:
        """Forget all but these."""
        for process in set(self._open) - processes:
            self._open.pop(process).close()


def qemus() -> dict[Process, tuple[str, bool]]:
    """The QEMU processes of domains: the UUID of each, and whether it is stopped by a signal."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = Path("/proc", name, "stat").read_text(errors="replace")
            if "(qemu-system" not in stat:
                continue
            words = Path("/proc", name, "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        if "-uuid" in words and fields[0] not in "ZX":
            uuid = words[words.index("-uuid") + 1]
            found[int(name), int(fields[19])] = (uuid, fields[0] in "Tt")
    return found


def sanlock_leases() -> list[tuple[int, str]] | None:
    """The process and the place of each lease, by sanlock's own status; None when it does not answer."""
    try:
        status = subprocess.run(
            ("sanlock", "client", "status"), capture_output=True, timeout=SANLOCK_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return held(status.stdout.decode(errors="backslashreplace"))


def held(status: str) -> list[tuple[int, str]]:
    """The process and LOCKSPACE:RESOURCE:PATH:OFFSET of each lease in STATUS that is not to be taken yet."""
    matches = (_LEASE.fullmatch(line) for line in status.split("\n"))
    return [(int(match[2]), match[1]) for match in matches if match and match[3] != "ADD"]


def records() -> list[str]:
    """The UUIDs that there is a record of."""
    found: set[str] = set()
    # In this order: a record is copied from the first to the second before it is removed.
    for folder in RECORDS:
        try:
            found.update(name.partition(".")[0] for name in os.listdir(folder) if not name.startswith("."))
        except OSError:
            pass  # not made yet
    return sorted(name for name in found if len(name) == 36)


def sample(monitors: Monitors) -> dict[str, Any]:
    """The host as it is now."""
    begin = time.monotonic()
    is_held = os.path.exists(HOLD)
    processes = qemus()
    monitors.keep(set(processes))

    def states() -> dict[Process, str | None]:
        return {
            process: None if is_stopped else monitors.status(uuid, process)
            for process, (uuid, is_stopped) in processes.items()
        }

    before = states()
    leases = sanlock_leases()
    after = states()
    pids = {pid for pid, _ in processes}
    # Read last: a machine that runs again has no record any more.
    recorded = records()
    return {
        "begin": begin,
        "end": time.monotonic(),
        "vms": [
            [
                *(uuid, *process, before[process], after[process]),
                [where for pid, where in leases or () if pid == process[0]],
            ]
            for process, (uuid, _) in processes.items()
        ],
        "known": leases is not None,
        "others": [where for pid, where in leases or () if pid not in pids],
        "records": recorded,
        "held": is_held and os.path.exists(HOLD),
    }


def main() -> None:
    """Sample until killed."""
    monitors = Monitors()
    with open(sys.argv[1], "ab", buffering=0) as file:
        while True:
            file.write(json.dumps(sample(monitors)).encode() + b"\n")
            time.sleep(INTERVAL)


if __name__ == "__main__":
    main()
