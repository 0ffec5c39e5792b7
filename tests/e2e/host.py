# SPDX-License-Identifier: LGPL-2.1-or-later
"""A second host on the same storage: another sanlock with another host_id."""

from __future__ import annotations

import subprocess
import time

from .daemons import sanlock_flags
from .leases import LOCKSPACE, Lease, Lockspace, client_status, parse_leases, parse_lockspaces
from .namespace import CommandError, Namespace
from .storage import Storage
from .waiting import WaitTimeout, wait_for


class SecondHost:
    """Joins the lockspace of a stack as another host, and takes leases there."""

    def __init__(
        self, space: Namespace, storage: Storage, host_id: int, io_timeout: int, name: str = ""
    ) -> None:
        """NAME is what other hosts know it by, host and its host_id without one."""
        self._space = space
        self._storage = storage
        self.host_id = host_id
        self._io_timeout = io_timeout
        run_dir = f"/run/sanlock{host_id}"
        self.log = f"/var/log/sanlock{host_id}.log"
        # The directory distinguishes the hosts, for the daemon and for its clients.
        self._env = {"SANLOCK_RUN_DIR": run_dir, "SANLOCK_PRIVILEGED": "0"}
        self._holders: dict[str, subprocess.Popen[str]] = {}
        space.path(run_dir).mkdir()
        with space.path(self.log).open("w") as log:
            self._daemon = space.popen(
                "sanlock", "daemon", *sanlock_flags(),
                # Logs to stderr: the file's path is fixed, and the first host's.
                "-D", "-L", "-1", "-S", "-1",
                "-e", name or f"host{host_id}",
                env=self._env,
                stdout=log,
                stderr=log,
            )  # fmt: skip
        wait_for(self._answers, 10, f"the sanlock of host {host_id}")

    def _answers(self) -> bool:
        assert self._daemon.poll() is None, f"the sanlock of host {self.host_id} has ended"
        status = self._space.run("sanlock", "client", "status", check=False, env=self._env)
        return status.returncode == 0

    def run(self, *argv: str) -> None:
        """Run a command as on this host."""
        self._space.run(*argv, env=self._env)

    def lockspaces(self) -> list[Lockspace]:
        """What this host has joined."""
        return parse_lockspaces(client_status(self._space, self._env))

    def leases(self) -> list[Lease]:
        """What this host holds."""
        return parse_leases(client_status(self._space, self._env))

    def join(self, timeout: float = 60) -> None:
        """Join the lockspace of the first host's disks, again or for the first time."""
        wait_for(lambda: not self.lockspaces(), timeout, f"host {self.host_id} to leave")
        where = f"{LOCKSPACE}:{self.host_id}:{self._storage.lockspace_path}:0"
        self._space.run(
            "sanlock", "client", "add_lockspace", "-s", where, "-o", str(self._io_timeout),
            env=self._env, timeout=timeout,
        )  # fmt: skip

    def take(self, lease: Lease, timeout: float = 30) -> float:
        """Take a lease, trying again while another host has it; returns the seconds it took.

        A lease that was lost with its lockspace stays on record as the lost host's. It can be
        taken once that host has joined again, or counts as dead: 8 times io_timeout and 60 s.
        """
        if lease.where in self._holders:
            raise RuntimeError(f"host {self.host_id} holds {lease.where} already")
        start = time.monotonic()
        while True:
            try:
                self._holders[lease.where] = self._try_to_take(lease)
                return time.monotonic() - start
            except CommandError as error:
                if time.monotonic() - start > timeout:
                    what = f"host {self.host_id} to take {lease.where}"
                    raise WaitTimeout(what, timeout, error) from None
                time.sleep(0.1)

    def _try_to_take(self, lease: Lease) -> subprocess.Popen[str]:
        # sanlock takes the lease for this process and then turns it into the sleep. The sleep
        # has no end of its own: give_back() or the end of the stack is its end.
        argv = ("sanlock", "client", "command", "-r", lease.where, "-c", "/bin/sleep", "infinity")
        holder = self._space.popen(*argv, env=self._env)
        wait_for(
            lambda: holder.poll() is not None or self._holds(lease),
            60,
            f"an answer to host {self.host_id} on {lease.where}",
        )
        if holder.returncode is not None:
            stdout, stderr = holder.communicate()
            raise CommandError(argv, holder.returncode, stdout, stderr)
        return holder

    def _holds(self, lease: Lease) -> bool:
        return any(held.where == lease.where and not held.state for held in self.leases())

    def request(self, lease: Lease) -> None:
        """Ask the holder for a lease, gracefully: its host runs the holder's killpath."""
        # For the version after the holder's.
        wanted = f"{lease.where}:{lease.version + 1}"
        self._space.run("sanlock", "client", "request", "-r", wanted, "-f", "2", env=self._env)

    def give_back(self, lease: Lease | None = None) -> None:
        """Give back one lease, or all, and wait until sanlock has written that."""
        wheres = [lease.where] if lease else list(self._holders)
        for where in wheres:
            holder = self._holders.pop(where)
            holder.kill()
            holder.communicate()
        wait_for(
            lambda: not any(held.where in wheres for held in self.leases()),
            10,
            f"host {self.host_id} to give back {wheres}",
        )
