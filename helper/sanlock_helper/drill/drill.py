# SPDX-License-Identifier: LGPL-2.1-or-later
"""The drill: a lockspace of its own is joined, a lease in it taken, the lockspace lost; what happens then."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable, Union

from ..errors import HelperError, LeasesUnknownError, PermanentError, TransientError
from ..leases import held as leases
from ..leases.held import Lockspace
from ..leases.lockspaces import Sanlock
from ..leases.sanlock_status import SanlockUnknownError, ask_sanlock
from ..spool import SpoolError
from ..threads import within
from ..virt import SYSTEM_URI
from . import diagnosis
from .diagnosis import Diagnosis, Observed
from .guest import Guest
from .helper_run import HelperRun, LoggedLine, Signs
from .lease_files import LeaseFiles
from .lease_holder import LeaseHolder
from .libvirtd_trial import try_libvirtd
from .links import BROKEN, HELD, HOLDS, JOINED, LOST, Link
from .scratch import Scratch

Subject = Union[Guest, LeaseHolder]

# The shortest that sanlock takes, in seconds: a lease is lost 8 times that after the last renewal, at most.
IO_TIMEOUT = 1
# A new lockspace is joined in 3 s; lost at the next renewal, 2 s later.
JOIN_SECONDS = 60.0
LOSS_SECONDS = 20.0
# sanlock sends SIGKILL after 40 s by default: the drill ends its machine long before.
SAFE_SECONDS = 15.0
# sanlock's clock is in whole seconds: so much before a SIGKILL it cannot have been sent yet.
KILL_SECONDS = 2.0
# For the line of an outcome that is being written.
LINE_SECONDS = 2.0
_STEP = 0.05
_SANLOCK_SECONDS = 5.0

_ENDS = ("done", "not-done", "failed", "ignored")


@dataclass(frozen=True)
class DrillSetup:
    """What is drilled: the names, the sanlock daemon and its user, what has been logged of a domain."""

    scratch: Scratch
    sanlock: diagnosis.RunningSanlock
    uid: int
    gid: int
    logged: Callable[[], list[LoggedLine]]


class Drill:
    """One drill.  What it made stays: removal.py."""

    def __init__(
        self,
        setup: DrillSetup,
        subject: Subject,
        began: Callable[[Scratch, str], None],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """BEGAN is called before the lockspace is lost, with the number that sanlock's log has for it.

        CLOCK is CLOCK_MONOTONIC; PAUSE sleeps for so many seconds.
        """
        self._setup = setup
        self._scratch = setup.scratch
        self.subject = subject
        self._began = began
        self._clock = clock
        self._pause = pause
        self._files = LeaseFiles(setup.scratch)
        self._lost_at: float | None = None
        # From the loss to the goal.
        self.seconds: float | None = None

    def links(self) -> Iterator[Link]:
        """Each link as soon as it is known, until one of the first three breaks."""
        for name, step in ((JOINED, self._join), (HELD, self._hold)):
            try:
                yield Link(name, HOLDS, step())
            except HelperError as error:
                yield Link(
                    name, BROKEN, f"{error.what}: {error.why}", error.hint or "virt-sanlock-helper check"
                )
                return
        try:
            yield from self._lose()
        except (OSError, SpoolError) as error:
            raise PermanentError("observe the helper", str(error)) from error

    def close(self) -> None:
        """End the machine or the process, and close the files."""
        self.subject.close()
        self._files.close()

    def _join(self) -> str:
        scratch, began = self._scratch, self._clock()
        self._files.make(self._setup.uid, self._setup.gid)
        space = Lockspace(scratch.name, 1, scratch.lockspace_path, 0, IO_TIMEOUT)
        within(JOIN_SECONDS, f"join lockspace {scratch.name}", lambda: Sanlock().join(space))
        return f"{scratch.name} at {scratch.lockspace_path}, after {self._clock() - began:.1f} s"

    def _hold(self) -> str:
        what = self.subject.start()
        number = self._leases()
        if not number:
            why = (
                "sanlock could not be asked"
                if number is None
                else f"process {self.subject.pid} holds no lease"
            )
            hint = 'see lock_manager = "sanlock" in /etc/libvirt/qemu.conf, and restart libvirt\'s daemon'
            raise PermanentError("take the lease", why, hint)
        return what

    def _lose(self) -> Iterator[Link]:
        run = HelperRun(self._scratch.uuid, self._setup.sanlock.seen, self._setup.logged)
        try:
            status = ask_sanlock().lockspace(self._scratch.name)
            self._began(self._scratch, status.values.get("space_id", "") if status else "")
            overwritten = self._clock()
            self._files.overwrite()
            while self._lost_at is None:
                self._note_loss(run.update())
                if self._lost_at is None and self._clock() - overwritten > LOSS_SECONDS:
                    found = f"sanlock has not lost it within {LOSS_SECONDS:g} s"
                    yield Link(LOST, BROKEN, found, "sanlock client log_dump has its renewals")
                    return
                self._pause(_STEP)
            took = max(0.0, self._lost_at - overwritten)
            yield Link(LOST, HOLDS, f"sanlock lost it {took:.1f} s after its file was overwritten")
            yield from self._diagnosed(self._observe(run))
        finally:
            run.close()

    def _note_loss(self, signs: Signs) -> None:
        if signs.started:
            self._lost_at = signs.started
            return
        try:
            space = ask_sanlock().lockspace(self._scratch.name)
        except SanlockUnknownError:
            return
        if space is None or space.lost:
            self._lost_at = self._clock()

    def _observe(self, run: HelperRun) -> Observed:
        """What follows the loss, until the goal is reached and the lease gone, or patience ends."""
        assert self._lost_at is not None
        goal, state, why_not, number = False, "", "", self._leases()
        is_guest = isinstance(self.subject, Guest)
        while self._clock() - self._lost_at < self._patience():
            signs = run.update()
            if isinstance(self.subject, Guest):
                try:
                    goal, state = self.subject.state()
                    why_not = ""
                except HelperError as error:
                    goal, state, why_not = False, "", str(error)
            else:
                goal = goal or signs.opened
            if goal and self.seconds is None:
                self.seconds = max(0.0, self._clock() - self._lost_at)
            number = self._leases()
            if goal and (not is_guest or number == 0):
                break
            self._pause(_STEP)
        signs = self._complete(run)
        if not is_guest:
            self.seconds = None
            number = self._leases_of_ended()
        return Observed(is_guest, self.subject.action, signs, goal, state, why_not, self.seconds, number)

    def _patience(self) -> float:
        """How long the goal is waited for, in seconds: what sanlock's own SIGKILL brings about is no goal."""
        grace = self._setup.sanlock.grace
        return SAFE_SECONDS if grace is None else min(SAFE_SECONDS, max(0.0, grace - KILL_SECONDS))

    def _complete(self, run: HelperRun) -> Signs:
        """All signs, once the line of the outcome is there."""
        until = self._clock() + LINE_SECONDS
        while True:
            signs = run.complete()
            is_over = any(line.kind in _ENDS or not line.kind for line in signs.lines)
            if is_over or self._clock() > until:
                return signs
            self._pause(_STEP)

    def _diagnosed(self, observed: Observed) -> list[Link]:
        sanlock = self._setup.sanlock
        trial = functools.partial(try_libvirtd, SYSTEM_URI, sanlock.environ, sanlock.prefix)
        return Diagnosis(observed, sanlock, trial).links()

    def _leases_of_ended(self) -> int | None:
        """What the process still holds once it was ended, as sanlock learns in a moment."""
        self.subject.close()
        until = self._clock() + LINE_SECONDS
        while (number := self._leases()) and self._clock() < until:
            self._pause(_STEP)
        return number

    def _leases(self) -> int | None:
        """How many leases the machine's process holds, None when sanlock cannot be asked."""
        pid = self.subject.pid
        try:
            return len(within(_SANLOCK_SECONDS, "ask sanlock", lambda: leases.held_by(pid)))
        except (LeasesUnknownError, TransientError):
            return None
