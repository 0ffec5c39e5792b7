# SPDX-License-Identifier: LGPL-2.1-or-later
"""The installation: does sanlock run this program's helper, now and after its next start.

What `install-check` reports are these checks, with the one on the SELinux label and on the runtime directory.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .. import __version__
from ..command import run
from ..distribution import UNKNOWN, Distribution
from ..errors import RUN_AS_ROOT, PermanentError
from ..install.executable import why_not_ours
from ..install.host import Host
from ..memory_limits import shortage
from ..regular_file import read_regular
from .finding import FAIL, Finding, failed, not_checked, passed, warned
from .registry import check

if TYPE_CHECKING:
    from .facts import Facts

SECONDS = 10.0

PYTHON = "/usr/bin/python3"

# Of a script, enough for the first line.
_LINE_BYTES = 256

# Searches for modules where service.py does.  A library without sanlock's calls is none: see libsanlock.py.
_PROBE = """\
import sys, site
folders = site.getsitepackages()
local = [folder for folder in folders if folder.startswith("/usr/local/")]
sys.path.extend(folder for folder in folders if folder not in local)
try:
    import libvirt
except ImportError:
    sys.path.extend(local)
def find():
    try:
        import libvirt
    except ImportError as error:
        yield f"libvirt: {error}"
    try:
        from ctypes import CDLL
    except ImportError as error:
        yield f"sanlock: {error}"
        return
    missing = []
    for name in ("libsanlock_client.so.1", "libsanlock.so.1"):
        try:
            CDLL(name).sanlock_inquire
            return
        except (OSError, AttributeError) as error:
            missing.append(str(error))
    yield f"sanlock: {missing[0]}"
print("; ".join(find()))
"""

_REINSTALL = "reinstall virt-sanlock-helper"


@check("user", "root, as sanlock's children are", reads=lambda facts: (facts.uid,), anyone=True)
def check_user(uid: int) -> Finding:
    """Whether the checks run as root: another UID cannot read many of the host's files."""
    if uid != 0:
        return warned(f"uid {uid}: what root alone may read is not found", RUN_AS_ROOT)
    return passed("root")


@check(
    "program",
    "an executable that runs in sanlock's environment",
    reads=lambda facts: (str(facts.installation.ours), facts.environ),
    what="program",
)
def check_program(ours: str, environ: Mapping[str, str]) -> Finding:
    """Run OURS, the executable of this package, with --version, in the ENVIRON that sanlock gives."""
    why = _why_not_ours(ours, environ)
    return failed(f"{ours} {why}", _REINSTALL) if why else passed(f"{ours} runs")


@check(
    "python",
    "libvirt-python and sanlock's client library for the killpath's interpreter",
    reads=lambda facts: (facts.seen_killpath, facts.environ, facts.distribution),
    what="bindings",
)
def check_modules(seen: str, environ: Mapping[str, str], distribution: Distribution = UNKNOWN) -> Finding:
    """Import libvirt-python and load sanlock's library with SEEN's interpreter, in the ENVIRON of sanlock.

    sanlock-python is not needed: see libsanlock.py.  The remedies are for DISTRIBUTION.
    """
    python = _interpreter(seen)
    answer = run([python, "-ISB", "-c", _PROBE], SECONDS, environ)
    if answer.status != 0:
        return failed(f"{python}: {answer.why}", distribution.install("python3"))
    output = answer.stdout.strip()
    if "libvirt:" in output:
        return failed(f"{python}: {output}", distribution.install("libvirt-python"))
    if importlib.util.find_spec("libvirt") is None:
        return failed(
            "the interpreter of this command has no module libvirt", distribution.install("libvirt-python")
        )
    if output:
        found = f"{python}: {output}; without it no lease can be read"
        return warned(found, distribution.install("sanlock's library"))
    return passed(f"{python} imports libvirt and loads sanlock's library")


@check(
    "killpath",
    reads=lambda facts: (
        facts.killpath,
        facts.seen_killpath,
        facts.environ,
        facts.sanlock_pid,
        _cause_and_step(facts),
    ),
    unread=FAIL,
    what="now",
)
def check_killpath(
    path: str,
    seen: str,
    environ: Mapping[str, str],
    pid: int | None,
    cause_and_step: tuple[str, str],
    version: str = __version__,
) -> Finding:
    """Run SEEN, which is PATH as the sanlock with process id PID sees it, with --version, in its ENVIRON.

    CAUSE_AND_STEP: why it would be another program, and what an administrator does about that.
    """
    wanted = f"virt-sanlock-helper {version} at {path}"
    if pid is None:
        return passed("sanlock does not run", wanted)
    daemon = f"the running sanlock (pid {pid})"
    if not os.access(seen, os.F_OK) and os.geteuid() != 0:
        return not_checked(f"{daemon} has mounts of its own that root alone may read", RUN_AS_ROOT)
    why = _why_not_ours(seen, environ)
    if why:
        cause, step = cause_and_step
        return failed(f"{daemon} runs another helper: {path} {why}; {cause}", step, wanted)
    found = _version(seen, environ)
    if found != version:
        remedy = "restart sanlock with no VM running: it has the file of before an update"
        return warned(f"{daemon} runs version {found}; this command is {version}", remedy, wanted)
    return passed(f"{daemon} runs ours", wanted)


def _cause_and_step(facts: Facts) -> tuple[str, str]:
    host, pid = facts.installation, facts.sanlock_pid
    if pid and host.sanlock_runs_ours(pid):
        closed = [path for path in (host.ours, host.path(host.stock())) if not os.access(path, os.X_OK)]
        step = f"chmod 755 {' '.join(shlex.quote(str(path)) for path in closed)}" if closed else _REINSTALL
        return "it is this program's file", step
    if pid and host.has_own_mounts(pid):
        # It was started with the drop-in, so the mount was there: an update of the owner took it away.
        return "the bind was lost", " ".join(host.bind_command())
    step = "move the VMs off this host, then restart sanlock or reboot; or, without that: virt-sanlock-helper"
    return "it was started before ours was installed", f"{step} activate"


@check(
    "next start",
    reads=lambda facts: (facts.installation, facts.killpath, facts.environ),
    unread=FAIL,
    what="next start",
)
def check_next_start(host: Host, stock: str, environ: Mapping[str, str]) -> Finding:
    """Which helper sanlock runs at libvirt's path STOCK once it has been started again on HOST."""
    wanted = f"virt-sanlock-helper at {stock} after the next start of sanlock"
    if host.is_replaced():
        return passed(f"ours: {stock} is a link to it", wanted)
    if host.service("NeedDaemonReload") == "yes":
        return failed("systemd has not read the drop-in yet", "systemctl daemon-reload", wanted)
    if _is_bound(host.service("BindReadOnlyPaths"), str(host.ours), stock):
        return passed(f"ours: a drop-in binds it over {stock}", wanted)
    if not _why_not_ours(str(host.path(stock)), environ):
        return passed(f"ours: {stock} runs it", wanted)
    found = f"another helper: no drop-in of sanlock.service binds ours over {stock}"
    return failed(found, f"systemctl daemon-reload, or {_REINSTALL}; see systemctl cat sanlock", wanted)


def _is_bound(binds: str, ours: str, stock: str) -> bool:
    """Whether BINDS, as systemd prints them, put OURS over STOCK, perhaps by a name that a link leads to."""
    for word in binds.split():
        source, _, rest = word.removeprefix("-").partition(":")
        if rest.partition(":")[0] == stock and os.path.realpath(source) == os.path.realpath(ours):
            return True
    # A path with a blank is several words.
    return f"{ours}:{stock}" in binds


@check(
    "memory",
    "no limit, or one that leaves room for many machines at once",
    reads=lambda facts: ((facts.sanlock_proc / "limits").read_text(),),
)
def check_memory(limits: str) -> Finding:
    """LIMITS is the text of /proc/PID/limits of sanlock, which the killpath inherits them from."""
    why, remedy = shortage(limits)
    if why:
        return failed(f"{why}: libvirt's own helper would take over", remedy)
    return passed("enough for the killpath")


def is_ours(path: str, environ: Mapping[str, str]) -> bool:
    """Whether PATH runs this program in ENVIRON."""
    return not _why_not_ours(path, environ)


def _why_not_ours(path: str, environ: Mapping[str, str]) -> str:
    return why_not_ours(path, environ, SECONDS)


def _version(path: str, environ: Mapping[str, str]) -> str:
    first = run([path, "--version"], SECONDS, environ).stdout.partition("\n")[0]
    return (first.split() or [""])[-1]


def _interpreter(script: str) -> str:
    try:
        first = read_regular(script, _LINE_BYTES).partition(b"\n")[0]
    except (PermanentError, OSError):
        return PYTHON
    words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    return words[0] if words and "python" in words[0] else PYTHON
