# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls to sanlock inside a stack, through sanlock-python or through our own binding.

As a program, run inside a stack by the distribution's Python: binding.py MODULE CALLS [hold], where CALLS is
the repr() of a list of (name, arguments, keywords).  It prints its pid and the repr() of the list of answers;
with "hold" it then sleeps until it is killed, and holds what it has acquired.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stack import Stack

HELPER = Path(__file__).parents[2] / "helper"
OURS, THEIRS = "sanlock_helper.leases.libsanlock", "sanlock"

# A descriptor of register(), in the arguments of a later call.
SELF = "SELF"

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def call(name: str, *arguments: Any, **keywords: Any) -> Call:
    """One call of CALLS."""
    return name, arguments, keywords


def answers(stack: Stack, module: str, *calls: Call, env: dict[str, str] | None = None) -> list[Any]:
    """What MODULE answers to CALLS inside; ("error", number) for an exception."""
    program = ("/usr/bin/python3", "-B", __file__, module, repr(list(calls)))
    found: list[Any] = ast.literal_eval(stack.run(*program, env=env).stdout.partition(" ")[2])
    return found


class Holder:
    """A process inside that has done CALLS and holds what it acquired.  pid is that of the inside."""

    def __init__(self, stack: Stack, *calls: Call) -> None:
        program = ("/usr/bin/python3", "-B", __file__, OURS, repr([call("register"), *calls]), "hold")
        self._process = stack.popen(*program)
        assert self._process.stdout is not None
        pid, _, found = self._process.stdout.readline().partition(" ")
        if not pid:
            raise AssertionError(self._process.communicate()[1])
        self.pid = int(pid)
        self.answers: list[Any] = ast.literal_eval(found)

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def hidden(stack: Stack, *paths: str) -> Iterator[None]:
    """Let these files be no Python module and no library inside."""
    for path in paths:
        stack.run("mount", "--bind", "/dev/null", path)
    try:
        yield
    finally:
        for path in paths:
            stack.run("umount", path)


def sanlock_python(stack: Stack) -> list[str]:
    """The file of the module sanlock; empty where the distribution has none."""
    code = "import importlib.util; print(getattr(importlib.util.find_spec('sanlock'), 'origin', ''))"
    return stack.run("/usr/bin/python3", "-Ic", code).stdout.split()


def libraries(stack: Stack) -> list[str]:
    """The files of sanlock's client libraries, in the order in which they are tried."""
    lines = stack.run("ldconfig", "-p").stdout.splitlines()
    found = (re.fullmatch(r"\s*(libsanlock(?:_client)?\.so\.1) .* => (.*)", line) for line in lines)
    paths = {match[1]: os.path.realpath(match[2]) for match in found if match}
    return [paths[name] for name in ("libsanlock_client.so.1", "libsanlock.so.1") if name in paths]


def _do(module: Any, calls: list[Call]) -> list[Any]:
    done: list[Any] = []
    for name, arguments, keywords in calls:
        given = {key: done[0] if value == SELF else value for key, value in keywords.items()}
        try:
            done.append(getattr(module, name)(*arguments, **given))
        except module.SanlockException as error:
            done.append(("error", error.errno))
    return done


def main() -> None:
    """Call, answer, hold."""
    module, calls, *hold = sys.argv[1:]
    sys.path.insert(0, str(HELPER))
    found = _do(importlib.import_module(module), ast.literal_eval(calls))
    print(os.getpid(), ascii(found), flush=True)
    while hold:
        time.sleep(3600)


if __name__ == "__main__":
    main()
