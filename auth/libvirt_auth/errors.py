# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong with libvirt's client authentication file.

No message holds a value from the file: a line that could not be read may be a password.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import libvirt  # type: ignore[import-untyped,import-not-found,unused-ignore]


class AuthError(Exception):
    """Base class; its message is ``PATH[:LINE]: REASON``.

    path           the file, or None when no file was found
    reason         what is wrong
    line           the line it is wrong in, counted from 1, if there is one
    group          the group of the file that is concerned, if there is one
    hint           what the administrator can do about it
    libvirt_error  the libvirtError behind it, if a connection failed
    """

    def __init__(
        self,
        path: str | None,
        reason: str,
        *,
        line: int | None = None,
        group: str | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason
        self.line = line
        self.group = group
        self.hint = hint
        self.libvirt_error: libvirt.libvirtError | None = None

    def __str__(self) -> str:
        where = "no authentication file" if self.path is None else self.path
        text = f"{where}{f':{self.line}' if self.line else ''}: {self.reason}"
        # Names from the file and the URI may hold newlines and bytes that are not UTF-8.
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class AuthConfigError(AuthError):
    """The authentication file cannot be used."""


class AuthFileError(AuthConfigError):
    """The file cannot be read: missing, not permitted, not a regular file, too large."""


class AuthSyntaxError(AuthConfigError):
    """A line of the file is not in the grammar of keyfile.KeyFile."""


class AuthReferenceError(AuthConfigError):
    """An [auth-SERVICE-HOST] group leads to no [credentials-NAME] group."""


class AuthMissingError(AuthError):
    """libvirt asked for a credential that the file does not hold.

    field  the missing field, or None when no field of the file could answer
    """

    field: str | None = None


class AuthRefusedError(AuthError):
    """libvirt refused the connection; group names where the credentials came from."""
