# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a domain is to be brought back: an element in its metadata.

    <metadata>
      <lockfailure xmlns="urn:virt-sanlock-helper:1" recover="yes"/>
    </metadata>

It refines on_lockfailure: what was powered off is started again, what was paused is resumed.  Every reader
of it is here, so that they all read the same.
"""

from __future__ import annotations

from typing import Callable

import libvirt

from ..errors import PermanentError
from ..escapes import shown
from .connection import failure
from .domain_xml import XMLError, parse_xml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xml.etree import ElementTree

    from .api import VirDomain

NAMESPACE = "urn:virt-sanlock-helper:1"
PREFIX = "lockfailure"
_TAG = f"{{{NAMESPACE}}}lockfailure"

_WHAT = "the recovery policy in its metadata"


class PolicyError(PermanentError):
    """The element of domain UUID is malformed: whether to bring the domain back is not known."""

    def __init__(self, why: str, uuid: str) -> None:
        super().__init__(_WHAT, why, f"virt-sanlock-helper policy {uuid} --recover, or --no-recover")


def is_malformed(why: str) -> bool:
    """Whether WHY is a PolicyError's text: the refusal of a record that ends when the policy is set anew."""
    return why.startswith(f"{_WHAT}: ")


def recovers(domain: VirDomain) -> bool:
    """Whether the metadata of DOMAIN asks for recovery.

    Raises TransientError or PermanentError when libvirtd does not answer, or the element is malformed.
    """
    try:
        # The running definition of a running domain, else the persistent one.
        return _read(domain, libvirt.VIR_DOMAIN_AFFECT_CURRENT)
    except libvirt.libvirtError as error:
        raise failure("read the domain's metadata", error) from error


def in_xml(xml: str) -> bool:
    """Whether the metadata in a domain's XML asks for recovery.

    Raises PolicyError when the element is malformed, PermanentError when the XML is.
    """
    try:
        root = parse_xml(xml)
    except XMLError as error:
        raise PermanentError("the domain's XML", str(error)) from error
    return in_element(root)


def in_element(domain: ElementTree.Element) -> bool:
    """The same for the element of a DOMAIN."""
    for element in domain.iterfind("metadata/*"):
        # As libvirt finds it: by the namespace alone, the first one (virXMLFindChildNodeByNs() in libvirt
        # src/util/virxml.c).
        if element.tag.startswith(f"{{{NAMESPACE}}}"):
            return _value(element, lambda: domain.findtext("uuid", "DOMAIN"))
    return False


def settings(domain: VirDomain) -> dict[str, bool]:
    """The policy of DOMAIN's definitions, as there are: "live", "persistent" or both."""
    try:
        return {name: _read(domain, flag) for name, flag in _definitions(domain)}
    except libvirt.libvirtError as error:
        raise failure("read the domain's metadata", error) from error


def set_policy(domain: VirDomain, recover: bool) -> None:
    """Write RECOVER into both definitions of DOMAIN."""
    # The element without a namespace of its own: libvirt adds the one it is given.
    element = f'<lockfailure recover="{"yes" if recover else "no"}"/>'
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    try:
        flags = 0
        for _, flag in _definitions(domain):
            flags |= flag
        domain.setMetadata(kind, element, PREFIX, NAMESPACE, flags)
    except libvirt.libvirtError as error:
        raise failure("write the domain's metadata", error) from error


def _definitions(domain: VirDomain) -> list[tuple[str, int]]:
    found = []
    if domain.isActive():
        found.append(("live", libvirt.VIR_DOMAIN_AFFECT_LIVE))
    if domain.isPersistent():
        found.append(("persistent", libvirt.VIR_DOMAIN_AFFECT_CONFIG))
    return found


def _read(domain: VirDomain, flags: int) -> bool:
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, flags)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return False
        raise
    try:
        element = parse_xml(text)
    except XMLError as error:
        raise PolicyError(str(error), domain.UUIDString()) from error
    return _value(element, lambda: str(domain.UUIDString()))


def _value(element: ElementTree.Element, uuid: Callable[[], str]) -> bool:
    # What libvirt gives out of the metadata may be without the namespace that it was found by.
    if element.tag not in (_TAG, PREFIX):
        name = element.tag.rpartition("}")[2]
        raise PolicyError(f"<{name[:60]}> is not <{PREFIX}>", uuid())
    value = element.get("recover", "no")
    if value not in ("yes", "no"):
        raise PolicyError(f"recover is {shown(value)}, neither yes nor no", uuid())
    return value == "yes"
