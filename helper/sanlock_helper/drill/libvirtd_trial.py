# SPDX-License-Identifier: LGPL-2.1-or-later
"""One connection to libvirtd as the helper makes it: a process with sanlock's environment and mounts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import libvirt_auth

from .. import drill
from ..command import run
from ..errors import AuthenticationError, HelperError, TransientError
from ..virt import libvirt_daemon

SECONDS = 10.0

_PROGRAM = """\
import json, sys
sys.path[:0] = sys.argv[1:3]
from sanlock_helper.errors import AuthenticationError, HelperError
from sanlock_helper.virt.connection import connect
try:
    connect(sys.argv[3]).close()
    print("null")
except HelperError as error:
    print(json.dumps([isinstance(error, AuthenticationError), error.what, error.why, error.hint]))
"""


def roots() -> list[str]:
    """The directories that a program of ours puts on its path."""
    return [str(Path(drill.__file__ or "").parents[2]), str(Path(libvirt_auth.__file__ or "").parents[1])]


def try_libvirtd(uri: str, environ: Mapping[str, str], prefix: Sequence[str] = ()) -> HelperError | None:
    """What fails when a process with ENVIRON connects to URI; None when nothing does.

    PREFIX is a command that runs it elsewhere, as in sanlock's mount namespace.
    """
    answer = run([*prefix, sys.executable, "-IB", "-c", _PROGRAM, *roots(), uri], SECONDS, environ)
    try:
        found = json.loads(answer.stdout)
    except ValueError:
        return TransientError(f"connect to {uri}", answer.why)
    if found is None:
        return None
    is_refused, *words = found
    return with_remedy(AuthenticationError(*words) if is_refused else TransientError(*words))


def with_remedy(error: HelperError) -> HelperError:
    """ERROR of a connection, with a remedy where it has none."""
    if isinstance(error, AuthenticationError):
        error.hint = error.hint or "virt-sanlock-helper auth check names where the password is taken from"
    elif isinstance(error, TransientError):
        error.hint = error.hint or libvirt_daemon.remedy(libvirt_daemon.HostFiles())
    return error
