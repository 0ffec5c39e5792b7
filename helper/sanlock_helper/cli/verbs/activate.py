# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put this helper in the place of libvirt's on the host itself, for a sanlock that cannot be restarted now.

The file of libvirt's package becomes a symbolic link to ours, at once and for every mount namespace, and is
made one again after each update of that package.  Libvirt's own helper is kept beside it.
"""

from __future__ import annotations

import argparse

from ...errors import HelperError
from ...events import Event
from ...install import activation
from ...install.host import Host
from ...journal import Journal
from ..remedy_parts import pieces_of
from ..terminal import ask, plain, print_pieces

_WHAT = """\
{} is a file of libvirt's package, and becomes a link to {}.
virt-sanlock-helper activate --undo takes it back.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument("--undo", action="store_true", help="put libvirt's own helper back")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    # For the package's triggers: put right what an update of libvirt's package undid.
    parser.add_argument("--after-update", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Do it; 1 when the answer was no.  Raises HelperError."""
    host = Host()
    if arguments.after_update:
        return _after_update(host)
    if arguments.undo:
        print_pieces(pieces_of(plain(activation.undo(host))))
        return 0
    if (
        not arguments.yes
        and not host.is_replaced()
        and not ask("activate", _WHAT.format(host.stock(), host.ours))
    ):
        print("nothing was changed")
        return 1
    print_pieces(pieces_of(plain(activation.activate(host))))
    return 0


def _after_update(host: Host) -> int:
    # A trigger's output is not kept.
    journal = Journal()
    try:
        for line in activation.after_update(host):
            journal.report(Event("updated", note=line))
    except HelperError as error:
        journal.report(Event("update-failed", note=error))
        return 1
    finally:
        journal.flush()
    return 0
