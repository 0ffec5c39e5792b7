# SPDX-License-Identifier: LGPL-2.1-or-later
"""A libvirt connection whose credentials come from the authentication file."""

from __future__ import annotations

import os

from .errors import AuthConfigError, AuthError, AuthRefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    import libvirt  # type: ignore[import-untyped,import-not-found,unused-ignore]


def open_auth(uri: str, flags: int = 0) -> libvirt.virConnect:
    """Connect to uri with the credentials from the authentication file.

    Raises AuthMissingError if libvirt asked for what the file does not hold,
    AuthConfigError if the file cannot be used, AuthRefusedError if the credentials were
    wrong: each with the libvirtError as libvirt_error and __cause__. Raises libvirtError as it
    is for anything that has nothing to do with authentication.
    """
    import libvirt

    from .credentials import TYPES, Answers

    answers = Answers(uri)
    try:
        connection = libvirt.openAuth(uri, [TYPES, answers.callback, None], flags)
    except libvirt.libvirtError as err:
        error = answers.error or explain(uri, err)
        if error is None:
            raise
        if isinstance(error, AuthError):
            error.libvirt_error = err
        raise error from err
    # ssh tries one method after the other: what one of them missed, another did not need.
    if answers.error is not None and not isinstance(answers.error, AuthError):
        connection.close()
        raise answers.error
    return connection


def explain(
    uri: str, error: libvirt.libvirtError, environ: Mapping[str, str] = os.environ
) -> AuthError | None:
    """Return what error, from connecting to uri, has to do with the file; None if nothing.

    libvirt reports a dangling reference as VIR_ERR_CONF_SYNTAX, as it does for its other
    files, and for a file that it cannot parse or read it reports nothing at all
    (virAuthConfigNew() in src/util/virauthconfig.c): an internal error, from nowhere.
    """
    import libvirt

    from .source import describe_source

    refused = error.get_error_code() == libvirt.VIR_ERR_AUTH_FAILED
    origin = (error.get_error_code(), error.get_error_domain())
    silent = (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_NONE)
    dangling = (libvirt.VIR_ERR_CONF_SYNTAX, libvirt.VIR_FROM_NONE)
    if not refused and origin not in (silent, dangling):
        return None
    try:
        source = describe_source(uri, environ)
    except AuthConfigError as config_error:
        return config_error
    if not refused:
        return None
    return AuthRefusedError(
        source.path,
        f"{error.get_error_message()} (credentials: {source})",
        group=source.credentials_group,
        hint="compare the credentials with those the server expects",
    )
