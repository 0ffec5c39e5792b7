# SPDX-License-Identifier: LGPL-2.1-or-later
"""In which form a verb prints its data: for people, as JSON, or for a monitoring system."""

from __future__ import annotations

import argparse

TEXT = "text"
JSON = "json"
OPENMETRICS = "openmetrics"
# Of check alone, which has an option of its own for it.
PLUGIN = "plugin"


def add_format(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """The options --format, and --json, which is --format json; returns their group."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--format",
        choices=(TEXT, JSON, OPENMETRICS),
        default=TEXT,
        help="text (default), json: one document, see packaging/schema, or openmetrics",
    )
    choice.add_argument("--json", dest="format", action="store_const", const=JSON, help="as --format json")
    return choice
