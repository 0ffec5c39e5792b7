# SPDX-License-Identifier: LGPL-2.1-or-later
"""What may be wrong with a host in the minute in which a lease is lost, each as one Fault."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import proxy
from .address_space import ADDRESS_SPACE_FAULTS
from .cached_disk_faults import CACHED_DISK_FAULTS
from .control_group import ControlGroup
from .daemon_faults import ACTIONS as RECOVERS
from .daemon_faults import DAEMON_FAULTS
from .disk_faults import DISK_FAULTS
from .fault import AWAY, BEFORE, BOTH, CALL, DONE, FOUND, LOGIN, NO_AGENT, RECORD, Change, Fault, nothing
from .machine_faults import MACHINE_FAULTS
from .migration_faults import MIGRATION_FAULTS
from .process_faults import PROCESS_FAULTS
from .runtime_faults import RUNTIME_FAULTS
from .standing_faults import STANDING_FAULTS
from .suspend import SUSPEND_FAULTS
from .victims import QemuVm

if TYPE_CHECKING:
    from .cell import Cell

# libvirtd's limit of connections: more than an agent and its storm have.
MAX_CLIENTS = 80
# How late an answer comes that comes at all.
LATE = 20.0


# libvirtd


def stop_libvirtd(cell: Cell) -> None:
    cell.stack.libvirtd.stop()


def start_libvirtd(cell: Cell) -> None:
    if not cell.stack.libvirtd.is_running():
        cell.stack.libvirtd.start()


def restart_libvirtd(cell: Cell) -> None:
    cell.beside(cell.stack.libvirtd.restart)


def kill_libvirtd(cell: Cell) -> None:
    cell.stack.libvirtd.kill()


def freeze_libvirtd(cell: Cell) -> None:
    cell.stack.libvirtd.freeze()


def thaw_libvirtd(cell: Cell) -> None:
    cell.stack.libvirtd.thaw()


def take_all_clients(cell: Cell) -> None:
    """As many connections as libvirtd takes (max_clients), and some that wait."""
    path = str(cell.stack.path(cell.libvirt.behind))
    for _ in range(MAX_CLIENTS + 20):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(path)
        cell.kept.append(client)


def let_go(cell: Cell) -> None:
    while cell.kept:
        cell.kept.pop().close()


# Its socket


def away(cell: Cell) -> Path:
    return cell.stack.path(cell.libvirt.path + ".away")


def take_socket_away(cell: Cell) -> None:
    cell.stack.path(cell.libvirt.path).rename(away(cell))


def put_socket_back(cell: Cell) -> None:
    away(cell).rename(cell.stack.path(cell.libvirt.path))


def plain_file_for_socket(cell: Cell) -> None:
    take_socket_away(cell)
    cell.stack.path(cell.libvirt.path).write_text("")


def socket_of_another(cell: Cell) -> None:
    path = cell.stack.path(cell.libvirt.path)
    path.chmod(0o600)
    os.chown(path, 65534, 65534)


def socket_of_root(cell: Cell) -> None:
    os.chown(cell.stack.path(cell.libvirt.path), 0, 0)


def refuse(cell: Cell) -> None:
    cell.libvirt.refuse()


def listen(cell: Cell) -> None:
    cell.libvirt.listen()


def delay_first(cell: Cell) -> None:
    _first_answer(cell, proxy.DELAY)


def cut_first(cell: Cell) -> None:
    _first_answer(cell, proxy.CUT)


def halve_first(cell: Cell) -> None:
    _first_answer(cell, proxy.HALVE)


def _first_answer(cell: Cell, then: str) -> None:
    """Where the stage holds no message of libvirtd's: the fault is in the first answer that comes."""
    if not cell.is_held or cell.stage == RECORD:
        cell.libvirt.rules(proxy.Rule(proxy.ANSWER, then, seconds=LATE))


# QEMU and the domain


def qemu(cell: Cell) -> QemuVm:
    assert isinstance(cell.victim, QemuVm)
    return cell.victim


def freeze_qemu(cell: Cell) -> None:
    # None is left to be stopped once a destroy has returned.
    if not qemu(cell).is_gone():
        cell.stack.signal(qemu(cell).pid, signal.SIGSTOP)


def thaw_qemu(cell: Cell) -> None:
    if not qemu(cell).is_gone():
        cell.stack.signal(qemu(cell).pid, signal.SIGCONT)


def kill_qemu(cell: Cell) -> None:
    if not qemu(cell).is_gone():
        cell.stack.signal(qemu(cell).pid, signal.SIGKILL)


def undefine(cell: Cell) -> None:
    qemu(cell).virsh("undefine", cell.victim.uuid)


def rename(cell: Cell) -> None:
    qemu(cell).virsh("destroy", cell.victim.uuid)
    qemu(cell).virsh("domrename", qemu(cell).domain.name, qemu(cell).domain.name + "-renamed")


def start_anew(cell: Cell) -> None:
    qemu(cell).virsh("destroy", cell.victim.uuid)
    qemu(cell).virsh("start", cell.victim.uuid)


def panic(cell: Cell) -> None:
    if not qemu(cell).is_gone():
        qemu(cell).panic()


# The agent's process


def no_descriptors(cell: Cell) -> None:
    """No further one than it has; before it starts: as few as will do, else libvirt's helper takes over."""
    if not cell.helper_pid:
        cell.prefix = "ulimit -n 14;"
        return
    opened = len(list(cell.stack.path(f"/proc/{cell.helper_pid}/fd").iterdir()))
    _, hard = resource.prlimit(cell.outer_pid, resource.RLIMIT_NOFILE)
    resource.prlimit(cell.outer_pid, resource.RLIMIT_NOFILE, (opened, hard))


PIDS = ControlGroup("pids")


def no_threads(cell: Cell) -> None:
    """No further thread or process than there are; before it starts: the shell and the helper."""
    number = int((PIDS.path / "pids.current").read_text())
    (PIDS.path / "pids.max").write_text(str(max(number, 2)))


def drop_pids(cell: Cell) -> None:
    PIDS.drop(cell, "pids.max", "max")


# The log


def fill_syslog(cell: Cell) -> None:
    """A /dev/log that is full and stays so."""
    log = cell.stack.path("/dev/log")
    log.rename(f"{log}.away")
    full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    full.bind(str(log))
    log.chmod(0o666)
    cell.kept.append(full)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    cell.kept.append(sender)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.sendto(b"x", str(log))


def empty_syslog(cell: Cell) -> None:
    let_go(cell)
    log = cell.stack.path("/dev/log")
    Path(f"{log}.away").rename(log)


def no_syslog(cell: Cell) -> None:
    log = cell.stack.path("/dev/log")
    log.rename(f"{log}.away")


def fill_stderr(cell: Cell) -> None:
    """The pipe that is the helper's stderr takes nothing more, and is not read."""
    os.set_blocking(cell.stderr, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(cell.stderr, bytes(4096))
    os.set_blocking(cell.stderr, True)


def stderr_pipe(cell: Cell) -> None:
    cell.open_pipe()


def stderr_device(cell: Cell) -> None:
    cell.stderr = os.open("/dev/full", os.O_WRONLY)


# The clock: libfaketime reads a file at each call.  A process that sleeps while it changes gets EINVAL from
# clock_nanosleep(2), as with no clock that is set: that is a stand-by, where an agent stands.

# Debian has it below a folder of the architecture's, Fedora in lib64.
FAKETIME = next(
    (path for lib in ("lib", "lib64") for path in Path("/usr", lib).glob("**/faketime/libfaketime.so.1")),
    None,
)
OFFSET = "/run/stack/faketime"


def no_faketime() -> str:
    return "" if FAKETIME else "libfaketime is not installed"


def fake_clock(cell: Cell) -> None:
    cell.stack.write(OFFSET, "+0")
    cell.environment |= {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": OFFSET,
        "FAKETIME_NO_CACHE": "1",
        # A clock that is set moves the time of day alone.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def step(offset: str) -> Change:
    def change(cell: Cell) -> None:
        cell.stack.write(OFFSET, offset)

    return change


def _clock(name: str, worst: str, offset: str) -> Fault:
    return Fault(
        *(name, worst, step(offset)),
        prepare=fake_clock,
        kinds=BOTH,
        missing=no_faketime,
        agents=(NO_AGENT,),
    )


FAULTS: Sequence[Fault] = (
    Fault(
        *("libvirtd stopped, started after 4 s", CALL, stop_libvirtd, start_libvirtd, AWAY), recovery=RECOVERS
    ),
    Fault("libvirtd restarted", FOUND, restart_libvirtd),
    Fault(
        *("libvirtd killed, started after 4 s", CALL, kill_libvirtd, start_libvirtd, AWAY),
        action="pause",
        recovery=RECOVERS,
    ),
    Fault(
        *("libvirtd stopped by a signal for 4 s", LOGIN, freeze_libvirtd, thaw_libvirtd, AWAY),
        kinds=BOTH,
        recovery=RECOVERS,
    ),
    Fault("libvirtd takes no more clients for 4 s", BEFORE, take_all_clients, let_go, AWAY, kinds=BOTH),
    Fault("libvirtd refuses connections for 4 s", BEFORE, refuse, listen, AWAY, kinds=BOTH),
    Fault("an answer comes after 20 s", CALL, delay_first, then=proxy.DELAY, kinds=BOTH, action="pause"),
    Fault(
        *("a connection ends in mid-call", DONE, cut_first),
        then=proxy.CUT,
        kinds=BOTH,
        action="restart",
        is_quick_beside_it=True,
    ),
    Fault("half an answer, then silence", DONE, halve_first, then=proxy.HALVE, kinds=BOTH, action="pause"),
    Fault("a call is lost", CALL, nothing, then=proxy.SILENCE, kinds=BOTH, stages=(LOGIN, CALL)),
    Fault("no socket for 4 s", BEFORE, take_socket_away, put_socket_back, AWAY, kinds=BOTH),
    Fault(
        "a plain file for a socket for 4 s", BEFORE, plain_file_for_socket, put_socket_back, AWAY, kinds=BOTH
    ),
    Fault("a socket of another user", BEFORE, socket_of_another, socket_of_root, kinds=BOTH),
    Fault("QEMU stopped by a signal for 4 s", CALL, freeze_qemu, thaw_qemu, AWAY, action="pause"),
    Fault("QEMU killed", CALL, kill_qemu, action="pause"),
    Fault("domain undefined", FOUND, undefine, action="restart"),
    Fault("domain destroyed and renamed", FOUND, rename),
    Fault("domain destroyed and started", RECORD, start_anew, action="restart"),
    Fault("guest panics", CALL, panic, action="pause"),
    *RUNTIME_FAULTS,
    Fault("no more descriptors", FOUND, no_descriptors, kinds=BOTH, is_quick_beside_it=True),
    Fault(
        *("no more threads", LOGIN, no_threads, drop_pids),
        prepare=PIDS.hold_helpers,
        kinds=BOTH,
        missing=PIDS.missing,
    ),
    Fault("/dev/log full", BEFORE, fill_syslog, empty_syslog, kinds=BOTH, reads_stderr=True),
    Fault("no /dev/log", CALL, no_syslog, empty_syslog, kinds=BOTH, reads_stderr=True),
    Fault("stderr a full pipe", BEFORE, fill_stderr, prepare=stderr_pipe, kinds=BOTH),
    Fault("stderr a full device", BEFORE, nothing, prepare=stderr_device, kinds=BOTH),
    _clock("clock an hour ahead", CALL, "+3600"),
    _clock("clock an hour back", RECORD, "-3600"),
    _clock("clock a year ahead", BEFORE, "+31536000"),
    *DAEMON_FAULTS,
    *MACHINE_FAULTS,
    *MIGRATION_FAULTS,
    *SUSPEND_FAULTS,
    *PROCESS_FAULTS,
    *ADDRESS_SPACE_FAULTS,
    *STANDING_FAULTS,
    *DISK_FAULTS,
    *CACHED_DISK_FAULTS,
)
