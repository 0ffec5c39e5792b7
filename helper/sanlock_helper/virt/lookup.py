# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains by whatever an administrator calls them."""

from __future__ import annotations

import libvirt

from ..errors import PermanentError
from ..numbers import whole_number
from .connection import failure, is_no_domain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import VirConnect, VirDomain


def find_domain(connection: VirConnect, text: str) -> VirDomain:
    """The virDomain that TEXT names: an id, a UUID or a name, tried in that order as virsh does.

    Raises PermanentError when there is none, TransientError when libvirtd does not answer.  Source: virsh's
    virshLookupDomainInternal() in libvirt ``tools/virsh-util.c``.
    """
    lookups = [connection.lookupByName]
    if _is_uuid(text):
        lookups.insert(0, connection.lookupByUUIDString)
    number = whole_number(text)
    if number is not None:
        lookups.insert(0, lambda _: connection.lookupByID(number))
    for lookup in lookups:
        try:
            return lookup(text)
        except (UnicodeEncodeError, OverflowError):
            continue  # libvirt's names are UTF-8 and its ids are C ints: what is not names nothing
        except libvirt.libvirtError as error:
            if not is_no_domain(error):
                raise failure(f"look up domain {text!r}", error) from error
    raise PermanentError(f"domain {text!r}", "there is no such domain", "see virsh list --all")


def all_domains(connection: VirConnect) -> list[VirDomain]:
    """All domains of CONNECTION, by name.  Raises TransientError or PermanentError without an answer."""
    try:
        return sorted(connection.listAllDomains(), key=lambda domain: domain.name())
    except libvirt.libvirtError as error:
        raise failure("list the domains", error) from error


def _is_uuid(text: str) -> bool:
    """Whether TEXT is a UUID with its hyphens in their places, or with none.

    A name may have what uuid.UUID() takes for one, as braces, and what libvirt does, as hyphens elsewhere.
    """
    digits = text.replace("-", "")
    places = [place for place, char in enumerate(text) if char == "-"]
    is_hexadecimal = len(digits) == 32 and not digits.strip("0123456789abcdefABCDEF")
    return is_hexadecimal and places in ([], [8, 13, 18, 23])
