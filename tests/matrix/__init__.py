# SPDX-License-Identifier: LGPL-2.1-or-later
"""The suite in the root of another distribution: `python3 -m tests.matrix --help`."""
