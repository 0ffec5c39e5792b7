# SPDX-License-Identifier: LGPL-2.1-or-later
"""auth.conf as the helper will find it when sanlock starts it."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping

import libvirt_auth
from libvirt_auth.source import odd_fields

from .finding import FAIL, WARN, Finding, failed, judged, passed, warned
from .registry import check

# What SASL asks for and auth.conf must have; the user name is optional (libvirt_auth/credentials.py).
NEEDED = ("authname", "password")


@check(
    "auth.conf file",
    "one file: libvirt takes the first one and merges nothing",
    reads=lambda facts: (facts.host.uri, facts.environ),
)
def check_auth_file(uri: str, environ: Mapping[str, str]) -> Finding:
    """Which file is in force, and which are hidden by it."""
    candidates = list(libvirt_auth.auth_file_candidates(uri, environ))
    force = next((candidate for candidate in candidates if candidate.is_used()), None)
    if force is None:
        return passed("none")
    hidden = [
        other.path
        for other in candidates[candidates.index(force) + 1 :]
        if os.path.exists(other.path) and not _same(other.path, force.path)
    ]
    if not os.access(force.path, os.R_OK):
        remedy = f"correct {force.origin}, which names it" if force.forced else f"chmod 0600 {force.path}"
        return failed(f"{force.path} is in force and cannot be read", remedy)
    if hidden:
        found = f"{force.path} is in force and hides {', '.join(hidden)}"
        return warned(found, f"move {force.path} away, or the others' content into it")
    return passed(f"{force.path} is in force")


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


@check(
    "auth.conf groups",
    reads=lambda facts: (facts.host.uri, facts.environ, facts.asks_for_sasl, facts.host.daemon),
)
def check_auth_groups(uri: str, environ: Mapping[str, str], asked: bool, daemon: str = "libvirtd") -> Finding:
    """Syntax, groups and fields of the file in force; ASKED: whether DAEMON asks for credentials."""
    wanted = f"credentials for {uri}: {' and '.join(NEEDED)}"
    worst = FAIL if asked else WARN
    try:
        source = libvirt_auth.describe_source(uri, environ)
        odd = odd_fields(uri, environ)
    except libvirt_auth.AuthConfigError as error:
        return judged(worst, str(error), error.hint or "virt-sanlock-helper auth check", wanted=wanted)
    if source.auth_group is None:
        if not asked:
            return passed(f"{source}; {daemon} asks for none", wanted=wanted)
        remedy = "add [auth-libvirt-localhost] with credentials=NAME, and [credentials-NAME]"
        return failed(f"{source}, and {daemon} asks for credentials", remedy, wanted=wanted)
    missing = [field for field in NEEDED if field not in source.fields]
    if odd:
        names = ", ".join(odd)
        found = f"{source}: {names} with a backslash that begins no escape: no value for GLib from 2.79 on"
        lost = worst if set(missing) & set(odd) else WARN
        remedy = f"write each backslash of {names} in [{source.credentials_group}] twice"
        return judged(lost, found, remedy, wanted=wanted)
    if missing:
        remedy = f"add {', '.join(f'{field}=...' for field in missing)} to [{source.credentials_group}]"
        return judged(worst, f"{source}: without {' and '.join(missing)}", remedy, wanted=wanted)
    return passed(f"{source}: {', '.join(source.fields)}", wanted=wanted)


@check(
    "auth.conf mode",
    "0600 root",
    reads=lambda facts: (libvirt_auth.find_auth_file(facts.host.uri, facts.environ),),
)
def check_auth_mode(path: str | None) -> Finding:
    """Owner and mode of the file in force: it holds a password."""
    if path is None:
        return passed("no file")
    found = os.stat(path)
    text = f"{path} is {stat.S_IMODE(found.st_mode):04o}, uid {found.st_uid}"
    quoted = shlex.quote(path)
    remedy = f"chown root {quoted}; chmod 0600 {quoted}  # and another password, if others could read it"
    if found.st_mode & 0o006 or found.st_uid not in (0, os.geteuid()):
        return failed(text, remedy)
    if found.st_mode & 0o060:
        return warned(f"{text}, gid {found.st_gid}", remedy)
    return passed(text)
