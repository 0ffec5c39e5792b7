# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command of a wheel, in which the Python packages are alone: pip does not install the program."""

from __future__ import annotations

import sys

from .. import IDENTIFIER
from ..errors import HelperError


def main() -> int:
    """Print that, and what is the way, on stderr; returns 1."""
    error = HelperError(
        "pip install",
        "this is not the way to install it: sanlock's program, its units and manual pages are not in it",
        "in a checkout: make deb, make rpm or make install; see docs/install.md",
    )
    print(f"{IDENTIFIER}: {error}", file=sys.stderr)
    return 1
