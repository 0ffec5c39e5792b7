# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real sanlock, virtlogd, libvirtd and QEMU in namespaces of their own.

    with Stack() as stack:
        stack.install_helper("/path/to/libvirt_sanlock_helper")
        domain = stack.domain("guest", on_lockfailure="poweroff").start()
        stack.storage.fail()
        stack.wait_for(lambda: domain.state().name == "shut off", 30, "the poweroff")

Nothing of the machine's own libvirt is touched, and all ends with the Stack, or with the process
that made it. Several may run at once. Paths and pids are those of the inside.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Callable, TypeVar

from . import journal as syslog
from . import sasl, waiting
from .binding import OURS, answers, call
from .daemons import DAEMON, QEMU_DAEMONS, LibvirtDaemon, Sanlock, Virtlogd, Virtproxyd, Virtqemud
from .domains import Domain, start_all
from .helper import STOCK, Helper, HelperCall
from .holder import LeaseHolder
from .host import SecondHost
from .leases import (
    LOCKSPACE,
    Kill,
    Lease,
    Lockspace,
    client_status,
    parse_kills,
    parse_leases,
    parse_lockspaces,
)
from .namespace import CommandError, Namespace, Process
from .storage import Storage

__all__ = ["CommandError", "Stack", "StackError"]

T = TypeVar("T")

# Lines of each log that a failure report shows, and what is not shown: libvirtd's
# words on network devices, which a stack has none of, and sanlock's on every renewal that failed.
TAIL = 60
NOISE = ("ethtool ioctl error", "renewal error", "delta_renew read", "aio collect")

# No polkit in a stack, so no authentication unless a test asks for SASL. The numbers of workers
# and clients are left at libvirt's defaults: they are part of what is tested.
LIBVIRTD_CONF = """\
auth_unix_rw = "{auth}"
log_outputs = "2:file:{log}"
{host_uuid}\
"""

VIRTLOGD_CONF = """\
log_outputs = "2:file:/var/log/virtlogd.log"
"""

QEMU_CONF = """\
lock_manager = "sanlock"
# QEMU as root, unconfined, in the cgroup and the mounts of the stack: the rest needs what a
# container does not have.
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = [ ]
namespaces = [ ]
"""

QEMU_SANLOCK_CONF = """\
auto_disk_leases = 1
host_id = {host_id}
io_timeout = {io_timeout}
disk_lease_dir = "{leases}"
user = "root"
group = "root"
"""

SANLOCK_CONF = """\
kill_grace_seconds = {grace}
"""


class StackError(Exception):
    """A stack did not start; the message holds the daemons' logs."""


class Stack:
    """The first host: its daemons, its storage, its domains.

    io_timeout (seconds): a lease is lost 8 times that after the last good renewal. grace: sanlock's
    kill_grace_seconds. on_disk: keep leases and disks on disk, not in memory. daemon: libvirtd, or virtqemud
    with virtproxyd beside it; the attribute libvirtd is whichever of the two it is. host_id: this host's
    among several, 0 for a host alone. storage: the backing of another host's storage, which this one shares.
    """

    def __init__(
        self,
        io_timeout: int = 1,
        grace: int = 40,
        on_disk: bool = False,
        daemon: str | None = None,
        host_id: int = 0,
        storage: str = "",
    ) -> None:
        self.io_timeout = io_timeout
        self.grace = grace
        self.host_id = host_id or 1
        # libvirt migrates between hosts only that differ in both.
        self._host_uuid = f'host_uuid = "{uuid.uuid4()}"\n' if host_id else ""
        self._space = Namespace(on_disk, f"host{host_id}.test" if host_id else "", storage)
        self._helper = Helper(self._space)
        self._hosts: list[SecondHost] = []
        self._auth = "none"
        self.sanlock = Sanlock(self._space, grace, self.host_id)
        self.virtlogd = Virtlogd(self._space)
        self.libvirtd = QEMU_DAEMONS[daemon or os.environ.get(DAEMON) or "libvirtd"](self._space)
        self.virtproxyd = Virtproxyd(self._space) if isinstance(self.libvirtd, Virtqemud) else None
        self.storage = Storage(self._space)
        # The path that libvirt registers with sanlock.
        self.helper_path = self._helper.path

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start all daemons and wait until libvirt has joined its lockspace."""
        self._space.start()
        try:
            self._configure()
            self._helper.prepare()
            self.use_stock_helper()
            self.sanlock.start()
            self.virtlogd.start(wait=False)
            if self.virtproxyd:
                self.virtproxyd.start(wait=False)
            self.libvirtd.start()
        except Exception as error:
            report = f"{error}\n{self.report()}"
            self.close()
            raise StackError(report) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every process of the stack, and with them its files. May be called twice."""
        self._space.close()

    def is_open(self) -> bool:
        """True between start() and close()."""
        return self._space.is_open()

    @property
    def init_pid(self) -> int:
        """The pid, on the outside, of the stack's PID 1."""
        return self._space.init_pid

    @property
    def backing(self) -> str:
        """The directory on the machine's disk behind the storage; "" when that is in memory."""
        return self._space.backing

    def _configure(self) -> None:
        self.write("/etc/sanlock/sanlock.conf", SANLOCK_CONF.format(grace=self.grace))
        self.write("/etc/libvirt/virtlogd.conf", VIRTLOGD_CONF)
        self.write("/etc/libvirt/qemu.conf", QEMU_CONF)
        self.write(
            "/etc/libvirt/qemu-sanlock.conf",
            QEMU_SANLOCK_CONF.format(
                host_id=self.host_id, io_timeout=self.io_timeout, leases=self.storage.leases
            ),
        )
        self._configure_libvirtd()

    def _configure_libvirtd(self) -> None:
        for daemon in self._libvirt_daemons():
            text = LIBVIRTD_CONF.format(auth=self._auth, log=daemon.logs[0], host_uuid=self._host_uuid)
            self.write(daemon.conf, text)

    def _libvirt_daemons(self) -> list[LibvirtDaemon]:
        return [self.libvirtd, *([self.virtproxyd] if self.virtproxyd else [])]

    # Files, commands, processes

    def path(self, inside: str) -> Path:
        """Where the outside finds an absolute path of the inside, to read and to write."""
        return self._space.path(inside)

    def write(self, inside: str, text: str, mode: int = 0o644) -> Path:
        """Write a file inside, with its mode; returns where the outside finds it."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.chmod(mode)
        path.write_text(text)
        return path

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root, in /, with PATH and LANG only, plus env.

        Raises CommandError when it fails (unless check is false) or runs out of time.
        """
        return self._space.run(*argv, check=check, timeout=timeout, env=env, input=input)

    def popen(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command inside. Its status is the Popen's, killing the Popen kills it."""
        return self._space.popen(*argv, env=env, stdin=stdin, stdout=stdout, stderr=stderr)

    def virsh(self, *arguments: str, timeout: float = 60) -> str:
        """What virsh prints, with the credentials of enable_sasl()."""
        command = self.libvirtd.virsh(*arguments)
        return self.run(*command, timeout=timeout, env=self.libvirtd.virsh_env()).stdout

    def pid_inside(self, process: subprocess.Popen[str]) -> int:
        """The pid inside of what popen() has started, which must not have ended."""
        return self._space.pid_inside(process)

    def processes(self, comm: str | None = None) -> list[Process]:
        """The processes inside, or those of one name (the kernel's, at most 15 characters)."""
        return [p for p in self._space.processes() if comm is None or p.comm == comm]

    def is_alive(self, pid: int) -> bool:
        """True unless the process is gone or a zombie."""
        return self._space.is_alive(pid)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process inside."""
        self._space.kill(pid, number)

    @staticmethod
    def wait_for(predicate: Callable[[], T], timeout: float, what: str) -> T:
        """Call predicate every 50 ms until it returns something true, and return that."""
        return waiting.wait_for(predicate, timeout, what)

    # Domains

    def domain(
        self,
        name: str,
        on_lockfailure: str = "pause",
        *,
        transient: bool = False,
        memory_mib: int = 16,
        disks: int = 1,
        metadata: str | None = None,
        leases: Sequence[Lease] = (),
    ) -> Domain:
        """A virtual machine with disks made for it; metadata is the XML inside <metadata>.

        leases: what it has <lease> elements for, beside the leases of its disks.

        libvirt knows it after define() or start().
        """
        return Domain(
            self,
            name,
            on_lockfailure=on_lockfailure,
            transient=transient,
            memory_mib=memory_mib,
            disks=disks,
            metadata=metadata,
            leases=leases,
        )

    def start_all(self, domains: list[Domain]) -> None:
        """Define and start many domains in one virsh."""
        start_all(self, domains)

    # sanlock

    def lockspaces(self) -> list[Lockspace]:
        """The lockspaces the first host has joined."""
        return parse_lockspaces(client_status(self._space, {}))

    def leases(self) -> list[Lease]:
        """The leases that are held on the first host."""
        return parse_leases(client_status(self._space, {}))

    def join_lockspace(self, timeout: float = 60) -> None:
        """Join the lockspace of the disks again, as after an outage or a new sanlock.

        Waits until sanlock has left the lost one: until then it answers -EAGAIN (-11).
        """
        self.wait_for(lambda: not self.lockspaces(), timeout, "sanlock to leave its lockspace")
        where = f"{LOCKSPACE}:{self.host_id}:{self.storage.lockspace_path}:0"
        self.run(
            "sanlock", "client", "add_lockspace", "-s", where, "-o", str(self.io_timeout),
            timeout=timeout,
        )  # fmt: skip

    def sanlock_kills(self) -> list[Kill]:
        """What the first host's sanlock did to be rid of processes: see Kill."""
        self.sanlock.pid()
        text = self.path(Sanlock.logs[0]).read_text(errors="backslashreplace")
        return parse_kills(text, self.sanlock.pids)

    def sigkills(self) -> list[Kill]:
        """The SIGKILLs among them: empty when the helper did its work."""
        return [kill for kill in self.sanlock_kills() if kill.signal == 9]

    def make_resource(self, name: str, file: str | None = None) -> Lease:
        """Make a lease of the disks' lockspace that no domain has. Returns where it is."""
        path = f"{self.storage.leases}/{name if file is None else file}"
        self.path(path).touch(0o600)
        lease = Lease(LOCKSPACE, name, path, 0, 0, 0, "")
        # Not by sanlock's own command, which takes no name with a colon.
        make = call("write_resource", LOCKSPACE.encode(), os.fsencode(name), [(path, 0)])
        assert answers(self, OURS, make) == [None]
        return lease

    def move_leases(self, folder: str) -> None:
        """Make FOLDER the disks' lease directory, in a new lockspace; only while no process holds a lease."""
        self.path(folder).mkdir(exist_ok=True)
        self.libvirtd.stop()
        leave = call("rem_lockspace", LOCKSPACE.encode(), self.host_id, self.storage.lockspace_path)
        assert answers(self, OURS, leave) == [None]
        self.storage.leases = folder
        self._configure()
        self.libvirtd.start()

    def leaseholder(self, lease: Lease, *killpath: str) -> LeaseHolder:
        """Start a program that is no VM, holds the lease and asks sanlock for this killpath."""
        return LeaseHolder(self._space, lease, killpath)

    def second_host(self, host_id: int = 2, name: str = "") -> SecondHost:
        """Start the sanlock of another host on the same storage; it has joined nothing yet."""
        host = SecondHost(self._space, self.storage, host_id, self.io_timeout, name)
        self._hosts.append(host)
        return host

    # The helper

    def install_helper(self, path: str | Path, record: bool = True) -> None:
        """Make sanlock run this executable where libvirt's helper is.

        Recorded, it runs as a child of a small sh script, at its own path. Else it is bound over
        libvirt's helper, and sanlock runs it with nothing in between.
        """
        self._helper.install(str(path), record)

    def use_stock_helper(self, record: bool = True) -> None:
        """Make sanlock run libvirt's own helper again. Every stack begins so, recorded."""
        if record:
            self._helper.install(STOCK, record=True)
        else:
            self._helper.uncover()

    @property
    def stock_helper(self) -> str:
        """Where libvirt's own helper can be run by hand, whatever covers it."""
        return STOCK

    def helper_calls(self) -> list[HelperCall]:
        """The recorded calls of the helper, oldest first."""
        return self._helper.calls()

    def forget_helper_calls(self) -> None:
        """Start a new record. Only while no call is under way."""
        self._helper.forget_calls()

    def journal(self, ident: str | None = None) -> list[syslog.JournalLine]:
        """What was sent to syslog, or one program's part of it, oldest first."""
        return [line for line in syslog.read(self._space) if ident in (None, line.ident)]

    # Authentication

    def enable_sasl(self, user: str, password: str) -> None:
        """Make libvirtd ask for SCRAM-SHA-256, and restart it. virsh() keeps working."""
        sasl.prepare(self._space, user, password)
        self._auth = "sasl"
        self._configure_libvirtd()
        for daemon in self._libvirt_daemons():
            daemon.restart()

    def write_auth_conf(self, text: str, mode: int = 0o600) -> None:
        """Write /etc/libvirt/auth.conf, which libvirt's clients take credentials from."""
        self.write("/etc/libvirt/auth.conf", text, mode)

    def remove_auth_conf(self) -> None:
        """Remove it, if it is there."""
        self.path("/etc/libvirt/auth.conf").unlink(missing_ok=True)

    # What a failure report shows

    def report(self) -> str:
        """The ends of all logs, the journal and the helper's calls."""
        names = [name for d in (self.sanlock, self.virtlogd, *self._libvirt_daemons()) for name in d.logs]
        names += [host.log for host in self._hosts]
        parts = [f"--- {name}\n{self._tail(name)}" for name in names]
        lines = [line for line in self.journal() if not _is_noise(line.message)]
        parts.append("--- journal\n" + "\n".join(map(str, lines[-TAIL:])))
        parts.append("--- helper calls\n" + "\n".join(map(str, self.helper_calls()[-TAIL:])))
        return "\n".join(parts)

    def _tail(self, name: str) -> str:
        try:
            text = self.path(name).read_text(errors="replace")
        except OSError as error:
            return str(error)
        lines = [line for line in text.splitlines() if not _is_noise(line)]
        return "\n".join(lines[-TAIL:])


def _is_noise(line: str) -> bool:
    return any(words in line for words in NOISE)
