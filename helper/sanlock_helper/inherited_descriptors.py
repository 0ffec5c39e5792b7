# SPDX-License-Identifier: LGPL-2.1-or-later
"""The descriptors that sanlock leaves open in the processes that it starts: its pipes' ends, at least."""

import posix

from . import MOST_DESCRIPTORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def close_inherited_descriptors(keep: "Iterable[int]" = ()) -> None:
    """Close the descriptors above 2 that were inherited: all but those to KEEP."""
    kept = {0, 1, 2, *keep}
    try:
        names = posix.listdir("/proc/self/fd")
    except OSError:  # no descriptor is free for the listing
        names = [str(number) for number in range(MOST_DESCRIPTORS)]
    for name in names:
        if int(name) not in kept:
            try:
                posix.close(int(name))
            except OSError:
                pass  # not open, or the descriptor of the listing itself
