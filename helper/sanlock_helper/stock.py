# SPDX-License-Identifier: LGPL-2.1-or-later
"""Leave requests to libvirt's own helper, when this program cannot serve them.

What an exception out of killpath.main() does is the executable's business: it becomes libvirt's helper, for
the arguments that it was called with.  Here is the same for requests of other processes, which have gone.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class CannotServeError(Exception):
    """killpath_arguments (URI, UUID, ACTION) is read by the executable, which never changes."""

    def __init__(self, arguments: Sequence[str], why: BaseException) -> None:
        super().__init__(f"{type(why).__name__}: {why}")
        self.killpath_arguments = list(arguments)


def leave_to_stock(requests: Iterable[Sequence[str]], why: BaseException) -> None:
    """Have libvirt's helper serve REQUESTS (URI, UUID, ACTION), each in a process of its own; WHY is logged.

    Returns in this process; in the others it raises, out of main() and into libvirt's helper.
    """
    for arguments in requests:
        try:
            if posix.fork() == 0:
                raise CannotServeError(arguments, why)
        except OSError:
            return  # no more processes: there is nothing left to do this with
