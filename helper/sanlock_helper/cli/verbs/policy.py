# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show or set whether a virtual machine is brought back after its leases were lost.

With --recover, a machine whose on_lockfailure is poweroff is started again, and one that was paused is
resumed, as soon as the storage is back and its leases can be had.  The setting is kept in the domain's
metadata, in its running definition and in the persistent one.

--json prints an object (packaging/schema/policy.json): uuid, name, live and persistent (true, false, or null
where the domain has no such definition).
"""

from __future__ import annotations

import argparse

from ...threads import within
from ...virt import policy
from ...virt.lookup import find_domain
from ..connecting import add_connect, connect_within
from ..terminal import plain, print_json, print_pieces
from ..wrapping import Piece

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...virt.api import VirConnect
SCHEMA = 1

# How long libvirtd may take to answer.
LIBVIRT_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to PARSER."""
    parser.add_argument("domain", metavar="DOMAIN", help="its name, UUID or id")
    add_connect(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--recover", dest="recover", action="store_true", default=None, help="bring it back")
    choice.add_argument("--no-recover", dest="recover", action="store_false", help="leave it as it is")


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status.  Raises HelperError."""
    connection = connect_within(arguments.connect)
    what = f"the policy of domain {arguments.domain!r}"
    uuid, name, found = within(LIBVIRT_SECONDS, what, lambda: _apply(connection, arguments))
    if arguments.json:
        values = {name: found.get(name) for name in ("live", "persistent")}
        print_json("policy", SCHEMA, {"uuid": uuid, "name": name, **values})
        return 0
    for definition, recover in found.items():
        text = f"{name} ({definition}): {'recover' if recover else 'no recover'}"
        print_pieces([Piece(plain(text))])
    return 0


def _apply(connection: VirConnect, arguments: argparse.Namespace) -> tuple[str, str, dict[str, bool]]:
    """Set the policy, if that is asked for; returns the domain's UUID and name, and what it is then."""
    domain = find_domain(connection, arguments.domain)
    if arguments.recover is not None:
        policy.set_policy(domain, arguments.recover)
    return domain.UUIDString(), domain.name(), policy.settings(domain)
