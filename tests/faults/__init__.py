# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults of the host around one call of the helper: each fault at each stage of each action."""
