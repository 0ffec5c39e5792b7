# SPDX-License-Identifier: LGPL-2.1-or-later
"""What recovery costs the machines' safety: the time until all are safe, with it and without, in turn.

With: the helper writes its records, and they start recovery at once, on the same processors.  Without: the
same helper, which writes none (see without_notes).  Storms are the helper's calls alone; outages are the real
thing, from the first call of sanlock's on.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Callable, NamedTuple

from ..e2e.namespace import PYTHON
from ..e2e.preconditions import missing
from ..e2e.recovery import HELPER, POLICY, RUN_RECORDS, TOP, URI, path_unit, records
from ..e2e.stack import Stack
from ..e2e.waiting import wait_for
from .one_call import compile_packages
from .report import NOT_MEASURED
from .storms import storm

WITHOUT = Path(__file__).with_name("without_notes")

# Seconds that recovery may cost: a hundredth of the time that sanlock gives (kill_grace_seconds), a twenty-
# fifth of the default io_timeout of 10 s.
ALLOWANCE = 0.4


class Times(NamedTuple):
    """Seconds until all were safe, with recovery and without, one pair a turn."""

    what: str
    pairs: list[tuple[float, float]]

    def medians(self) -> tuple[float, float]:
        """The medians, with recovery and without."""
        with_recovery, without = zip(*self.pairs)
        return statistics.median(with_recovery), statistics.median(without)

    def within(self) -> bool:
        """Whether recovery costs no more than it may."""
        with_recovery, without = self.medians()
        return with_recovery <= without + ALLOWANCE


class Host:
    """A stack with NUMBER virtual machines that recovery would bring back."""

    def __init__(self, stack: Stack, number: int) -> None:
        self.stack = stack
        actions = ("pause", "poweroff")
        self.domains = [stack.domain(f"vm{n}", actions[n % 2], metadata=POLICY) for n in range(number)]
        stack.start_all(self.domains)
        path_unit(stack)

    def storm(self, action: str, recovery: bool) -> float:
        """Seconds that one storm takes."""
        self._run_all()
        helper = HELPER if recovery else WITHOUT
        found = storm(self.stack, URI, str(helper), [(domain.uuid, action) for domain in self.domains])
        self._check_records(recovery)
        return found.paused if action == "pause" else found.off

    def outage(self, recovery: bool) -> float:
        """Seconds from sanlock's first call of the helper until all are safe; every other one is paused."""
        self._run_all()
        self.stack.forget_helper_calls()
        self.stack.install_helper(HELPER if recovery else WITHOUT)
        watch = self._watch()
        self.stack.storage.fail(resources=True)
        out, err = watch.communicate(timeout=60)
        if watch.returncode != 0:
            raise RuntimeError(err)
        self._check_records(recovery)
        wait_for(lambda: not self.stack.lockspaces(), 60, "sanlock to leave the lockspace")
        self.stack.storage.restore()
        if recovery:
            wait_for(lambda: not records(self.stack), 60, "all to be brought back")
        else:
            self.stack.join_lockspace()
        return float(out) - min(call.start for call in self.stack.helper_calls())

    def _watch(self) -> subprocess.Popen[str]:
        environment = {"PYTHONPATH": str(TOP)}
        lines = "".join(f"{domain.uuid} {domain.on_lockfailure}\n" for domain in self.domains)
        watch = self.stack.popen(PYTHON, "-m", "tests.bench.outage", env=environment, stdin=subprocess.PIPE)
        assert watch.stdin is not None
        assert watch.stdout is not None
        watch.stdin.write(lines)
        watch.stdin.close()
        watch.stdin = None
        if watch.stdout.readline() != "ready\n":
            raise RuntimeError(watch.communicate()[1])
        return watch

    def _run_all(self) -> None:
        """Let all run; recovery has logged all by then."""
        wait_for(lambda: not records(self.stack), 60, "the end of all records")
        states = {domain: domain.state().name for domain in self.domains}
        lines = [f"resume {domain.uuid}" for domain, state in states.items() if state == "paused"]
        lines += [f"start {domain.uuid}" for domain, state in states.items() if state == "shut off"]
        if lines:
            self.stack.virsh("\n".join(lines), timeout=180)

    def _check_records(self, recovery: bool) -> None:
        """See that there were records with recovery, and none without."""
        folder = self.stack.path(RUN_RECORDS)
        if folder.exists() != recovery:
            raise RuntimeError("records with recovery turned off" if not recovery else "no records")
        if recovery:
            wait_for(lambda: not list(folder.glob("[!.]*")), 60, "recovery to take the records")
            folder.rmdir()


def storms(host: Host, action: str, slots: int) -> Times:
    """TURNS storms with recovery and as many without, in turn."""
    pairs = [(host.storm(action, True), host.storm(action, False)) for _ in range(slots)]
    return Times(f"{len(host.domains)} QEMU VMs, {action}", pairs)


def outages(host: Host, slots: int) -> Times:
    """The same for outages."""
    pairs = [(host.outage(True), host.outage(False)) for _ in range(slots)]
    return Times(f"{len(host.domains)} QEMU VMs, an outage, half pause", pairs)


def main() -> int:
    """Print the table; the exit status is 1 when recovery costs too much, 77 where no stack can run."""
    reasons = missing()
    if reasons:
        print("no outage can be made here; missing: " + ", ".join(reasons))
        return NOT_MEASURED
    compile_packages()
    print(f"{'time until all are safe, medians':42}{'recovery':>10}{'without':>10}{'more, at most':>15}")
    good = True
    with Stack() as stack:
        host = Host(stack, 20)
        measures: list[Callable[[], Times]] = [
            lambda: storms(host, "poweroff", 7),
            lambda: storms(host, "pause", 7),
            lambda: outages(host, 3),
        ]
        for measure in measures:
            times = measure()
            with_recovery, without = times.medians()
            print(f"{times.what:42}{with_recovery:8.2f} s{without:8.2f} s{ALLOWANCE:13.2f} s", flush=True)
            good &= times.within()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
