# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must be true of recovery: of guests that stop by an I/O error, of its order, and while it is held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .observations import (
    AGENT,
    DISK,
    ERRORS,
    JOB,
    LIBVIRTD,
    OURS,
    QEMU,
    RECOVERY,
    SANLOCK,
    SPACE,
    STORAGE,
    TOUCH,
    Host,
    Run,
    Sample,
    Vm,
)
from .violation import LONGEST_GAP, Violation, moved, pairs

# Within so many undisturbed seconds a guest that an I/O error has stopped runs again.  sanlock may first have
# to leave its lockspace, which takes until all machines are safe, and to join it again.
BACK = 30.0
# So long an agent listens already, undisturbed, when a guest stops, and has noted it afterwards.
LISTENS, NOTES = 6.0, 4.0
# A guest whose disk gave errors for so long, all in all, may have been resumed and have stopped again as
# often as recovery tries (MOST_TRIES of stopped_guests.py, a second apart at first).
GIVEN_UP = 12.0
# What recovery had begun before it was held, or before a record was there, has ended after so long.
UNDER_WAY = 8.0
# A line comes to the journal so much later than what it reports.
LATE_LINE = 1.0
# The helper may start a machine again so long after it was asked to.
RESTARTS = 60.0

_DAEMONS = (LIBVIRTD, SANLOCK, OURS, RECOVERY)


class Stop(NamedTuple):
    """A guest that an I/O error has stopped at AT, and that recovery is to let go on.

    calm: the undisturbed seconds since.  is_back: it runs again; is_over: nothing more is due: that, or an
    administrator, a job or another host has to do with it.
    """

    host: int
    uuid: str
    process: tuple[int, int]
    at: float
    leases: tuple[str, ...]
    calm: float = 0.0
    seen: float = 0.0
    is_back: bool = False
    is_over: bool = False


def stopped_guest_comes_back(run: Run) -> Iterator[Violation]:
    """A guest that an I/O error has stopped runs again once its storage is back and recovery is not held."""
    for stop in stops(run):
        if stop.calm > BACK:
            text = f"it stands for {stop.seen - stop.at:.1f} s, {stop.calm:.1f} of them undisturbed"
            yield Violation("stays stopped", stop.host, stop.seen, stop.uuid, text)


def owed(run: Run) -> list[Stop]:
    """The guests that recovery is still to let go on."""
    return [stop for stop in stops(run) if not stop.is_over]


def stops(run: Run) -> Iterator[Stop]:
    """Every stop by an I/O error of a guest that recovery is to let go on, as far as was seen."""
    for number, host in run.hosts.items():
        others = [other for name, other in run.hosts.items() if name != number]
        ran: dict[tuple[int, int], Vm] = {}
        left: dict[tuple[int, int], Stop] = {}
        for first, second in pairs(host):
            for process in list(left):
                left[process] = _followed(left[process], host, others, first, second)
                if left[process].is_over or left[process].calm > BACK:
                    yield left.pop(process)
            for vm in second.vms:
                if vm.runs:
                    ran[vm.process] = vm
                elif vm.has_io_error and vm.process in ran:
                    leases = ran.pop(vm.process).leases
                    stop = Stop(number, vm.uuid, vm.process, first.begin, leases, seen=second.end)
                    if vm.uuid in run.recover and _is_noted(host, stop):
                        left[vm.process] = stop
        yield from left.values()


def _is_noted(host: Host, stop: Stop) -> bool:
    """Whether an agent listened when a guest stopped that is not to be left as it is."""
    if not host.stands or host.disturbed(stop.at - NOTES, float("inf"), (SPACE,), stop.uuid):
        return False
    if sum(d.end - d.begin for d in host.disturbances if (d.thing, d.uuid) == (ERRORS, stop.uuid)) > GIVEN_UP:
        return False
    # What happens while libvirtd is away is found in its list afterwards.
    begin, end = stop.at - LISTENS, stop.at + NOTES
    for away in sorted(host.disturbances, reverse=True):
        if away.thing == LIBVIRTD and away.begin <= stop.at and away.end >= begin:
            begin = min(begin, away.begin - LISTENS)
    for away in sorted(host.disturbances):
        if away.thing == LIBVIRTD and away.begin <= end and away.end >= stop.at:
            end = max(end, away.end + NOTES)
    return not host.disturbed(begin, end, (AGENT,), "")


def _followed(stop: Stop, host: Host, others: list[Host], first: Sample, second: Sample) -> Stop:
    """STOP one sample later."""
    stop = stop._replace(seen=second.end)
    vm = second.vm(stop.uuid, stop.process)
    if vm is not None and vm.runs:
        return stop._replace(is_back=True, is_over=True)
    if (
        vm is None
        or host.disturbed(stop.at, second.end, (TOUCH, JOB), stop.uuid)
        or any(moved(others, stop.uuid, stop.leases, stop.at, second.end))
    ):
        return stop._replace(is_over=True)
    hinders = (
        second.is_held
        or host.disturbed(first.end, second.end, (*_DAEMONS, STORAGE, QEMU, JOB), None)
        or host.disturbed(first.end, second.end, (DISK,), stop.uuid)
    )
    calm = 0.0 if hinders else stop.calm + min(second.end - first.end, LONGEST_GAP)
    return stop._replace(calm=calm)


class Return(NamedTuple):
    """A machine that runs in the SAMPLE of its host with that number, and did not in the one at STOOD."""

    uuid: str
    stood: float
    sample: int


def _returns(host: Host, uuids: Iterable[str]) -> Iterator[Return]:
    stood: dict[str, float] = {}
    for index, sample in enumerate(host.samples):
        for uuid in uuids:
            if _stands(sample, uuid):
                stood[uuid] = sample.begin
                continue
            vm = sample.vm(uuid)
            if vm is not None and vm.runs and uuid in stood:
                yield Return(uuid, stood.pop(uuid), index)


def _stands(sample: Sample, uuid: str) -> bool:
    """Whether the machine was seen off, or standing still."""
    vm = sample.vm(uuid)
    return vm is None or vm.stands


def stays_while_held(run: Run) -> Iterator[Violation]:
    """While recovery is held no machine is started or resumed but by an administrator, or by a job's end."""
    for number, host in run.hosts.items():
        held = _held_since(host)
        for uuid, stood, index in _returns(host, run.leases):
            since, now = held[index], host.samples[index].end
            if since is None or stood - since < UNDER_WAY:
                continue
            restarts = any(
                call.uuid == uuid and call.action == "restart" and 0 < now - call.at < RESTARTS
                for call in host.calls
            )
            if not restarts and not host.disturbed(stood - UNDER_WAY, now, (TOUCH, JOB, QEMU), uuid):
                text = f"it runs again, and recovery is held for {now - since:.1f} s"
                yield Violation("held", number, now, uuid, text)


def _held_since(host: Host) -> list[float | None]:
    """For each sample since when recovery is held, with no disturbance of a daemon; None where it is not."""
    found: list[float | None] = []
    since, before = None, None
    for sample in host.samples:
        begin = before.end if before else sample.begin
        if not sample.is_held:
            since = None
        elif (
            since is None
            or sample.begin - begin > LONGEST_GAP
            or host.disturbed(begin, sample.end, _DAEMONS, "")
        ):
            since = sample.begin
        found.append(since)
        before = sample
    return found


def higher_priorities_come_first(run: Run) -> Iterator[Violation]:
    """Recovery brings no machine back before one of a higher priority that it has not tried in vain.

    That is seen where both have had a record for a while, and the higher one still stands when the lower one
    runs.  A try in vain is known from the journal alone.
    """
    for number, host in run.hosts.items():
        for lower in _returns(host, run.recover):
            if not _is_by_recovery(host, lower):
                continue
            priority = run.priorities.get(lower.uuid, 0)
            for uuid in run.recover:
                if run.priorities.get(uuid, 0) > priority and _is_passed_over(host, uuid, lower.sample):
                    text = f"{lower.uuid} of priority {priority} runs before it"
                    yield Violation("order", number, host.samples[lower.sample].end, uuid, text)


def _is_by_recovery(host: Host, returned: Return) -> bool:
    now = host.samples[returned.sample].end
    had_record = any(
        returned.uuid in sample.records for sample in host.samples if returned.stood <= sample.begin <= now
    )
    return had_record and not host.disturbed(
        returned.stood - UNDER_WAY, now, (TOUCH, JOB, QEMU), returned.uuid
    )


def _is_passed_over(host: Host, uuid: str, index: int) -> bool:
    """Whether recovery could have begun with machine UUID before the sample INDEX, and had not after it."""
    if index + 1 >= len(host.samples):
        return False
    end = host.samples[index + 1].end
    begin = host.samples[index].begin - UNDER_WAY
    seen = [sample for sample in host.samples[: index + 2] if sample.end >= begin]
    if host.samples[0].begin > begin or not all(
        uuid in sample.records and _stands(sample, uuid) for sample in seen
    ):
        return False
    if host.disturbed(begin, end, (*_DAEMONS, QEMU), None) or host.disturbed(
        begin, end, (TOUCH, JOB, DISK), uuid
    ):
        return False
    ran = max((sample.end for sample in host.samples[:index] if not _stands(sample, uuid)), default=0.0)
    # A poweroff that is not done yet is tried again, and not logged.
    is_undone = host.samples[index].vm(uuid) is not None and any(
        call.uuid == uuid and call.action != "pause" and ran - UNDER_WAY < call.at for call in host.calls
    )
    return not is_undone and not any(
        failed == uuid and ran < at < end + LATE_LINE for at, failed in host.failures
    )
