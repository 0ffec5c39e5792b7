# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a virtual machine safe when sanlock has lost its lease.

sanlock runs the killpath executable once per process that lost its leases; this package is what that
executable does.  Most of hundreds of such processes only hand their request over and end: for that nothing is
imported but C modules of the standard library, this package, killpath and handover.  These, and what a
stand-by needs beside them (call, invocation, spool), quote what ``from __future__ import annotations`` would
defer, since that is one more file to load, and load what only some of the processes need where it is needed.
"""

# What the program is called in syslog.
IDENTIFIER = "virt-sanlock-helper"

# On tmpfs, root's alone: the spool, the locks and the records (packaging/tmpfiles.conf).
RUNTIME_DIR = "/run/virt-sanlock-helper"

# Where the numbers of inherited descriptors end, when they cannot be listed.
MOST_DESCRIPTORS = 65536

# How the UUIDs of the domains begin that `drill` makes: "drill" in ASCII.  Such a domain is not brought back,
# and what happens to it is no outage.
DRILL_UUIDS = "6472696c-6c00-4000-8000-"

__version__ = "0.1.0"
