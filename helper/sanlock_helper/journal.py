# SPDX-License-Identifier: LGPL-2.1-or-later
"""One line per event, to the journal for the history of the outage and to stderr for a person at a terminal.

Where journald is, it gets the event's fields beside the line; elsewhere syslog gets the line.  syslog(3)
blocks when no process reads /dev/log, and the journal may well be on the storage that is gone.  So the lines
are written by a thread of their own: a virtual machine never waits for its log.
"""

from __future__ import annotations

import _thread
import posix

from . import IDENTIFIER
from .errors import described
from .escapes import printable
from .events import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _queue import SimpleQueue
    from collections.abc import Callable, Mapping
    from typing import Protocol

    class Receipt(Protocol):
        """What has to know when a line is logged."""

        def logging(self) -> bool:
            """Whether the line is to be logged at all: called right before."""

        def logged(self) -> None:
            """Called right after."""

    # What is to be written: the level, the line or event, its receipt; or a queue that gets an item then.
    Line = tuple[str, "str | Event", "Receipt | None"]


# How long the end of the program waits for a syslog that does not take its lines.
FLUSH_SECONDS = 1.0

# How long a line waits for a stderr that takes nothing, as a full pipe does: less than that, so
# that the line still comes to the journal.
STDERR_SECONDS = 0.2

# Where journald takes datagrams of its native protocol.
JOURNALD = "/run/systemd/journal/socket"

# LOG_DAEMON of syslog(3), as journald has it in SYSLOG_FACILITY.
_DAEMON = "3"


def write_stderr(line: str) -> None:
    """Write LINE to descriptor 2; what cannot be written is lost, since there is no other place for it."""
    try:
        posix.write(2, f"{line}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass


class Stderr:
    """Descriptor 2 for lines that are not to wait for its reader; what it does not take is lost.

    A pipe that can be written to (poll(2)) takes PIPE_BUF bytes, and so a line, at once (pipe(7)).
    """

    __slots__ = ("_is_full",)

    def __init__(self) -> None:
        self._is_full = False

    def write(self, line: str) -> None:
        """Write LINE; one that finds it full for STDERR_SECONDS is lost, and those after it do not wait."""
        import select  # loaded by Journal.prepare()

        poll = select.poll()
        poll.register(2, select.POLLOUT)
        self._is_full = not poll.poll(0.0 if self._is_full else STDERR_SECONDS * 1000)
        if not self._is_full:
            write_stderr(line)


def write_syslog(priority: int, line: str) -> None:
    """Send LINE to syslog under the program's identifier."""
    import syslog  # loaded by prepare()

    syslog.syslog(priority, line)


class Journald:
    """journald's native protocol: a datagram of fields (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    A send never waits.  What journald does not take goes to syslog, which does: journald is not there
    (ENOENT, ECONNREFUSED), it has not yet read what came before (EAGAIN), no buffer is free (ENOBUFS), or the
    datagram is longer than the socket's buffer (EMSGSIZE; MAX_BYTES a field keeps it far below the default).
    No file is passed in its place, as sd_journal_send(3) does: making one is more that can fail.
    """

    __slots__ = ("_path", "_socket")

    def __init__(self, path: str = JOURNALD) -> None:
        """Open a socket, whether anything is at PATH or not: journald may be started later.

        Raises OSError when no descriptor is free.
        """
        from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket

        self._path = path
        self._socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK)

    def send(self, priority: int, line: str, fields: Mapping[str, str]) -> bool:
        """Send LINE at PRIORITY with FIELDS beside it; False when journald did not take it."""
        entry = {
            "MESSAGE": line,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "SYSLOG_FACILITY": _DAEMON,
            "SYSLOG_PID": str(posix.getpid()),
            **fields,
        }
        try:
            # By its address each time: journald may have been restarted.
            self._socket.sendto(b"".join(_field(*item) for item in entry.items()), self._path)
        except OSError:
            return False
        return True


def _field(name: str, value: str) -> bytes:
    """One field of the native protocol; one with a line break in it is written with its length."""
    data = _cut(value.encode("utf-8", "backslashreplace"))
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


# The priorities of syslog(3).
LEVELS = {"debug": 7, "notice": 5, "warning": 4, "error": 3, "crit": 2}

# In the environment of sanlock.service or of a shell: also log what helps to find a defect.
DEBUG_VARIABLE = "VIRT_SANLOCK_HELPER_DEBUG"


def wants_debug() -> bool:
    """Whether the environment has DEBUG_VARIABLE, and neither empty nor 0."""
    return posix.environ.get(DEBUG_VARIABLE.encode(), b"") not in (b"", b"0")


# journalctl -o json gives a field of more than 4096 bytes, its name and "=" among them, as null unless it is
# asked for --all (systemd src/shared/logs-show.c).
MAX_BYTES = 4000
CUT = " [...]"


def one_line(line: str) -> str:
    """LINE as it is written: without control characters, and at most MAX_BYTES long in UTF-8."""
    text = printable(line)
    data = text.encode()
    return text if len(data) <= MAX_BYTES else _cut(data).decode()


def _cut(data: bytes) -> bytes:
    """DATA, or as much of it as MAX_BYTES are, ended at a character and with a mark."""
    if len(data) <= MAX_BYTES:
        return data
    return data[: MAX_BYTES - len(CUT)].decode("utf-8", "ignore").encode() + CUT.encode()


class RepeatFilter:
    """Reasons that are met again and again: the same one is logged again after so many seconds."""

    __slots__ = ("_logged", "_seconds")

    def __init__(self, seconds: float) -> None:
        """SECONDS may be infinite: then each reason is logged once, until another one is."""
        self._seconds = seconds
        self._logged: dict[object, tuple[str, float]] = {}

    def is_due(self, subject: object, reason: str, now: float) -> bool:
        """Whether REASON, met for SUBJECT at NOW (seconds), is to be logged; it counts as logged then."""
        logged, at = self._logged.get(subject, (None, 0.0))
        if logged == reason and now - at < self._seconds:
            return False
        self._logged[subject] = reason, now
        return True

    def forget(self, subject: object) -> None:
        """SUBJECT is over, or begins anew: its next reason is logged whatever it is."""
        self._logged.pop(subject, None)


def traceback_lines(error: BaseException) -> list[str]:
    """Where ERROR was raised, as Python prints it."""
    import traceback  # loaded by prepare() where it is wanted

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return text.rstrip().split("\n")


def log_debug(journal: Journal, line: str) -> None:
    """Log LINE, which helps to find a defect; the caller has checked wants_debug() before."""
    journal.log("debug", f"debug: {line}")


def log_traceback(journal: Journal, error: BaseException) -> None:
    """Log where a defect of this program has raised ERROR, if debug lines are wanted."""
    if wants_debug():
        for line in traceback_lines(error):
            log_debug(journal, line)


class Journal:
    """Where events are logged.  Levels are those an operator would expect.

    notice: done; warning: something will be tried again, or wants attention; error: not done, but safe; crit:
    a virtual machine is not safe, or an invocation is unusable.
    """

    def __init__(
        self,
        to_syslog: Callable[[int, str], None] = write_syslog,
        to_terminal: Callable[[str], None] | None = None,
        to_journald: Callable[[int, str, Mapping[str, str]], bool] | None = None,
    ) -> None:
        """TO_JOURNALD is tried before TO_SYSLOG: it returns whether it took the line.

        Where it is None it is Journald's, unless another TO_SYSLOG is given.  TO_TERMINAL: Stderr's.
        """
        self._to_syslog = to_syslog
        self._to_terminal = to_terminal or Stderr().write
        self._to_journald = to_journald
        self._lines: SimpleQueue[Line | SimpleQueue[None]]
        self._started = False
        # Whether the thread that writes runs.
        self._writes = False

    def prepare(self) -> None:
        """Load what logging needs, and open the log.

        A process that only writes its request logs nothing, and does not call this.  A process that is about
        to act calls this before: the disk may not answer later.
        """
        if not self._started:
            import select  # noqa: F401  for Stderr
            import syslog
            from _queue import SimpleQueue

            if wants_debug():
                import traceback  # noqa: F401  for traceback_lines()
            self._started = True
            self._lines = SimpleQueue()
            # At once: there may be no descriptor for it when the first line is written.
            syslog.openlog(IDENTIFIER, syslog.LOG_PID | syslog.LOG_NDELAY, syslog.LOG_DAEMON)
            if self._to_journald is None and self._to_syslog is write_syslog:
                try:
                    self._to_journald = Journald().send
                except OSError:
                    pass  # no descriptor is free: syslog(3) opens its own with each line
        if not self._writes:
            try:
                _thread.start_new_thread(self._write, ())
                self._writes = True
            except RuntimeError:
                pass  # no more threads: tried again with the next line, and flush() writes in place

    def report(self, event: Event, receipt: Receipt | None = None) -> None:
        """Log EVENT at the level of its kind; RECEIPT as in log()."""
        self.log(event.level, event, receipt)

    def log(self, level: str, line: str | Event, receipt: Receipt | None = None) -> None:
        """Log LINE at one of the LEVELS; RECEIPT is asked before, and called when that is done.

        Any text may be logged: names and the messages of other programs are escaped here.  A level that is
        not known is an error.
        """
        self.prepare()
        self._lines.put((level, line, receipt))

    def flush(self, timeout: float = FLUSH_SECONDS) -> bool:
        """Wait up to TIMEOUT seconds until the lines logged so far are written; whether they are."""
        if not self._started:
            return True
        from _queue import Empty, SimpleQueue

        if not self._writes:
            # The virtual machines are safe by now, or as safe as they can be made.
            while not self._lines.empty():
                self._write_one(self._lines.get())
            return True
        drained: SimpleQueue[None] = SimpleQueue()
        self._lines.put(drained)
        try:
            drained.get(timeout=timeout)
        except Empty:
            return False
        return True

    def _write(self) -> None:
        while True:
            self._write_one(self._lines.get())

    def _write_one(self, item: Line | SimpleQueue[None]) -> None:
        if not isinstance(item, tuple):
            item.put(None)
            return
        try:
            self._write_line(*item)
        except Exception as error:
            # One line, or the note that it was written, is lost; those that follow it are not.
            Stderr().write(f"{IDENTIFIER}: write the log: {one_line(described(error))}")

    def _write_line(self, level: str, line: str | Event, receipt: Receipt | None) -> None:
        try:
            wanted = receipt is None or receipt.logging()
        except Exception:
            # Whether another process logs it is not known: twice is better than never.
            wanted = True
        if not wanted:
            return
        try:
            text = one_line(str(line))
            try:
                self._to_terminal(f"{IDENTIFIER}: {text}")
            finally:
                self._record(LEVELS.get(level, LEVELS["error"]), text, line)
        finally:
            # Also when it could not be written: a process may be waiting for this.
            if receipt is not None:
                receipt.logged()

    def _record(self, priority: int, text: str, line: str | Event) -> None:
        fields = line.fields() if isinstance(line, Event) else {}
        if self._to_journald is None or not self._to_journald(priority, text, fields):
            self._to_syslog(priority, text)
