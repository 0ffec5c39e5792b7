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
    try:
        return _read(domain, libvirt.VIR_DOMAIN_AFFECT_CURRENT)
    except libvirt.libvirtError as error:
        raise failure("read the domain's metadata", error) from error


def of_xml(xml: str) -> Policy:
    """The policy in the metadata in a domain's XML.

    Raises PolicyError when the element is malformed, PermanentError when the XML is.
    """
    try:
        root = parse_xml(xml)
    except XMLError as error:
        raise PermanentError("the domain's XML", str(error)) from error
    return of_element(root)


def of_element(domain: ElementTree.Element) -> Policy:
    """The same for the element of a DOMAIN."""
    for element in domain.iterfind("metadata/*"):
        # As libvirt finds it: by the namespace alone, the first one (virXMLFindChildNodeByNs() in libvirt
        # src/util/virxml.c).
        if element.tag.startswith(_SPACE):
            return _policy(element, lambda: domain.findtext("uuid", "DOMAIN"))
    return Policy()


def settings(domain: VirDomain) -> dict[str, Policy]:
    """The policy of DOMAIN's definitions, as there are: "live", "persistent" or both."""
    try:
        return {name: _read(domain, flag) for name, flag in _definitions(domain)}
    except libvirt.libvirtError as error:
        raise failure("read the domain's metadata", error) from error


def set_policy(domain: VirDomain, changes: Mapping[str, str]) -> None:
    """Write CHANGES, values by attribute, into both definitions of DOMAIN; the other attributes of each stay.

    In one call, unless the definitions differ in those.  Raises PolicyError, with nothing changed, where the
    element is malformed and CHANGES do not mend that; PermanentError or TransientError of libvirtd.
    """
    if "recover" not in changes:
        settings(domain)
    try:
        flags_of: dict[str, int] = {}
        for _, flag in _definitions(domain):
            # Without a namespace of its own: libvirt adds the one it is given.
            element = ElementTree.Element(PREFIX, {**_attributes(domain, flag), **changes})
            text = ElementTree.tostring(element, encoding="unicode")
            flags_of[text] = flags_of.get(text, 0) | flag
        for text, flags in flags_of.items():
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, PREFIX, NAMESPACE, flags)
    except libvirt.libvirtError as error:
        raise failure("write the domain's metadata", error) from error


def _attributes(domain: VirDomain, flag: int) -> dict[str, str]:
    """The attributes that the definition FLAG of DOMAIN has now, none where its element is another one."""
    try:
        element = parse_xml(_text(domain, flag))
    except XMLError:
        return {}
    is_ours = element.tag in (_TAG, PREFIX)
    return {name: value for name, value in element.attrib.items() if is_ours and "}" not in name}


def _definitions(domain: VirDomain) -> list[tuple[str, int]]:
    found = []
    if domain.isActive():
        found.append(("live", libvirt.VIR_DOMAIN_AFFECT_LIVE))
    if domain.isPersistent():
        found.append(("persistent", libvirt.VIR_DOMAIN_AFFECT_CONFIG))
    return found


def _text(domain: VirDomain, flags: int) -> str:
    """The element as libvirt gives it, an empty one where there is none.  Raises libvirtError."""
    try:
        return domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, flags)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return f"<{PREFIX}/>"
        raise


def _read(domain: VirDomain, flags: int) -> Policy:
    try:
        element = parse_xml(_text(domain, flags))
    except XMLError as error:
        raise PolicyError(str(error), domain.UUIDString()) from error
    return _policy(element, lambda: str(domain.UUIDString()))


def _policy(element: ElementTree.Element, uuid: Callable[[], str]) -> Policy:
    # What libvirt gives out of the metadata may be without the namespace that it was found by, and so may the
    # attributes: virXMLExtractNamespaceXML() in libvirt src/util/virxml.c.
    if element.tag not in (_TAG, PREFIX):
        name = element.tag.rpartition("}")[2]
        raise PolicyError(f"<{name[:60]}> is not <{PREFIX}>", uuid())
    attributes = {name.removeprefix(_SPACE): value for name, value in element.attrib.items()}
    if len(attributes) < len(element.attrib):
        # With the namespace and without: libvirt gives it twice without.
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
