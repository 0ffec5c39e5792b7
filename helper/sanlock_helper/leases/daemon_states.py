# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the running sanlock daemon has in its memory: its settings, lockspaces and leases.

From its socket, within a time limit, and with nothing read from a disk: sanlock_status.py has the same from
sanlock's own program.  Source: cmd_status() in sanlock ``src/cmd.c``, struct sanlk_state in
``src/sanlock_sock.h``, the other structures in ``src/sanlock.h``.
"""

from __future__ import annotations

import posix
import time

# Loaded with this module, and not when sanlock comes: ask_states() imports it where it is needed.
from _socket import socket
from typing import Callable, NamedTuple

from .sanlock_daemon import (
    HEADER_BYTES,
    STATE_BYTES,
    STATE_CLIENT,
    STATE_DAEMON,
    STATE_LENGTH_AT,
    STATE_LOCKSPACE,
    STATE_RESOURCE,
    ask_states,
    number,
    settings_of,
)

# Of struct sanlk_state: the process of a client or a lease, and the name of a client or a lockspace.
_PID_AT, _NAME_AT, _NAME_BYTES = 8, 24, 48
# struct sanlk_lockspace; struct sanlk_resource without its disks, the place of their number, and one disk.
_LOCKSPACE_BYTES = 1104
_RESOURCE_BYTES, _DISKS_AT, _DISK_BYTES = 128, 124, 1040
# SANLK_STATE_MAXSTR, SANLK_MAX_DISKS.
_MOST_TEXT, _MOST_DISKS = 4096, 4

# Some 20000 leases: more is no answer.
_MOST_BYTES = 32 << 20
_PART = 1 << 18

# How often an answer is tried to be read before this thread sleeps until it comes: for a millisecond or two.
_TRIES_AWAKE = 400
# What is left of the time for an answer is more than none, which would be no limit.
_LEAST_SECONDS = 0.001

# What a process has given up, and what one that has ended has left (print_state_resource() in src/cmd.c).
_GIVEN_UP = (b"rem", b"orphan")


class DaemonStates(NamedTuple):
    """One answer.  Names and values are text, with the bytes that are no UTF-8 as surrogates.

    settings: the daemon's own.  lockspaces: the values of each by its name, as `sanlock client status -D`
    prints them.  holders: by the name of a lockspace the processes that hold leases in it.  processes: the
    names that processes have given themselves there.
    """

    settings: dict[str, str]
    lockspaces: dict[str, dict[str, str]]
    holders: dict[str, list[int]]
    processes: dict[int, str]


def daemon_states(
    directory: str, seconds: float, leases: bool = False, clock: Callable[[], float] = time.monotonic
) -> DaemonStates | None:
    """What the daemon with its socket in DIRECTORY answers within SECONDS; None where it does not.

    Without LEASES those are left out, which a host has hundreds of.
    """
    try:
        data = _answer(directory, seconds, 0 if leases else STATE_LOCKSPACE, clock)
    except OSError:
        return None
    return _parse(data)


def _answer(directory: str, seconds: float, kind: int, clock: Callable[[], float]) -> bytes:
    """All that the daemon answers.  Raises OSError.

    Its main thread sends that, and waits while it is not read: so it is read first, and parsed then.
    """
    deadline = clock() + seconds
    parts: list[bytes] = []
    size = 0
    connection = ask_states(directory, seconds, kind)
    try:
        while part := _next_part(connection, max(deadline - clock(), _LEAST_SECONDS)):
            parts.append(part)
            size += len(part)
            if clock() >= deadline or size > _MOST_BYTES:
                raise TimeoutError("no whole answer")
    finally:
        connection.close()
    return b"".join(parts)


def _next_part(connection: socket, seconds: float) -> bytes:
    """The next part of an answer within SECONDS.  Raises OSError.

    It comes within a millisecond as a rule, in some three parts, each of which would wake this thread.
    """
    connection.settimeout(0)
    for _ in range(_TRIES_AWAKE):
        try:
            return connection.recv(_PART)
        except BlockingIOError:
            posix.sched_yield()
    connection.settimeout(seconds)
    return connection.recv(_PART)


def _parse(data: bytes) -> DaemonStates | None:
    """The states in an answer; None where it ends too early, as of a daemon that was ended meanwhile."""
    states = DaemonStates({}, {}, {}, {})
    at, end = HEADER_BYTES, len(data)
    while at < end:
        head = data[at : at + STATE_BYTES]
        kind, length = number(head, 0), number(head, STATE_LENGTH_AT)
        text = data[at + STATE_BYTES : at + STATE_BYTES + length]
        at += STATE_BYTES + length
        behind = data[at : at + _RESOURCE_BYTES]
        if kind == STATE_LOCKSPACE:
            at += _LOCKSPACE_BYTES
        elif kind == STATE_RESOURCE:
            disks = number(behind, _DISKS_AT)
            at += _RESOURCE_BYTES + disks * _DISK_BYTES
            if disks > _MOST_DISKS:
                return None
        if at > end or length > _MOST_TEXT:
            return None
        _add(states, kind, head, settings_of(text), behind)
    return states if states.settings else None


def _add(states: DaemonStates, kind: int, head: bytes, values: dict[bytes, bytes], behind: bytes) -> None:
    """Add the state with this HEAD and these VALUES, and what is BEHIND them, to STATES."""
    if kind == STATE_DAEMON:
        states.settings.update(_texts(values))
    elif kind == STATE_CLIENT:
        states.processes[number(head, _PID_AT)] = _name(head[_NAME_AT:])
    elif kind == STATE_LOCKSPACE:
        states.lockspaces.setdefault(_name(head[_NAME_AT:]), _texts(values))
    elif kind == STATE_RESOURCE and values.get(b"list") not in _GIVEN_UP:
        states.holders.setdefault(_name(behind), []).append(number(head, _PID_AT))


def _name(field: bytes) -> str:
    return _text(field[:_NAME_BYTES].partition(b"\0")[0])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _texts(values: dict[bytes, bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in values.items()}
