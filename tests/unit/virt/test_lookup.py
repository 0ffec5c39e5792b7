# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains by what an administrator types, on libvirt's test driver."""

from __future__ import annotations

import pytest

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.errors import PermanentError  # noqa: E402
from sanlock_helper.virt.lookup import find_domain  # noqa: E402

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
DIGITS = UUID.replace("-", "")
OTHER = "11111111-2222-3333-4444-555555555555"
XML = (
    "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>8192</memory>"
    "<os><type>hvm</type></os></domain>"
)


@pytest.mark.parametrize("text", ["9" * 20, "9" * 21, "9" * 5000, "\u00b2", "1_0", "-1", "99"])
def test_what_is_no_id_names_nothing(text: str) -> None:
    connection = libvirt.open("test:///default")
    try:
        assert find_domain(connection, "1").name() == "test"
        with pytest.raises(PermanentError, match="there is no such domain"):
            find_domain(connection, text)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "name",
    [
        f"{{{UUID}}}",
        f"urn:uuid:{UUID}",
        f"6-{DIGITS[1:]}",
        f"{DIGITS[:-1]}-f",
        f"-{DIGITS}",
        f"{UUID}0",
        OTHER[:-1] + "6",
        OTHER.replace("-", "")[:-1] + "6",
        "+7",
        "0x1",
        "..",
        "a b ",
        "-x",
        "%s",
        "&lt;&amp;",
    ],
)
def test_a_name_that_looks_like_something_else_is_found(name: str) -> None:
    connection = libvirt.open("test:///default")
    try:
        text = name.replace("&", "&amp;")
        connection.defineXML(XML.format(name=text, uuid=OTHER))
        assert find_domain(connection, name).UUIDString() == OTHER
    finally:
        connection.close()


@pytest.mark.parametrize("text", [UUID, UUID.upper(), DIGITS, DIGITS.upper()])
def test_a_uuid_of_a_domain_is_not_the_name_of_another(text: str) -> None:
    connection = libvirt.open("test:///default")
    try:
        connection.defineXML(XML.format(name=text, uuid=OTHER))
        assert find_domain(connection, text).UUIDString() == UUID
    finally:
        connection.close()
