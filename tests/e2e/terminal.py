# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program at a terminal, and what a person sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

from .stack import Stack

COLUMNS = 200

_WORDS = re.compile(r"\x1b\[(\d*)([A-Z])|\r|\n|[^\x1b\r\n]+")


def screen(output: str) -> list[str]:
    """The lines that are there after OUTPUT, none wider than the terminal.

    It knows what recover and status write: the cursor up or to the top, erase to the end or all, and text.
    """
    lines = [""]
    row = 0
    for word in _WORDS.finditer(output):
        text, number, letter = word[0], word[1], word[2]
        if letter == "A":
            row = max(0, row - int(number or 1))
        elif letter == "H":
            row = 0
        elif letter == "J":
            lines[0 if number == "2" else row :] = [""]
        elif letter:
            raise ValueError(f"an escape sequence that is not written: {text!r}")
        elif text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text != "\r":
            lines[row] += text
    return [line for line in lines if line]


class Terminal:
    """Runs a command of a stack on a terminal of its own."""

    def __init__(self, stack: Stack, *argv: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, COLUMNS, 0, 0))
        os.set_blocking(self._ours, False)
        self.process: subprocess.Popen[str] = stack.popen(*argv, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._output = b""

    def lines(self) -> list[str]:
        """What it shows now."""
        try:
            while data := os.read(self._ours, 65536):
                self._output += data
        except OSError:
            pass  # nothing more now, or the program has ended
        return screen(self._output.decode())

    def close(self) -> None:
        """Take the terminal away."""
        os.close(self._ours)
