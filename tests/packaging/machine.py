# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine with systemd as PID 1: systemd-nspawn over an overlay of the real root, gone with its owner.

Everything is below one unshare: namespaces, overlay, container.  When that ends, however it ends, the kernel
kills and unmounts the rest.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.e2e import helper, preconditions
from tests.e2e.leases import Kill, Lockspace, parse_kills, parse_lockspaces
from tests.e2e.namespace import CommandError
from tests.e2e.unshared import ENVIRONMENT, PYTHON, Unshared, children
from tests.e2e.waiting import wait_for

BOOT = Path(__file__).with_name("boot.py")
CGROUP = "sanlock-helper-test-"
# About 1 s on an idle machine.
BOOT_TIMEOUT = 60

# The path that libvirt registers with sanlock, on the distribution that the tests run on.
STOCK = helper.stock_path() or helper.PLACES[0]


@functools.cache
def missing() -> tuple[str, ...]:
    """What is missing to boot a machine, one line each."""
    found = list(preconditions.missing())
    for program in ("systemd-nspawn", "rpm", "rpmbuild"):
        if shutil.which(program, path=ENVIRONMENT["PATH"]) is None:
            found.append(f"program {program}")
    if not cgroup_roots():
        found.append("cgroups: none is mounted that systemd could use")
    return tuple(found)


def cgroup_roots() -> list[Path]:
    """Our own folders in the hierarchies that systemd uses: the unified one, and its own of version 1."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        places = {
            "": ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"),
            "name=systemd": ("/sys/fs/cgroup/systemd",),
        }
        for place in places.get(controllers, ()):
            if Path(place, "cgroup.procs").exists():
                found.append(Path(place + path))
                break
    return found


def cgroup_prefix() -> str:
    """How the names of our cgroups begin, before a pid: with the PID namespace, which alone makes it one."""
    return f"{CGROUP}{os.stat('/proc/self/ns/pid').st_ino}-"


def remove_cgroup(top: Path) -> None:
    """Remove a cgroup without processes, and those below it."""
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


class Machine:
    """Boots on entry; pids are those of the inside."""

    def __init__(self) -> None:
        self._unshare: Unshared | None = None
        self._cgroups = [root / f"{cgroup_prefix()}{os.getpid()}" for root in cgroup_roots()]
        self.init_pid = 0

    def __enter__(self) -> Machine:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        prefix = cgroup_prefix()
        for folder in self._cgroups:
            for stale in folder.parent.glob(f"{prefix}*"):
                # Of a run that was killed: all else went with it.
                if not Path("/proc", stale.name[len(prefix) :]).exists():
                    remove_cgroup(stale)
            folder.mkdir()
        self._unshare = Unshared(BOOT, *map(str, self._cgroups))
        self._unshare.wait_ready(BOOT_TIMEOUT)
        self.init_pid = wait_for(self._find_init, BOOT_TIMEOUT, "PID 1 of the container")
        wait_for(self._is_up, BOOT_TIMEOUT, "the end of the boot")

    def reboot(self) -> None:
        """Boot again: /run is new, the disks are not; processes and pids inside are others."""
        before = self.init_pid
        self.run("systemctl", "--no-block", "reboot", check=False)
        self.init_pid = wait_for(
            lambda: self._find_init() not in (0, before) and self._find_init(), BOOT_TIMEOUT, "a new PID 1"
        )
        wait_for(self._is_up, BOOT_TIMEOUT, "the end of the boot")

    def _find_init(self) -> int:
        assert self._unshare is not None
        for boot in children(self._unshare.pid):
            for nspawn in children(boot):
                for init in children(nspawn):
                    # nspawn's own child, before it is systemd, may end meanwhile.
                    with contextlib.suppress(OSError):
                        if Path(f"/proc/{init}/comm").read_text() == "systemd\n":
                            return init
        return 0

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-active", "test.target", check=False).stdout == "active\n"

    def close(self) -> None:
        """End everything inside, and wait until it has ended.  May be called twice."""
        unshare, self._unshare = self._unshare, None
        if unshare is not None:
            unshare.close(30)
        for folder in self._cgroups:
            remove_cgroup(folder)

    def path(self, inside: str) -> Path:
        """Where the outside finds a path of the inside, absolute symbolic links excepted."""
        return Path(f"/proc/{self.init_pid}/root") / inside.lstrip("/")

    def write(self, inside: str, text: str) -> None:
        """Write a file inside."""
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        self.path(inside).write_text(text)

    def run(
        self, *argv: str, check: bool = True, timeout: float = 60, within: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, or with the mounts of the process WITHIN (its pid inside).

        Raises CommandError when it fails, unless check is false, and when it runs out of time.
        """
        try:
            result = subprocess.run(
                self._enter(argv, within),
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="backslashreplace",
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise CommandError(argv, None, str(error.stdout), str(error.stderr)) from None
        if check and result.returncode != 0:
            raise CommandError(argv, result.returncode, result.stdout, result.stderr)
        return result

    def popen(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command inside; killing the Popen kills it."""
        return subprocess.Popen(
            self._enter(argv, 0),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _enter(self, argv: tuple[str, ...], within: int) -> list[str]:
        enter = ["nsenter", f"--target={self.init_pid}", "--all", "--"]
        if within:
            enter += ["nsenter", f"--target={within}", "--mount", "--"]
        # nsenter forks to enter a PID namespace: the command would outlive it.
        return [*enter, "setpriv", "--pdeathsig=KILL", "--", *argv]

    def rpm(self, *arguments: str) -> str:
        """Run rpm inside, which does not know Debian's packages; returns all that it prints."""
        words = ["--nodeps", *arguments] if arguments[0] in ("-i", "-U", "-e", "-V") else list(arguments)
        result = self.run("rpm", *words)
        # Debian's rpm advises against itself, each time.
        printed = [
            line for line in (result.stdout + result.stderr).splitlines() if not line.startswith("rpm: ")
        ]
        return "\n".join(printed)

    # sanlock

    def sanlock_python(self) -> str:
        """The file of sanlock-python; empty where there is none."""
        find = "import importlib.util; print(getattr(importlib.util.find_spec('sanlock'), 'origin', ''))"
        return self.run(PYTHON, "-Ic", find).stdout.strip()

    def remove_sanlock_python(self) -> None:
        """Take it away, as the distributions have done that ship sanlock 5."""
        # There may be another one further down the path.
        while found := self.sanlock_python():
            self.run("rm", found)

    def sanlock_pid(self) -> int:
        """The pid of the service, 0 when it is down."""
        return int(self.run("systemctl", "show", "--property=MainPID", "--value", "sanlock").stdout)

    def start_sanlock(self) -> int:
        """Start the service, wait until it answers; returns its pid."""
        self.run("systemctl", "reset-failed", "sanlock", check=False)
        self.run("systemctl", "start", "sanlock")
        wait_for(
            lambda: self.run("sanlock", "client", "status", check=False).returncode == 0,
            20,
            "sanlock to answer",
        )
        return self.sanlock_pid()

    def stop_sanlock(self) -> None:
        """Stop it, also with a lockspace joined."""
        if self.sanlock_pid():
            self.run("sanlock", "client", "shutdown", "-f", "1", "-w", "0")
            wait_for(lambda: not self.sanlock_pid(), 20, "the end of sanlock")

    def sanlock_kills(self) -> list[Kill]:
        """What the service's present process did to be rid of others: see Kill."""
        log = self.path("/var/log/sanlock.log").read_text(errors="backslashreplace")
        return parse_kills(log, {self.sanlock_pid()})

    def lockspaces(self) -> list[Lockspace]:
        """What sanlock has joined."""
        return parse_lockspaces(self.run("sanlock", "client", "status").stdout.splitlines())

    def seen_by_sanlock(self) -> bytes:
        """The helper that sanlock would execute, by its own view of the path."""
        result = subprocess.run(
            [
                "nsenter",
                f"--target={self.init_pid}",
                "--all",
                "--",
                "cat",
                f"/proc/{self.sanlock_pid()}/root{STOCK}",
            ],
            check=True,
            capture_output=True,
        )
        return result.stdout

    def journal(self, *matches: str) -> str:
        """The journal's messages of our identifier, one a line."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "-t", "virt-sanlock-helper", "-o", "cat", *matches, check=False).stdout

    def mark(self) -> str:
        """What is logged from now on: an option for journal(), and for journalctl."""
        # Not --after-cursor=: with a match beside it, that passes over the first line, too.
        return f"--since=@{time.time():.6f}"
