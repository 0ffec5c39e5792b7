# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits on the memory of a process (setrlimit(2)): what this program needs, and no core dump of it."""

from __future__ import annotations

import _thread

# As /proc/PID/limits names them, as systemd does, and MiB.  Measured: 60 domains at once need 300 and 30.
# GLib aborts a process that gets no memory; libvirt's own helper, of one thread, needs less.
NEEDED = (("Max address space", "LimitAS", 512), ("Max data size", "LimitDATA", 64))

# Of a thread's stack, where there is a limit.
STACK_BYTES = 1024 * 1024

# mallopt(3).
_M_ARENA_MAX = -8


def shortage(limits: str, unit: str = "sanlock.service") -> tuple[str, str]:
    """Why LIMITS, the text of /proc/PID/limits, leave too little, and the remedy; empty if they do not.

    UNIT is the service that sets them.
    """
    for name, setting, needed in NEEDED:
        limit = _soft(limits, name)
        if limit is not None and limit < needed << 20:
            why = f"{name.lower()[4:]} is limited to {limit >> 20} MiB, and {needed} MiB are needed"
            return why, f"set {setting}= of {unit} to more"
    return "", ""


def require_memory(path: str = "/proc/self/limits", unit: str = "sanlock.service") -> None:
    """Raise MemoryError, with what is needed, where there is too little; before the first thread starts.

    UNIT is the service that this process is of.

    The thread that reads sanlock's grace may run already: its memory is part of what is needed.
    """
    try:
        with open(path, "rb") as file:
            limits = str(file.read(), "utf-8", "replace")
    except OSError:
        return
    why, remedy = shortage(limits, unit)
    if why:
        raise MemoryError(f"{why}: {remedy}")
    if any(_soft(limits, name) is not None for name, _, _ in NEEDED):
        _thread.stack_size(STACK_BYTES)
        allocate_from_one_arena()


def allocate_from_one_arena() -> None:
    """Have all threads allocate from one arena, where the C library is glibc.

    Each thread's own reserves 64 MiB of address space, and 128 for a moment: an allocation of another thread
    that fails in that moment ends the process (g_malloc()).  And for its ninth arena glibc looks up how many
    processors there are, below /sys (arena_get2() in malloc/arena.c), which an agent that stands must not.
    """
    try:
        import ctypes

        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except (ImportError, OSError, AttributeError):
        pass


def forbid_core_dumps() -> None:
    """Keep the memory of this process and of its children, with credentials in it, out of core dumps.

    A limit of one byte: 0 keeps the kernel from writing a file, and not from handing all of the memory to a
    program, as systemd-coredump (do_coredump() in Linux fs/coredump.c).
    """
    try:
        # A file of the standard library, and the virtual machine's safety does not hang on it.
        from resource import RLIMIT_CORE, getrlimit, setrlimit

        _, most = getrlimit(RLIMIT_CORE)
        setrlimit(RLIMIT_CORE, (1, most or 1))
    except (ImportError, OSError, ValueError):
        pass  # without CAP_SYS_RESOURCE, a limit of 0 cannot be raised


def _soft(limits: str, name: str) -> int | None:
    """The limit in force, in bytes; None where there is none."""
    for line in limits.split("\n"):
        words = line[len(name) :].split() if line.startswith(name) else []
        if words and words[0].isdigit():
            return int(words[0])
    return None
