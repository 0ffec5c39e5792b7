# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's client authentication file (auth.conf), for programs that use libvirt-python.

    from libvirt_auth import open_auth
    connection = open_auth("qemu:///system")

Importing this package is cheap: what reads the file is imported when it is needed. A
program that must not touch a disk later calls preload() while it still may.

Source: https://libvirt.org/auth.html, "Client configuration".
"""

from __future__ import annotations

from .connection import open_auth
from .errors import (
    AuthConfigError,
    AuthError,
    AuthFileError,
    AuthMissingError,
    AuthReferenceError,
    AuthRefusedError,
    AuthSyntaxError,
)
from .files import auth_file_candidates, find_auth_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .config import AuthConfig
    from .credentials import Secret
    from .source import CredentialSource, describe_source

__all__ = [
    "AuthConfig",
    "AuthConfigError",
    "AuthError",
    "AuthFileError",
    "AuthMissingError",
    "AuthReferenceError",
    "AuthRefusedError",
    "AuthSyntaxError",
    "CredentialSource",
    "Secret",
    "auth_file_candidates",
    "describe_source",
    "find_auth_file",
    "open_auth",
    "preload",
]

_LAZY = {
    "AuthConfig": "config",
    "CredentialSource": "source",
    "Secret": "credentials",
    "describe_source": "source",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def preload() -> None:
    """Import all that open_auth() and AuthConfig will need, libvirt included."""
    import pwd  # noqa: F401

    from . import credentials, source  # noqa: F401  import all the others
