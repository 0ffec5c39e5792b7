# SPDX-License-Identifier: LGPL-2.1-or-later
"""Be ready before leases are lost: an agent that stays in memory, with its connections to libvirtd open.

virt-sanlock-helper-agent.service runs this, and ends it with SIGTERM.  Without it the first process that
sanlock runs becomes the agent.
"""

from __future__ import annotations

import argparse
import os

from ...errors import RUN_AS_ROOT, PermanentError
from ..connecting import add_connect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    add_connect(parser, "where connections are kept open to (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Stand until SIGTERM or SIGINT."""
    if os.geteuid() != 0:
        raise PermanentError("stand", "the spool is root's", RUN_AS_ROOT)
    from ...agent.standing import stand

    return stand(arguments.connect)
