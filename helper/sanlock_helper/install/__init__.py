# SPDX-License-Identifier: LGPL-2.1-or-later
"""The installation on this host: which helper sanlock would run, and how to change that."""
