# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers to what libvirt asks for while it connects.

libvirt's C library reads the file before it asks: a SASL login gets its four fields
(remoteAuthFillFromConfig() in src/remote/remote_driver.c), other drivers "username" and
"password" (src/util/virauth.c). The callback gets the rest. Measured against libvirtd 9.0
with SCRAM-SHA-256, DIGEST-MD5 and PLAIN, a complete file still leaves the SASL authorization
name (VIR_CRED_USERNAME) to it, and an empty one means "the same as authname".
"""

from __future__ import annotations

import os

import libvirt  # type: ignore[import-untyped,import-not-found,unused-ignore]

from .errors import AuthMissingError
from .files import find_auth_file
from .uri import URI, service_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .config import AuthConfig

# Which field answers which type. No field can answer an echoed prompt: it may be any
# question, such as whether to accept an SSH host key (src/rpc/virnetsshsession.c).
_FIELDS = {
    libvirt.VIR_CRED_USERNAME: "username",
    libvirt.VIR_CRED_AUTHNAME: "authname",
    libvirt.VIR_CRED_LANGUAGE: None,
    libvirt.VIR_CRED_CNONCE: None,
    libvirt.VIR_CRED_PASSPHRASE: "password",
    libvirt.VIR_CRED_ECHOPROMPT: None,
    libvirt.VIR_CRED_NOECHOPROMPT: "password",
    libvirt.VIR_CRED_REALM: "realm",
    libvirt.VIR_CRED_EXTERNAL: None,
}

TYPES = list(_FIELDS)

# These may be empty: SASL has a default for them, and VIR_CRED_EXTERNAL only announces that
# another program asks the user.
_OPTIONAL = (
    libvirt.VIR_CRED_USERNAME,
    libvirt.VIR_CRED_LANGUAGE,
    libvirt.VIR_CRED_REALM,
    libvirt.VIR_CRED_EXTERNAL,
)


class Secret:
    """A value that does not show itself when it is printed, formatted or logged."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return "********"


class Answers:
    """The credential callback for one connection.

    error  what kept the callback from answering; libvirt cannot carry it to the caller
    """

    def __init__(self, uri: str, environ: Mapping[str, str] = os.environ) -> None:
        self._uri = URI(uri)
        self._text = uri
        self._environ = environ
        self._path: str | None = None
        self.error: BaseException | None = None

    def callback(self, credentials: list[list[Any]], _opaque: object) -> int:
        """Fill in credentials, lists of [type, prompt, challenge, default, result].

        Returns 0, or -1 with self.error set. Called by libvirt-python.
        """
        try:
            # Not before, for most connections ask for nothing: it costs 2 ms.
            from .config import AuthConfig

            # The home directory may come from a user database that does not answer.
            self._path = find_auth_file(self._text, self._environ)
            config = None if self._path is None else AuthConfig.from_file(self._path)
            for credential in credentials:
                kind, prompt, challenge, default, _ = credential
                credential[4] = self._answer(config, kind, prompt, challenge, default).reveal()
        except BaseException as err:  # libvirt-python would print it and forget it
            self.error = err
            return -1
        return 0

    def _answer(
        self,
        config: AuthConfig | None,
        kind: int,
        prompt: str | None,
        challenge: str | None,
        default: str | None,
    ) -> Secret:
        """Return the answer to one credential; raises AuthMissingError if there is none."""
        if kind == libvirt.VIR_CRED_CNONCE:
            return Secret(os.urandom(16).hex())
        service = self._service(challenge)
        field = _FIELDS.get(kind)
        if kind == libvirt.VIR_CRED_AUTHNAME and service != "libvirt":
            field = "username"  # what virAuthGetUsernamePath() looks up for this type
        value = config.lookup(service, self._uri.server, field) if config and field else None
        if value is None:
            value = "" if default is None and kind in _OPTIONAL else default
        if value is None:
            raise self._missing(config, service, field, prompt)
        return Secret(value)

    def _service(self, challenge: str | None) -> str:
        """Return the service that asks.

        With these transports it is ssh first and SASL, perhaps, later. SASL's questions carry a
        challenge text of its own; ssh's carry the host's name or nothing.
        """
        if self._uri.transport in ("libssh", "libssh2") and challenge in (None, self._uri.server):
            return "ssh"
        return service_of(self._uri)

    def _missing(
        self, config: AuthConfig | None, service: str, field: str | None, prompt: str | None
    ) -> AuthMissingError:
        host = self._uri.server or "localhost"
        group = config.credentials_group(service, self._uri.server) if config else None
        if field is None:
            reason = f"no field can answer the question {prompt!r}"
            hint = "answer it once by hand, with virsh"
        elif group and config and (why := config.why_none(service, self._uri.server, field)):
            reason = f"field '{field}' of group [{group}] has no value that libvirt can use: {why}"
            hint = "write each backslash of the value twice" if "backslash" in why else "write it in UTF-8"
        elif group:
            reason = f"group [{group}] has no field '{field}', and libvirt asks for it"
            hint = f"add {field}=VALUE to [{group}]"
        else:
            reason = (
                f"no group [auth-{service}-{host}] or [auth-{service}-default]"
                f" for the field '{field}' that libvirt asks for"
            )
            hint = f"add [auth-{service}-{host}] with credentials=NAME, and [credentials-NAME]"
        error = AuthMissingError(self._path, reason, group=group, hint=hint)
        error.field = field
        return error
