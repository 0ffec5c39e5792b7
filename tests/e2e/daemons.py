# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemons of a stack: start, stop, kill, freeze, thaw."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from .namespace import Namespace
from .waiting import wait_for

TIMEOUT = 30
# A libvirt daemon waits 30 s for what hinders its end, and then ends all the same (virNetDaemonRun() in its
# virnetdaemon.c); 11.3 does so now and then right after its start.
STOP_TIMEOUT = 45

# The daemon of stacks that name none, "libvirtd" or "virtqemud": a whole run of the tests is for one of them.
DAEMON = "SANLOCK_HELPER_DAEMON"


class Daemon:
    """A program that puts itself into the background and writes its pid to a file."""

    name = ""
    pidfile = ""
    logs: tuple[str, ...] = ()

    def __init__(self, space: Namespace) -> None:
        self._space = space
        # Of all its runs that pid() has read: what distinguishes its lines in a log from another's.
        self.pids: set[int] = set()

    def command(self) -> list[str]:
        """The program and its arguments."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """What it finds in its environment beyond a service's."""
        return {}

    def is_ready(self) -> bool:
        """True when it answers."""
        return self.is_running()

    def start(self, wait: bool = True) -> None:
        """Start it, and unless asked not to, wait until it answers."""
        self._space.run(*self.command(), env=self.environment(), timeout=TIMEOUT)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout: float = TIMEOUT) -> None:
        """Wait until it answers. Fails at once when it has ended."""

        def ready() -> bool:
            assert self.is_running(), f"{self.name} has ended; see its log"
            return self.is_ready()

        wait_for(self.is_running, timeout, f"{self.pidfile} of {self.name}")
        wait_for(ready, timeout, f"{self.name} to answer")

    def pid(self) -> int:
        """Its pid inside the stack; 0 when it does not run."""
        try:
            pid = int(self._space.path(self.pidfile).read_text())
        except (OSError, ValueError):
            return 0
        # A killed daemon leaves its file; its pid may be another process's by now.
        process = self._space.process(pid)
        if process is None or not self.is_self(process.comm):
            return 0
        self.pids.add(pid)
        return pid

    def is_self(self, comm: str) -> bool:
        """True when comm is this daemon's."""
        return comm == self.name

    def is_running(self) -> bool:
        """True while its process lives, frozen or not."""
        pid = self.pid()
        return pid != 0 and self._space.is_alive(pid)

    def _must_run(self) -> int:
        pid = self.pid()
        assert pid, f"{self.name} does not run"
        return pid

    def stop(self, timeout: float = TIMEOUT) -> None:
        """End it as an administrator would, and wait for the end."""
        self._space.stop_process(self._must_run(), signal.SIGTERM, timeout)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._space.stop_process(self._must_run(), signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: it keeps its sockets open and answers nothing."""
        self._space.kill(self._must_run(), signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on where it was frozen."""
        self._space.kill(self._must_run(), signal.SIGCONT)


class Sanlock(Daemon):
    """The sanlock daemon of a host. It goes into the background, as in production."""

    name = "sanlock"
    pidfile = "/run/sanlock/sanlock.pid"
    logs = ("/var/log/sanlock.log",)
    socket = "/run/sanlock/sanlock.sock"

    def __init__(self, space: Namespace, grace: int, host_id: int = 1) -> None:
        super().__init__(space)
        self.grace = grace
        self.host_id = host_id
        # Another one than this machine's own, for the tests of what that does not have.
        self.program = "sanlock"

    def environment(self) -> Mapping[str, str]:
        # Skips raising the resource limits, which a container may not.
        return {"SANLOCK_PRIVILEGED": "0"}

    def command(self) -> list[str]:
        return [
            self.program, "daemon", *sanlock_flags(),
            # All to the log file: sanlock_kills() reads it.
            "-L", "7",
            # A name that lasts: with a new one at each start, sanlock waits until the host that it
            # was before counts as dead (8 times io_timeout, and 60 s) before it joins again.
            "-e", f"host{self.host_id}",
            # sanlock.conf has the same, for the programs that read it: sanlock 3.8 itself does not.
            "-g", str(self.grace),
        ]  # fmt: skip

    def is_ready(self) -> bool:
        return self._space.run("sanlock", "client", "status", check=False).returncode == 0

    def stop(self, timeout: float = TIMEOUT) -> None:
        """Shut it down. With a lockspace joined it ignores SIGTERM, so this is forced.

        A forced shutdown makes sanlock send SIGKILL to all that hold a lease.
        """
        pid = self._must_run()
        self._space.run("sanlock", "client", "shutdown", "-f", "1", "-w", "0")
        wait_for(lambda: self._space.process(pid) is None, timeout, "the end of sanlock")


def sanlock_flags() -> list[str]:
    """What every sanlock here is started with."""
    return [
        # No watchdog: wdmd is not there, and must not reset the machine.
        "-w", "0",
        # No mlockall and no real-time priority: both need privileges a container lacks.
        "-l", "0",
        "-h", "0",
        # The user sanlock may not exist, and could not open the private directories.
        "-U", "root",
        "-G", "root",
    ]  # fmt: skip


class Virtlogd(Daemon):
    """libvirt's log daemon, which QEMU's output goes to."""

    name = "virtlogd"
    pidfile = "/run/virtlogd.pid"
    logs = ("/var/log/virtlogd.log",)

    def command(self) -> list[str]:
        return ["virtlogd", "--daemon", "--pid-file", self.pidfile]

    def is_ready(self) -> bool:
        return self._space.path("/run/libvirt/virtlogd-sock").is_socket()


class LibvirtDaemon(Daemon):
    """One of libvirt's daemons with a configuration, a pid file and a log named after it."""

    def __init__(self, space: Namespace) -> None:
        super().__init__(space)
        self.pidfile = f"/run/{self.name}.pid"
        self.logs = (f"/var/log/{self.name}.log",)
        self.conf = f"/etc/libvirt/{self.name}.conf"

    def command(self) -> list[str]:
        return [self.name, "--daemon", "--pid-file", self.pidfile]

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """The same, with the time that it may take by its own rules."""
        super().stop(timeout)


class Virtproxyd(LibvirtDaemon):
    """It serves libvirtd's sockets where there is no libvirtd, and hands all on to the modular daemons."""

    name = "virtproxyd"
    socket = "/run/libvirt/libvirt-sock"

    def is_ready(self) -> bool:
        return self._space.path(self.socket).is_socket()


class Libvirtd(LibvirtDaemon):
    """The daemon that has the QEMU driver: here the monolithic one."""

    name = "libvirtd"
    # Where clients reach it for qemu:///system.
    socket = "/run/libvirt/libvirt-sock"
    # The fixture's own way past SASL; see sasl.py.
    auth_file = "/run/stack/auth.conf"

    def is_ready(self) -> bool:
        # The socket is there long before the QEMU driver has joined its lockspace.
        uri = self._space.run(*self.virsh("list"), check=False, timeout=10, env=self.virsh_env())
        return uri.returncode == 0

    def virsh(self, *arguments: str) -> list[str]:
        """A virsh command line."""
        return ["virsh", "-q", "-c", "qemu:///system", *arguments]

    def virsh_env(self) -> dict[str, str]:
        """Its environment: the credentials of the fixture, if there are any."""
        if self._space.path(self.auth_file).exists():
            return {"LIBVIRT_AUTH_FILE": self.auth_file}
        return {}


class Virtqemud(Libvirtd):
    """The modular daemon, as on every Fedora and RHEL host; clients take its socket where it is."""

    name = "virtqemud"
    socket = "/run/libvirt/virtqemud-sock"


# By name, to choose one.
QEMU_DAEMONS = {kind.name: kind for kind in (Libvirtd, Virtqemud)}
