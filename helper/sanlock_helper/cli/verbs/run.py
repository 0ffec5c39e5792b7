# SPDX-License-Identifier: LGPL-2.1-or-later
"""Do by hand what sanlock would cause when a domain's leases are lost.

It prints what it will do, and asks before it harms a running domain.  With --dry-run it does everything up to
the action: connects, authenticates, finds the domain, reads its state and its leases, and prints the call.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

import libvirt_auth

from ... import killpath
from ...errors import LeasesUnknownError
from ...install.paths import our_executable
from ...invocation import ACTIONS
from ...leases.held import Lease, held_by
from ...threads import within
from ...virt import processes
from ...virt.connection import failure
from ...virt.domain_state import state_name
from ...virt.lookup import find_domain
from ..connecting import add_connect, connect_within
from ..terminal import ask, plain, print_json, print_pieces
from ..wrapping import Piece

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...virt.api import VirConnect

SCHEMA = 1

LIBVIRT_SECONDS = 10.0

_WORDS = {
    "poweroff": "destroy it, without grace for the guest, and verify that it is off",
    "restart": "destroy it, without grace for the guest, verify that it is off, and start it again",
    "pause": "suspend it, and verify that it is paused and holds no lease any more",
    "ignore": "do nothing; with a lease lost, sanlock would send SIGKILL when the grace is over",
}

_PROGRAM = """\
import posix, sys
sys.path[:0] = sys.argv[1:3]
from sanlock_helper.killpath import main
try:
    status = main(sys.argv[4:], interactive=True)
except Exception as error:
    # In a process for a request of another one that has exited: see Spool.leave_to_stock().
    arguments = getattr(error, "killpath_arguments", None)
    if arguments is None:
        raise
    posix.execv(sys.argv[3], [sys.argv[3], *arguments])
posix._exit(status)
"""

# States from which an action takes nothing away.
_HARMLESS = {
    "poweroff": (libvirt.VIR_DOMAIN_SHUTOFF,),
    "restart": (),
    "pause": (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_PAUSED),
}


@dataclass(frozen=True)
class Found:
    """A domain as it was found; `leases` is None when they could not be read, `why` has the reason."""

    name: str
    uuid: str
    state: int
    leases: list[Lease] | None
    why: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("domain", metavar="DOMAIN", help="name, UUID or id")
    add_connect(parser)
    parser.add_argument("--dry-run", action="store_true", help="everything but the action")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="one JSON document, see packaging/schema")


def run(arguments: argparse.Namespace) -> int:
    """Do it; 0 when the goal was reached and verified, 1 when not or when the answer was no."""
    action = arguments.action
    connection = connect_within(arguments.connect)
    found = within(LIBVIRT_SECONDS, "read the domain's state", lambda: inspect(connection, arguments.domain))
    call = [str(our_executable()), arguments.connect, found.uuid, action]
    if not arguments.json:
        _print_plan(found, action, call)
    if arguments.dry_run:
        if arguments.json:
            print_json("run", SCHEMA, _data(found, action, call, None, None))
        return 0
    if _harms(found, action) and not arguments.yes and not ask(f"{action} {plain(found.name)}"):
        print("nothing was done", file=sys.stderr)
        return 1
    sys.stdout.flush()
    status = subprocess.run(_command(call), check=False).returncode
    if arguments.json:
        again = connect_within(arguments.connect)
        after = within(LIBVIRT_SECONDS, "read the domain's state", lambda: _state_after(again, found.uuid))
        print_json("run", SCHEMA, _data(found, action, call, status, after))
    return status


def _command(call: list[str]) -> list[str]:
    """What does the same as CALL, and waits for the outcome even where another process brings it about.

    In a process of its own: it sheds what it inherits, and leaves hanging threads behind when it ends.
    """
    roots = [str(Path(module.__file__ or "").parents[1]) for module in (killpath, libvirt_auth)]
    return [sys.executable, "-ISB", "-c", _PROGRAM, *roots, *call]


def inspect(connection: VirConnect, text: str) -> Found:
    """Find the domain and read its state and leases; CONNECTION is closed."""
    try:
        domain = find_domain(connection, text)
        state = int(domain.state()[0])
        name, uuid = domain.name(), domain.UUIDString()
    except libvirt.libvirtError as error:
        raise failure("read the domain's state", error) from error
    finally:
        connection.close()
    return Found(name, uuid, state, *_leases(uuid, state))


def _leases(uuid: str, state: int) -> tuple[list[Lease] | None, str]:
    """The leases that the domain's process holds: also one that libvirtd has forgotten, and has as off."""
    process = processes.find(uuid)
    found = [process] if process else processes.Processes().scan(uuid)
    if not found and state != libvirt.VIR_DOMAIN_SHUTOFF:
        return None, "its process was not found"
    try:
        return [lease for process in found for lease in held_by(process.pid)], ""
    except LeasesUnknownError as error:
        return None, str(error)


def _state_after(connection: VirConnect, uuid: str) -> str:
    try:
        return state_name(int(connection.lookupByUUIDString(uuid).state()[0]))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return "absent"
        raise failure("read the domain's state", error) from error
    finally:
        connection.close()


def _harms(found: Found, action: str) -> bool:
    return action in _HARMLESS and found.state not in _HARMLESS[action]


def _print_plan(found: Found, action: str, call: list[str]) -> None:
    held = None if found.leases is None else ", ".join(map(str, found.leases)) or "none"
    leases = f"not read: {found.why}" if held is None else held
    for label, text in (
        ("domain:", Piece(f"{plain(found.name)}, {found.uuid}")),
        ("state:", Piece(state_name(found.state))),
        ("leases:", Piece(plain(leases))),
        ("will:", Piece(_will(found, action))),
        ("call:", Piece(plain(shlex.join(call)), is_command=True)),
    ):
        print_pieces([Piece(f"{label:9}"), text], indent=9)


def _will(found: Found, action: str) -> str:
    """What ACTION does to the domain as it was found."""
    if found.state == libvirt.VIR_DOMAIN_SHUTOFF and action in ("poweroff", "pause") and not found.leases:
        cannot = ", and cannot be paused" if action == "pause" else ""
        return f"do nothing: it is off{cannot}; verify that"
    return _WORDS[action]


def _data(
    found: Found, action: str, call: list[str], status: int | None, after: str | None
) -> dict[str, Any]:
    return {
        "domain": {"name": found.name, "uuid": found.uuid, "state": state_name(found.state)},
        "leases": None if found.leases is None else list(map(str, found.leases)),
        "action": action,
        "call": call,
        "dry_run": status is None,
        "exit_status": status,
        "state_after": after,
    }
