# SPDX-License-Identifier: LGPL-2.1-or-later
"""End-to-end tests on a real sanlock, virtlogd, libvirtd and QEMU in private namespaces."""
