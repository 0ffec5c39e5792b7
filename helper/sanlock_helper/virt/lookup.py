# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains by whatever an administrator calls them."""

from __future__ import annotations

import shlex
import uuid

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


def as_argument(name: str, uuid: str) -> str:
    """What names the domain in a command that is to be pasted: its NAME, or its UUID.

    The UUID where a shell, virsh or find_domain() would take the name for something else: for more words or
    an option, for another domain's id or UUID.
    """
    is_one_word = shlex.quote(name) == name and not name.startswith("-")
    return name if is_one_word and not name.isdigit() and not _is_uuid(name) else uuid


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
