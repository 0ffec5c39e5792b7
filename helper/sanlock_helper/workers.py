# SPDX-License-Identifier: LGPL-2.1-or-later
"""Threads that run one call after the other: to start a thread costs more than most calls to libvirtd."""

from __future__ import annotations

import _thread
from _queue import Empty, SimpleQueue
from typing import Any, Callable

Mailbox = SimpleQueue["tuple[Callable[..., object], tuple[Any, ...]]"]


class Workers:
    """As many threads as there are calls at a time; a call that hangs keeps its own for good."""

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
            call, arguments = mailbox.get()
            call(*arguments)
            self._idle.put(mailbox)
