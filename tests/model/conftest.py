# SPDX-License-Identifier: LGPL-2.1-or-later
"""For all models."""

from __future__ import annotations

import pytest

from tests.unit.examples import load_profile


def pytest_configure(config: pytest.Config) -> None:
    load_profile(config)
