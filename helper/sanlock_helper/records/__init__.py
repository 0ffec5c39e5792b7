# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recovery records: what the helper writes down of a domain, and recovery reads."""
