# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether sanlock, its watchdog's daemon and libvirt's daemon come up when the host boots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import HelperError
from .finding import Finding, failed, not_checked, passed, warned, worst
from .hindered_units import freed
from .registry import check
from .system import unit_states
from .unit_files import ENABLED, UnitFiles

if TYPE_CHECKING:
    from .facts import Facts

SANLOCK, WDMD = "sanlock.service", "wdmd.service"


@dataclass(frozen=True)
class Service:
    """A unit that has to be started at boot.

    state: as `systemctl is-enabled` prints it.  starter: another unit that is enabled and starts this one, ""
    for none.  install: the command that installs it.
    """

    name: str
    state: str
    starter: str
    install: str


def _services(facts: Facts) -> tuple[list[Service] | None]:
    daemon = facts.host.daemon
    try:
        uses_watchdog = facts.sanlock.number("use_watchdog") not in (0, None)
    except HelperError:
        uses_watchdog = False
    names = [SANLOCK, *([WDMD] if uses_watchdog else []), f"{daemon}.service"]
    states = unit_states([*names, f"{daemon}.socket"])
    if states is None:
        return (None,)
    files = UnitFiles(facts.host)
    # A client that connects starts the service.
    socket = f"{daemon}.socket" if states[f"{daemon}.socket"] in ENABLED else ""
    found = []
    for name in names:
        program = name.removesuffix(".service")
        starter = ""
        if states[name] not in ENABLED:
            starter = files.starter(name) or (socket if program == daemon else "")
        if states[name] == "static":
            starter = files.target(name) or starter
        found.append(Service(name, states[name], starter, facts.distribution.install(program)))
    return (found,)


@check(
    "services", "sanlock, wdmd where it is used, and libvirt's daemon are started at boot", reads=_services
)
def check_services(services: Iterable[Service] | None) -> Finding:
    """Whether SERVICES are started at boot; None where systemd does not answer."""
    if services is None:
        return not_checked("systemctl does not answer")
    judged = [_judged(service) for service in services]
    bad = [finding for finding in judged if finding.remedy]
    if not bad:
        return passed(", ".join(finding.found for finding in judged))
    make = failed if worst(bad).verdict == "fail" else warned
    return make(", ".join(one.found for one in bad), " && ".join(one.remedy for one in bad))


def _judged(service: Service) -> Finding:
    name, state, starter = service.name, service.state, service.starter
    if state in ENABLED:
        return passed(f"{name} {state}")
    if state == "not-found":
        return failed(f"{name} is not installed", service.install)
    if state.startswith("masked"):
        # A mask also keeps other units from starting it.
        return failed(f"{name} {state}", f"{freed({name: state}, ' && ')}systemctl enable {name}")
    if state == "static":
        enable = f"systemctl add-wants multi-user.target {name}"
    else:
        enable = f"systemctl enable {name}"
    if starter and not (name == WDMD and starter == SANLOCK):
        return passed(f"{name} {state}, started by {starter}")
    if starter:
        return warned(f"{name} {state}: it starts only as long as {starter} wants it", enable)
    return failed(f"{name} {state}: it is not started at boot", enable)
