# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains by what an administrator types, on libvirt's test driver."""

from __future__ import annotations

import pytest

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.errors import PermanentError  # noqa: E402
from sanlock_helper.virt.lookup import find_domain  # noqa: E402


@pytest.mark.parametrize("text", ["9" * 20, "9" * 21, "9" * 5000, "\u00b2", "1_0", "-1", "99"])
def test_what_is_no_id_names_nothing(text: str) -> None:
    connection = libvirt.open("test:///default")
    try:
        assert find_domain(connection, "1").name() == "test"
        with pytest.raises(PermanentError, match="there is no such domain"):
            find_domain(connection, text)
    finally:
        connection.close()
