# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls in threads of their own: a call into libvirt, into sanlock or to storage may never return.

Python handles no signal during such a call, and nothing can interrupt it: the thread is abandoned.
"""

from __future__ import annotations

import _thread
from _queue import Empty, SimpleQueue

from .errors import SanlockHelperError, TransientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not at run time: a stand-by does without `typing`, whose import takes as long as all of its own.
    from typing import Any, Callable, TypeVar

    T = TypeVar("T")
    Mailbox = SimpleQueue["tuple[Callable[..., object], tuple[Any, ...]]"]


class NoAnswerError(SanlockHelperError):
    """A call has not returned in time.  A TimeoutError is what Python makes of a call's own ETIMEDOUT."""


def call_with_timeout(call: Callable[[], T], seconds: float) -> T:
    """What CALL returns or raises, run in another thread; NoAnswerError after SECONDS.

    A call that took too long continues in its thread, and its result is dropped.  Where no thread can be
    started (RLIMIT_NPROC, pids.max of the cgroup) the call is made in place, for as long as it takes.
    """
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # raised in the thread that waits for the answer
            answers.put((None, error))

    try:
        WORKERS.start(run, ())
    except RuntimeError:
        return call()
    try:
        value, error = answers.get(timeout=seconds)
    except Empty:
        raise NoAnswerError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    answer: T = value
    return answer


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """What CALL returns or raises, if it does so within SECONDS; TransientError about WHAT if it does not."""
    try:
        return call_with_timeout(call, seconds)
    except NoAnswerError as error:
        raise TransientError(what, str(error)) from None


def one_at_a_time(seconds: float, what: str, call: Callable[[], T], hint: str = "") -> Callable[[], T]:
    """CALL, as it is made again and again, and never again while an earlier one has not returned.

    Each is waited for SECONDS at most.  Raises TransientError about WHAT when it does not return in time, or
    an earlier one still has not, for which HINT is the remedy.
    """
    under_way = _thread.allocate_lock()

    def released() -> T:
        try:
            return call()
        finally:
            under_way.release()

    def one() -> T:
        if not under_way.acquire(blocking=False):
            raise TransientError(what, "it has not answered the last question yet", hint)
        return within(seconds, what, released)

    return one


class WorkerThreads:
    """As many threads as there are calls at a time; a call that hangs keeps its own for good.

    Each runs one call after the other: to start a thread costs more than most calls to libvirtd.
    """

    def __init__(self) -> None:
        self._idle: SimpleQueue[Mailbox] = SimpleQueue()

    def start(self, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        """Run CALL(*ARGUMENTS) in a thread; it must not raise.

        Raises RuntimeError when no thread is idle and none can be started.
        """
        try:
            mailbox = self._idle.get(block=False)
        except Empty:
            mailbox = SimpleQueue()
            _thread.start_new_thread(self._work, (mailbox,))
        mailbox.put((call, arguments))

    def _work(self, mailbox: Mailbox) -> None:
        while True:
            _run(*mailbox.get())
            self._idle.put(mailbox)


def _run(call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """CALL(*ARGUMENTS); a thread that is idle afterwards holds neither."""
    call(*arguments)


# All that this process makes: a thread that has read sanlock's settings next opens a connection.
WORKERS = WorkerThreads()
