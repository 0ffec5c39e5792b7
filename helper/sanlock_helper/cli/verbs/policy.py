# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show or set whether virtual machines are brought back after their leases were lost, and in which order.

With --recover, a machine whose on_lockfailure is poweroff is started again, and one that was paused is
resumed, as soon as the storage is back and its leases can be had.  Those of a higher priority come first.
The setting is kept in the domain's metadata, in its running definition and in the persistent one; where it
has none, the default in /etc/virt-sanlock-helper.conf counts.

--json prints an object for one DOMAIN (packaging/schema/policy.json): uuid, name, live and persistent (true,
false, or null where the domain has no such definition); recover (null where it is not known), priority, delay
(seconds), and sources, where each of the three comes from: domain, host or built in.  For several, or --all,
it prints a list of these (packaging/schema/policy-list.json), and what could not be read or set.
"""

from __future__ import annotations

import argparse
from typing import Any, Callable, NamedTuple

from ... import IDENTIFIER
from ...errors import HelperError, PermanentError, TransientError, UsageError
from ...escapes import shown
from ...numbers import DELAYS, PRIORITIES, number_within
from ...threads import NoAnswerError, call_with_timeout, within
from ...virt import policy
from ...virt.host_conf import PATH, HostConf
from ...virt.lookup import all_domains, find_domain
from ..connecting import add_connect, connect_within
from ..recovery_plan import read_conf
from ..tables import table
from ..terminal import painted, plain, print_error, print_json, print_pieces, warn
from ..text_width import columns_of
from ..wrapping import Piece

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...virt.api import VirConnect, VirDomain
SCHEMA = 1

# How long libvirtd may take to answer, for each domain.
LIBVIRT_SECONDS = 10.0

_DEFINITIONS = ("live", "persistent")
HEAD = ("NAME", "RECOVER", "PRIORITY", "DELAY")
# Where a value comes from.
DOMAIN, HOST, BUILT_IN = "domain", "host", "built in"
_WHERE = {DOMAIN: "domain", HOST: PATH, BUILT_IN: "built in"}


class DomainPolicy(NamedTuple):
    """The policy of a domain: in each of its definitions, and as it counts with CONF."""

    uuid: str
    name: str
    found: dict[str, policy.Policy]
    conf: HostConf

    @property
    def own(self) -> policy.Policy:
        """Its own: that of its running definition, if it runs."""
        return self.found.get("live") or self.found.get("persistent") or policy.Policy()

    @property
    def recover(self) -> bool | None:
        """Whether it is brought back; None where that is not known."""
        return self.conf.default if self.own.recover is None else self.own.recover

    @property
    def sources(self) -> dict[str, str]:
        """Where each value comes from."""
        default = HOST if "default" in self.conf.given or self.conf.default is None else BUILT_IN
        own = self.own._asdict()
        return {
            name: DOMAIN if own[name] is not None else default if name == "recover" else BUILT_IN
            for name in ("recover", "priority", "delay")
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to PARSER."""
    parser.add_argument("domain", metavar="DOMAIN", nargs="*", help="its name, UUID or id")
    parser.add_argument("--all", action="store_true", help="all domains")
    add_connect(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--recover", dest="recover", action="store_true", default=None, help="bring it back")
    choice.add_argument("--no-recover", dest="recover", action="store_false", help="leave it as it is")
    parser.add_argument(
        "--priority",
        metavar="NUMBER",
        type=_number(PRIORITIES),
        help="bring it back before those of a lower one; without a setting it has 0",
    )
    parser.add_argument(
        "--delay",
        metavar="SECONDS",
        type=_number(DELAYS),
        help="bring it back so long after the first of its priority",
    )


def _number(limits: tuple[int, int]) -> Callable[[str], int]:
    def number(text: str) -> int:
        found = number_within(text, limits)
        if found is None:
            raise argparse.ArgumentTypeError(
                f"{shown(text)} is no whole number from {limits[0]} to {limits[1]}"
            )
        return found

    return number


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status.  Raises HelperError."""
    names = arguments.domain
    if bool(names) == arguments.all:
        why = "it is for all domains, and some are named" if names else "no domain is named"
        raise UsageError("policy --all" if names else "policy", why, "name domains, or give --all")
    connection = connect_within(arguments.connect)
    # All of them before the first is set: a name that is mistyped leaves no other one half done.
    domains = within(LIBVIRT_SECONDS, _what(names), lambda: _find_all(connection, names))
    is_one = len(names) == 1
    conf = read_conf(arguments.connect)
    found, failed = _apply_all(domains, _changes(arguments), conf)
    if is_one and failed:
        raise failed[0][1]
    if arguments.json:
        _print_json(found, failed, is_one)
    elif is_one:
        _print_one(found[0])
    else:
        _print_table(found)
    _warn(found, failed, conf)
    return 1 if failed else 0


def _what(names: list[str]) -> str:
    return f"the policy of domain {names[0]!r}" if len(names) == 1 else "the policies of the domains"


def _changes(arguments: argparse.Namespace) -> dict[str, str]:
    """The attributes that are to be set."""
    found = {"priority": arguments.priority, "delay": arguments.delay}
    changes = {name: str(value) for name, value in found.items() if value is not None}
    if arguments.recover is not None:
        changes["recover"] = "yes" if arguments.recover else "no"
    return changes


def _find_all(connection: VirConnect, names: list[str]) -> list[tuple[str, VirDomain]]:
    """The domains of NAMES, all where there are none, each once, with its name.

    Raises PermanentError, which has all that are not there, and TransientError when libvirtd does not answer.
    """
    if not names:
        return [(domain.name(), domain) for domain in all_domains(connection)]
    found: dict[str, tuple[str, VirDomain]] = {}
    unknown: list[PermanentError] = []
    for name in names:
        try:
            domain = find_domain(connection, name)
            found.setdefault(domain.UUIDString(), (domain.name(), domain))
        except PermanentError as error:
            unknown.append(error)
    if unknown and len(names) > 1:
        whats = ", ".join(error.what for error in unknown)
        raise PermanentError(whats, f"{unknown[0].why}; no domain's policy was changed", unknown[0].hint)
    if unknown:
        raise unknown[0]
    return list(found.values())


def _apply_all(
    domains: list[tuple[str, VirDomain]], changes: dict[str, str], conf: HostConf
) -> tuple[list[DomainPolicy], list[tuple[str, HelperError]]]:
    """Set CHANGES for DOMAINS; what counts then, and those that failed, by name, with the reason."""
    found: list[DomainPolicy] = []
    failed: list[tuple[str, HelperError]] = []
    for name, domain in domains:
        what = f"the policy of domain {name!r}"

        def apply(name: str = name, domain: VirDomain = domain) -> DomainPolicy:
            if changes:
                policy.set_policy(domain, changes)
            return DomainPolicy(domain.UUIDString(), name, policy.settings(domain), conf)

        try:
            found.append(call_with_timeout(apply, LIBVIRT_SECONDS))
        except NoAnswerError as error:
            failed.append((name, TransientError(what, f"{error}; whether it was set is not known")))
            why = "not tried, for libvirtd does not answer"
            done = len(found) + len(failed)
            failed += [
                (left, TransientError(f"the policy of domain {left!r}", why)) for left, _ in domains[done:]
            ]
            break
        except HelperError as error:
            failed.append((name, error))
    return found, failed


def _print_one(one: DomainPolicy) -> None:
    for definition, found in one.found.items():
        print_pieces([Piece(plain(f"{one.name} ({definition}): {_words(found, one.conf)}"))])


def _words(found: policy.Policy, conf: HostConf) -> str:
    """What FOUND comes to, in words: what is built in is not mentioned as such."""
    recover = conf.default if found.recover is None else found.recover
    text = {True: "recover", False: "no recover", None: "recover or not is not known"}[recover]
    if found.recover is not None:
        text = f"{text}, by its own policy"
    elif "default" in conf.given or recover is None:
        text = f"{text}, by {PATH}"
    text = f"{text}, priority {found.priority}" if found.priority else text
    return f"{text}, delay {found.delay} s" if found.delay else text


def _print_table(found: list[DomainPolicy]) -> None:
    rows = []
    for one in found:
        where = {name: f" ({_WHERE[source]})" for name, source in one.sources.items()}
        recover = {True: "yes", False: "no", None: "not known"}[one.recover]
        rows.append(
            (
                one.name,
                f"{recover}{where['recover']}",
                f"{one.own.priority or 0}{where['priority']}",
                f"{one.own.delay or 0} s{where['delay']}",
            )
        )
    for lines in table(HEAD, rows, columns_of(None)):
        for line in lines:
            print(painted(line))


def _warn(found: list[DomainPolicy], failed: list[tuple[str, HelperError]], conf: HostConf) -> None:
    """Print what is wrong beside what was found, a line each."""
    if conf.problem and any(one.own.recover is None for one in found):
        warn(f"settings that do not count: {conf.problem}")
    for one in found:
        if one.own.problem:
            warn(f"{one.name}: {one.own.problem}")
    for name, error in failed:
        print_error(f"{IDENTIFIER}: {name}: {error}")


def _print_json(found: list[DomainPolicy], failed: list[tuple[str, HelperError]], is_one: bool) -> None:
    if is_one:
        print_json("policy", SCHEMA, _as_dict(found[0]))
        return
    problems = [{"name": name, "why": str(error)} for name, error in failed]
    print_json("policy-list", SCHEMA, {"domains": [_as_dict(one) for one in found], "failed": problems})


def _as_dict(one: DomainPolicy) -> dict[str, Any]:
    own = {name: bool(one.found[name].recover) if name in one.found else None for name in _DEFINITIONS}
    return {
        "uuid": one.uuid,
        "name": one.name,
        **own,
        "recover": one.recover,
        "priority": one.own.priority or 0,
        "delay": one.own.delay or 0,
        "sources": one.sources,
    }
