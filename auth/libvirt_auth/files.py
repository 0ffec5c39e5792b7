# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where libvirt's client library searches for its authentication file."""

from __future__ import annotations

import os

from .uri import URI

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# libvirt's own is SYSCONFDIR/libvirt/auth.conf; every distribution builds it with /etc.
SYSTEM_FILE = "/etc/libvirt/auth.conf"


class Candidate:
    """A place where libvirt searches for the file.

    origin  what names it: LIBVIRT_AUTH_FILE, authfile=, user, system
    path    the file
    forced  whether it is used even if it cannot be read
    """

    __slots__ = ("forced", "origin", "path")

    def __init__(self, origin: str, path: str, forced: bool) -> None:
        self.origin = origin
        self.path = path
        self.forced = forced

    def is_used(self) -> bool:
        """Whether libvirt takes it, unless one before it was taken."""
        # access() like libvirt: it asks for the real user id, open() for the effective one.
        return self.forced or os.access(self.path, os.R_OK)


def auth_file_candidates(uri: str, environ: Mapping[str, str] = os.environ) -> Iterator[Candidate]:
    """Yield where libvirt searches for the file of uri, in its order; the first that is used wins.

    Nothing is merged.
    """
    path = environ.get("LIBVIRT_AUTH_FILE")
    if path is not None:
        yield Candidate("LIBVIRT_AUTH_FILE", path, forced=True)
    for name, value in URI(uri).parameters:
        if name == "authfile":
            yield Candidate("authfile=", value, forced=True)
            break
    user_file = _join(_join(_config_directory(environ), "libvirt"), "auth.conf")
    yield Candidate("user", user_file, forced=False)
    yield Candidate("system", SYSTEM_FILE, forced=False)


def find_auth_file(uri: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the path of the authentication file that libvirt uses for uri, or None.

    The first of these wins, and nothing is merged:

    1. $LIBVIRT_AUTH_FILE, even if it is empty or names nothing that can be read;
    2. the URI's parameter authfile=, likewise;
    3. libvirt/auth.conf in the user's configuration directory, if it can be read;
    4. /etc/libvirt/auth.conf, if it can be read.

    uri is taken as it is: an alias from libvirt.conf is not resolved. GLib reads the
    environment once in a process; with a changed one the answer is that of a new process.

    Source: virAuthGetConfigFilePathURI() in src/util/virauth.c.
    """
    for candidate in auth_file_candidates(uri, environ):
        if candidate.is_used():
            return candidate.path
    return None


def _config_directory(environ: Mapping[str, str]) -> str:
    """Return what GLib's g_get_user_config_dir() does.

    Unlike the XDG specification it also takes a relative XDG_CONFIG_HOME.
    """
    return environ.get("XDG_CONFIG_HOME") or _join(_home_directory(environ), ".config")


def _home_directory(environ: Mapping[str, str]) -> str:
    """Return what GLib's g_build_home_dir() does: $HOME, even if empty, else the database's.

    A service often runs without HOME. $LOGNAME chooses between accounts of the same uid
    (g_get_user_database_entry() in glib/gutils.c).
    """
    home = environ.get("HOME")
    if home is not None:
        return home
    import pwd

    uid = os.getuid()
    try:
        entry = pwd.getpwnam(environ.get("LOGNAME", ""))
        if entry.pw_uid == uid:
            return entry.pw_dir
    except KeyError:
        pass
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"


def _join(directory: str, name: str) -> str:
    """Join as g_build_filename() does: one slash, and none after an empty directory."""
    return f"{directory.rstrip('/')}/{name}" if directory else name
