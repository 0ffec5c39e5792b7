# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the steps of a schedule do to the world.

A step that finds nothing to do, or that the host refuses, is no error: a schedule is random.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Callable

from tests.e2e.failing_disk import EIO, ENOSPC
from tests.e2e.lease_loss import HELPER, URI
from tests.e2e.leases import Lease
from tests.e2e.namespace import CommandError, Process
from tests.e2e.recovery import COMMAND, read_version
from tests.e2e.stack import Stack
from tests.e2e.standing import update
from tests.e2e.storage import LEASES
from tests.e2e.waiting import WaitTimeout, wait_for

from .observations import (
    AGENT,
    DISK,
    ERRORS,
    JOB,
    LIBVIRTD,
    OURS,
    QEMU,
    RECOVERY,
    SANLOCK,
    SPACE,
    STORAGE,
    TOUCH,
)
from .schedule import Machine, Step
from .world import SECONDS, SPOOL, World

# How long a fault of a process waits for that process to be there.
APPEARS_SECONDS = 12.0
# How long another host tries to get the leases of a machine.
TAKE_SECONDS = 15.0
# Processes of a storm.
STORM = 25

# By the word of the step, what the disk gives, and what is disturbed.
_DISK_FAULTS = {"": (0, (DISK,)), "eio": (EIO, (DISK, ERRORS)), "enospc": (ENOSPC, (DISK, SPACE))}


class Steps:
    """Does steps, each in a thread of its own, until close()."""

    def __init__(self, world: World, log: Callable[[str], None]) -> None:
        self._world = world
        self._log = log
        self._over = threading.Event()
        # One outage at a time, and one fault of a daemon: a step that comes too early waits.
        self._outage = threading.Lock()
        self._daemons = {
            (number, thing): threading.Lock() for number in world.hosts for thing in (LIBVIRTD, SANLOCK)
        }
        # A disk has one fault at a time, too.
        self._disk_locks = {key: threading.Lock() for key in world.exports}
        self._threads: list[threading.Thread] = []

    def begin(self, step: Step) -> None:
        """Do STEP beside all others."""
        thread = threading.Thread(target=self._do, args=(step,), name=str(step), daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self, seconds: float = 150.0) -> None:
        """Undo what has an end, now, and wait for all.  Raises AssertionError for a step that hangs."""
        self._over.set()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        left = [thread.name for thread in self._threads if thread.is_alive()]
        assert not left, f"steps without an end: {left}"

    def _do(self, step: Step) -> None:
        method = getattr(self, "_" + step.do.replace("-", "_"))
        try:
            note = method(step)
        except (CommandError, WaitTimeout, AssertionError, OSError) as error:
            note = f"not done: {' '.join(str(error).split())[:200]}"
        words = [step.do, step.word, f"on host {step.host}", f"machine {step.machine}" * (step.machine >= 0)]
        self._log(f"{' '.join(filter(None, words))}: {note or 'done'}")

    def _host(self, step: Step) -> Stack:
        return self._world.hosts[step.host]

    def _machine(self, step: Step) -> Machine:
        return self._world.schedule.machines[step.machine]

    def _uuid(self, step: Step) -> str:
        return self._world.uuids[step.machine]

    def _wait(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        self._over.wait(seconds)

    def _virsh(self, step: Step, *words: str, thing: str = TOUCH) -> None:
        with self._world.touching(self._uuid(step), thing):
            self._host(step).virsh(*words, timeout=SECONDS)

    # Storage

    def _storage(self, step: Step) -> None:
        storage = self._world.hosts[1].storage
        with self._outage, self._world.disturbing(1, STORAGE), self._world.disturbing(2, STORAGE):
            storage.fail(step.word == "resources")
            try:
                self._wait(step.lasts)
            finally:
                storage.restore()

    def _sector(self, step: Step) -> None:
        pair = self._world.pairs[step.host]
        with self._outage, self._world.disturbing(step.host, STORAGE):
            pair.lose()
            self._wait(step.lasts)
            # sanlock leaves once no process holds a lease any more: after its SIGKILL at the latest.
            for _ in range(4):
                with contextlib.suppress(WaitTimeout):
                    pair.restore()
                    return
            raise WaitTimeout("sanlock to leave", 80, None)

    def _disk(self, step: Step) -> None:
        """A machine's second disk fails: its guest stops, and libvirt gives its leases up."""
        self._fail_disks(step, [(step.host, step.machine)])

    def _disks(self, step: Step) -> None:
        """Those of all machines of a host."""
        self._fail_disks(step, [key for key in sorted(self._disk_locks) if key[0] == step.host])

    def _fail_disks(self, step: Step, keys: list[tuple[int, int]]) -> None:
        """Each of them is back at the end, even if that fails of another."""
        error, things = _DISK_FAULTS[step.word]
        with contextlib.ExitStack() as ends:
            for key in keys:
                ends.enter_context(self._disk_locks[key])
                for thing in things:
                    ends.enter_context(self._world.disturbing(step.host, thing, self._world.uuids[key[1]]))
            for export in [self._world.exports[key] for key in keys]:
                export.fail()
                ends.callback(export.serve)
                if error:
                    ends.callback(export.fail)
                    export.serve(error)
            self._wait(step.lasts)

    # Daemons

    @contextlib.contextmanager
    def _away(self, step: Step, thing: str) -> Iterator[None]:
        """One fault of a daemon at a time; it is noted until the daemon answers again."""
        with self._daemons[step.host, thing], self._world.disturbing(step.host, thing):
            yield

    def _libvirtd_stopped(self, step: Step) -> None:
        with self._away(step, LIBVIRTD):
            try:
                self._host(step).libvirtd.stop()
                self._wait(step.lasts)
            finally:
                self._start_libvirtd(step)

    def _libvirtd_killed(self, step: Step) -> None:
        with self._away(step, LIBVIRTD):
            try:
                self._host(step).libvirtd.kill()
                self._wait(step.lasts)
            finally:
                self._start_libvirtd(step)

    def _libvirtd_restarted(self, step: Step) -> None:
        self._libvirtd_stopped(step._replace(lasts=0.0))

    def _libvirtd_frozen(self, step: Step) -> None:
        with self._away(step, LIBVIRTD):
            self._host(step).libvirtd.freeze()
            try:
                self._wait(step.lasts)
            finally:
                self._host(step).libvirtd.thaw()

    def _start_libvirtd(self, step: Step) -> None:
        """Start it until it answers: without its lockspace it has no QEMU driver, and ends."""
        libvirtd = self._host(step).libvirtd
        for _ in range(8):
            with contextlib.suppress(CommandError, AssertionError):
                if not libvirtd.is_running():
                    libvirtd.start(wait=False)
                libvirtd.wait_ready(8)
                return
            with contextlib.suppress(CommandError, AssertionError):
                libvirtd.kill()
            time.sleep(1.0)
        raise WaitTimeout("libvirtd to answer", 64, None)

    def _sanlock_frozen(self, step: Step) -> None:
        with self._away(step, SANLOCK):
            self._host(step).sanlock.freeze()
            try:
                self._wait(step.lasts)
            finally:
                self._host(step).sanlock.thaw()

    def _sanlock_restarted(self, step: Step) -> str:
        """As an administrator may in an outage, when no lease is held and no machine is being started.

        libvirt registers a machine with sanlock when it starts, and takes the leases when its guest begins: a
        sanlock that is restarted in between does not know it, and it runs without leases.
        """
        host = self._host(step)
        with contextlib.ExitStack() as ends:
            for lock in self._world.locks.values():
                ends.enter_context(lock)
            ends.enter_context(self._away(step, SANLOCK))
            if host.lockspaces() or not self._world.is_disturbed(step.host, STORAGE):
                return "its lockspace is there"
            ends.enter_context(self._world.disturbing(step.host, TOUCH))
            host.sanlock.stop()
            host.sanlock.start()
        return ""

    # The program

    def _pick(self, step: Step, find: Callable[[], list[Process]]) -> Process | None:
        """A process that FIND finds, waited for."""
        end = time.monotonic() + APPEARS_SECONDS
        while time.monotonic() < end and not self._over.is_set():
            found = find()
            if found:
                return found[int(step.at * 100) % len(found)]
            time.sleep(0.02)
        return None

    def _replaceable(self, step: Step) -> list[Process]:
        """Our processes that have written their requests, where another one can take over."""
        found = self._world.helpers(step.host)
        try:
            names = os.listdir(self._host(step).path(SPOOL))
        except OSError:
            return []
        written = [
            process
            for process in found
            if any(name.startswith(f"{process.cmdline[-2]}.{process.cmdline[-1]}.") for name in names)
        ]
        return written if len(found) > 1 else []

    def _killpath_killed(self, step: Step) -> str:
        process = self._pick(step, lambda: self._replaceable(step))
        if process is None:
            return "no process to kill"
        self._wait(step.lasts)
        if not any(process.pid == other.pid for other in self._replaceable(step)):
            return "it has ended"
        with self._world.disturbing(step.host, OURS):
            self._host(step).signal(process.pid, signal.SIGKILL)
        return f"process {process.pid}"

    def _killpath_stopped(self, step: Step) -> str:
        process = self._pick(step, lambda: self._replaceable(step))
        return self._stop(step, process) if process else "no process to stop"

    def _recovery_killed(self, step: Step) -> str:
        process = self._pick(step, lambda: self._world.recoveries(step.host))
        if process is None:
            return "no process to kill"
        self._wait(step.lasts)
        with self._world.disturbing(step.host, RECOVERY):
            self._host(step).signal(process.pid, signal.SIGKILL)
        return f"process {process.pid}"

    def _recovery_stopped(self, step: Step) -> str:
        process = self._pick(step, lambda: self._world.recoveries(step.host))
        if process is None:
            return "no process to stop"
        with self._world.disturbing(step.host, RECOVERY):
            return self._stop(step, process)

    def _hold(self, step: Step) -> None:
        """An administrator's maintenance."""
        host = self._host(step)
        host.run(str(COMMAND), "recover", "--hold", timeout=SECONDS)
        try:
            self._wait(step.lasts)
        finally:
            host.run(str(COMMAND), "recover", "--release", timeout=SECONDS)

    def _standing_killed(self, step: Step) -> str:
        return self._signal_standing(step, signal.SIGKILL)

    def _standing_restarted(self, step: Step) -> str:
        """As `systemctl restart` does."""
        return self._signal_standing(step, signal.SIGTERM)

    def _standing_updated(self, step: Step) -> str:
        """The package is updated: each of its files is replaced, and the service restarted."""
        for folder in (HELPER.parent, HELPER.parents[1] / "auth"):
            update(self._host(step).path(str(folder)))
        return self._signal_standing(step, signal.SIGTERM)

    def _signal_standing(self, step: Step, number: int) -> str:
        process = self._pick(step, lambda: self._world.agents(step.host))
        if process is None:
            return "no agent stands"
        with self._world.disturbing(step.host, OURS), self._world.disturbing(step.host, AGENT):
            self._host(step).signal(process.pid, number)
        return f"process {process.pid}"

    def _standing_stopped(self, step: Step) -> str:
        process = self._pick(step, lambda: self._world.agents(step.host))
        if process is None:
            return "no agent stands"
        with self._world.disturbing(step.host, AGENT):
            return self._stop(step, process)

    def _stop(self, step: Step, process: Process) -> str:
        with self._world.disturbing(step.host, OURS):
            self._host(step).signal(process.pid, signal.SIGSTOP)
            try:
                self._wait(step.lasts)
            finally:
                with contextlib.suppress(CommandError):
                    self._host(step).signal(process.pid, signal.SIGCONT)
        return f"process {process.pid}"

    # Loads

    def _busy(self, step: Step) -> None:
        """A program that does nothing but compute."""
        program = self._host(step).popen("sh", "-c", "while :; do :; done", stdout=None, stderr=None)
        self._wait(step.lasts)
        program.kill()
        program.wait()

    def _storm(self, step: Step) -> None:
        """Calls for many machines that libvirt does not know."""
        # The same ones at each replay.
        names = [
            str(uuid.uuid5(uuid.NAMESPACE_OID, f"{step.at}.{step.host}.{number}")) for number in range(STORM)
        ]
        for name in names:
            self._world.call_by_hand(step.host, name, "pause")
        self._call(step, "pause", *names)

    def _call(self, step: Step, action: str, *uuids: str) -> None:
        """Run the helper for all of UUIDS at once, and wait for the end of all.

        In the background of a shell: an nsenter stops when its own child is stopped.
        """
        script = f'for uuid in "$@"; do {HELPER} {URI} $uuid {action} </dev/null & done; wait'
        self._host(step).run("sh", "-c", script, "sh", *uuids, check=False, timeout=90)

    # Machines

    def _start_all(self, _step: Step) -> None:
        self._world.start_all()

    def _vm_pid(self, step: Step) -> int:
        sample = self._world.last(step.host)
        vm = sample.vm(self._uuid(step)) if sample else None
        assert vm is not None, "it has no process there"
        return vm.pid

    def _qemu_frozen(self, step: Step) -> None:
        pid, host = self._vm_pid(step), self._host(step)
        with self._world.disturbing(step.host, QEMU, self._uuid(step)):
            host.signal(pid, signal.SIGSTOP)
            try:
                self._wait(step.lasts)
            finally:
                with contextlib.suppress(CommandError):
                    host.signal(pid, signal.SIGCONT)

    def _qemu_killed(self, step: Step) -> None:
        with self._world.touching(self._uuid(step)):
            self._host(step).signal(self._vm_pid(step), signal.SIGKILL)

    def _start(self, step: Step) -> None:
        with self._world.locks[step.machine], self._world.touching(self._uuid(step)):
            self._world.start(self._host(step), self._machine(step))

    def _start_there(self, step: Step) -> str:
        """Start it on the other host, as a high-availability manager does, and end it there.

        That tries until it has the leases: those of a lost host once that has joined again.
        """
        with self._world.touching(self._uuid(step)):
            end = time.monotonic() + TAKE_SECONDS
            while not self._is_started(step):
                if time.monotonic() > end or self._over.is_set():
                    return "it did not get the leases"
                self._wait(0.3)
            self._wait(step.lasts)
            self._host(step).virsh("destroy", self._uuid(step), timeout=SECONDS)
        return ""

    def _is_started(self, step: Step) -> bool:
        with self._world.locks[step.machine], contextlib.suppress(CommandError):
            self._world.start(self._host(step), self._machine(step))
            return True
        return False

    def _destroy(self, step: Step) -> None:
        self._virsh(step, "destroy", self._uuid(step))

    def _reboot(self, step: Step) -> None:
        self._virsh(step, "reset", self._uuid(step))

    def _undefine(self, step: Step) -> None:
        self._virsh(step, "undefine", self._uuid(step))

    def _save(self, step: Step) -> None:
        file = f"/run/stack/{step.machine}.save"
        try:
            self._virsh(step, "save", self._uuid(step), file, thing=JOB)
        finally:
            self._host(step).path(file).unlink(missing_ok=True)

    def _dump(self, step: Step) -> None:
        file = f"/run/stack/{step.machine}.dump"
        try:
            self._virsh(step, "dump", self._uuid(step), file, thing=JOB)
        finally:
            self._host(step).path(file).unlink(missing_ok=True)

    def _migrate(self, step: Step) -> None:
        """To the other host; the machine's XML is there as well."""
        pair = self._world.pairs[step.host]
        socket = f"{LEASES}/migrate-{step.machine}.sock"
        with self._world.touching(self._uuid(step), JOB):
            result = subprocess.run(
                [
                    *("timeout", f"{SECONDS:g}", "virsh", "-q", "-c", pair.source_uri, "migrate", "--live"),
                    *("--unsafe", self._uuid(step), pair.target_uri, "--migrateuri", f"unix://{socket}"),
                ],
                check=False,
                capture_output=True,
                text=True,
            )
        assert result.returncode == 0, result.stderr

    def _suspend(self, step: Step) -> str:
        """Pause it, and resume it if no other host has held its leases since: libvirt does not check."""
        host, name = self._host(step), self._uuid(step)
        with self._world.touching(name):
            pid = self._vm_pid(step)
            leases = [lease for lease in host.leases() if lease.pid == pid]
            daemon = host.sanlock.pid()
            host.virsh("suspend", name, timeout=SECONDS)
            self._wait(step.lasts)
            with self._world.locks[step.machine]:
                if not self._is_as_it_was(host, leases) or host.sanlock.pid() != daemon:
                    return "it stays paused"
                host.virsh("resume", name, timeout=SECONDS)
        return ""

    @staticmethod
    def _is_as_it_was(host: Stack, leases: list[Lease]) -> bool:
        try:
            return bool(leases) and all(read_version(host, lease) == lease.version for lease in leases)
        except (TypeError, ValueError, KeyError):
            return False  # it cannot be read

    def _request(self, step: Step) -> None:
        """The other host asks for its lease, gracefully."""
        pid, other = self._vm_pid(step), self._world.hosts[3 - step.host]
        with self._world.touching(self._uuid(step)):
            lease = next((lease for lease in self._host(step).leases() if lease.pid == pid), None)
            assert lease is not None, "it has no lease"
            other.run("sanlock", "client", "request", "-r", f"{lease.where}:{lease.version + 1}", "-f", "2")
            # The other sanlock notices it at a renewal.
            self._wait(5.0)

    def _by_hand(self, step: Step) -> None:
        with self._world.locks[step.machine], self._world.touching(self._uuid(step)):
            self._world.call_by_hand(step.host, self._uuid(step), step.word)
            self._call(step, step.word, self._uuid(step))

    def _policy(self, step: Step) -> None:
        self._world.policy_changed(self._uuid(step))
        option = "--recover" if step.word == "yes" else "--no-recover"
        self._host(step).run(str(COMMAND), "policy", self._uuid(step), option, timeout=SECONDS)

    def _twin(self, step: Step) -> None:
        """Another machine of the same name takes its place."""
        machine = self._machine(step)
        old = self._uuid(step)
        new = machine.twin if old == machine.uuid else machine.uuid
        with self._world.locks[step.machine], self._world.touching(old), self._world.touching(new):
            for host in self._world.hosts.values():
                for verb in ("destroy", "undefine"):
                    with contextlib.suppress(CommandError):
                        host.virsh(verb, old, timeout=SECONDS)
            self._world.uuids[step.machine] = new
            self._world.start(self._host(step), machine)


def names() -> set[str]:
    """What a Step.do may be."""
    return {name[1:].replace("_", "-") for name in vars(Steps) if name.startswith("_") and name[1] != "_"}


def wait_until_started(world: World) -> None:
    """Wait until all machines run, as far as they can."""

    def all_run() -> bool:
        sample = world.last(1)
        return sample is not None and all(
            (vm := sample.vm(name)) is not None and vm.runs for name in world.uuids.values()
        )

    wait_for(all_run, 60, "all machines to run")
