# SPDX-License-Identifier: LGPL-2.1-or-later
"""auth.conf as the helper will find it when sanlock starts it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

import libvirt_auth
from libvirt_auth.source import odd_fields

from .finding import FAIL, PASS, WARN, Finding

# What SASL asks for and auth.conf must have; the user name is optional (libvirt_auth/credentials.py).
NEEDED = ("authname", "password")


def check_auth_file(uri: str, environ: Mapping[str, str]) -> Finding:
    """Which file is in force, and which are hidden by it."""
    name, wanted = "auth.conf file", "one file: libvirt takes the first one and merges nothing"
    candidates = list(libvirt_auth.auth_file_candidates(uri, environ))
    force = next((candidate for candidate in candidates if candidate.is_used()), None)
    if force is None:
        return Finding(name, PASS, "none", wanted)
    hidden = [
        other.path
        for other in candidates[candidates.index(force) + 1 :]
        if os.path.exists(other.path) and not _same(other.path, force.path)
    ]
    if not os.access(force.path, os.R_OK):
        remedy = f"correct {force.origin}, which names it" if force.forced else f"chmod 0600 {force.path}"
        return Finding(name, FAIL, f"{force.path} is in force and cannot be read", wanted, remedy)
    if hidden:
        found = f"{force.path} is in force and hides {', '.join(hidden)}"
        return Finding(name, WARN, found, wanted, f"move {force.path} away, or the others' content into it")
    return Finding(name, PASS, f"{force.path} is in force", wanted)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def check_auth_groups(uri: str, environ: Mapping[str, str], asked: bool, daemon: str = "libvirtd") -> Finding:
    """Syntax, groups and fields of the file in force; ASKED says whether DAEMON asks for credentials."""
    name, wanted = "auth.conf groups", f"credentials for {uri}: {' and '.join(NEEDED)}"
    worst = FAIL if asked else WARN
    try:
        source = libvirt_auth.describe_source(uri, environ)
        odd = odd_fields(uri, environ)
    except libvirt_auth.AuthConfigError as error:
        return Finding(name, worst, str(error), wanted, error.hint or "virt-sanlock-helper auth check")
    if source.auth_group is None:
        if not asked:
            return Finding(name, PASS, f"{source}; {daemon} asks for none", wanted)
        remedy = "add [auth-libvirt-localhost] with credentials=NAME, and [credentials-NAME]"
        return Finding(name, FAIL, f"{source}, and {daemon} asks for credentials", wanted, remedy)
    missing = [field for field in NEEDED if field not in source.fields]
    if odd:
        names = ", ".join(odd)
        found = f"{source}: {names} with a backslash that begins no escape: no value for GLib from 2.79 on"
        lost = worst if set(missing) & set(odd) else WARN
        remedy = f"write each backslash of {names} in [{source.credentials_group}] twice"
        return Finding(name, lost, found, wanted, remedy)
    if missing:
        remedy = f"add {', '.join(f'{field}=...' for field in missing)} to [{source.credentials_group}]"
        return Finding(name, worst, f"{source}: without {' and '.join(missing)}", wanted, remedy)
    return Finding(name, PASS, f"{source}: {', '.join(source.fields)}", wanted)


def check_auth_mode(path: str | None) -> Finding:
    """Owner and mode of the file in force: it holds a password."""
    name, wanted = "auth.conf mode", "0600 root"
    if path is None:
        return Finding(name, PASS, "no file", wanted)
    found = os.stat(path)
    text = f"{path} is {stat.S_IMODE(found.st_mode):04o}, uid {found.st_uid}"
    remedy = f"chown root {path}; chmod 0600 {path}; and another password, if others could read it"
    if found.st_mode & 0o006 or found.st_uid not in (0, os.geteuid()):
        return Finding(name, FAIL, text, wanted, remedy)
    if found.st_mode & 0o060:
        return Finding(name, WARN, f"{text}, gid {found.st_gid}", wanted, remedy)
    return Finding(name, PASS, text, wanted)
