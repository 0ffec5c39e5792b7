# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether an executable is this program's."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence

from ..command import NOT_RUN, run
from ..escapes import printable

SECONDS = 10.0

C_HELPER = "is libvirt's C helper (one attempt, two actions, no line in the journal)"


def why_not_ours(
    path: str, environ: Mapping[str, str], seconds: float = SECONDS, command: Sequence[str] = ()
) -> str:
    """What PATH is, or why it does not run in ENVIRON, as a predicate; "" when it is this program.

    It is given so many SECONDS.  COMMAND runs it, where PATH alone does not.
    """
    if not os.path.isfile(path):
        return "is no regular file" if os.path.exists(path) else "is not there"
    if not os.access(path, os.X_OK):
        return "is not executable"
    try:
        if _begins(path, b"\x7fELF"):
            return C_HELPER
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    answer = run([*(command or [path]), "--version"], seconds, environ)
    if answer.status != 0:
        # The last line of a traceback has the exception.
        why = answer.problem or (answer.stderr.splitlines() or [f"status {answer.status}"])[-1]
        interpreter = _interpreter(path)
        if answer.status == NOT_RUN and interpreter and not os.path.exists(interpreter):
            why += f" (its interpreter {printable(interpreter)} is not there)"
        return f"does not run: {why}"
    first = answer.stdout.partition("\n")[0]
    return "" if "(virt-sanlock-helper)" in first else f"is another program: {first}"


def _interpreter(path: str) -> str:
    """The interpreter that the first line of a script names, "" where PATH is none."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        first = os.fsdecode(file.readline(256))
        # As the kernel takes it: also with the carriage return of another system's editor.
        words = re.split("[ \t]+", first[2:].strip(" \t\n"), maxsplit=1) if first.startswith("#!") else [""]
        return words[0] if os.path.isabs(words[0]) else ""
    return ""


def _begins(path: str, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic
