# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of this host's domains by UUID, from libvirt's own files: without libvirtd and libvirt-python."""

from __future__ import annotations

import os
import re

from ..errors import PermanentError
from ..regular_file import read_regular
from .status_files import StatusFiles

# The XML of persistent domains: configDir of libvirt src/qemu/qemu_conf.c.
CONFIG_DIR = "/etc/libvirt/qemu"

_UUID = re.compile(rb"<uuid>\s*([0-9a-fA-F-]{36})\s*</uuid>")
_SUFFIX = ".xml"
# The UUID of a domain stands near the beginning of its file.
_MOST_BYTES = 64 * 1024


def names_by_uuid(files: StatusFiles | None = None, config_dir: str = CONFIG_DIR) -> dict[str, str]:
    """What the host knows; what is in FILES, of running domains, counts for more.

    CONFIG_DIR has those that are defined.  Raises nothing: what cannot be read is left out.
    """
    found = {}
    try:
        entries = [entry for entry in os.scandir(config_dir) if entry.name.endswith(_SUFFIX)]
    except OSError:
        entries = []
    for entry in entries:
        uuid = _uuid_in(entry.path)
        if uuid:
            # libvirt names the file after the domain: virDomainConfigFile() in src/conf/domain_conf.c.
            found[uuid] = entry.name[: -len(_SUFFIX)]
    found.update({status.uuid: status.name for status in (files or StatusFiles()).all()})
    return found


def _uuid_in(path: str) -> str:
    try:
        match = _UUID.search(read_regular(path, _MOST_BYTES))
    except (OSError, PermanentError):
        return ""
    return match[1].decode("ascii").lower() if match else ""
