# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the credentials for a URI come from, to find a wrong one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from .config import FIELDS, AuthConfig
from .files import find_auth_file
from .uri import URI, service_of

if TYPE_CHECKING:
    from collections.abc import Mapping


class CredentialSource(NamedTuple):
    """Where credentials come from; None and () for what is not there.

    path               the file
    auth_group         the [auth-SERVICE-HOST] group in use
    credentials_group  the [credentials-NAME] group in use
    fields             the names of the fields it holds (never their values)
    """

    path: str | None
    auth_group: str | None
    credentials_group: str | None
    fields: tuple[str, ...]

    def __str__(self) -> str:
        if self.path is None:
            return "no authentication file"
        if self.auth_group is None:
            return f"no group for it in {self.path}"
        return f"[{self.credentials_group}] for [{self.auth_group}] in {self.path}"


def describe_source(uri: str, environ: Mapping[str, str] = os.environ) -> CredentialSource:
    """Return where the credentials for uri come from.

    Raises AuthConfigError if the file cannot be used.
    """
    path = find_auth_file(uri, environ)
    if path is None:
        return CredentialSource(None, None, None, ())
    config = AuthConfig.from_file(path)
    parts = URI(uri)
    service = service_of(parts)
    return CredentialSource(
        path,
        config.auth_group(service, parts.server),
        config.credentials_group(service, parts.server),
        tuple(name for name in FIELDS if config.lookup(service, parts.server, name) is not None),
    )


def odd_fields(uri: str, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the fields for uri that not every version of GLib takes for a value.

    Raises AuthConfigError if the file cannot be used.
    """
    path = find_auth_file(uri, environ)
    parts = URI(uri)
    if path is None:
        return ()
    return AuthConfig.from_file(path).odd_fields(service_of(parts), parts.server)
