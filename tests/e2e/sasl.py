# SPDX-License-Identifier: LGPL-2.1-or-later
"""SASL on libvirtd's unix socket."""

from __future__ import annotations

from .daemons import Libvirtd
from .namespace import Namespace

USERS = "/etc/libvirt/passwd.db"

_MECHANISM = f"""\
mech_list: scram-sha-256
sasldb_path: {USERS}
"""

_AUTH_CONF = """\
[credentials-fixture]
authname={user}
password={password}

[auth-libvirt-localhost]
credentials=fixture
"""


def prepare(space: Namespace, user: str, password: str) -> None:
    """Make one user for SCRAM-SHA-256, and keep the credentials for the fixture's own virsh."""
    space.path("/etc/sasl2/libvirt.conf").write_text(_MECHANISM)
    space.run(
        "saslpasswd2",
        # Password from standard input, not from a terminal.
        "-p",
        "-a", "libvirt",
        # Create the user.
        "-c", user,
        "-f", USERS,
        input=password,
    )  # fmt: skip
    path = space.path(Libvirtd.auth_file)
    path.write_text(_AUTH_CONF.format(user=user, password=password))
    path.chmod(0o600)
