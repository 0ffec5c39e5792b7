# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a visit to a pending domain found: a verdict, and its reason."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ..virt import policy


class Verdict(Enum):
    """How a visit ended; after EARLY, WAIT and AGAIN the domain is visited again."""

    DONE = "done"  # it is back: the record goes
    DROPPED = "dropped"  # recovery is not to bring it back any more: the record goes
    LEFT_ALONE = "left"  # its policy does not ask for it, or it lost no lease: the record goes
    UNUSABLE = "unusable"  # no domain can have such a record: it is set aside
    UNDECIDED = (
        "undecided"  # whether to bring it back is not known: it stays as it is, and so does the record
    )
    REFUSED = "refused"  # it could come back, but must not by itself: the record stays for the administrator
    EARLY = "early"  # the helper is still making it safe
    WAIT = "wait"  # its lockspaces are not joined, or recovery was held
    AGAIN = "again"  # a failure that may pass


class VisitResult(NamedTuple):
    """A verdict and its reason, in words for the journal.

    lockspaces: the names of those that the domain's definition asks for, where its leases are not known.
    """

    verdict: Verdict
    text: str
    lockspaces: frozenset[str] = frozenset()

    def with_note(self, note: str) -> VisitResult:
        """The same with a NOTE behind its text, if there is one."""
        return self._replace(text=f"{self.text}; {note}") if note else self


# How the refusals begin that --resume-anyway does not override: no lease would be taken at a resume.
NO_PROCESS = "its process could not be found in /run/libvirt/qemu"
UNREGISTERED = "sanlock was restarted since and does not know its process"
UNPROTECTED = (NO_PROCESS, UNREGISTERED)
# How the refusal of a domain begins that was started, and for which libvirt took no lease.
RAN_UNPROTECTED = "it was started without a lease, and powered off again at once"
# How the refusal for a malformed policy ends where libvirt has forgotten the domain and its metadata.
GONE = ", and libvirt no longer knows the domain"

# What is done once the lockspaces are joined that a domain waits for.
TO_BE_STARTED, TO_BE_RESUMED = "to be started", "to be resumed"

# How the reason begins where only the host's default decides, and the file that may give it cannot be used.
UNDECIDED = "it has no recovery policy, and the host's default is not known: "

NO_POLICY = VisitResult(Verdict.LEFT_ALONE, "no recovery policy")
# A visit takes some seconds: the hold may have come in them, and counts.
HELD_MEANWHILE = VisitResult(Verdict.WAIT, "an administrator has held recovery meanwhile")
LOST_NOTHING = VisitResult(
    Verdict.LEFT_ALONE,
    "no lockspace was lost: the helper was called by hand, or another host asked for the lease",
)


def may_be_decided(why: str) -> bool:
    """Whether WHY, of a record marked as refused, ends when a policy or the host's default is mended."""
    return policy.is_malformed(why) or why.startswith(UNDECIDED)


class RefusalError(Exception):
    """The domain must not be resumed; the text is the reason."""


class DropError(Exception):
    """Recovery is not to bring the domain back; the text is the reason."""


class UnusableError(Exception):
    """No domain can have such a record; the text is the reason."""
