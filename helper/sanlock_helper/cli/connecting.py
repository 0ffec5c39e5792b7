# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verbs that connect to libvirt share: the option --connect, and a time limit."""

from __future__ import annotations

import argparse
import os

from libvirt_auth.uri import URI

from ..errors import RUN_AS_ROOT, TransientError
from ..threads import within
from ..virt import SYSTEM_URI, libvirt_daemon
from .terminal import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect

DEFAULT_URI = SYSTEM_URI

CONNECT_SECONDS = 10.0


def add_connect(
    parser: argparse.ArgumentParser, what: str = "default: %(default)s", default: str | None = DEFAULT_URI
) -> None:
    """The option -c, --connect, as virsh has it; WHAT is its help."""
    parser.add_argument("-c", "--connect", metavar="URI", type=uri_argument, default=default, help=what)


def uri_argument(text: str) -> str:
    """TEXT, if libvirt could take it for a URI: nothing is looked up, and an empty one means no guess."""
    if not text or plain(text) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no URI; one is for example {DEFAULT_URI}")
    return text


def connect_within(uri: str, seconds: float = CONNECT_SECONDS) -> VirConnect:
    """A connection to URI.  Raises PermanentError, or TransientError when there is none within SECONDS."""
    # Not every use of a verb with this option connects, and not every host has libvirt-python.
    from ..virt.connection import connect

    try:
        return within(seconds, f"connect to {uri}", lambda: connect(uri))
    except TransientError as error:
        raise TransientError(error.what, error.why, error.hint or _remedy(uri)) from error


def _remedy(uri: str) -> str:
    """What to do when libvirt's daemon does not answer."""
    if URI(uri).server:
        return "see virsh connect, and the daemon of that host"
    if os.geteuid() != 0:
        return RUN_AS_ROOT
    return libvirt_daemon.remedy(libvirt_daemon.HostFiles())
