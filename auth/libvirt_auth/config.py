# SPDX-License-Identifier: LGPL-2.1-or-later
"""The authentication file: which credentials belong to a service on a host."""

from __future__ import annotations

import os
import stat

from .errors import AuthFileError, AuthReferenceError
from .glib import Version
from .keyfile import KeyFile

FIELDS = ("username", "authname", "password", "realm")

MAX_SIZE = 1 << 20


class AuthConfig:
    """A parsed authentication file.

    It answers as libvirt's virAuthConfigLookup() does, byte for byte, with one exception:
    a file of more than 1 MiB is refused. libvirt would read it, whatever its size, but a
    program that is called in an emergency must not fill its memory from a wrong path.

    path  the path that errors name

    Source: src/util/virauthconfig.c, docs/auth.rst; keyfile.py for the grammar.
    """

    def __init__(self, keyfile: KeyFile, path: str) -> None:
        self._keyfile = keyfile
        self.path = path

    @classmethod
    def from_file(cls, path: str) -> AuthConfig:
        """Read the file path.

        Raises AuthFileError if it cannot be read, is not a regular file (which GKeyFile
        refuses too) or is larger than 1 MiB; AuthSyntaxError like from_bytes().
        """
        try:
            with open(path, "rb", opener=_open) as file:
                regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                data = file.read(MAX_SIZE + 1) if regular else b""
        except OSError as err:
            raise AuthFileError(
                path, err.strerror or str(err), hint="LIBVIRT_AUTH_FILE or authfile= may name it"
            ) from err
        if not regular:
            raise AuthFileError(path, "not a regular file")
        return cls.from_bytes(data, path)

    @classmethod
    def from_bytes(
        cls, data: bytes, path: str = "auth.conf", glib: tuple[int, int, int] | None = None
    ) -> AuthConfig:
        """Parse data; path is only for messages.

        glib is the version of GLib to read as: by default the one that libvirt has in this process.

        Raises AuthSyntaxError if a line is not in the grammar, AuthFileError if data is
        larger than 1 MiB.
        """
        if len(data) > MAX_SIZE:
            raise AuthFileError(
                path,
                f"larger than {MAX_SIZE >> 20} MiB, which is the most that is read of it",
                hint="leave only the groups in it that this host connects with",
            )
        version = Version() if glib is None else Version(lambda: glib)
        keyfile = KeyFile((*FIELDS, "credentials"), version)
        keyfile.read_bytes(data, path)
        return cls(keyfile, path)

    def auth_group(self, service: str, hostname: str | None = None) -> str | None:
        """Return the group for service on hostname, else the service's default one, else None.

        hostname None means localhost.
        """
        for host in ("localhost" if hostname is None else hostname, "default"):
            group = f"auth-{service}-{host}"
            if self._keyfile.has_group(group):
                return group
        return None

    def credentials_group(self, service: str, hostname: str | None = None) -> str | None:
        """Return the [credentials-NAME] group in use, or None if no auth group matches.

        Raises AuthReferenceError if the auth group names none, or one that is not there.
        """
        auth_group = self.auth_group(service, hostname)
        if auth_group is None:
            return None
        line = self._keyfile.line(auth_group)
        name = self._keyfile.value(auth_group, "credentials")
        if name is None:
            why = self._keyfile.why_none(auth_group, "credentials")
            reason = f"group [{auth_group}] has no item 'credentials'{why and f': {why}'}"
            hint = f"add credentials=NAME to [{auth_group}]"
            raise AuthReferenceError(self.path, reason, line=line, group=auth_group, hint=hint)
        group = f"credentials-{name}"
        if not self._keyfile.has_group(group):
            reason = f"group [{auth_group}] refers to [{group}], which is not there"
            hint = f"add [{group}], or correct the name"
            raise AuthReferenceError(self.path, reason, line=line, group=auth_group, hint=hint)
        return group

    def why_none(self, service: str, hostname: str | None, name: str) -> str:
        """Return why the field name, which is in the file, is taken for none; "" if it is not.

        Raises AuthReferenceError like credentials_group().
        """
        group = self.credentials_group(service, hostname)
        return "" if group is None else self._keyfile.why_none(group, name)

    def odd_fields(self, service: str, hostname: str | None) -> tuple[str, ...]:
        """Return the fields whose values are not the same for all versions of GLib.

        Raises AuthReferenceError like credentials_group().
        """
        group = self.credentials_group(service, hostname)
        return () if group is None else tuple(name for name in FIELDS if self._keyfile.is_odd(group, name))

    def lookup(self, service: str, hostname: str | None, name: str) -> str | None:
        """Return the field name for service on hostname, or None if the file has none.

        hostname None means localhost; name is one of FIELDS. A value that is not UTF-8
        counts as none, and in a new GLib one with a backslash that begins no escape.

        Raises AuthReferenceError like credentials_group(), ValueError for another name.
        """
        if name not in FIELDS:
            raise ValueError(f"{name!r} is not one of {', '.join(FIELDS)}")
        group = self.credentials_group(service, hostname)
        return None if group is None else self._keyfile.value(group, name)


def _open(path: str, flags: int) -> int:
    """Open path without waiting, as opening a FIFO would, for another process to write into it."""
    return os.open(path, flags | os.O_NONBLOCK)
