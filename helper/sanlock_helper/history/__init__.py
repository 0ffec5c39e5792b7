# SPDX-License-Identifier: LGPL-2.1-or-later
"""Past outages and coming ones, out of the journal, the records and the leases."""
