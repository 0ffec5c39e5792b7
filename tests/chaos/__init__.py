# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random faults, loads and outages over two hosts and ten machines, by a schedule made from a seed."""
