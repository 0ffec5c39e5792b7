# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirtd (or virtqemud): does it answer, does it accept the login, can it serve all domains at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable

from ..virt import AHEAD, IN_FLIGHT, libvirt_daemon
from ..virt.libvirt_conf import Value
from .finding import PASS, WARN, Finding, failed, judged, not_checked, passed, warned
from .hindered_units import described, freed, hindered_units
from .registry import check
from .remedies import give, restart

if TYPE_CHECKING:
    from .facts import ConnectionAttempt

SLOW_SECONDS = 2.0

# The slowest call that the helper makes is the destroy of a live QEMU: after SIGTERM libvirtd checks every
# 0.2 s whether the process is gone (virProcessKillPainfullyDelay() in libvirt src/util/virprocess.c).
CALL_SECONDS = 0.25

# libvirtd.conf and virtqemud.conf of libvirt 9.0 to 12.
DEFAULTS = {
    "max_clients": 5000,
    "max_anonymous_clients": 20,
    "max_workers": 20,
    "prio_workers": 5,
    "max_client_requests": 5,
}


@check(
    "libvirtd",
    reads=lambda facts: (
        facts.attempt,
        facts.host.daemon,
        facts.host.uri,
        libvirt_daemon.remedy(facts.host.files),
        hindered_units(facts.host.libvirt.units) if facts.attempt.error else {},
    ),
)
def check_libvirtd(
    attempt: ConnectionAttempt,
    daemon: str,
    uri: str,
    remedy: str = "",
    hindered: Mapping[str, str] | None = None,
) -> Finding:
    """Whether DAEMON answered on its read-write socket, and how long that took; REMEDY where it did not.

    HINDERED: its units that systemd does not start as they are: see hindered_units().
    """
    wanted = f"an answer to {uri} within {SLOW_SECONDS:g} s"
    if attempt.error is not None and not attempt.is_refused:
        start = remedy or f"systemctl start {daemon}.socket; journalctl -u {daemon} -n 20"
        why = attempt.error.why
        if attempt.stale:
            why = f"{why}; the client takes {attempt.stale}, on which no process listens"
        hindered, socket = dict(hindered or {}), f"{daemon}.socket"
        if hindered.get(socket, "").startswith("masked") and f"{daemon}.service" not in hindered:
            # As where the daemon is to run without it (libvirtd(8)).
            start = start.replace(socket, f"{daemon}.service")
            del hindered[socket]
        if hindered:
            return failed(f"{why}; {described(hindered)}", f"{freed(hindered)}{start}", wanted=wanted)
        return failed(why, attempt.error.hint or start, wanted=wanted)
    found = f"{daemon} answers after {attempt.seconds:.3f} s"
    if attempt.activated:
        # With a domain running it does not end by itself: it will be there when it is needed.
        return passed(f"{found}, started by its socket", wanted=wanted)
    if attempt.seconds > SLOW_SECONDS:
        busy = f"see what keeps it busy: virt-admin -c {daemon}:///system server-threadpool-info {daemon}"
        return warned(found, busy, wanted=wanted)
    return passed(found, wanted=wanted)


@check(
    "authentication",
    "accepted for root, with the auth.conf in force for sanlock's children",
    reads=lambda facts: (facts.attempt, facts.daemon_conf.get("auth_unix_rw"), facts.host.daemon),
)
def check_authentication(attempt: ConnectionAttempt, scheme: Value | None, daemon: str) -> Finding:
    """What SCHEME (auth_unix_rw) asks for, and whether it is satisfied with the auth.conf in force."""
    asked = f"{scheme}" if scheme is not None else "libvirt's default (polkit or none: root is accepted)"
    if attempt.error is None:
        return passed(f"auth_unix_rw is {asked}: accepted")
    if attempt.is_refused:
        error = attempt.error
        remedy = error.hint or "virt-sanlock-helper auth check"
        return failed(f"auth_unix_rw is {asked}: {error.why}", remedy)
    return not_checked(f"{daemon} does not answer", cause="libvirtd")


@check(
    "libvirtd limits",
    reads=lambda facts: (
        facts.daemon_conf,
        len(facts.running),
        facts.grace,
        facts.host.daemon,
        lambda low: give(facts.host.etc / f"libvirt/{facts.host.daemon}.conf", facts.daemon_settings, low),
    ),
)
def check_limits(
    conf: Mapping[str, Value],
    running: int,
    grace: int,
    daemon: str = "",
    given: Callable[[list[tuple[str, Value]]], str] = lambda _low: "",
) -> Finding:
    """The limits of DAEMON against the number of RUNNING domains, which may be lost in the same second.

    GIVEN: the command that gives settings of its file other values.
    """
    where = f"/etc/libvirt/{daemon or 'libvirtd'}.conf"
    limits = {key: conf.get(key, default) for key, default in DEFAULTS.items()}
    numbers = {key: value for key, value in limits.items() if isinstance(value, int)}
    if len(numbers) < len(limits):
        bad = ", ".join(key for key in limits if key not in numbers)
        return failed(f"{bad}: no number", f"correct {where}", wanted="numbers")
    wanted = _wanted_limits(running)
    low = {key: least for key, least in wanted.items() if numbers[key] < least}
    seconds = running * CALL_SECONDS / max(1, min(IN_FLIGHT, numbers["max_workers"]))
    found = ", ".join(f"{key} {value}" for key, value in numbers.items())
    found = f"{found}; {running} running domains take about {seconds:.1f} s"
    text = ", ".join(f"{key} {least}" for key, least in wanted.items())
    remedy = "raise " + ", ".join(f"{key} to {least}" for key, least in low.items()) if low else ""
    if low and daemon:
        remedy += f" in {where}, then restart {daemon}"
        command = given(list(low.items()))
        remedy = f"{command} && {restart(daemon)}  # {remedy}" if command else remedy
    if seconds > grace:
        remedy = remedy or "fewer domains on this host, or a larger max_workers"
        return failed(f"{found}, there are {grace}", remedy, wanted=text)
    return judged(WARN if low else PASS, found, remedy, wanted=text)


def _wanted_limits(running: int) -> dict[str, int]:
    connections = min(IN_FLIGHT + AHEAD, max(running, 1))
    return {
        # Where the spool cannot be used each domain's helper connects by itself.
        "max_clients": running + 20,
        # No more log in at a time than have done so.
        "max_anonymous_clients": connections // 2 + 1,
        "max_workers": min(20, max(5, running)),
        # Destroy and lookups are served by these while the others hang.
        "prio_workers": 5,
        # A destroy must get through while an XML request of the same client hangs.
        "max_client_requests": 2,
    }
