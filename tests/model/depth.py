# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far the models are searched: `make model` sets SANLOCK_HELPER_MODEL=full, and goes one step further."""

from __future__ import annotations

import os

DEEPER = os.environ.get("SANLOCK_HELPER_MODEL") == "full"
