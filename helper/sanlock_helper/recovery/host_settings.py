# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's settings as a recovery goes by them, which may take days: they may be mended meanwhile."""

from __future__ import annotations

import time
from typing import Callable

from ..errors import TransientError
from ..events import RECOVER, Event
from ..journal import Journal, RepeatFilter
from ..threads import one_at_a_time
from ..virt.host_conf import PATH, HostConf, read_host_conf, unread

# How old they may be, and how long the disk that has them is waited for.
AGE_SECONDS = 5.0
READ_SECONDS = 2.0

_HINT = f"findmnt -T {PATH}"


class HostSettings:
    """Reads the file again from time to time, and logs once what is wrong with it."""

    def __init__(
        self,
        journal: Journal,
        read: Callable[[], HostConf] = read_host_conf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """READ takes as long as the disk does; CLOCK is monotonic."""
        self._journal = journal
        self._read = one_at_a_time(READ_SECONDS, f"read {PATH}", read, _HINT)
        self._clock = clock
        self._read_at: float | None = None
        self._repeats = RepeatFilter(float("inf"))
        # As they were read last; threads may read this.
        self.conf = HostConf()

    def refresh(self) -> HostConf:
        """The settings, no older than AGE_SECONDS; for one thread."""
        now = self._clock()
        if self._read_at is None or now - self._read_at >= AGE_SECONDS:
            try:
                self.conf = self._read()
            except TransientError:
                # In the same words each time, so that it is logged once.
                self.conf = unread(f"read {PATH}: its disk does not answer", _HINT)
            self._read_at = self._clock()
            self._log()
        return self.conf

    def _log(self) -> None:
        problem = self.conf.problem
        if not problem:
            self._repeats.forget(PATH)
        elif self._repeats.is_due(PATH, problem, 0.0):
            self._journal.report(Event("settings-not-used", RECOVER, note=problem, settings=self.conf.text))
