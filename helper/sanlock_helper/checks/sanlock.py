# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sanlock daemon: running, its grace, its watchdog, its lockspace, and the clock that follows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Callable

from ..command import run
from ..errors import PermanentError
from ..leases.grace import DEFAULT_FIRE_TIMEOUT, DEFAULT_GRACE
from ..leases.sanlock_daemon import DEFAULT_IO_TIMEOUT
from ..leases.sanlock_status import SanlockStatus
from ..leases.timeline import Timeline
from ..numbers import whole_number
from ..virt.libvirt_conf import Setting
from ..virt.qemu_sanlock_conf import LOCKSPACE, LockConf
from .facts import sanlock_settings
from .finding import FAIL, Finding, failed, not_checked, passed, warned
from .registry import check

DUMP_SECONDS = 10.0

# Of every sanlock before 5.
OLD_FORMAT = 3

# Less than this leaves no second try after a restart of libvirtd.
SHORT_GRACE = 20


@check("sanlock", reads=lambda facts: (facts.sanlock,), unread=FAIL)
def check_running(status: SanlockStatus) -> Finding:
    """STATUS is the daemon's answer: it runs."""
    version = status.daemon.get("version_str", "unknown")
    return passed(f"sanlock {version} runs", wanted="a running daemon")


@check(
    "kill_grace_seconds",
    f"{DEFAULT_GRACE}; 0 means that the helper never runs",
    reads=lambda facts: (facts.sanlock,),
)
def check_grace(status: SanlockStatus) -> Finding:
    """kill_grace_seconds as the running daemon has it."""
    option = "" if version_of(status) >= (3, 9) else " (sanlock 3.8: -g)"
    remedy = f"kill_grace_seconds in sanlock.conf{option}; then restart sanlock with no VM running"
    grace, fire = status.number("kill_grace_seconds"), status.number("watchdog_fire_timeout")
    if grace is None:
        return not_checked("this version of sanlock does not report it")
    if fire is not None and fire < DEFAULT_FIRE_TIMEOUT:
        # Where none is set: setup_timeouts() in sanlock src/timeouts.c.
        remedy = (
            f"raise watchdog_fire_timeout: with {fire} s it is this short unless kill_grace_seconds is set"
        )
    if grace == 0:
        return failed("0 s: sanlock kills at once, and never runs the helper", remedy)
    if grace < SHORT_GRACE:
        return warned(f"{grace} s: no time for a second try", remedy)
    return passed(f"{grace} s")


def version_of(status: SanlockStatus) -> tuple[int, ...]:
    """The version of the running daemon, () when it does not report it."""
    numbers = [whole_number(word) for word in status.daemon.get("version_str", "").split(".")]
    found = tuple(number for number in numbers if number is not None)
    return found if len(found) == len(numbers) else ()


@check(
    "watchdog",
    "wdmd runs, or sanlock was started without it (-w 0)",
    reads=lambda facts: (
        facts.sanlock,
        facts.command_line,
        (facts.host.run / "wdmd/wdmd.sock").exists(),
        sanlock_settings(facts.sanlock_conf),
    ),
)
def check_watchdog(
    status: SanlockStatus,
    command_line: Sequence[str],
    wdmd_runs: bool,
    conf: Iterable[Setting] = (),
) -> Finding:
    """The watchdog daemon, or its deliberate absence: -w 0 on sanlock's COMMAND_LINE, or in its CONF.

    The unit of sanlock 4 and newer gives no options: there the file decides.
    """
    used = status.number("use_watchdog")
    if used is None:
        return not_checked("this version of sanlock does not report it")
    if used:
        if wdmd_runs:
            return passed("sanlock uses it, wdmd runs")
        return failed("sanlock uses it, and wdmd does not run", "systemctl enable --now wdmd")
    if _is_given(command_line, "-w", "0"):
        return passed("none, deliberately: sanlock was started with -w 0")
    by_file = version_of(status) >= (4,)
    values = [setting.value for setting in conf if setting.name == "use_watchdog"]
    if by_file and values[-1:] == ["0"]:
        return passed("none, deliberately: use_watchdog = 0 in sanlock.conf")
    found = "none: use_watchdog = 0, and not from -w 0; a VM that cannot be killed keeps writing"
    deliberate = "set use_watchdog = 0 there" if by_file else "start sanlock with -w 0"
    remedy = f"remove use_watchdog from /etc/sanlock/sanlock.conf, or {deliberate}"
    return warned(found, remedy)


def _is_given(words: Sequence[str], option: str, value: str) -> bool:
    return f"{option}{value}" in words or (option, value) in zip(words, words[1:])


@check(
    "watchdog_fire_timeout",
    f"{DEFAULT_FIRE_TIMEOUT} s, the same on every host",
    reads=lambda facts: (facts.sanlock,),
)
def check_fire_timeout(status: SanlockStatus) -> Finding:
    """watchdog_fire_timeout; sanlock 3.8 has 60 s built in."""
    fire = status.number("watchdog_fire_timeout")
    if fire is None:
        return passed(f"{DEFAULT_FIRE_TIMEOUT} s, built into this sanlock")
    remedy = "set watchdog_fire_timeout in /etc/sanlock/sanlock.conf, on every host"
    if fire < 30:
        return failed(f"{fire} s: below 30 sanlock's grace becomes 0", remedy)
    if fire < DEFAULT_FIRE_TIMEOUT:
        return warned(f"{fire} s", remedy)
    return passed(f"{fire} s")


def lockspaces_without_clock(status: SanlockStatus) -> list[str]:
    """The joined lockspaces that the clock does not hold for, and why (sanlock 5: add_lockspace -N, -W)."""
    why = {
        "no_timeout": "no other host takes its leases by itself",
        "no_watchdog": "the host is not reset for it",
    }
    return [
        f"{space.name}: {flag}, {text}"
        for space in status.lockspaces
        for flag, text in why.items()
        if space.values.get(flag, "0") != "0"
    ]


@check(
    "clock",
    "the helper, then SIGKILL, then the watchdog, then another host",
    reads=lambda facts: (
        facts.timeline,
        facts.sanlock.number("use_watchdog") != 0,
        lockspaces_without_clock(facts.sanlock),
    ),
)
def check_clock(clock: Timeline, watchdog: bool, without: Sequence[str] = ()) -> Finding:
    """The order of events after a loss; WATCHDOG: whether one is in use.

    WITHOUT: see lockspaces_without_clock().
    """
    first, last = clock.reset
    found = (
        f"after the last good renewal: warning {clock.warning} s, lease lost {clock.lost} s, "
        f"SIGKILL {clock.sigkill} s, {f'reset {first} to {last} s, ' if watchdog else ''}"
        f"another host {clock.elsewhere} s"
    )
    remedy = "lower kill_grace_seconds, or raise watchdog_fire_timeout on every host"
    if without:
        found = f"{found}; it does not hold for {'; '.join(without)}"
        return warned(found, "join the lockspace without these flags, on every host")
    if clock.sigkill >= clock.elsewhere:
        return failed(f"{found}: another host may write before SIGKILL", remedy)
    if watchdog and clock.sigkill >= first:
        return warned(f"{found}: the host may be reset before SIGKILL", remedy)
    return passed(found)


@check(
    "lockspace",
    reads=lambda facts: (facts.sanlock, facts.lock_conf, facts.host.daemon),
)
def check_lockspace(status: SanlockStatus, conf: LockConf, daemon: str) -> Finding:
    """Whether libvirt's lockspace is joined and healthy; without auto_disk_leases, any."""
    wanted = f"{LOCKSPACE} joined"
    remedy = f"systemctl restart {daemon}: it joins; or virt-sanlock-helper recover"
    spaces = status.lockspaces
    if conf.auto_disk_leases:
        spaces = tuple(space for space in spaces if space.name == LOCKSPACE)
    else:
        wanted = "a lockspace joined; auto_disk_leases is off"
    if not spaces:
        return failed("none is joined: no VM with a lease can start or resume", remedy, wanted=wanted)
    found = ", ".join(f"{space.name} as host {space.host_id}, {space.path}" for space in spaces)
    lost = [space.name for space in spaces if space.lost]
    if lost:
        return failed(f"{found}; LOST: {', '.join(lost)}", "see virt-sanlock-helper status", wanted=wanted)
    coming = [space.name for space in spaces if not space.joined]
    if coming:
        # sanlock src/delta_lease.c: it waits for as long as another live host has the host_id.
        found = f"{found}; not joined (yet): {', '.join(coming)}"
        hint = "sanlock client status; if it stays so, another live host has this host_id: see host_id unique"
        return failed(found, hint, wanted=wanted)
    failing = [space.name for space in spaces if space.values.get("renewal_last_result", "1") != "1"]
    if failing:
        found = f"{found}; the last renewal failed: {', '.join(failing)}"
        return warned(found, "check the storage of the lease directory", wanted=wanted)
    return passed(found, wanted=wanted)


@check(
    "lockspace format",
    "one that every host's sanlock knows",
    reads=lambda facts: (facts.sanlock, facts.lock_conf, lambda: read_format(str(facts.lockspace_path))),
)
def check_format(status: SanlockStatus, conf: LockConf, read: Callable[[], str]) -> Finding:
    """Whether the disk format of libvirt's lockspace is one that this host's sanlock knows.

    sanlock 5 makes lockspaces in a format that older ones refuse (-204, -224), and joins older ones.  This
    host sees its own version and the format; what the other hosts run is on no storage.  READ has the format
    from storage, for a daemon that does not report it for a lockspace that it has joined.
    """
    if not conf.auto_disk_leases:
        return passed("not used: auto_disk_leases is off")
    space = status.lockspace(LOCKSPACE)
    text = (space.values.get("version") if space else None) or read()
    version = status.daemon.get("version_str", "")
    ours = whole_number(version.partition(".")[0])
    if ours is None or not re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text):
        return not_checked(f"sanlock has version {version or 'none'}, the lockspace format {text}")
    major = int(text, 16) >> 16
    found = f"format {major} ({text}), sanlock {version}"
    if major > max(ours, OLD_FORMAT):
        remedy = f"run one version of sanlock on all hosts of the lockspace: here, sanlock {major}"
        return failed(f"{found}: this host cannot join it", remedy)
    if major > OLD_FORMAT:
        return passed(f"{found}: a host with an older sanlock cannot join it")
    return passed(found)


def read_format(path: str) -> str:
    """The disk format of the lockspace at PATH as sanlock writes it, 0x30004.  Reads storage.

    Raises PermanentError.
    """
    where = re.sub(r"([ :])", r"\\\1", path)
    command = ("sanlock", "direct", "read_leader", "-s", f"{LOCKSPACE}:1:{where}:0")
    answer = _direct(path, command, check=False)
    values = dict(line.split(" ", 1) for line in answer.splitlines() if " " in line)
    if values.get("space_name") != LOCKSPACE or "version" not in values:
        raise PermanentError(
            f"read {path}", values.get("read_leader", "no answer"), "sanlock direct dump PATH"
        )
    return values["version"]


@dataclass(frozen=True)
class Slot:
    """A host's own place in a lockspace, as on storage; timestamp 0 is a free one."""

    owner: str
    timestamp: int


def read_slots(path: str) -> dict[int, Slot]:
    """All taken places of the lockspace at PATH by host_id.  Reads storage.  Raises PermanentError."""
    return parse_dump(_direct(path, ("sanlock", "direct", "dump", path), check=True))


def _direct(path: str, command: tuple[str, ...], check: bool) -> str:
    answer = run(command, DUMP_SECONDS)
    # A format that this sanlock does not know is an error to it, and printed.
    if answer.problem or (check and answer.status != 0):
        raise PermanentError(f"read {path}", answer.why)
    return answer.stdout


def parse_dump(text: str) -> dict[int, Slot]:
    """Read `sanlock direct dump`: offset, lockspace, name of the host, timestamp, host_id, generation."""
    slots = {}
    for line in text.split("\n")[1:]:
        words = line.split()
        if len(words) < 6:
            continue
        timestamp, host_id = whole_number(words[3]), whole_number(words[4])
        if timestamp is not None and host_id is not None:
            slots[host_id] = Slot(words[2], timestamp)
    return slots


@check(
    "host_id unique",
    "no other live host has this host_id",
    reads=lambda facts: (facts.sanlock, facts.lock_conf, lambda: read_slots(str(facts.lockspace_path))),
)
def check_unique(
    status: SanlockStatus,
    conf: LockConf,
    read: Callable[[], dict[int, Slot]],
    sleep: Callable[[float], None] = time.sleep,
) -> Finding:
    """Whether another live host has our host_id.

    sanlock joins no lockspace with a host_id that is alive elsewhere, so a joined one is ours.  Otherwise
    READ the place twice, with one renewal (2 * io_timeout) in between: a live host counts it up.
    """
    space = status.lockspace(LOCKSPACE)
    if not conf.auto_disk_leases:
        return passed("not used: auto_disk_leases is off")
    if space is not None and space.joined:
        return passed(f"the lockspace is joined as {space.host_id}: sanlock has checked it")
    before = read().get(conf.host_id)
    if before is None or before.timestamp == 0:
        return passed(f"host_id {conf.host_id} is free")
    ours = status.daemon.get("our_host_name", "")
    remedy = "another host_id in /etc/libvirt/qemu-sanlock.conf of one of the two"
    sleep(2 * (conf.io_timeout or DEFAULT_IO_TIMEOUT) + 1)
    after = read().get(conf.host_id)
    if after != before and (after is None or after.owner != ours):
        return failed(f"{before.owner} has {conf.host_id} and is alive", remedy)
    if after == before and before.owner != ours:
        return warned(f"{before.owner} had {conf.host_id}, and does not renew it now", remedy)
    return passed(f"{conf.host_id} was this host's own before")
