# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the killpath executable does: write the request to the spool, and exit unless more is to be done.

Nothing here may depend on the environment: sanlock starts the program without HOME, with stdio on /dev/null,
SIGINT ignored and pipe ends of its own left open.  Hundreds of these processes may start in the same second,
and all that most of them do is in this module and in handover.py; the rest is in call.py.
"""

import posix
import time

from . import MOST_DESCRIPTORS
from .handover import Handover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: "Sequence[str]", interactive: "bool | None" = None) -> int:
    """Run with the ARGUMENTS behind the program's name; returns the exit status.

    INTERACTIVE: an administrator waits for the outcome, as at a terminal (which is checked when it is None).
    sanlock does not wait: this process is done once another one will serve its request.
    """
    start = time.monotonic()
    posix.umask(0o077)
    _open_standard_descriptors()
    words = list(arguments)
    waits = posix.isatty(2) if interactive is None else interactive
    handover = None if waits or not _is_plain(words) else _write(words, start)
    if handover is not None and handover.is_served():
        return 0
    try:
        from .call import run
    except Exception:
        # Inherited descriptors may have left none for it; a package that is being replaced fails once more.
        posix.closerange(3, MOST_DESCRIPTORS)
        try:
            if handover is not None:
                handover = handover.reopened()
                if handover is None:
                    return 0  # an agent has served it
            from .call import run
        except Exception:
            # What an agent has served already needs nothing more.
            if handover is not None and not handover.remove(handover.name):
                return 0
            raise
    return run(words, start, waits, handover)


def _is_plain(words: "list[str]") -> bool:
    """Whether WORDS are what sanlock passes for libvirt: a URI, a UUID in libvirt's form, what is to be done.

    All else is for Invocation.parse(), which takes more, and refuses what is wrong.
    """
    if len(words) != 3:
        return False
    uri, uuid, action = words
    return (
        action in ("poweroff", "restart", "pause")
        and len(uuid) == 36
        and uuid[8:24:5] == "----"
        and not uuid.replace("-", "", 4).strip("0123456789abcdef")
        and uri.isascii()
        and uri.isprintable()
        and uri[:1] not in ("", "-", " ")
    )


def _write(words: "list[str]", start: float) -> "Handover | None":
    """Put the request that WORDS are into the spool; None where that cannot be used: see call.run()."""
    uri, uuid, action = words
    try:
        handover = Handover.open()
        handover.write_request(uri, uuid, action, start)
    except OSError:
        return None
    return handover


def _open_standard_descriptors() -> None:
    """Open 0, 1 and 2 if they are closed: a socket to libvirtd must not become the standard error."""
    try:
        descriptor = posix.open("/dev/null", posix.O_RDWR)
    except OSError:
        posix.closerange(3, MOST_DESCRIPTORS)
        descriptor = posix.open("/dev/null", posix.O_RDWR)
    while descriptor <= 2:
        descriptor = posix.open("/dev/null", posix.O_RDWR)
    posix.close(descriptor)
