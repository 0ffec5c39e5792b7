# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which link broke, from the lost lease on, by what was observed, and what mends it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable

from ..errors import HelperError
from ..install.executable import C_HELPER, why_not_ours
from .helper_run import Signs
from .links import BROKEN, GIVEN_UP, HOLDS, NOT_TRIED, OURS, REACHED, RUN, SKIPPED, STATE, Link

INSTALL_CHECK = "virt-sanlock-helper install-check has the next step"
_REINSTALL = "reinstall virt-sanlock-helper"

# How the executable logs that it becomes libvirt's own helper, for want of this program.
_FALLS_BACK = "this program failed: "
# The kinds of lines with which an action ends.
_ENDS = ("done", "not-done", "failed", "ignored")


@dataclass(frozen=True)
class Observed:
    """What was observed after the lease was lost.

    is_guest: there was a virtual machine, and not just a process.  goal: its state is the one asked for.
    state: it in words, "" when it could not be read, and why_not has the reason.  seconds: from the loss to
    the goal.  leases: how many are still held, None when that could not be read.
    """

    is_guest: bool
    action: str
    signs: Signs
    goal: bool = False
    state: str = ""
    why_not: str = ""
    seconds: float | None = None
    leases: int | None = None


@dataclass(frozen=True)
class RunningSanlock:
    """The daemon as the helper inherits from it.

    path: the killpath; seen: a path to the file that sanlock sees there.  prefix: a command that runs another
    one with sanlock's mounts, empty where they are the host's.  grace: kill_grace_seconds, None when that is
    not known.
    """

    path: str
    seen: str
    environ: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    grace: int | None = None


class Diagnosis:
    """The links behind the loss."""

    def __init__(
        self,
        observed: Observed,
        sanlock: RunningSanlock,
        try_libvirtd: Callable[[], HelperError | None],
        not_ours: Callable[[RunningSanlock], str] | None = None,
    ) -> None:
        """TRY_LIBVIRTD connects as the helper does, and returns what fails there; NOT_OURS is _not_ours()."""
        self._observed = observed
        self._sanlock = sanlock
        self._try_libvirtd = try_libvirtd
        self._not_ours = not_ours or _not_ours
        self._lines = observed.signs.lines
        self._fell_back = next((each.text for each in self._lines if each.text.startswith(_FALLS_BACK)), "")
        self._is_proven = not self._fell_back and bool(observed.signs.request or self._lines)

    def links(self) -> list[Link]:
        """Each link from the run of the helper on."""
        run, ours = self._run_and_ours()
        return [run, ours, self._reached(ours), self._state(), self._given_up()]

    def _run_and_ours(self) -> tuple[Link, Link]:
        path, signs = self._sanlock.path, self._observed.signs
        pid = f", process {signs.request}" if signs.request else ""
        run = Link(RUN, HOLDS, f"sanlock ran {path}{pid}")
        if self._is_proven:
            sign = "its request came to the spool" if signs.request else "it logged"
            return run, Link(OURS, HOLDS, sign)
        if self._fell_back:
            return run, Link(OURS, BROKEN, f"{path}: {self._fell_back}", _REINSTALL)
        why = self._not_ours(self._sanlock)
        was_run = self._observed.goal and self._observed.is_guest
        not_run = remedy = ""
        if why and not was_run and not _is_another(why):
            not_run, remedy = f"{path} {why}", self._mend(why)
        elif not why and not was_run and not signs.opened:
            not_run, remedy = self._not_run()
        if not_run:
            return Link(RUN, BROKEN, not_run, remedy), Link(OURS, SKIPPED)
        return run, self._ours_by_file(why)

    def _ours_by_file(self, why: str) -> Link:
        """The link of the helper that left no sign of its own; WHY the file is not ours, "" where it is."""
        path = self._sanlock.path
        if why:
            return Link(OURS, BROKEN, f"{path} {why}", self._mend(why))
        if self._observed.is_guest:
            found = f"{path} was run, and left neither a request in the spool nor a line in the journal"
            return Link(OURS, BROKEN, found, "journalctl -t sanlock; ls -la /run/virt-sanlock-helper")
        return Link(OURS, HOLDS, f"{path} is this program")

    def _not_run(self) -> tuple[str, str]:
        if self._sanlock.grace == 0:
            found = "sanlock's kill_grace_seconds is 0: it sends SIGKILL without running the helper"
            return found, "virt-sanlock-helper check has the setting"
        found = f"sanlock did not run {self._sanlock.path} in time"
        return found, "sanlock client log_dump | grep ' kill '; ausearch -m avc -c sanlock"

    def _mend(self, why: str) -> str:
        path = self._sanlock.path
        if why == "is not executable":
            return f"chmod 755 {shlex.quote(path)}"
        if why == C_HELPER:
            return f"virt-sanlock-helper activate, or restart sanlock with no VM running; {INSTALL_CHECK}"
        if why.startswith("does not run"):
            return f"install python3, or {_REINSTALL}; {shlex.quote(path)} --version has the reason"
        return INSTALL_CHECK

    def _reached(self, ours: Link) -> Link:
        if not self._observed.is_guest:
            return Link(REACHED, NOT_TRIED, "there is no virtual machine that libvirtd knows")
        if ours.verdict != HOLDS:
            return Link(REACHED, SKIPPED)
        if self._observed.goal:
            return Link(REACHED, HOLDS, self._last())
        error = self._try_libvirtd()
        if error is None:
            return Link(REACHED, HOLDS, self._last() or "a process with sanlock's environment connects")
        last = self._last()
        why = str(error.why) if not last or error.why in last else f"{error.why}; it logged: {last}"
        return Link(REACHED, BROKEN, f"{error.what}: {why}", error.hint or "virt-sanlock-helper check")

    def _last(self) -> str:
        """What the helper logged last, an end before all others."""
        ends = [line.text for line in self._lines if line.kind in _ENDS]
        return (ends or [line.text for line in self._lines] or [""])[-1]

    def _state(self) -> Link:
        observed = self._observed
        if not observed.is_guest:
            return Link(STATE, NOT_TRIED, "nothing is done for the action ignore")
        if observed.goal and observed.seconds is not None:
            return Link(STATE, HOLDS, f"{observed.state}, {observed.seconds:.2f} s after the loss")
        if not observed.state:
            return Link(
                STATE, BROKEN, f"its state is not known: {observed.why_not}", "virt-sanlock-helper check"
            )
        wanted = "paused" if observed.action == "pause" else "off"
        found = f"it is {observed.state}, not {wanted}"
        return Link(STATE, BROKEN, found, "journalctl -t virt-sanlock-helper has the reason")

    def _given_up(self) -> Link:
        leases = self._observed.leases
        if leases is None:
            return Link(GIVEN_UP, BROKEN, "sanlock could not be asked", "sanlock client status")
        if leases:
            return Link(GIVEN_UP, BROKEN, "it still holds its lease", "virt-sanlock-helper check")
        return Link(GIVEN_UP, HOLDS, "no lease held")


def _not_ours(sanlock: RunningSanlock) -> str:
    """What the killpath is to SANLOCK, or why it does not run there; "" when it is this program."""
    command = [*sanlock.prefix, sanlock.path] if sanlock.prefix else ()
    return why_not_ours(sanlock.seen, sanlock.environ, command=command)


def _is_another(why: str) -> bool:
    """Whether WHY, of why_not_ours(), is about a program that runs."""
    return why == C_HELPER or why.startswith("is another program")
