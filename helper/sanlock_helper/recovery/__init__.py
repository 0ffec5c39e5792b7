# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains brought back under their leases when the storage has returned."""
