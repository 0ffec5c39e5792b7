# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is waited for, kept up to date below the lines that stay, at a terminal."""

from __future__ import annotations

import sys
import threading
from typing import Callable

from ..escapes import printable
from ..journal import write_stderr
from .text_width import USUAL, columns_of, cut


class LiveLines:
    """The lower end of a terminal; where there is none, only the lines that stay are written."""

    def __init__(
        self,
        is_terminal: bool,
        write: Callable[[str], None] = write_stderr,
        columns: Callable[[], int] = lambda: columns_of(sys.stderr) or USUAL,
    ) -> None:
        """WRITE takes a text and ends it with a newline; COLUMNS is the terminal's width."""
        self._is_terminal = is_terminal
        self._write = write
        self._columns = columns
        self._lock = threading.Lock()
        self._shown: list[str] = []

    def log(self, line: str) -> None:
        """Write LINE above what is shown; it stays."""
        with self._lock:
            self._write("\n".join([f"{self._erase()}{line}", *self._shown]))

    def show(self, lines: list[str]) -> None:
        """Replace what was shown before by LINES, each cut to the terminal's width."""
        width = self._columns() - 1
        fitting = [cut(printable(line), width) for line in lines]
        with self._lock:
            if self._is_terminal and fitting != self._shown:
                text = "\n".join(fitting)
                # The newline that is written puts the cursor where the text would be.
                self._write(f"{self._erase()}{text}" if text else f"{self._erase()}\x1b[A")
                self._shown = fitting

    def _erase(self) -> str:
        return f"\x1b[{len(self._shown)}A\x1b[J" if self._shown else ""
