# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is this host ready to lose its storage?

A check takes what it reads as arguments and returns a Finding; facts.py gathers, plan.py says which checks
there are, verbs/check.py prints.
"""
