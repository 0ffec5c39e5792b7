# SPDX-License-Identifier: LGPL-2.1-or-later
"""The <lease> elements of a domain's definition."""

from __future__ import annotations

from ..leases.held import Lease
from ..numbers import whole_number
from .domain_xml import XMLError, parse_xml


def explicit_leases(xml: str) -> list[Lease]:
    """What the definition XML has <lease> elements for, of no version; none where it is no XML."""
    try:
        elements = parse_xml(xml).findall("devices/lease")
    except XMLError:
        return []
    found = []
    for element in elements:
        target = element.find("target")
        path = "" if target is None else target.get("path", "")
        offset = whole_number("0" if target is None else target.get("offset", "0"))
        lockspace, key = element.findtext("lockspace") or "", element.findtext("key") or ""
        if path and offset is not None:
            found.append(Lease(lockspace, key, 0, path, offset))
    return found
