# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process as an automaton: its own code, run again up to its next system call.

What a process does next depends on what its system calls have returned so far, and on nothing else.  So a
process that waits at a call is the list of those results; to go on, its code is run again from the start,
given these results, up to the call after them.  No thread has to be stopped, a process can be copied, and
what was run once is kept: most steps of a search run no code at all.
"""

from __future__ import annotations

from typing import Any, Callable

# A system call: its name and its arguments.
Call = tuple[str, tuple[Any, ...]]

# The last call of every process: its exit status, or the exception that ended it.
EXIT = "exit"
CLOCK = "clock"


class Suspended(BaseException):
    """The process waits at a call.  No handler catches it, and no call counts that is made meanwhile."""


class Raised:
    """The result of a call that raises."""

    __slots__ = ("error", "number")

    def __init__(self, error: type[OSError], number: int) -> None:
        self.error = error
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Raised) and (self.error, self.number) == (other.error, other.number)

    def __hash__(self) -> int:
        return hash((self.error, self.number))

    def __repr__(self) -> str:
        return self.error.__name__


class Process:
    """What a process's own code sees of the system: known results, then the call at which it waits."""

    def __init__(self, pid: int, results: list[Any]) -> None:
        self.pid = pid
        self._results = results
        self._next = 0
        self.waits_at: Call | None = None

    def call(self, name: str, *arguments: Any) -> Any:
        """Make a system call; returns or raises its result."""
        if self._next == len(self._results):
            if self.waits_at is None:
                self.waits_at = (name, arguments)
            raise Suspended
        result = self._results[self._next]
        self._next += 1
        if isinstance(result, Raised):
            raise result.error(result.number, f"{name}{arguments}")
        return result


Program = Callable[[Process], int]


class Step:
    """A process that waits at `call`, after certain results.  One object for each list of results."""

    __slots__ = ("_after", "_before", "_pid", "_program", "_result", "call", "reads_clock")

    def __init__(self, program: Program, pid: int, before: Step | None = None, result: Any = None) -> None:
        self._program = program
        self._pid = pid
        self._before = before
        self._result = result
        self._after: dict[Any, Step] = {}
        self.call = self._run()
        # Whether it reads the clock, and has not just done so.
        self.reads_clock = self.call[0] == CLOCK and (before is None or before.call[0] != CLOCK)

    def after(self, result: Any) -> Step:
        """The step at which the process waits once its call has had this RESULT."""
        step = self._after.get(result)
        if step is None:
            self._after[result] = step = Step(self._program, self._pid, self, result)
        return step

    def _results(self) -> list[Any]:
        results, step = [], self
        while step._before is not None:
            results.append(step._result)
            step = step._before
        results.reverse()
        return results

    def _run(self) -> Call:
        process = Process(self._pid, self._results())
        try:
            end: Any = self._program(process)
        except Suspended:
            assert process.waits_at is not None
            return process.waits_at
        except Exception as error:  # a traceback ends a process, too
            end = error
        return process.waits_at or (EXIT, (end,))
