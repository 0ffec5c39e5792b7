# SPDX-License-Identifier: LGPL-2.1-or-later
"""For all models: they run without coverage."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _untraced(untraced: None) -> None:
    pass
