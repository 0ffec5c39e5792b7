# SPDX-License-Identifier: LGPL-2.1-or-later
"""The links of the chain from a lost lease to a safe virtual machine, and what was found of each."""

from __future__ import annotations

from dataclasses import dataclass

# In their order; the first that does not hold is the one that broke.
JOINED, HELD, LOST, RUN, OURS, REACHED, STATE, GIVEN_UP = NAMES = (
    "lockspace joined",
    "lease held",
    "lease lost",
    "helper run",
    "helper is ours",
    "libvirtd reached",
    "state reached",
    "lease given up",
)

# SKIPPED: an earlier link broke, so that nothing is known of this one.  NOT_TRIED: this drill has none.
HOLDS, BROKEN, SKIPPED, NOT_TRIED = "pass", "fail", "skipped", "not tried"


@dataclass(frozen=True)
class Link:
    """One link: its verdict, what was found, and for a broken one what to do."""

    name: str
    verdict: str
    found: str = ""
    remedy: str = ""

    @property
    def number(self) -> int:
        """Its place in the chain, from 1 on."""
        return NAMES.index(self.name) + 1


def first_broken(links: list[Link]) -> Link | None:
    """The link that broke; None when the chain holds."""
    return next((link for link in links if link.verdict == BROKEN), None)


def completed(links: list[Link]) -> list[Link]:
    """LINKS, and those that they do not have as skipped."""
    known = {link.name: link for link in links}
    return [known.get(name) or Link(name, SKIPPED) for name in NAMES]
