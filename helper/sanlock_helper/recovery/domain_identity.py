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
import shlex
import stat
from typing import Callable

from ..errors import PermanentError, TransientError
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

# The path of a volume, by its pool and its name: "" for one on no storage of this host, None where it is not
# known.
PathOf = Callable[[str, str], "str | None"]


def why_another(record: Record, name: str, xml: str, path_of: PathOf) -> str:
    """Why the domain NAME with the definition XML is another machine than RECORD is of, "" when it is not.

    PATH_OF gives the paths of its volumes.  Raises PermanentError for XML that is none, TransientError where
    the name is another and a volume's path is not known.
    """
    old_leases = {(lease.lockspace, lease.resource) for lease in record.leases}
    old_disks = disks(record.xml) if record.xml else set()
    paths = {volume: path_of(*volume) for volume in volumes(xml)}
    new_leases = leases(xml) | {_lease_of(path) for path in paths.values() if path}
    new_disks = disks(xml)
    if old_leases & new_leases or old_disks & new_disks:
        return ""
    unknown = [volume for volume, path in paths.items() if path is None]
    if unknown and (old_leases or old_disks):
        return _unknown_volume(record, name, *unknown[0])
    if name != record.name:
        what = "its leases and disks are others" if old_leases or old_disks else "no lease of it is known"
        return f"its name was {record.name!r} and is {name!r}, and {what}: another machine may have its UUID"
    # A record or a definition that names nothing it writes to proves nothing; storage that is mounted
    # elsewhere keeps the names of its files.
    is_comparable = (old_leases or old_disks) and (new_leases or new_disks)
    if not is_comparable or _files(old_disks) & _files(new_disks):
        return ""
    return "its leases and disks are all others than those that it lost: another machine may have its UUID"


def _unknown_volume(record: Record, name: str, pool: str, volume: str) -> str:
    """The same for a domain with a volume whose path, and so whose lease, is not known."""
    if name == record.name:
        return ""
    raise TransientError(
        "compare the domain with its record",
        f"its name was {record.name!r} and is {name!r}, and the path of volume {volume} of pool {pool} is "
        "not known",
        f"virsh pool-start {shlex.quote(pool)}",
    )


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
    src/locking/lock_driver_sanlock.c).  A volume has its path from its pool: see volumes().
    """
    found = set()
    for lease in definition(xml).findall("devices/lease"):
        key = lease.findtext("key")
        if key:
            found.add((lease.findtext("lockspace") or "", key))
    for source in _sources(xml):
        path = source.get("file") or source.get("dev") or source.get("dir")
        if path:
            found.add(_lease_of(path))
    return found


def _lease_of(path: str) -> tuple[str, str]:
    digest = hashlib.md5(path.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
    return LOCKSPACE, digest


def volumes(xml: str) -> set[tuple[str, str]]:
    """The pool and the name of each volume that is a disk to be written to: libvirt locks it by its path.

    An iSCSI volume in mode direct is QEMU's own connection, and has none.
    """
    return {
        (source.get("pool", ""), source.get("volume", ""))
        for source in _sources(xml)
        if source.get("volume") and source.get("mode") != "direct"
    }


def has_leases(xml: str) -> bool:
    """Whether libvirt takes a lease for the definition XML, or may take one: for a volume of any kind."""
    return bool(leases(xml) or volumes(xml))


def has_leases_in(xml: str, lockspace: str) -> bool:
    """The same for those in LOCKSPACE."""
    is_automatic = lockspace == LOCKSPACE
    return any(name == lockspace for name, _ in leases(xml)) or (is_automatic and bool(volumes(xml)))


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
