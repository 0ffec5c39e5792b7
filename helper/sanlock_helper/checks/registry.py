# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check is: a name, what is wanted, what it reads of the host, and the function that judges that."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, TypeVar, cast

from ..errors import RUN_AS_ROOT, HelperError, described
from ..escapes import printable
from ..journal import traceback_lines, wants_debug, write_stderr
from ..threads import within
from .finding import WARN, Finding, judged, not_checked

if TYPE_CHECKING:
    from .facts import Facts

Judge = TypeVar("Judge", bound=Callable[..., Finding])

# A check that hangs, as on storage that is gone, must not keep the others from being reported.
SECONDS = 30.0


@dataclass(frozen=True)
class Check:
    """One check.

    reads returns the arguments of judge, which does not touch the host.  unread is the verdict when reads
    raises HelperError.  what is the name of the finding in install-check's output, "" for what that verb does
    not report.  anyone: it reads what every user may read, and is made as another user than root, too; what
    that user cannot read may be taken for what is not there.
    """

    name: str
    wanted: str
    reads: Callable[[Facts], tuple[Any, ...]]
    judge: Callable[..., Finding]
    unread: str = WARN
    what: str = ""
    anyone: bool = False

    def run(self, facts: Facts, seconds: float = SECONDS) -> Finding:
        """The Finding about the host of FACTS.

        What cannot be read within SECONDS is a warning that has the reason; nothing is raised.
        """
        if facts.uid != 0 and not self.anyone:
            found = not_checked(f"uid {facts.uid} may not read all that it needs", RUN_AS_ROOT, cause="user")
            return replace(found, name=self.name, wanted=self.wanted)
        try:
            found = within(seconds, self.name, lambda: self._judge(facts))
        except HelperError as error:
            found = _unread(f"{error.what}: {error.why}", error)
        except OSError as error:
            found = _unread(str(error), error)
        except Exception as error:
            # A defect of this program must cost one check, not the report on the host.
            found = _unread(f"internal error: {described(error)}", error)
            if wants_debug():
                write_stderr("\n".join(map(printable, traceback_lines(error))))
        return replace(found, name=self.name, wanted=found.wanted or self.wanted)

    def _judge(self, facts: Facts) -> Finding:
        try:
            arguments = self.reads(facts)
        except HelperError as error:
            if self.unread == WARN:
                raise
            found = _unread(f"{error.what}: {error.why}", error)
            if found.cause == self.name:
                # What it is about, and no other check reports.
                return judged(self.unread, found.unread, error.hint)
            return replace(found, verdict=self.unread, found=found.unread)
        return self.judge(*arguments)


def _unread(why: str, error: Exception) -> Finding:
    """The finding of a check that could not be made because of ERROR, and WHY that is in words."""
    found = not_checked(why, error.hint if isinstance(error, HelperError) else "")
    return replace(found, unread=why, cause=getattr(error, "cause", ""))


_registered: dict[str, list[Check]] = {}


def check(
    name: str,
    wanted: str = "",
    *,
    reads: Callable[[Facts], tuple[Any, ...]],
    unread: str = WARN,
    what: str = "",
    anyone: bool = False,
) -> Callable[[Judge], Judge]:
    """Register a function as the check NAME; its Finding gets that name, and WANTED where it has none.

    For the other arguments: see Check.
    """

    def register(function: Judge) -> Judge:
        @functools.wraps(function)
        def judge(*arguments: Any, **options: Any) -> Finding:
            found = function(*arguments, **options)
            return replace(found, name=name, wanted=found.wanted or wanted)

        _registered.setdefault(function.__module__, []).append(
            Check(name, wanted, reads, judge, unread, what, anyone)
        )
        return cast(Judge, judge)

    return register


def registered(module: str) -> Iterator[Check]:
    """The checks of MODULE, in the order in which it defines them."""
    return iter(_registered.get(module, ()))
