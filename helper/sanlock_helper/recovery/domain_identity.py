# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the domain that has a record's UUID now is the machine that the record is of.

A UUID may have been given to another machine since: the one that lost its leases was undefined, and another
one was defined with its UUID, from a template for example.  To start that one is not what recovery is for.
A machine is known by its name and by what it writes to: its leases and its disks.  Only a new name is a
rename, and other disks beside one that is the same are hot-plugged ones.
"""

from __future__ import annotations

import hashlib
import os
import stat

from ..errors import PermanentError
from ..records.record import Record
from ..virt.domain_xml import XMLError, parse_xml
from ..virt.qemu_sanlock_conf import LOCKSPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xml.etree import ElementTree

CONFIG_DIR = "/etc/libvirt/qemu"

# More than the XML of a domain may have (4 MiB, libvirt src/remote/remote_protocol.x).
_MAX_BYTES = 10 * 1024 * 1024

# What names a disk's content in its <source>, for each of its types (libvirt docs/formatdomain.rst).
_SOURCE = ("file", "dev", "dir", "pool", "volume", "protocol", "name")


def why_another(record: Record, name: str, xml: str) -> str:
    """Why the domain NAME with the definition XML is another machine than RECORD is of, "" when it is not.

    Raises PermanentError for XML that is none.
    """
    old_leases = {(lease.lockspace, lease.resource) for lease in record.leases}
    old_disks = disks(record.xml) if record.xml else set()
    new_leases, new_disks = leases(xml), disks(xml)
    if old_leases & new_leases or old_disks & new_disks:
        return ""
    if name != record.name:
        what = "its leases and disks are others" if old_leases or old_disks else "no lease of it is known"
        return f"its name was {record.name!r} and is {name!r}, and {what}: another machine may have its UUID"
    # A record or a definition that names nothing it writes to proves nothing; storage that is mounted
    # elsewhere keeps the names of its files.
    is_comparable = (old_leases or old_disks) and (new_leases or new_disks)
    if not is_comparable or _files(old_disks) & _files(new_disks):
        return ""
    return "its leases and disks are all others than those that it lost: another machine may have its UUID"


def is_persistent(name: str, uuid: str, folder: str = CONFIG_DIR) -> bool:
    """Whether libvirt keeps a definition of domain UUID on disk, as far as that can be read.

    That is known without libvirtd: virDomainConfigFile() in libvirt src/conf/domain_conf.c names the file.
    """
    try:
        descriptor = os.open(f"{folder}/{name}.xml", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return False
            text = os.read(descriptor, _MAX_BYTES)
        finally:
            os.close(descriptor)
        return parse_xml(text).findtext("uuid") == uuid
    except (OSError, ValueError):
        return False


def leases(xml: str) -> set[tuple[str, str]]:
    """The lockspace and the resource of each lease that libvirt takes for the definition XML.

    Those of disks are made of their paths (virLockManagerSanlockAddDisk() in libvirt
    src/locking/lock_driver_sanlock.c).
    """
    found = set()
    for lease in definition(xml).findall("devices/lease"):
        key = lease.findtext("key")
        if key:
            found.add((lease.findtext("lockspace") or "", key))
    for source in _sources(xml):
        path = source.get("file") or source.get("dev") or source.get("dir")
        if path:
            digest = hashlib.md5(path.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
            found.add((LOCKSPACE, digest))
    return found


def disks(xml: str) -> set[tuple[str, ...]]:
    """What the definition XML has of disks that can be written to, each as the words of its <source>."""
    found = {tuple(source.get(word, "") for word in _SOURCE) for source in _sources(xml)}
    return {words for words in found if any(words)}


def _files(found: set[tuple[str, ...]]) -> set[str]:
    """The names of image files without their directories: storage that is mounted elsewhere keeps them."""
    return {os.path.basename(words[0]) for words in found if words[0]}


def _sources(xml: str) -> list[ElementTree.Element]:
    return [
        source
        for disk in definition(xml).findall("devices/disk")
        if disk.find("readonly") is None and disk.find("shareable") is None
        for source in disk.findall("source")
    ]


def definition(xml: str) -> ElementTree.Element:
    """The root element of a domain's XML.  Raises PermanentError, with the reason, where it is none."""
    try:
        return parse_xml(xml)
    except XMLError as error:
        raise PermanentError("the domain's XML", str(error)) from error
