# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt and QEMU: connections, domains, their processes, their configuration files."""

# The namespace of this program's element in a domain's metadata: see policy.py.
NAMESPACE = "urn:virt-sanlock-helper:1"

# The connection to the host's own QEMU driver.
SYSTEM_URI = "qemu:///system"

# Calls that this program makes at a time: libvirtd has 20 ordinary workers and 5 for high-priority calls
# (libvirtd.conf).
IN_FLIGHT = 25

# Poweroffs and restarts that are prepared meanwhile, each over a connection of its own: more than end at one
# time.
AHEAD = 8
