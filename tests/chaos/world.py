# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts on one storage, the machines of a schedule on both, and what is seen of them from outside."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from tests.e2e.failing_disk import Export
from tests.e2e.lease_loss import IDENTIFIER, URI
from tests.e2e.namespace import CommandError, Process
from tests.e2e.pair import Pair
from tests.e2e.recovery import COMMAND, HELPER, RUN_RECORDS
from tests.e2e.stack import Stack
from tests.e2e.standing import StandingAgent
from tests.e2e.storage import IMAGES
from tests.e2e.unshared import PYTHON
from tests.e2e.waiting import WaitTimeout, wait_for

from .machines import disk_socket, make_disk, make_leases, write_xml
from .observations import Call, Disturbance, Host, Outcome, Run, Sample, read_sample
from .recovery_invariants import owed
from .schedule import Machine, Schedule

SAMPLER = Path(__file__).with_name("sampler.py")
SAMPLES = "/run/stack/samples"
SPOOL = "/run/virt-sanlock-helper/requests"
# Each host's own copy of the program, which an update there changes.
PROGRAM = "/run/stack/program"

# What systemd does with packaging/virt-sanlock-helper-recover.path and .service; it restarts after 20 s.
_UNITS = """\
failed=
while :; do
    set -- {records}/*.record
    if [ -e "$1" ] || [ "$failed" ]; then
        failed=
        {recover} >/dev/null 2>&1 || {{ failed=1; sleep 0.5; }}
    fi
    sleep 0.05
done
"""

_OUTCOME = re.compile(
    r"(poweroff|restart|pause|ignore) (?:.* )?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}): "
    r"(done|NOT DONE|FAILED|powered off|served together|nothing is done|an agent served it|interrupted)\b"
    r"(?:.*\((\d+) requests\))?.*",
    re.DOTALL,
)

# Recovery has tried a machine in vain, or does not bring it back.
_FAILURE = re.compile(
    r"recover (?:.* )?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}): "
    r"(?!done after |stopped by an I/O error).*",
    re.DOTALL,
)

# The mark of an outcome that may have been logged before.
REPEATED = "(repeated: "

# A command of an administrator's ends by then, or is ended.
SECONDS = 40.0


class World:
    """The hosts 1 and 2, from start() to close().

    helper: what sanlock runs.  recovery: the command that is run when there are records.
    """

    def __init__(
        self, schedule: Schedule, helper: str = str(HELPER), recovery: str = f"{COMMAND} recover --wait"
    ) -> None:
        self.schedule = schedule
        self.helper = helper
        self._recovery = recovery
        self.hosts: dict[int, Stack] = {}
        self.pairs: dict[int, Pair] = {}
        # The servers of the second disks, by host and machine.
        self.exports: dict[tuple[int, int], Export] = {}
        # The UUID under which each machine is known now, and a lock for the steps that depend on its state.
        self.uuids = {machine.number: machine.uuid for machine in schedule.machines}
        self.locks = {machine.number: threading.Lock() for machine in schedule.machines}
        self._ends = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._by_hand: dict[int, list[Call]] = {1: [], 2: []}
        self._disturbances: dict[int, list[Disturbance]] = {1: [], 2: []}
        # Of the machines whose policy was changed.
        self._changed: set[str] = set()
        self._samples: dict[int, list[Sample]] = {1: [], 2: []}
        self._offsets = {1: 0, 2: 0}
        self._clock = time.time() - time.monotonic()

    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ends.close()

    def _start(self) -> None:
        first = self._ends.enter_context(Stack(on_disk=True, host_id=1, daemon="libvirtd"))
        second = self._ends.enter_context(Stack(host_id=2, storage=first.backing, daemon="libvirtd"))
        self.hosts = {1: first, 2: second}
        self.pairs = {1: Pair(first, second), 2: Pair(second, first)}
        # A disk of its own at the same path: QEMU's lock of a file would keep out what only sanlock is to.
        second.run("mount", "-t", "tmpfs", "disks", IMAGES)
        for machine in self.schedule.machines:
            make_leases(first, machine)
        for number, host in self.hosts.items():
            _install_program(host)
            for machine in self.schedule.machines:
                make_disk(host, machine)
                if machine.stops:
                    export = self.exports[number, machine.number] = Export(host, disk_socket(machine))
                    export.serve()
            host.install_helper(self.helper)
            for machine in self.schedule.machines:
                self.define(host, machine)
            host.popen(PYTHON, "-ISB", str(SAMPLER), SAMPLES, stdout=None, stderr=None)
            units = _UNITS.format(records=RUN_RECORDS, recover=self._recovery)
            host.popen("sh", "-c", units, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if number in self.schedule.standing:
                StandingAgent(host, URI, restarts=True)
        wait_for(lambda: all(map(self.last, self.hosts)), 20, "the first samples")

    # Domains

    def define(self, host: Stack, machine: Machine) -> None:
        """Make a machine that is not transient known on HOST, under its UUID of now."""
        path = write_xml(host, machine, self.uuids[machine.number])
        if not machine.transient:
            host.virsh("define", path)

    def start(self, host: Stack, machine: Machine) -> None:
        """Start a machine on HOST, as an administrator does.  Raises CommandError where libvirt refuses."""
        path = write_xml(host, machine, self.uuids[machine.number])
        if machine.transient:
            host.virsh("create", path, timeout=SECONDS)
        else:
            host.virsh("define", path, timeout=SECONDS)
            host.virsh("start", self.uuids[machine.number], timeout=SECONDS)

    def start_all(self) -> None:
        """Start what is off and is not to come back by itself; a pause without a record ends."""
        for host in self.hosts.values():
            with contextlib.suppress(CommandError, AssertionError):
                if not host.lockspaces():
                    host.join_lockspace(10)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(self._revive, self.schedule.machines))

    def _revive(self, machine: Machine) -> None:
        uuid = self.uuids[machine.number]
        samples = {number: self.last(number) for number in self.hosts}
        if any(sample is None or uuid in sample.records for sample in samples.values()):
            return
        vms = {number: sample.vm(uuid) for number, sample in samples.items() if sample and sample.vm(uuid)}
        if any(vm and not vm.stands for vm in vms.values()):
            return
        with self.locks[machine.number], self.touching(uuid), contextlib.suppress(CommandError):
            for number in vms:
                self.hosts[number].virsh("destroy", uuid, timeout=SECONDS)
            self.start(self.hosts[1], machine)

    # What is noted

    @contextlib.contextmanager
    def disturbing(self, number: int, thing: str, uuid: str = "") -> Iterator[None]:
        """Note that a thing of a host is disturbed, as long as this lasts."""
        begin = time.monotonic()
        with self._lock:
            notes = self._disturbances[number]
            index = len(notes)
            notes.append(Disturbance(begin, float("inf"), thing, uuid))
        try:
            yield
        finally:
            with self._lock:
                notes[index] = notes[index]._replace(end=time.monotonic())

    @contextlib.contextmanager
    def touching(self, uuid: str, thing: str = "touch") -> Iterator[None]:
        """The same of what an administrator does with a machine: its state on both hosts depends on it."""
        with self.disturbing(1, thing, uuid), self.disturbing(2, thing, uuid):
            yield

    def is_disturbed(self, number: int, thing: str) -> bool:
        """Whether a thing of a host is disturbed now."""
        with self._lock:
            return any(
                note.thing == thing and note.end == float("inf") for note in self._disturbances[number]
            )

    def call_by_hand(self, number: int, uuid: str, action: str) -> None:
        """Note a call of the helper that is not sanlock's, before it is made."""
        with self._lock:
            self._by_hand[number].append(Call(time.monotonic(), uuid, action, True))

    def policy_changed(self, uuid: str) -> None:
        """Note that the machine's policy is not what it was."""
        with self._lock:
            self._changed.add(uuid)

    # What is seen

    def last(self, number: int) -> Sample | None:
        """The last sample of a host."""
        self._read_samples(number)
        return self._samples[number][-1] if self._samples[number] else None

    def _read_samples(self, number: int) -> None:
        with self._lock:
            try:
                with self.hosts[number].path(SAMPLES).open("rb") as file:
                    file.seek(self._offsets[number])
                    data = file.read()
            except OSError:
                return
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[number] += len(whole)
            self._samples[number] += map(read_sample, whole.decode().splitlines())

    def helpers(self, number: int) -> list[Process]:
        """Our killpath processes on a host."""
        return [p for p in self.hosts[number].processes("libvirt_sanlock") if self.helper in p.cmdline]

    def recoveries(self, number: int) -> list[Process]:
        """The processes of recovery on a host."""
        words = {str(COMMAND), "recover", "--wait"}
        return [p for p in self.hosts[number].processes() if words <= set(p.cmdline)]

    def agents(self, number: int) -> list[Process]:
        """The agents that stand on a host, or wait for the lock: one, or none."""
        words = {str(COMMAND), "agent"}
        return [p for p in self.hosts[number].processes() if words <= set(p.cmdline)]

    def run(self) -> Run:
        """All that was seen until now."""
        is_over = not any(map(self._is_at_work, self.hosts))
        for number in self.hosts:
            self._read_samples(number)
        machines = self.schedule.machines
        with self._lock:
            return Run(
                {number: self._host(number) for number in self.hosts},
                {u: 1 + len(machine.keys) for machine in machines for u in (machine.uuid, machine.twin)},
                frozenset(
                    u
                    for machine in machines
                    for u in (machine.uuid, machine.twin)
                    if machine.recover == "yes" and u not in self._changed
                ),
                is_over,
                {
                    u: machine.priority
                    for machine in machines
                    for u in (machine.uuid, machine.twin)
                    if machine.priority
                },
            )

    def _host(self, number: int) -> Host:
        stack = self.hosts[number]
        calls = [
            Call(call.start - self._clock, call.argv[1], call.argv[2])
            for call in stack.helper_calls()
            if len(call.argv) > 2
        ]
        return Host(
            list(self._samples[number]),
            sorted([*calls, *self._by_hand[number]]),
            self._outcomes(stack),
            list(self._disturbances[number]),
            self._failures(stack),
            number in self.schedule.standing,
        )

    def _outcomes(self, stack: Stack) -> list[Outcome]:
        found = []
        for line in stack.journal(IDENTIFIER):
            match = _OUTCOME.fullmatch(line.message)
            if match:
                action, uuid, kind, requests = match.groups()
                repeated = REPEATED in line.message
                at = line.time - self._clock
                found.append(Outcome(at, uuid, action, kind, int(requests or 1), repeated))
        return found

    def _failures(self, stack: Stack) -> list[tuple[float, str]]:
        found = ((line.time, _FAILURE.fullmatch(line.message)) for line in stack.journal(IDENTIFIER))
        return [(at - self._clock, match[1]) for at, match in found if match]

    # The end

    def settle(self, seconds: float) -> None:
        """Wait until all helpers have ended, and then SECONDS at most until all was brought back."""
        with contextlib.suppress(WaitTimeout):
            wait_for(lambda: not any(map(self._is_at_work, self.hosts)), 60, "all helpers to end")
        with contextlib.suppress(WaitTimeout):
            wait_for(self._nothing_left, seconds, "all to be brought back")
        # The last samples, of what is left.
        time.sleep(1.0)

    def _is_at_work(self, number: int) -> bool:
        """Whether a helper has not ended, or a request is in the spool of an agent that stands."""
        host = self.hosts[number]
        left = number in self.schedule.standing and any(host.path(SPOOL).glob("[!.]*"))
        return left or bool(host.processes("libvirt_sanlock"))

    def _nothing_left(self) -> bool:
        samples = [self.last(number) for number in self.hosts]
        return not any(sample is None or sample.records for sample in samples) and not owed(self.run())

    def report(self) -> str:
        """The logs of both hosts."""
        parts = []
        for number, host in self.hosts.items():
            parts.append(f"=== host {number}\n{host.report()}")
            for log in sorted(host.path("/var/log/libvirt/qemu").glob("*.log")):
                tail = log.read_text(errors="backslashreplace").splitlines()[-8:]
                parts.append(f"--- {log.name!r} of host {number}\n" + "\n".join(line[-300:] for line in tail))
            lines = [
                f"{line.time - self._clock:.2f} {line.ident}[{line.pid}] {line.message}"
                for line in host.journal()
            ]
            parts.append(f"=== journal of host {number}\n" + "\n".join(lines))
        for number in self.hosts:
            notes = [json.dumps(note) for note in self._disturbances[number]]
            parts.append(f"=== disturbances of host {number}\n" + "\n".join(notes))
        return "\n".join(parts)


def _install_program(host: Stack) -> None:
    """Give HOST a copy of the program, at the same path."""
    for folder in (HELPER.parent, HELPER.parents[1] / "auth"):
        script = 'mkdir -p "$0" && cp -a "$1" "$0" && mount --bind "$0/${1##*/}" "$1"'
        host.run("sh", "-c", script, PROGRAM, str(folder))
