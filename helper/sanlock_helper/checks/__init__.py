# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is this host ready to lose its storage?

A check is a function with the name, what is wanted, and what it reads: registry.py.  facts.py reads the host,
plan.py has the order, cli/check_lines.py prints.
"""
