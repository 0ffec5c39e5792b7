# SPDX-License-Identifier: LGPL-2.1-or-later
"""Private mount, PID, IPC, UTS and network namespaces, and commands run in them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from .unshared import ENVIRONMENT, PYTHON, Unshared, children
from .waiting import wait_for

__all__ = ["ENVIRONMENT", "PYTHON", "CommandError", "Namespace", "Process"]

INIT = Path(__file__).resolve().with_name("init.py")

# PID 1 needs about 0.1 s. More than this is a broken machine, not a slow one.
START_TIMEOUT = 20


class CommandError(Exception):
    """A command in the stack failed. Holds command, status, stdout and stderr."""

    def __init__(self, command: tuple[str, ...], status: int | None, stdout: str, stderr: str) -> None:
        self.command = command
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        outcome = "ran out of time" if status is None else f"failed with status {status}"
        super().__init__(f"command {' '.join(command)} {outcome}: stdout={stdout!r} stderr={stderr!r}")


class Process(NamedTuple):
    """One process of the namespace, by its pid there."""

    pid: int
    ppid: int
    state: str
    comm: str
    cmdline: tuple[str, ...]


class Namespace:
    """Runs init.py as PID 1 of new namespaces; all that runs inside ends with it.

    Pids are those of the inside, as the daemons write and log them. Files inside are read and
    written from outside through path().

    backing is the directory on disk behind the shared storage, or "" when that is a tmpfs.
    """

    def __init__(self, on_disk: bool = False, hostname: str = "", storage: str = "") -> None:
        """HOSTNAME is the machine's own if empty; STORAGE is the backing of another host's storage."""
        self._options = ["--on-disk"] if on_disk else []
        self._options += [f"--hostname={hostname}"] if hostname else []
        self._options += [f"--storage={storage}"] if storage else []
        self._unshare: Unshared | None = None
        self._started: list[subprocess.Popen[str]] = []
        self.backing = ""
        self.init_pid = 0

    def start(self) -> None:
        """Make the namespaces and wait until their files are in place."""
        self._unshare = Unshared(
            INIT,
            *self._options,
            # libvirtd's network driver must not touch the machine's firewall rules, and a host of two has a
            # name of its own.
            namespaces=("--net", "--uts"),
        )
        try:
            self.backing = json.loads(self._unshare.wait_ready(START_TIMEOUT))["backing"]
            (self.init_pid,) = children(self._unshare.pid)
        except BaseException:
            self.close()
            raise

    def is_open(self) -> bool:
        """True between start() and close()."""
        return self._unshare is not None

    def close(self) -> None:
        """End everything inside, and wait until it has ended. May be called twice."""
        unshare, self._unshare = self._unshare, None
        if unshare is None:
            return
        # An nsenter stops when its command is stopped, and does not see the end of that; the kernel ends a
        # PID namespace when all its processes have been waited for.
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._started.clear()
        unshare.close(START_TIMEOUT)
        if self.backing:
            # Gone already, unless PID 1 itself was killed.
            shutil.rmtree(self.backing, ignore_errors=True)

    def path(self, inside: str | os.PathLike[str]) -> Path:
        """Where the outside finds an absolute path of the inside, absolute symlinks excepted."""
        return Path(f"/proc/{self.init_pid}/root") / os.fspath(inside).lstrip("/")

    def _enter(self, argv: tuple[str, ...]) -> list[str]:
        if self._unshare is None:
            raise RuntimeError("the stack is not running")
        return [
            "nsenter",
            f"--target={self.init_pid}",
            "--mount",
            "--pid",
            "--ipc",
            "--net",
            "--uts",
            "--",
            # nsenter forks to enter a PID namespace; without this the command would survive the
            # death of the nsenter that stands for it outside.
            "setpriv",
            "--pdeathsig=KILL",
            "--",
            *argv,
        ]

    def popen(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command inside, in the directory / and with a service's environment plus env.

        The Popen is that of the nsenter in front: its status is the command's, and killing it
        kills the command.
        """
        process = subprocess.Popen(
            self._enter(argv),
            env={**ENVIRONMENT, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            errors="backslashreplace",
        )
        self._started.append(process)
        return process

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return its status, stdout and stderr.

        Raises CommandError when it runs out of time, and when it fails unless check is false.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(*argv, env=env, stdin=stdin) as process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                stdout, stderr = process.communicate()
                raise CommandError(argv, None, stdout, stderr) from None
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            raise CommandError(argv, process.returncode, stdout, stderr)
        return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)

    def pid_inside(self, process: subprocess.Popen[str]) -> int:
        """The pid inside of what popen() has started, which must not have ended.

        By its parent: a child that it has forked has its command line until that calls execve().
        """
        (pid,) = children(process.pid)
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        return int(status.partition("\nNSpid:")[2].partition("\n")[0].split()[-1])

    def processes(self) -> list[Process]:
        """All processes inside, zombies included, without the PID 1."""
        proc = self.path("/proc")
        pids = sorted(int(name) for name in os.listdir(proc) if name.isdigit())
        found = (self.process(pid) for pid in pids if pid != 1)
        return [process for process in found if process is not None]

    def process(self, pid: int) -> Process | None:
        """The process with this pid inside, or None."""
        return _read_process(self.path("/proc"), pid)

    def is_alive(self, pid: int) -> bool:
        """True unless the process is gone or a zombie."""
        process = self.process(pid)
        return process is not None and process.state not in "ZX"

    def kill(self, pid: int, number: int) -> None:
        """Send a signal to one process inside. Raises CommandError when there is none."""
        self.run("kill", f"-{int(number)}", "--", str(pid))

    def stop_process(self, pid: int, number: int = signal.SIGTERM, timeout: float = 30) -> None:
        """Send a signal to one process inside, and wait until nothing is left of it.

        Not even a zombie: that may have threads which still hold its locks.
        """
        with contextlib.suppress(CommandError):
            self.kill(pid, number)
        wait_for(lambda: self.process(pid) is None, timeout, f"the end of process {pid}")


def _read_process(proc: Path, pid: int) -> Process | None:
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
        raw = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        # It ended since it was listed.
        return None
    # comm is in parentheses and may hold any character, parentheses too.
    comm, _, rest = stat.partition("(")[2].rpartition(")")
    state, ppid = rest.split()[:2]
    words = raw.decode("utf-8", "backslashreplace").split("\0")[:-1]
    return Process(pid, int(ppid), state, comm, tuple(words))
