# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry of the journal as the event that this program logged: by its fields, else by its line.

Entries that came by syslog, and those of earlier versions, have no fields.  The fields of an entry count for
as much as its line does: only what journald vouches for is read at all, see journal_entries.is_trusted().
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..events import FIELD, KINDS, Event, is_action, is_uuid

# Fields of this program's that are no parts of an event.
_OWN = (f"{FIELD}ACTION", f"{FIELD}OUTCOME")

_BY_ID = {kind.message_id: name for name, kind in KINDS.items()}


def read_event(message: str, fields: Mapping[str, str]) -> Event | None:
    """The event of an entry with this MESSAGE and FIELDS; None where it is none of this program."""
    return from_fields(fields) or Event.parse(message)


def from_fields(fields: Mapping[str, str]) -> Event | None:
    """The event that FIELDS are of: see Event.fields().  None without them, or of a kind not known here.

    A newer version may log kinds that this one does not have; their lines are read then.
    """
    kind = _BY_ID.get(fields.get("MESSAGE_ID", ""))
    uuid, action = fields.get("DOMAIN_UUID", ""), fields.get(f"{FIELD}ACTION", "")
    if kind is None or (uuid and not (is_uuid(uuid) and is_action(action))):
        return None
    parts: dict[str, Any] = {
        name[len(FIELD) :].lower(): value
        for name, value in fields.items()
        if name.startswith(FIELD) and name not in _OWN
    }
    event = Event(kind, action, uuid, fields.get("DOMAIN_NAME", ""))
    event.parts = parts
    return event


def is_field(name: str) -> bool:
    """Whether a journal field of that NAME is one of an event's."""
    return name in ("MESSAGE_ID", "DOMAIN_UUID", "DOMAIN_NAME") or name.startswith(FIELD)
