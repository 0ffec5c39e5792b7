# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long there is: sanlock's kill_grace_seconds, and the budget that follows from it."""

from __future__ import annotations

import posix
import time
from _queue import Empty, SimpleQueue

from ..threads import WORKERS
from .sanlock_daemon import daemon_pid, daemon_settings, run_dir

SANLOCK_CONF = "/etc/sanlock/sanlock.conf"

# DEFAULT_GRACE_SEC and the range that sanlock accepts (sanlock src/sanlock_internal.h, src/main.c).
DEFAULT_GRACE = 40
MAX_GRACE = 60

# Below its own default sanlock's watchdog_fire_timeout leaves less, and below half of that nothing.
DEFAULT_FIRE_TIMEOUT = 60
SHORT_GRACE = 15

# What the launch of this program may have taken, and what sanlock may be early by.
MARGIN = 5

# How long the grace may take to be learned: the daemon's answer comes in a millisecond, a file in memory in
# less.  What comes later is not used, so that a deadline changes once at most.
LEARN_SECONDS = 0.2

# sanlock.conf as sanlock ships it has 5 KB, nearly all of it comments.
MOST_BYTES = 64 * 1024

_S_IFMT, _S_IFREG = 0o170000, 0o100000


class Grace:
    """sanlock's kill_grace_seconds, learned in a thread: its source may be on a hung disk.

    Memory is read first: the daemon's -g, its own answer; then the file, which sanlock 3.8 and older do
    not read it from.  sanlock's default is what remains, which a short watchdog_fire_timeout shortens.
    """

    __slots__ = ("_learned", "_seconds", "settled_at")

    def __init__(
        self, path: str = SANLOCK_CONF, directory: str | None = None, within: float = LEARN_SECONDS
    ) -> None:
        """PATH is sanlock's configuration file, DIRECTORY has its pid file and its socket.

        An answer that takes longer than WITHIN seconds is not used.
        """
        self._seconds = DEFAULT_GRACE
        self._learned: SimpleQueue[None] = SimpleQueue()
        # On CLOCK_MONOTONIC: from then on the grace does not change any more.
        self.settled_at = time.monotonic() + within
        try:
            WORKERS.start(self._learn, (path, directory or run_dir(), within))
        except RuntimeError:
            self.settled_at = float("-inf")  # no more threads

    @classmethod
    def known(cls, seconds: int) -> Grace:
        """A grace of SECONDS."""
        grace = cls.__new__(cls)
        grace._seconds = seconds
        grace.settled_at = float("-inf")
        return grace

    def seconds(self) -> int:
        """The grace as far as it is known now; never waits."""
        return self._seconds

    def wait(self) -> int:
        """The grace, waited for until it is settled."""
        left = self.settled_at - time.monotonic()
        if left > 0:
            try:
                self._learned.get(timeout=left)
            except Empty:
                pass
        return self._seconds

    def _learn(self, path: str, directory: str, within: float) -> None:
        """The thread that asks, and may hang for ever."""
        # The daemon has to leave time for the file.
        found = learn_grace(path, directory, within / 2)
        if time.monotonic() < self.settled_at:
            self._seconds = found
            self.settled_at = float("-inf")
        self._learned.put(None)


def kill_grace_seconds(path: str = SANLOCK_CONF, directory: str | None = None) -> int:
    """Seconds between the call of the killpath and SIGKILL, as the sanlock daemon has them: see Grace.

    Waits for LEARN_SECONDS at most.
    """
    return Grace(path, directory).wait()


def learn_grace(path: str, directory: str, seconds: float) -> int:
    """The grace that sanlock has: see Grace.  The daemon may take SECONDS to answer; a disk is waited for.

    A value that sanlock ignores is ignored here.  Source: read_config_file() and read_command_line() in
    sanlock ``src/main.c``, setup_timeouts() in ``src/timeouts.c``.
    """
    grace: int | None = None
    for value in _from_command_line(directory):
        grace = _accepted(value, grace)
    if grace is None:
        answer = daemon_settings(directory, seconds)
        grace = _accepted(answer.get(b"kill_grace_seconds", b""), None)
    if grace is not None:
        return grace
    settings = _from_file(path)
    for key, value in settings:
        if key == b"kill_grace_seconds":
            grace = _accepted(value, grace)
    if grace is not None:
        return grace
    return _default([value for key, value in settings if key == b"watchdog_fire_timeout"])


def _accepted(value: bytes, before: int | None) -> int | None:
    """VALUE as a grace; BEFORE where sanlock would ignore it."""
    seconds = _atoi(value) if value else -1
    return seconds if 0 <= seconds <= MAX_GRACE else before


def _default(fire_timeouts: list[bytes]) -> int:
    """The grace where none is set."""
    set_ones = [seconds for seconds in map(_atoi, fire_timeouts) if seconds > 0]
    fire = set_ones[-1] if set_ones else DEFAULT_FIRE_TIMEOUT
    if fire >= DEFAULT_FIRE_TIMEOUT:
        return DEFAULT_GRACE
    return SHORT_GRACE if fire >= DEFAULT_FIRE_TIMEOUT // 2 else 0


def _from_file(path: str) -> list[tuple[bytes, bytes]]:
    """The settings in the file at PATH, key and value; none where it is no regular file."""
    # Bytes: the codecs of text files would be loaded from the disk.
    settings = []
    for line in read_small(path).split(b"\n"):
        key, equals, value = line.partition(b"=")
        words = value.split()
        # The name begins the line, and ends at the first blank.
        if equals and words and key[:1].strip():
            settings.append((key.split()[0], words[0]))
    return settings


def read_small(path: str, most: int = MOST_BYTES) -> bytes:
    """The whole lines among the first MOST bytes of the file at PATH; nothing where it is no regular file.

    Reading a FIFO has no end, and to open a device may already do something.
    """
    try:
        if posix.stat(path).st_mode & _S_IFMT != _S_IFREG:
            return b""
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError:
        return b""
    data = b""
    try:
        while len(data) < most:
            part = posix.read(descriptor, most - len(data))
            if not part:
                return data
            data += part
    except OSError:
        return b""
    finally:
        posix.close(descriptor)
    return data[: data.rfind(b"\n") + 1]


def _from_command_line(directory: str) -> list[bytes]:
    try:
        with open(f"/proc/{daemon_pid(directory)}/cmdline", "rb") as command_line:
            words = command_line.read().split(b"\0")
    except OSError:
        return []
    return [value for option, value in zip(words, words[1:]) if option == b"-g"]


def _atoi(text: bytes) -> int:
    """What C's atoi() makes of TEXT: its leading digits, or 0."""
    text = text.strip()
    sign = -1 if text[:1] == b"-" else 1
    digits = text[1:] if text[:1] in (b"+", b"-") else text
    length = 0
    # No setting has more digits, and int() refuses thousands of them.
    while length < min(len(digits), 9) and digits[length : length + 1].isdigit():
        length += 1
    return sign * int(digits[:length] or b"0")


class Deadline:
    """The clock of one request: when it came, when to stop trying, when sanlock sends SIGKILL.

    All points in time are seconds of CLOCK_MONOTONIC, which every process of the host shares.
    """

    __slots__ = ("_budget", "_grace", "start")

    def __init__(self, start: float, grace: int | Grace, budget: float | None = None) -> None:
        """GRACE and BUDGET in seconds; without a BUDGET it is the grace less a margin.

        With a grace of 0 sanlock never runs the killpath: it is called by hand then, with the
        default.
        """
        self.start = start
        self._grace = grace if isinstance(grace, Grace) else Grace.known(grace)
        self._budget = budget

    @property
    def kill_at(self) -> float:
        """When sanlock sends SIGKILL."""
        return self.start + (self._grace.seconds() or DEFAULT_GRACE)

    @property
    def expires(self) -> float:
        """When to stop trying; that may change until settled_at."""
        if self._budget is not None:
            return self.start + self._budget
        seconds = self._grace.seconds() or DEFAULT_GRACE
        return self.start + max(seconds - MARGIN, seconds / 2)

    def next_check(self, now: float) -> float:
        """When to check whether it is over: at its end, or before, once the grace is settled."""
        settled_at = self._grace.settled_at
        return min(self.expires, settled_at) if settled_at > now else self.expires

    def left(self, now: float) -> float:
        """Seconds in which to go on trying, never negative."""
        return max(0.0, self.expires - now)

    def sigkill(self, now: float, wall: float) -> str:
        """What sanlock does next, for the journal; WALL is the time of day at NOW."""
        return f"sanlock sends SIGKILL at {time_of_day(wall + self.kill_at - now)} if the leases are lost"


def time_of_day(at: float) -> str:
    """The time AT, in seconds since the epoch, as a clock on the wall has it.

    In the time zone that the interpreter read when it started: strftime(3) may read it again.
    """
    local = time.localtime(at)
    return f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02}"
