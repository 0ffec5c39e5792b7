# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock: its daemon, its lockspaces and leases, and the times that follow from its settings."""
