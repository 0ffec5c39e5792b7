# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two records of one run of a domain are one: it stopped by an I/O error, and the killpath came for it, too.

Either may come first, and each knows what the other does not.  The one of the I/O error has the versions of
the leases, which libvirt gave up then, so that the killpath finds none; the killpath's has the action.
"""

from __future__ import annotations

from .record import Record


def combined(old: Record, new: Record) -> Record:
    """What is known of the run that OLD and NEW are of: NEW, completed; OLD where NEW adds nothing.

    NEW alone where they are not certainly of the same run.
    """
    if not new.is_of_same_run(old):
        return new
    if new.cause:
        if new.unknown and _is_known(old):
            return old
        new.tries = max(new.tries, old.tries)
        if not old.cause and old.action != "pause":
            # The killpath's action is done to it, before or after it stopped.
            new.action, new.xml, new.cause, new.tries = old.action, old.xml or new.xml, "", 0
    elif old.cause and _is_known(old) and not _is_known(new):
        # Where it was resumed since, its leases on storage have other versions, and recovery refuses it.
        new.lockspaces, new.leases, new.unknown = old.lockspaces, old.leases, ""
        if new.action == "pause":
            new.cause, new.tries = old.cause, old.tries
    return new


def _is_known(record: Record) -> bool:
    return bool(record.leases) and not record.unknown
