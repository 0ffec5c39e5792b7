# SPDX-License-Identifier: LGPL-2.1-or-later
"""One line per event, to syslog for the story of the outage and to stderr for a person at a terminal.

syslog(3) blocks when nobody reads /dev/log, and the journal may well be on the storage that is gone.  So the
lines are written by a thread of their own: a virtual machine never waits for its log.
"""

from __future__ import annotations

import _thread
import posix

from . import IDENTIFIER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _queue import SimpleQueue
    from collections.abc import Callable
    from typing import Protocol

    class Receipt(Protocol):
        """What has to know when a line is told."""

        def telling(self) -> bool:
            """Whether the line is to be told at all: called right before."""

        def told(self) -> None:
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
    # A NUL or a lone surrogate would make the syslog module raise.
    import syslog  # loaded by prepare()

    syslog.syslog(priority, line.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0"))


# The priorities of syslog(3).
LEVELS = {"notice": 5, "warning": 4, "error": 3, "crit": 2}


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
        self._started = False

    def prepare(self) -> None:
        """Load what telling needs, and open the log.

        A process that only hands its request over tells nothing, and does without.  Who is about to act calls
        this before: the disk may be gone later.
        """
        if not self._started:
            import syslog
            from _queue import SimpleQueue

            self._started = True
            self._lines = SimpleQueue()
            syslog.openlog(IDENTIFIER, syslog.LOG_PID, syslog.LOG_DAEMON)
            _thread.start_new_thread(self._write, ())

    def notice(self, line: str) -> None:
        """Tell what was done."""
        self.tell("notice", line)

    def warning(self, line: str) -> None:
        """Tell what did not work yet, or what somebody should look at."""
        self.tell("warning", line)

    def error(self, line: str) -> None:
        """Tell what was not done although no virtual machine is in danger."""
        self.tell("error", line)

    def crit(self, line: str) -> None:
        """Tell what failed for good."""
        self.tell("crit", line)

    def tell(self, level: str, line: str, receipt: Receipt | None = None) -> None:
        """Tell LINE at one of the LEVELS; RECEIPT is asked before, and hears when it was told."""
        self.prepare()
        self._lines.put((level, line, receipt))

    def flush(self, timeout: float = FLUSH_SECONDS) -> bool:
        """Wait up to TIMEOUT seconds until the lines told so far are written; say whether they are."""
        if not self._started:
            return True
        from _queue import Empty, SimpleQueue

        drained: SimpleQueue[None] = SimpleQueue()
        self._lines.put(drained)
        try:
            drained.get(timeout=timeout)
        except Empty:
            return False
        return True

    def _write(self) -> None:
        while True:
            item = self._lines.get()
            if not isinstance(item, tuple):
                item.put(None)
                continue
            level, line, receipt = item
            if receipt is not None and not receipt.telling():
                continue
            self._to_terminal(f"{IDENTIFIER}: {line}")
            self._to_syslog(LEVELS[level], line)
            if receipt is not None:
                receipt.told()
