# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running sanlock daemon: where its socket is, the right to use it, and the settings that it has."""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

RUN_DIR = "/run/sanlock"
SOCKET = "sanlock.sock"
PID_FILE = "sanlock.pid"

# DEFAULT_IO_TIMEOUT in sanlock src/sanlock_internal.h, in seconds.
DEFAULT_IO_TIMEOUT = 10

# struct sm_header: eight numbers of 32 bits in the machine's own order (sanlock src/sanlock_sock.h).
_NUMBER = 4
HEADER_BYTES = 8 * _NUMBER
_MAGIC = 0x04282010
_PROTO = 1
_CMD_STATUS = 5
STATE_DAEMON, STATE_CLIENT, STATE_LOCKSPACE, STATE_RESOURCE = 1, 2, 3, 4

# struct sanlk_state there: type, flags, data32, padding, data64 of 8 bytes, name of 48, str_len, padding.
STATE_BYTES = 80
STATE_LENGTH_AT = 72
_LONGEST = 4096


def run_dir() -> str:
    """The directory of the daemon's socket and pid file, as libsanlock finds it (sanlock src/env.c)."""
    return str(posix.environ.get(b"SANLOCK_RUN_DIR", RUN_DIR.encode()), "utf-8", "surrogateescape")


def daemon_pid(directory: str, proc: str = "/proc") -> int:
    """The process id of the running daemon with the runtime DIRECTORY, 0 when none runs.

    From the pid file that lockfile() in sanlock src/lockfile.c writes.  It outlives a daemon that
    is killed, and the kernel may give its number to another process: the name in PROC decides.
    """
    try:
        pid = int(_beginning(f"{directory}/{PID_FILE}"))
        return pid if _beginning(f"{proc}/{pid}/comm").rstrip(b"\n") == b"sanlock" else 0
    except (OSError, ValueError):
        return 0


def _beginning(path: str) -> bytes:
    """The first bytes of the file at PATH.  The directory may be user sanlock's: no FIFO is waited for."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    try:
        return posix.read(descriptor, 16)
    finally:
        posix.close(descriptor)


def daemon_run(directory: str) -> tuple[int, int] | None:
    """What differs after each start of the daemon with the runtime DIRECTORY; None without a pid file."""
    try:
        status = posix.stat(f"{directory}/{PID_FILE}")
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def join_sanlock_group(directory: str) -> None:
    """Take the group of sanlock's socket in DIRECTORY, which is 0660 sanlock:sanlock.

    sanlock starts its killpath without supplementary groups, and SELinux gives sanlock_t no dac_override.  It
    has to be done before a thread can hang on a disk: setgroups(2) changes one thread, and the C library
    waits until all others have done the same (nptl(7)).
    """
    try:
        group = posix.stat(f"{directory}/{SOCKET}").st_gid
    except OSError:
        return  # no socket: the inquiry reports it
    if posix.geteuid() == 0 and group != posix.getegid() and group not in posix.getgroups():
        try:
            posix.setgroups([*posix.getgroups(), group])
        except PermissionError:
            pass  # recovery's service, which needs no group: it has CAP_DAC_OVERRIDE


def daemon_settings(directory: str, seconds: float) -> dict[bytes, bytes]:
    """The daemon's settings by name, from its socket in DIRECTORY; {} when it does not answer within SECONDS.

    It answers from its memory, as to `sanlock client status -D`, whose program is on a disk.  Source:
    cmd_status() and print_state_daemon() in sanlock ``src/cmd.c``.
    """
    try:
        connection = ask_states(directory, seconds, STATE_DAEMON)
    except OSError:
        return {}
    try:
        head = _receive(connection, HEADER_BYTES + STATE_BYTES)
        length = number(head, HEADER_BYTES + STATE_LENGTH_AT)
        text = _receive(connection, min(length, _LONGEST))
    except OSError:
        return {}
    finally:
        connection.close()
    return settings_of(text)


def ask_states(directory: str, seconds: float, kind: int) -> socket:
    """Ask the daemon for its states up to those of KIND, 0 for all (sanlock ``src/sanlock_sock.h``).

    Returns the connection over which it answers, each read limited to SECONDS.  Raises OSError.
    """
    path = f"{directory}/{SOCKET}"
    posix.stat(path)
    # A C module, like all that is loaded here; only a process that serves, beside a sanlock, needs it.
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

    numbers = (_MAGIC, _PROTO, _CMD_STATUS, 0, HEADER_BYTES, 0, kind, 0)
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.send(b"".join(each.to_bytes(_NUMBER, sys.byteorder) for each in numbers))
    except OSError:
        connection.close()
        raise
    return connection


def number(data: bytes, at: int, size: int = _NUMBER) -> int:
    """The number of SIZE bytes AT its place in DATA, 0 behind its end."""
    return int.from_bytes(data[at : at + size], sys.byteorder)


def settings_of(text: bytes) -> dict[bytes, bytes]:
    """The names and values in the TEXT of a state."""
    words = (word.partition(b"=") for word in text.rstrip(b"\0").split(b" "))
    return {name: value for name, _, value in words}


def _receive(connection: socket, size: int) -> bytes:
    """SIZE bytes, fewer when the daemon ends the connection before."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            break
        data += part
    return data
