# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a domain is to be brought back, and when: an element in its metadata.

    <metadata>
      <lockfailure xmlns="urn:virt-sanlock-helper:1" recover="yes" priority="10" delay="30"/>
    </metadata>

It refines on_lockfailure: what was powered off is started again, what was paused is resumed.  Where it has no
"recover", the host's default decides: see host_conf.py.  Every reader of it is here, so that they all read
the same, but for the agent's: see metadata_attributes() in status_files.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, NamedTuple
from xml.etree import ElementTree

import libvirt

from ..errors import PermanentError
from ..escapes import shown
from ..numbers import DELAYS, PRIORITIES, number_within
from . import NAMESPACE
from .connection import failure
from .domain_xml import TWICE, XMLError, parse_xml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import VirDomain

PREFIX = "lockfailure"
# Before a name of that namespace, as xml.etree has it.
_SPACE = f"{{{NAMESPACE}}}"
_TAG = f"{_SPACE}{PREFIX}"

_WHAT = "the recovery policy in its metadata"

# The attributes that are numbers, with their limits.
_NUMBERS = {"priority": PRIORITIES, "delay": DELAYS}


class Policy(NamedTuple):
    """What the element of a domain asks for; None is what it has no attribute for.

    recover: whether to bring the domain back.  priority and delay: its place in the order of recovery, see
    recovery/order.py.  problem: which of these two is malformed, so that it counts as not given; else "".
    """

    recover: bool | None = None
    priority: int | None = None
    delay: int | None = None
    problem: str = ""


class PolicyError(PermanentError):
    """The element of domain UUID is malformed: whether to bring the domain back is not known."""

    def __init__(self, why: str, uuid: str) -> None:
        super().__init__(_WHAT, why, f"virt-sanlock-helper policy {uuid} --recover, or --no-recover")


def is_malformed(why: str) -> bool:
    """Whether WHY is a PolicyError's text: the refusal of a record that ends when the policy is set anew."""
    return why.startswith(f"{_WHAT}: ")


def of_domain(domain: VirDomain) -> Policy:
    """The policy in the metadata of DOMAIN: of its running definition, else of the persistent one.

    Raises TransientError or PermanentError when libvirtd does not answer, PolicyError when it is malformed.
    """
    return of_xml(_definition(domain, 0))


def of_xml(xml: str) -> Policy:
    """The policy in the metadata in a domain's XML.

    Raises PolicyError when the element is malformed, PermanentError when the XML is.
    """
    return of_element(_parsed(xml))


def of_element(domain: ElementTree.Element) -> Policy:
    """The same for the element of a DOMAIN."""
    element = _element(domain)
    return Policy() if element is None else _policy(element, lambda: domain.findtext("uuid", "DOMAIN"))


def settings(domain: VirDomain) -> dict[str, Policy]:
    """The policy of DOMAIN's definitions, as there are: "live", "persistent" or both."""
    return {each.name: of_xml(_definition(domain, each.xml_flags)) for each in _definitions(domain)}


def set_policy(domain: VirDomain, changes: Mapping[str, str]) -> None:
    """Write CHANGES, values by attribute, into both definitions of DOMAIN; the other attributes of each stay.

    In one call, unless the definitions differ in those.  Raises PolicyError, with nothing changed, where the
    element is malformed and CHANGES do not mend that; PermanentError or TransientError of libvirtd.
    """
    flags_of: dict[str, int] = {}
    for each in _definitions(domain):
        root = _parsed(_definition(domain, each.xml_flags))
        if "recover" not in changes:
            of_element(root)
        # Without a namespace of its own: libvirt adds the one it is given.
        element = ElementTree.Element(PREFIX, {**_kept(root), **changes})
        text = ElementTree.tostring(element, encoding="unicode")
        flags_of[text] = flags_of.get(text, 0) | each.flags
    try:
        for text, flags in flags_of.items():
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, PREFIX, NAMESPACE, flags)
    except libvirt.libvirtError as error:
        raise failure("write the domain's metadata", error) from error


class _Definition(NamedTuple):
    """One of a domain's definitions: its name, virDomainModificationImpact, and virDomainXMLFlags."""

    name: str
    flags: int
    xml_flags: int


_LIVE = _Definition("live", libvirt.VIR_DOMAIN_AFFECT_LIVE, 0)
_PERSISTENT = _Definition("persistent", libvirt.VIR_DOMAIN_AFFECT_CONFIG, libvirt.VIR_DOMAIN_XML_INACTIVE)


def _definitions(domain: VirDomain) -> list[_Definition]:
    """Those that DOMAIN has."""
    try:
        found = [_LIVE] if domain.isActive() else []
        return [*found, _PERSISTENT] if domain.isPersistent() else found
    except libvirt.libvirtError as error:
        raise failure("read the domain's metadata", error) from error


def _definition(domain: VirDomain, xml_flags: int) -> str:
    """The XML of a definition of DOMAIN.

    Not its metadata alone: virDomainGetMetadata() of libvirt 12.8.0 ends the daemon where an attribute has
    the element's own prefix (virXMLExtractNamespaceXML() in libvirt src/util/virxml.c).
    """
    try:
        return domain.XMLDesc(xml_flags)
    except libvirt.libvirtError as error:
        raise failure("read the domain's metadata", error) from error


def _parsed(xml: str) -> ElementTree.Element:
    try:
        return parse_xml(xml)
    except XMLError as error:
        raise PermanentError("the domain's XML", str(error)) from error


def _element(domain: ElementTree.Element) -> ElementTree.Element | None:
    # As libvirt finds it: by the namespace alone, the first one (virXMLFindChildNodeByNs() in libvirt
    # src/util/virxml.c).
    return next((found for found in domain.iterfind("metadata/*") if found.tag.startswith(_SPACE)), None)


def _attributes(element: ElementTree.Element) -> dict[str, str] | None:
    """Those of ELEMENT, its own namespace left out; None where one is there with it and without."""
    found = {name.removeprefix(_SPACE): value for name, value in element.attrib.items()}
    return found if len(found) == len(element.attrib) else None


def _kept(domain: ElementTree.Element) -> dict[str, str]:
    """The attributes that are to stay in the element of DOMAIN, none where it is another one."""
    element = _element(domain)
    if element is None or element.tag != _TAG:
        return {}
    # None of them where it is not known which of two counts.
    return {name: value for name, value in (_attributes(element) or {}).items() if "}" not in name}


def _policy(element: ElementTree.Element, uuid: Callable[[], str]) -> Policy:
    if element.tag != _TAG:
        name = element.tag.rpartition("}")[2]
        raise PolicyError(f"<{name[:60]}> is not <{PREFIX}>", uuid())
    attributes = _attributes(element)
    if attributes is None:
        raise PolicyError(TWICE, uuid())
    value = attributes.get("recover")
    if value not in ("yes", "no", None):
        raise PolicyError(f"recover is {shown(value)}, neither yes nor no", uuid())
    numbers = {name: number_within(attributes.get(name, ""), limits) for name, limits in _NUMBERS.items()}
    bad = [name for name, number in numbers.items() if number is None and name in attributes]
    recover = None if value is None else value == "yes"
    return Policy(recover, **numbers, problem=_problem(attributes, bad, uuid) if bad else "")


def _problem(attributes: dict[str, str], bad: list[str], uuid: Callable[[], str]) -> str:
    """What is wrong with the ATTRIBUTES BAD, which are no numbers, and what to do about it."""
    found = [
        f"{name} is {shown(attributes[name])}, no whole number from {least} to {most}"
        for name, (least, most) in _NUMBERS.items()
        if name in bad
    ]
    options = " ".join(f"--{name} 0" for name in bad)
    return f"{_WHAT}: {'; '.join(found)}: it counts as 0 (virt-sanlock-helper policy {uuid()} {options})"
