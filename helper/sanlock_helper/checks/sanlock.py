# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sanlock daemon: running, its grace, its watchdog, its lockspace, and the clock that follows."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from ..command import run
from ..errors import PermanentError
from ..leases.grace import DEFAULT_FIRE_TIMEOUT, DEFAULT_GRACE, read_small
from ..leases.sanlock_daemon import DEFAULT_IO_TIMEOUT
from ..leases.sanlock_status import NAME_LEN, SanlockStatus
from ..leases.timeline import Timeline
from ..numbers import whole_number
from ..virt.libvirt_conf import Setting, Value
from ..virt.qemu_sanlock_conf import LOCKSPACE, LockConf
from .facts import sanlock_settings
from .finding import FAIL, Finding, failed, not_checked, passed, warned, worst
from .hindered_units import described, freed, hindered_units
from .registry import check
from .remedies import RESTART, add_lockspace, give, give_sanlock, rem_lockspace, restart, sanlock_path
from .sanlock_options import with_option
from .unit_files import UnitFiles

if TYPE_CHECKING:
    from .facts import Facts

DUMP_SECONDS = 10.0

# sanlock's DEFAULT_MAX_HOSTS.
MAX_HOST_ID = 2000

# Of every sanlock before 5.
OLD_FORMAT = 3

# The first version that reads kill_grace_seconds in sanlock.conf.
_GRACE_IN_FILE = (3, 9)

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
    reads=lambda facts: (facts.sanlock, lambda: _graceful(facts)),
)
def check_grace(status: SanlockStatus, graceful: Callable[[], str] = lambda: "set it") -> Finding:
    """kill_grace_seconds as the running daemon has it.  GRACEFUL: the command that gives it the default."""
    option = "" if status.version >= _GRACE_IN_FILE else " (sanlock 3.8: -g)"
    remedy = f"{graceful()} && {RESTART}; it is kill_grace_seconds in sanlock.conf{option}"
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


def _graceful(facts: Facts) -> str:
    if facts.sanlock.version >= _GRACE_IN_FILE:
        return give_sanlock(facts.sanlock_conf, "kill_grace_seconds", DEFAULT_GRACE)
    return with_option(facts, "-g", str(DEFAULT_GRACE))


@check(
    "watchdog",
    "wdmd runs, or sanlock was started without it (-w 0)",
    reads=lambda facts: (
        facts.sanlock,
        facts.command_line,
        facts.host.files.is_listening(facts.host.run / "wdmd/wdmd.sock"),
        sanlock_settings(facts.sanlock_conf),
        lambda: hindered_units(["wdmd.service"]),
        facts.sanlock_conf,
        refusing_file(facts.host.etc, UnitFiles(facts.host)),
    ),
)
def check_watchdog(
    status: SanlockStatus,
    command_line: Sequence[str],
    wdmd_runs: bool,
    conf: Iterable[Setting] = (),
    hindered: Callable[[], Mapping[str, str]] = dict,
    path: str = "/etc/sanlock/sanlock.conf",
    refusing: str = "",
) -> Finding:
    """The watchdog daemon, or its deliberate absence: -w 0 on sanlock's COMMAND_LINE, or in its CONF, PATH.

    The unit of sanlock 4 and newer gives no options: there the file decides.  HINDERED: wdmd's unit where
    systemd does not start it as it is: see hindered_units().  REFUSING: see refusing_file().
    """
    used = status.number("use_watchdog")
    if used is None:
        return not_checked("this version of sanlock does not report it")
    if used:
        if wdmd_runs:
            return passed("sanlock uses it, wdmd runs")
        return _without_daemon(hindered(), refusing)
    if _is_given(command_line, "-w", "0"):
        return passed("none, deliberately: sanlock was started with -w 0")
    by_file = status.version >= (4,)
    values = [setting.value for setting in conf if setting.name == "use_watchdog"]
    if by_file and values[-1:] == ["0"]:
        return passed("none, deliberately: use_watchdog = 0 in sanlock.conf")
    found = "none: use_watchdog = 0, and not from -w 0; a VM that cannot be killed keeps writing"
    deliberate = "set use_watchdog = 0 there" if by_file else "start sanlock with -w 0"
    return warned(found, f"{give_sanlock(path, 'use_watchdog', None)} && {RESTART}; or {deliberate}")


def _without_daemon(hindered: Mapping[str, str], refusing: str) -> Finding:
    found = "sanlock uses it, and wdmd does not run"
    start = "systemctl enable --now wdmd"
    if refusing:
        file = shlex.quote(refusing)
        found = f"{found}: with enabled=1 in {refusing} its unit fails"
        return failed(found, f"sed -i 's/^enabled=.*/enabled=0/' {file} && {start}")
    if not hindered:
        return failed(found, start)
    remedy = f"{freed(hindered)}{start}  # without a watchdog's device: first modprobe softdog"
    return failed(f"{found}; {described(hindered)}", remedy)


def refusing_file(etc: Path, files: UnitFiles) -> str:
    """The file in ETC with which the unit of Debian's wdmd fails, "" where there is none.

    In Debian 12 its ExecStartPre is an init script that is asked for what it does not know; it ends well,
    before that, as long as the file does not enable it.  In Debian 13 that script does not read the file.
    """
    path = etc / "default/wdmd"
    programs = [value.split()[0] for value in files.values("wdmd.service", "ExecStartPre") if value.split()]
    is_read = any(
        b"/etc/default/" in read_small(program) for program in programs if program.endswith("/systemd-wdmd")
    )
    enabled = re.findall(rb"^enabled=(\S*)", read_small(str(path)), re.MULTILINE)
    return str(path) if is_read and enabled[-1:] in ([b"1"], [b'"1"']) else ""


def _is_given(words: Sequence[str], option: str, value: str) -> bool:
    return f"{option}{value}" in words or (option, value) in zip(words, words[1:])


@check(
    "watchdog_fire_timeout",
    f"{DEFAULT_FIRE_TIMEOUT} s, the same on every host",
    reads=lambda facts: (facts.sanlock, facts.sanlock_conf),
)
def check_fire_timeout(status: SanlockStatus, path: str = "/etc/sanlock/sanlock.conf") -> Finding:
    """watchdog_fire_timeout, which is set in PATH; sanlock 3.8 has 60 s built in."""
    fire = status.number("watchdog_fire_timeout")
    if fire is None:
        return passed(f"{DEFAULT_FIRE_TIMEOUT} s, built into this sanlock")
    given = give_sanlock(path, "watchdog_fire_timeout", DEFAULT_FIRE_TIMEOUT)
    remedy = f"{given} && {RESTART}; set watchdog_fire_timeout in {path}, on every host"
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


def _lockspaces(facts: Facts) -> tuple[SanlockStatus, LockConf, str, list[str], dict[str, str]]:
    status, used = facts.sanlock, facts.used_lockspaces
    absent = [name for name in used if name != LOCKSPACE and status.lockspace(name) is None]
    joins = {}
    for name in absent:
        path = facts.explicit_places.get(name)
        joins[name] = add_lockspace(name, facts.host_id or "HOST_ID", path or "PATH")
    if not used and not (facts.host.etc / "vdsm").is_dir():
        joins[LOCKSPACE] = _automatic(facts)
    return status, facts.lock_conf, facts.host.daemon, used, joins


@check("lockspace", reads=_lockspaces)
def check_lockspace(
    status: SanlockStatus,
    conf: LockConf,
    daemon: str,
    used: Sequence[str] | None = None,
    joins: Mapping[str, str] | None = None,
) -> Finding:
    """Whether the lockspaces that are USED, libvirt's own first, are joined and healthy.

    Where none is, any.  JOINS: the command that joins one; libvirt's own is DAEMON's task, and there the one
    that switches automatic leases on, where none is used.
    """
    used = used if used is not None else [LOCKSPACE] if conf.auto_disk_leases else []
    wanted = f"{', '.join(used)} joined" if used else "a lockspace joined; auto_disk_leases is off"
    known = [status.lockspace(name) for name in used] if used else status.lockspaces
    spaces = [space for space in known if space is not None]
    absent = [name for name in used if status.lockspace(name) is None]
    if absent or not spaces:
        which = f"not joined: {', '.join(absent)}" if spaces else "none is joined"
        remedy = _joining(absent, daemon, joins or {})
        return failed(f"{which}: no VM with a lease can start or resume", remedy, wanted=wanted)
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


def _automatic(facts: Facts) -> str:
    """The command that switches libvirt's automatic leases on, "" where its file has to be edited by hand."""
    path = facts.host.etc / "libvirt/qemu-sanlock.conf"
    values: list[tuple[str, Value]] = [("auto_disk_leases", 1)]
    values += [] if facts.lock_conf.host_id else [("host_id", facts.host_id or 1)]
    given = give(path, facts.lock_settings, values)
    return f"{given} && {restart(facts.host.daemon)}" if given else ""


def _joining(absent: Sequence[str], daemon: str, joins: Mapping[str, str]) -> str:
    """What joins the lockspaces that are ABSENT."""
    commands = [restart(daemon) if name == LOCKSPACE else joins.get(name, "") for name in absent]
    commands = [command for command in commands if command]
    if not commands and joins.get(LOCKSPACE):
        # None is used, which is so where it was not known that automatic leases have to be switched on.
        return f"{joins[LOCKSPACE]}  # or give the domains a <lease> in a lockspace of your own"
    if not commands:
        commands = [add_lockspace("LOCKSPACE", "HOST_ID", "PATH")]
    unknown = [word for word in ("LOCKSPACE", "HOST_ID", "PATH") if any(word in one for one in commands)]
    unknown = [word for word in unknown if not any(word in name for name in absent)]
    meaning = {
        "LOCKSPACE": "the lockspace of the <lease>",
        "HOST_ID": "this host's own number, 1 to 2000",
        "PATH": "the file or device that it was made in",
    }
    remark = ", ".join(f"{word}: {meaning[word]}" for word in unknown)
    return f"{' && '.join(commands)}{f'  # {remark}' if remark else ''}"


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


def read_slots(path: str, offset: int = 0) -> dict[int, Slot]:
    """All taken places of the lockspace at PATH and OFFSET by host_id.  Reads storage.

    Raises PermanentError.
    """
    where = f"{sanlock_path(path)}:{offset}" if offset else path
    return parse_dump(_direct(path, ("sanlock", "direct", "dump", where), check=True))


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


@dataclass(frozen=True)
class Claim:
    """A place in a lockspace that this host is about to take; is_asked: sanlock was asked to."""

    lockspace: str
    host_id: int
    path: str
    offset: int
    io_timeout: int
    is_asked: bool = True


def claims(status: SanlockStatus, conf: LockConf) -> list[Claim]:
    """The places that sanlock waits for, and that of libvirt's own lockspace where it is not joined."""
    found = [
        Claim(space.name, space.host_id, space.path, space.offset, space.io_timeout)
        for space in status.lockspaces
        if not space.joined and space.state != "REM"
    ]
    if conf.auto_disk_leases and status.lockspace(LOCKSPACE) is None:
        seconds = conf.io_timeout or DEFAULT_IO_TIMEOUT
        found.append(Claim(LOCKSPACE, conf.host_id, f"{conf.disk_lease_dir}/{LOCKSPACE}", 0, seconds, False))
    return found


@check(
    "host_id unique",
    "no other live host has this host_id",
    reads=lambda facts: (
        facts.sanlock,
        facts.lock_conf,
        lambda claim: read_slots(claim.path, claim.offset),
        lambda claim, host_id: _renumbered(facts, claim, host_id),
    ),
)
def check_unique(
    status: SanlockStatus,
    conf: LockConf,
    read: Callable[[Claim], dict[int, Slot]],
    renumbered: Callable[[Claim, int], str] = lambda _claim, host_id: f"take host_id {host_id}",
    sleep: Callable[[float], None] = time.sleep,
    nodename: str = "",
) -> Finding:
    """Whether another live host has our host_id.

    sanlock joins no lockspace with a host_id that is alive elsewhere, so a joined one is ours; it waits with
    one that is (list=add).  READ such a place twice, with one renewal (2 * io_timeout) in between: a live
    host counts it up.  RENUMBERED: the command that gives this host another number.  NODENAME: of this
    host, from uname(2).
    """
    wanted = claims(status, conf)
    if not wanted:
        joined = [f"{space.name} as {space.host_id}" for space in status.lockspaces if space.joined]
        if joined:
            return passed(f"joined: {', '.join(joined)}: sanlock has checked it")
        return passed("not used: auto_disk_leases is off")
    before = {claim: read(claim).get(claim.host_id) for claim in wanted}
    taken = {claim: slot for claim, slot in before.items() if slot is not None and slot.timestamp}
    if not taken:
        return passed(f"{', '.join(f'host_id {claim.host_id} is free' for claim in wanted)}")
    sleep(2 * max(claim.io_timeout for claim in taken) + 1)
    ours = status.daemon.get("our_host_name", "")
    node = nodename or os.uname().nodename
    found = []
    for claim, slot in taken.items():
        slots = read(claim)
        remedy = f"{renumbered(claim, free_number(slots))}  # or another host_id on {slot.owner}"
        found.append(_judged(claim, slot, slots.get(claim.host_id), (ours, node), remedy))
    return worst(found)


def _judged(claim: Claim, before: Slot, after: Slot | None, names: tuple[str, str], remedy: str) -> Finding:
    """Which host has the place of CLAIM: BEFORE a renewal's time, and AFTER it.  NAMES: this host's.

    A place that is renewed while this host's sanlock has not been asked to join is another host's, also under
    the same name.
    """
    ours, nodename = names
    if after != before and (after is None or after.owner != ours or not claim.is_asked):
        waits = f"sanlock does not join {claim.lockspace} until that ends"
        return failed(f"{before.owner} has {claim.host_id} and is alive: {waits}", remedy)
    if after == before and not is_this_host(before.owner, ours, nodename):
        return warned(f"{before.owner} had {claim.host_id}, and does not renew it now", remedy)
    return passed(f"{claim.host_id} was this host's own before")


def free_number(slots: Mapping[int, Slot]) -> int:
    """The lowest host_id that no host has, and none had: one that is off still counts on its own."""
    return next(number for number in range(1, MAX_HOST_ID + 2) if number not in slots)


def _renumbered(facts: Facts, claim: Claim, host_id: int) -> str:
    """The command that ends sanlock's wait for CLAIM, and joins its lockspace with HOST_ID."""
    waits = facts.sanlock.lockspace(claim.lockspace) is not None
    leave = rem_lockspace(claim.lockspace, claim.host_id, claim.path, claim.offset)
    if claim.lockspace != LOCKSPACE:
        joins = add_lockspace(claim.lockspace, host_id, claim.path, claim.offset)
        return f"{leave} && {joins}" if waits else joins
    path = facts.host.etc / "libvirt/qemu-sanlock.conf"
    given = give(path, facts.lock_settings, [("host_id", host_id)]) or f"set host_id = {host_id} in {path}"
    daemon = facts.host.daemon
    if not waits:
        return f"{given} && {restart(daemon)}"
    # While it runs, libvirt's daemon asks sanlock again with the number of before.
    return f"{given} && systemctl stop {daemon} && {leave} && systemctl start {daemon}"


# sanlock makes a name for each of its runs, of a new UUID and uname(2)'s nodename, and cuts it off
# (setup_host_name() in sanlock src/main.c).
_GENERATED = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(?P<node>.+)", re.DOTALL)


def is_this_host(owner: str, ours: str, nodename: str) -> bool:
    """Whether OWNER of a place that is not renewed is this host: by OURS, or by a name of an earlier run.

    Of a long NODENAME there is only the beginning: another host with the same one, and the same host_id,
    would be taken for this one; sanlock waits for either.
    """
    if owner == ours:
        return True
    made = _GENERATED.fullmatch(owner)
    if made is None:
        return False
    node = made["node"]
    cut_off = len(owner.encode("utf-8", "surrogateescape")) >= NAME_LEN
    return nodename.startswith(node) if cut_off else nodename == node
