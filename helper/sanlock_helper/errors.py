# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong, sorted by the one thing that matters here: is it worth another try."""

from __future__ import annotations


class HelperError(Exception):
    """Something that a person has to be told: what was attempted, why it failed, what to do about it."""

    def __init__(self, what: str, why: str, hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}"
        return f"{text} ({self.hint})" if self.hint else text


class UsageError(HelperError, ValueError):
    """An argument is not what sanlock or a person may pass.

    A ValueError, so that who catches it need not load this module before: see killpath.py.
    """


class TransientError(HelperError):
    """A failure that may be over in a moment: libvirtd restarting, a busy domain, a broken connection."""


class PermanentError(HelperError):
    """A failure that another try would only repeat: no such domain, authentication refused, a bad URI."""


class AuthenticationError(PermanentError):
    """libvirtd refused the credentials, or none can be had.

    Final for a person at a terminal.  It passes where the credentials are right and what checks them is away,
    or where the file that holds them is corrected meanwhile.
    """


class GivenUpError(HelperError):
    """Nobody waits for this try any more: it must not touch the domain."""


class LeasesUnknownError(Exception):
    """sanlock could not be asked; the text says why, ABSENT whether that is because no daemon runs."""

    def __init__(self, why: str, absent: bool = False) -> None:
        super().__init__(why)
        self.absent = absent
