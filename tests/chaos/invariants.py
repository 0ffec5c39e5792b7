# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must be true of every run, each as a function over what was seen of it; all pure.

A violation is a real one, also on a machine with too few processors: time in which the host was not sampled
counts for next to nothing, and what cannot be known at one time is left to the next sample.
"""

from __future__ import annotations

from collections.abc import Iterator

from .observations import (
    DISK,
    JOB,
    LIBVIRTD,
    OURS,
    QEMU,
    SANLOCK,
    STORAGE,
    TOUCH,
    Call,
    Host,
    Outcome,
    Run,
    Sample,
    Vm,
)
from .recovery_invariants import higher_priorities_come_first, stays_while_held, stopped_guest_comes_back
from .violation import LONGEST_GAP, Invariant, Violation, moved, pairs

# The helper's budget: sanlock's grace of 40 s less 5 (leases/grace.py).
BUDGET = 35.0
# Within so many undisturbed seconds a machine is safe; more after one of our own processes was killed or
# stopped: another takes over after 3 s (handover.LATE_SECONDS), and gives up what that was waiting for.
QUIET, TAKE_OVER = 10.0, 4.0
# What an undisturbed second may take more, on a machine with other work.
SLACK = 4.0
# A line comes to the journal so much later than what it reports.
LATE_LINE = 1.0
# An outcome that reports a failure is untrue of a machine that was safe for so long before, undisturbed.
LONG_SAFE = 5.0
# From a failure of the storage to the loss of its leases, at most.
LOSS = 15.0

WRITES_NO_MORE = ("poweroff", "restart", "pause")


def runs_with_its_leases(run: Run) -> Iterator[Violation]:
    """No machine runs without its leases, in two samples one after the other."""

    def lacks(host: Host, sample: Sample, vm: Vm | None) -> bool:
        return (
            vm is not None
            and vm.runs
            and sample.leases_known
            and len(vm.leases) < run.leases.get(vm.uuid, 0)
            and not host.disturbed(sample.begin, sample.end, (SANLOCK,), vm.uuid)
        )

    for number, host in run.hosts.items():
        for first, second in pairs(host):
            for vm in first.vms:
                if lacks(host, first, vm) and lacks(host, second, second.vm(vm.uuid, vm.process)):
                    text = f"process {vm.pid} runs with {len(vm.leases)} of {run.leases[vm.uuid]} leases"
                    yield Violation("lease", number, second.begin, vm.uuid, text)


def _running(host: Host) -> Iterator[tuple[str, float, float]]:
    """The times between two samples in both of which one process ran its guest."""
    for first, second in pairs(host):
        for vm in first.vms:
            again = second.vm(vm.uuid, vm.process)
            if vm.runs and again is not None and again.runs and second.begin - first.end <= LONGEST_GAP:
                yield vm.uuid, first.begin, second.end


def runs_on_one_host(run: Run) -> Iterator[Violation]:
    """No machine runs on two hosts."""
    seen: list[tuple[int, str, float, float]] = []
    for number, host in run.hosts.items():
        mine = list(_running(host))
        for uuid, begin, end in mine:
            for other, same, since, until in seen:
                # It ran here from begin to end, and there from since to until: together if these overlap.
                if same == uuid and max(begin, since) < min(end, until):
                    text = f"it runs on the hosts {other} and {number}"
                    yield Violation("two hosts", number, max(begin, since), uuid, text)
        seen += [(number, *interval) for interval in mine]


def resumes_on_its_own_lease(run: Run) -> Iterator[Violation]:
    """No process runs on once its machine ran on another host, or its lease was held there by a program."""
    for number, host in run.hosts.items():
        others = [other for name, other in run.hosts.items() if name != number]
        stopped: dict[tuple[int, int], tuple[float, tuple[str, ...]]] = {}
        ran: dict[tuple[int, int], tuple[float, tuple[str, ...]]] = {}
        for sample in host.samples:
            for vm in sample.vms:
                if vm.stands and vm.process in ran:
                    stopped.setdefault(vm.process, ran[vm.process])
                if not vm.runs:
                    continue
                if vm.process in stopped:
                    since, leases = stopped.pop(vm.process)
                    # A job of libvirt's lets a machine run on that it has stopped: nothing can keep it.
                    if not host.disturbed(since, sample.begin, (JOB,), vm.uuid):
                        for text in moved(others, vm.uuid, leases, since, sample.begin):
                            yield Violation("moved lease", number, sample.begin, vm.uuid, text)
                ran[vm.process] = sample.end, vm.leases


def _process_at(host: Host, call: Call) -> Vm | None:
    """The domain's process when the call was made, as the sample before that has it."""
    before = [sample for sample in host.samples if sample.end <= call.at]
    return before[-1].vm(call.uuid) if before else None


def _is_safe(sample: Sample, vm: Vm, action: str) -> bool | None:
    """Whether that process writes to no disk any more, as ACTION is to achieve; None when not known."""
    now = sample.vm(vm.uuid, vm.process)
    if now is None:
        return True
    if action != "pause":
        return False
    if now.stands and sample.leases_known:
        return not now.leases
    return False if now.runs else None


def safe_in_its_budget(run: Run) -> Iterator[Violation]:
    """A machine is safe after an undisturbed time of its budget."""
    for number, host in run.hosts.items():
        for call in host.calls:
            vm = _process_at(host, call)
            if vm is None or call.by_hand or call.action not in WRITES_NO_MORE:
                continue
            late = _first_unsafe(host, call, vm)
            if late is not None:
                text = f"{call.action} asked for {late - call.at:.1f} s ago, undisturbed for {QUIET:g}"
                yield Violation("not safe in time", number, late, call.uuid, text)


def _first_unsafe(host: Host, call: Call, vm: Vm) -> float | None:
    """When the machine should have been safe and was not; None when it was in time, or had no time."""
    quiet = 0.0
    for first, second in pairs(host):
        if second.begin < call.at:
            continue
        if second.end > call.at + BUDGET or _is_safe(second, vm, call.action):
            return None
        # The machine's own process or job is its own; a stopped helper is only a beginning.
        if host.disturbed(first.end, second.end, (LIBVIRTD, SANLOCK, QEMU, JOB), call.uuid):
            quiet = 0.0
        elif any(d.thing == OURS and first.end <= d.begin <= second.end for d in host.disturbances):
            quiet = -TAKE_OVER
        else:
            quiet += min(second.end - first.end, LONGEST_GAP)
        if quiet > QUIET + SLACK:
            return second.end
    return None


def has_one_outcome(run: Run) -> Iterator[Violation]:
    """Every call has exactly one outcome in the journal; one outcome may be about several calls.

    A repeat counts where there is no other.
    """
    if not run.is_over:
        return
    for number, host in run.hosts.items():
        wanted: dict[tuple[str, str], int] = {}
        for call in host.calls:
            key = call.uuid, call.action
            wanted[key] = wanted.get(key, 0) + 1
        found = dict.fromkeys(wanted, 0)
        last: dict[tuple[str, str], float] = {}
        for outcome in sorted(host.outcomes, key=lambda outcome: outcome.is_repeat):
            key = outcome.uuid, outcome.action
            if outcome.is_repeat and found.get(key, 0) >= wanted.get(key, 1):
                continue
            found[key] = found.get(key, 0) + outcome.requests
            last[key] = outcome.at
        for key, count in found.items():
            if count != wanted.get(key, 0):
                at = last.get(key, host.samples[-1].end if host.samples else 0.0)
                text = f"{key[1]}: {wanted.get(key, 0)} calls, {count} outcomes"
                yield Violation("one outcome", number, at, key[0], text)


def outcomes_are_true(run: Run) -> Iterator[Violation]:
    """An outcome that reports a machine as safe, or not safe, is true of the process that ran at the call."""
    for number, host in run.hosts.items():
        for outcome in host.outcomes:
            calls = [
                call
                for call in host.calls
                if (call.uuid, call.action) == (outcome.uuid, outcome.action) and call.at <= outcome.at
            ]
            vm = _process_at(host, calls[-1]) if calls else None
            if vm is None or outcome.action not in WRITES_NO_MORE:
                continue
            text = _untrue(host, calls[-1], outcome, vm)
            if text:
                yield Violation("true outcome", number, outcome.at, outcome.uuid, text)


def _untrue(host: Host, call: Call, outcome: Outcome, vm: Vm) -> str:
    """What is untrue of an outcome; "" when nothing is known to be, or not yet."""
    end = outcome.at + LATE_LINE
    if host.samples[-1].end < end:
        return ""
    known = [
        (sample.begin, _is_safe(sample, vm, call.action))
        for sample in host.samples
        if call.at <= sample.end and sample.begin <= end
    ]
    if outcome.kind in ("done", "NOT DONE"):
        if known and all(state is False for _, state in known):
            return f"reported as {outcome.kind}, and it was never seen safe"
    elif outcome.kind == "FAILED":
        since = outcome.at - LONG_SAFE
        last = [state for at, state in known if since <= at <= outcome.at]
        calm = not host.disturbed(since, outcome.at, (LIBVIRTD, SANLOCK, QEMU, JOB, OURS), call.uuid)
        if call.at < since and last and all(last) and calm:
            return f"reported as FAILED, and it was safe for {LONG_SAFE:g} s before"
    return ""


def keeps_its_record(run: Run) -> Iterator[Violation]:
    """A machine that is to come back has a record until it runs again, here or on another host."""
    for number, host in run.hosts.items():
        for call in host.calls:
            vm = _process_at(host, call)
            lost = host.disturbed(call.at - LOSS, call.at, (STORAGE,), call.uuid)
            if call.by_hand or call.uuid not in run.recover or vm is None or not vm.runs or not lost:
                continue
            at = _without_record(run, number, call, vm)
            if at is not None:
                text = f"{call.action} is over, it does not run again, and there is no record of it"
                yield Violation("record", number, at, call.uuid, text)


def _without_record(run: Run, number: int, call: Call, vm: Vm) -> float | None:
    """Since when the machine of CALL, which is safe, has no record; None while it has one, or needs none."""
    host = run.hosts[number]
    end = _end_of_duty(run, number, call)
    since = None
    was_safe = False
    for sample in host.samples:
        if sample.begin < call.at:
            continue
        if sample.end >= end:
            return None
        was_safe = was_safe or bool(_is_safe(sample, vm, call.action))
        now = sample.vm(call.uuid)
        if was_safe and now is not None and now.runs:
            return None
        # A process that is stopped, or that does not answer, may run.
        if not was_safe or call.uuid in sample.records or (now is not None and not now.stands):
            since = None
        elif since is None:
            since = sample.begin
        else:
            return since
    return None


def _end_of_duty(run: Run, number: int, call: Call) -> float:
    """When an administrator, a job or another host first has to do with it: recovery leaves it then.

    Or when its own disk fails: its guest may stop before the helper comes, or as soon as it is resumed.
    """
    touched = [
        disturbance.begin
        for disturbance in run.hosts[number].disturbances
        if disturbance.thing in (TOUCH, JOB, DISK)
        and disturbance.uuid in ("", call.uuid)
        and disturbance.end >= call.at
    ]
    moved = [
        sample.begin
        for name, other in run.hosts.items()
        if name != number
        for sample in other.samples
        if sample.begin >= call.at and sample.vm(call.uuid)
    ]
    return min([*touched, *moved], default=float("inf"))


INVARIANTS: tuple[Invariant, ...] = (
    runs_with_its_leases,
    runs_on_one_host,
    resumes_on_its_own_lease,
    safe_in_its_budget,
    has_one_outcome,
    outcomes_are_true,
    keeps_its_record,
    stopped_guest_comes_back,
    stays_while_held,
    higher_priorities_come_first,
)


def violations(run: Run) -> list[Violation]:
    """The first violation of each invariant for each machine, the earliest first."""
    found: dict[tuple[str, str], Violation] = {}
    for invariant in INVARIANTS:
        for violation in invariant(run):
            found.setdefault((violation.invariant, violation.uuid), violation)
    return sorted(found.values(), key=lambda violation: violation.at)
