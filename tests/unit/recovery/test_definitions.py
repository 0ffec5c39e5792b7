# SPDX-License-Identifier: LGPL-2.1-or-later
"""The definition in a record is read by the one reader of a domain's XML, whatever its owner put into it."""

from __future__ import annotations

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.errors import PermanentError
from sanlock_helper.leases.held import Lease, Lockspace
from sanlock_helper.records.record import Record
from sanlock_helper.recovery.lease_places import places
from sanlock_helper.recovery.recorded_leases import own_lockspaces

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
LEASE = Lease("space", "vm1", 1, "/old/lease")
TARGET = "<lease><lockspace>space</lockspace><key>vm1</key><target path='/new/lease' offset='{}'/></lease>"
NO_XML = ["<domain", "<domain>\udcff</domain>", "<!DOCTYPE domain><domain/>", "<a>" * 300 + "</a>" * 300]


@pytest.mark.parametrize("xml", NO_XML)
def test_a_definition_that_is_none_is_an_error_with_its_reason(xml: str) -> None:
    with pytest.raises(PermanentError, match="the domain's XML"):
        own_lockspaces(None, Record(UUID, "vm1", "qemu:///system", "poweroff", xml=xml))


@pytest.mark.parametrize("xml", NO_XML)
def test_a_lease_is_where_it_was_noted_without_a_definition(xml: str) -> None:
    space = Lockspace("space", 1, "/old/space", 0)
    found, without = places(LEASE, space, [space], xml), places(LEASE, space, [space], "")
    assert [(place.path, place.offset) for place in found] == [
        (place.path, place.offset) for place in without
    ]


@pytest.mark.parametrize(("offset", "is_read"), [("1048576", True), ("9" * 5000, False), ("\u00b2", False)])
def test_the_offset_in_a_definition(offset: str, is_read: bool) -> None:
    xml = f"<domain><devices>{TARGET.format(offset)}</devices></domain>"
    found = places(LEASE, None, [], xml)
    assert [place.path for place in found if place.path == "/new/lease"] == ["/new/lease"] * is_read
