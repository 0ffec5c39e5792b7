# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long there is: sanlock's kill_grace_seconds, and the budget that follows from it."""

from __future__ import annotations

import time

SANLOCK_CONF = "/etc/sanlock/sanlock.conf"
SANLOCK_RUN_DIR = "/run/sanlock"

# DEFAULT_GRACE_SEC and the range that sanlock accepts (sanlock src/sanlock_internal.h, src/main.c).
DEFAULT_GRACE = 40
MAX_GRACE = 60

# Below its own default sanlock's watchdog_fire_timeout leaves less, and below half of that nothing.
DEFAULT_FIRE_TIMEOUT = 60
SHORT_GRACE = 15

# What the launch of this program may have taken, and what sanlock may be early by.
MARGIN = 5


def kill_grace_seconds(path: str = SANLOCK_CONF, run_dir: str = SANLOCK_RUN_DIR) -> int:
    """Seconds between the call of the killpath and SIGKILL, as the sanlock daemon has them.

    The daemon's -g counts before the file at PATH (which sanlock 3.8 and older do not read it from), and
    sanlock's default is what remains, which a short watchdog_fire_timeout shortens; a value that sanlock
    ignores is ignored here.  Source: read_config_file() and read_command_line() in sanlock ``src/main.c``,
    setup_timeouts() in ``src/timeouts.c``.
    """
    settings = _from_file(path)
    grace = _default([value for key, value in settings if key == "watchdog_fire_timeout"])
    from_file = (value for key, value in settings if key == "kill_grace_seconds")
    for value in (*from_file, *_from_command_line(run_dir)):
        seconds = _atoi(value)
        grace = seconds if 0 <= seconds <= MAX_GRACE else grace
    return grace


def _default(fire_timeouts: list[str]) -> int:
    """The grace that nobody has set."""
    fire = _atoi(fire_timeouts[-1]) if fire_timeouts else DEFAULT_FIRE_TIMEOUT
    if fire <= 0 or fire >= DEFAULT_FIRE_TIMEOUT:
        return DEFAULT_GRACE
    return SHORT_GRACE if fire >= DEFAULT_FIRE_TIMEOUT // 2 else 0


def _from_file(path: str) -> list[tuple[str, str]]:
    """The settings in the file at PATH: key and value."""
    try:
        with open(path, encoding="utf-8", errors="replace") as conf:
            lines = conf.readlines()
    except OSError:
        return []
    settings = []
    for line in lines:
        key, equals, value = line.partition("=")
        # The name ends at the first blank, and must begin the line.
        if equals and key[:1].strip():
            settings.append((key.split()[0], value))
    return settings


def _from_command_line(run_dir: str) -> list[str]:
    # Bytes: the codecs of text files would be looked up on the disk.
    try:
        with open(f"{run_dir}/sanlock.pid", "rb") as pid_file:
            pid = int(pid_file.read(16))
        with open(f"/proc/{pid}/cmdline", "rb") as command_line:
            words = command_line.read().split(b"\0")
    except (OSError, ValueError):
        return []
    return [str(value, "utf-8", "replace") for option, value in zip(words, words[1:]) if option == b"-g"]


def _atoi(text: str) -> int:
    """What C's atoi() makes of TEXT: its leading digits, or 0."""
    text = text.strip()
    sign = -1 if text[:1] == "-" else 1
    digits = text.lstrip("+-") if text[:1] in ("+", "-") else text
    length = 0
    while length < len(digits) and digits[length] in "0123456789":
        length += 1
    return sign * int(digits[:length] or "0")


class Deadline:
    """The clock of one request: when it came, when to stop trying, when sanlock sends SIGKILL.

    All points in time are seconds of CLOCK_MONOTONIC, which every process of the host shares.
    """

    __slots__ = ("end", "kill", "start")

    def __init__(self, start: float, grace: int, budget: float | None = None) -> None:
        """GRACE and BUDGET in seconds; without a BUDGET it is the grace less a margin.

        With a grace of 0 sanlock never runs the killpath: who calls it then is a person, and gets the
        default.
        """
        seconds = grace or DEFAULT_GRACE
        self.start = start
        self.kill = start + seconds
        self.end = start + (max(seconds - MARGIN, seconds / 2) if budget is None else budget)

    @classmethod
    def at(cls, start: float, kill: float, end: float) -> Deadline:
        """The clock that another process started."""
        deadline = cls.__new__(cls)
        deadline.start, deadline.kill, deadline.end = start, kill, end
        return deadline

    def left(self, now: float) -> float:
        """Seconds in which to go on trying, never negative."""
        return max(0.0, self.end - now)

    def sigkill(self, now: float, wall: float) -> str:
        """What sanlock does next, for the journal; WALL is the time of day at NOW."""
        at = time.strftime("%H:%M:%S", time.localtime(wall + self.kill - now))
        return f"sanlock sends SIGKILL at {at} if the leases are lost"
