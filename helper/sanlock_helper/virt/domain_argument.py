# SPDX-License-Identifier: LGPL-2.1-or-later
"""What names a domain in a pasted command: its name, or its UUID where virsh takes that for something else.

virsh takes an argument for an id, then a UUID, then a name (virshLookupDomainInternal() in libvirt
``tools/virsh-util.c``), and libvirt forbids none of these as a name: `virsh destroy 5` ends the domain with
the id 5, also where another one has that name.
"""

from __future__ import annotations

import re
import shlex
import uuid

# virStrToLong_i() takes what strtol(3) takes.
_NUMBER = re.compile(r"\s*[-+]?\d+")


def as_argument(name: str, uuid: str) -> str:
    """NAME where it is one word that a shell and virsh take for the name alone; else UUID."""
    return name if shlex.quote(name) == name and not is_ambiguous(name) else uuid


def quoted_argument(name: str, uuid: str) -> str:
    """NAME, in quotes where a shell needs them, where virsh takes it for the name alone; else UUID."""
    return shlex.quote(uuid if is_ambiguous(name) else name)


def is_ambiguous(name: str) -> bool:
    """Whether virsh takes NAME for an option, an id or a UUID, or it cannot be printed as it is."""
    return not name.isprintable() or name.startswith("-") or bool(_NUMBER.fullmatch(name)) or is_uuid(name)


def is_uuid(text: str) -> bool:
    """Whether TEXT is one, with hyphens and blanks where virUUIDParse() takes them."""
    try:
        uuid.UUID(text.replace(" ", ""))
    except ValueError:
        return False
    return True
