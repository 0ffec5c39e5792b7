# SPDX-License-Identifier: LGPL-2.1-or-later
"""One line per event, to syslog for the story of the outage and to stderr for a person at a terminal.

syslog(3) blocks when nobody reads /dev/log, and the journal may well be on the storage that is gone.  So the
lines are written by a thread of their own: a virtual machine never waits for its log.
"""

from __future__ import annotations

import _thread
import posix

from . import IDENTIFIER
from .escapes import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _queue import SimpleQueue
    from collections.abc import Callable
    from typing import Protocol

    class Receipt(Protocol):
        """What has to know when a line is told."""

        def logging(self) -> bool:
            """Whether the line is to be told at all: called right before."""

        def logged(self) -> None:
            """Called right after."""


# How long the end of the program waits for a syslog that does not take its lines.
FLUSH_SECONDS = 1.0


def write_stderr(line: str) -> None:
    """Write LINE to descriptor 2; what cannot be written is lost, since there is nobody to tell."""
    try:
        posix.write(2, f"{line}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def write_syslog(priority: int, line: str) -> None:
    """Send LINE to syslog under the program's identifier."""
    import syslog  # loaded by prepare()

    syslog.syslog(priority, line)


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
    if len(data) <= MAX_BYTES:
        return text
    return data[: MAX_BYTES - len(CUT)].decode("utf-8", "ignore") + CUT


def traceback_lines(error: BaseException) -> list[str]:
    """Where ERROR was raised, as Python prints it."""
    import traceback  # loaded by prepare() where it is wanted

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return text.rstrip().split("\n")


class Journal:
    """Where events are told.  Levels are those an operator would expect.

    notice: done; warning: something will be tried again, or wants attention; error: not done, but safe; crit:
    a virtual machine is not safe, or an invocation is unusable.
    """

    def __init__(
        self,
        to_syslog: Callable[[int, str], None] = write_syslog,
        to_terminal: Callable[[str], None] = write_stderr,
    ) -> None:
        self._to_syslog = to_syslog
        self._to_terminal = to_terminal
        self._lines: SimpleQueue[tuple[str, str, Receipt | None] | SimpleQueue[None]]
        # Whether debug() logs; a caller that would make its line for nothing reads this before.
        self.debugs = wants_debug()
        self._started = False
        # Whether the thread that writes runs.
        self._writes = False

    def prepare(self) -> None:
        """Load what telling needs, and open the log.

        A process that only hands its request over tells nothing, and does without.  Who is about to act calls
        this before: the disk may be gone later.
        """
        if not self._started:
            import syslog
            from _queue import SimpleQueue

            if self.debugs:
                import traceback  # noqa: F401  for traceback_lines()
            self._started = True
            self._lines = SimpleQueue()
            syslog.openlog(IDENTIFIER, syslog.LOG_PID, syslog.LOG_DAEMON)
        if not self._writes:
            try:
                _thread.start_new_thread(self._write, ())
                self._writes = True
            except RuntimeError:
                pass  # no more threads: tried again with the next line, and flush() writes in place

    def notice(self, line: str) -> None:
        """Tell what was done."""
        self.log("notice", line)

    def warning(self, line: str) -> None:
        """Tell what did not work yet, or what somebody should look at."""
        self.log("warning", line)

    def error(self, line: str) -> None:
        """Tell what was not done although no virtual machine is in danger."""
        self.log("error", line)

    def crit(self, line: str) -> None:
        """Tell what failed for good."""
        self.log("crit", line)

    def debug(self, line: str) -> None:
        """Log LINE, which begins with what it is about, if debug lines are wanted."""
        if self.debugs:
            self.log("debug", f"debug: {line}")

    def log_traceback(self, error: BaseException) -> None:
        """Log where a defect of this program has raised ERROR, if debug lines are wanted."""
        if self.debugs:
            for line in traceback_lines(error):
                self.debug(line)

    def log(self, level: str, line: str, receipt: Receipt | None = None) -> None:
        """Tell LINE at one of the LEVELS; RECEIPT is asked before, and hears when it was told.

        Any text may be told: names and the messages of other programs are escaped here.  A level that is not
        known is an error.
        """
        self.prepare()
        self._lines.put((level, line, receipt))

    def flush(self, timeout: float = FLUSH_SECONDS) -> bool:
        """Wait up to TIMEOUT seconds until the lines told so far are written; say whether they are."""
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

    def _write_one(self, item: tuple[str, str, Receipt | None] | SimpleQueue[None]) -> None:
        if not isinstance(item, tuple):
            item.put(None)
            return
        try:
            self._write_line(*item)
        except Exception as error:
            # One line, or the note that it was written, is lost; those that follow it are not.
            write_stderr(f"{IDENTIFIER}: write the log: {one_line(repr(error))}")

    def _write_line(self, level: str, line: str, receipt: Receipt | None) -> None:
        try:
            wanted = receipt is None or receipt.logging()
        except Exception:
            # Whether another process logs it is not known: twice is better than never.
            wanted = True
        if not wanted:
            return
        text = one_line(line)
        try:
            try:
                self._to_terminal(f"{IDENTIFIER}: {text}")
            finally:
                self._to_syslog(LEVELS.get(level, LEVELS["error"]), text)
        finally:
            # Also when it could not be written: a process may be waiting for this.
            if receipt is not None:
                receipt.logged()
