# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt and QEMU: connections, domains, their processes, their configuration files."""
