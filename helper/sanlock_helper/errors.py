# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong, sorted by the one thing that matters here: is it worth another try."""

from __future__ import annotations

from errno import EACCES

# The remedy for what only root may do.
RUN_AS_ROOT = "run this as root"


class SanlockHelperError(Exception):
    """Any failure that this program has foreseen; its text names the thing and the reason.

    SpoolError is the exception: most processes raise none, and run without this module.
    """


def described(error: BaseException) -> str:
    """ERROR as repr() gives it, for a log; without the data that a Unicode error was about.

    That may be the XML of a domain, with its passwords.
    """
    return f"{type(error).__name__}({str(error)!r})" if isinstance(error, UnicodeError) else repr(error)


class HelperError(SanlockHelperError):
    """What an administrator has to know: what was attempted, why it failed, what to do about it."""

    def __init__(self, what: str, why: str, hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}"
        return f"{text} ({self.hint})" if self.hint else text


class UsageError(HelperError, ValueError):
    """An argument is not what sanlock or an administrator may pass.

    A ValueError, so that killpath.py can catch it without importing this module.
    """


class TransientError(HelperError):
    """A failure that may be over in a moment: libvirtd restarting, a busy domain, a broken connection."""


class PermanentError(HelperError):
    """A failure that another try would only repeat: no such domain, authentication refused, a bad URI."""


def needs_root(what: str, why: str) -> PermanentError:
    """The error about WHAT that fails because of WHY, and would not as root."""
    return PermanentError(what, why, RUN_AS_ROOT)


def hint_for(error: OSError) -> str:
    """The remedy for ERROR where root has the permission, "" where it is another one.

    EPERM, as of a directory that others may write to, is refused to root as well.
    """
    return RUN_AS_ROOT if error.errno == EACCES else ""


class AuthenticationError(PermanentError):
    """libvirtd refused the credentials, or none can be had.

    Permanent at a terminal.  It is transient where the credentials are right and the service that checks them
    is away, or where the file that holds them is corrected meanwhile.
    """


class GivenUpError(HelperError):
    """No process waits for this attempt any more: it must not touch the domain."""


class LeasesUnknownError(SanlockHelperError):
    """sanlock could not be asked; the text has the reason, ABSENT whether that is that no daemon runs."""

    def __init__(self, why: str, absent: bool = False) -> None:
        super().__init__(why)
        self.absent = absent
