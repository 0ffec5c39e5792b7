# SPDX-License-Identifier: LGPL-2.1-or-later
"""The executable that sanlock will run, and what it needs to run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from .. import __version__
from ..command import run
from ..memory_limits import shortage
from ..virt.inventory import KnownDomain
from .finding import FAIL, PASS, WARN, Finding, not_looked_at

SECONDS = 10.0

PYTHON = "/usr/bin/python3"

# SANLK_HELPER_ARGS_LEN and SANLK_HELPER_PATH_LEN less the NUL (sanlock src/sanlock_admin.h).
LONGEST = 127

# Looks for modules where service.py does.
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
            CDLL(name)
            return
        except OSError as error:
            missing.append(str(error))
    yield f"sanlock: {missing[0]}"
print("; ".join(find()))
"""

_ACTIVATE = "virt-sanlock-helper install-check says the next step; activate puts ours there at once"


def check_killpath(path: str, seen: str, environ: Mapping[str, str], version: str = __version__) -> Finding:
    """Run SEEN, which is PATH as sanlock sees it, with --version, in the ENVIRON that sanlock gives."""
    wanted = f"virt-sanlock-helper {version} at {path}"
    why, remedy = _unusable(path, seen)
    if why:
        return Finding("killpath", FAIL, why, wanted, remedy)
    return _check_version(path, seen, environ, version, wanted)


def _unusable(path: str, seen: str) -> tuple[str, str]:
    """Why SEEN need not be run, and the remedy; empty when it is worth a try."""
    if not os.path.exists(seen):
        return f"{path} is not there", _ACTIVATE
    if not os.access(seen, os.X_OK):
        return f"{path} is not executable", f"chmod 0755 {path}"
    if _begins(seen, b"\x7fELF"):
        return f"{path} is libvirt's C helper: one try, two actions, no word in the journal", _ACTIVATE
    return "", ""


def _check_version(path: str, seen: str, environ: Mapping[str, str], version: str, wanted: str) -> Finding:
    name = "killpath"
    answer = run([seen, "--version"], SECONDS, environ)
    if answer.status != 0:
        # The last line of a traceback has the exception.
        why = answer.problem or (answer.stderr.splitlines() or [f"status {answer.status}"])[-1]
        return Finding(name, FAIL, f"{path} --version: {why}", wanted, _ACTIVATE)
    first = answer.stdout.partition("\n")[0]
    if "(virt-sanlock-helper)" not in first:
        return Finding(name, FAIL, f"{path} is another program: {first}", wanted, _ACTIVATE)
    if first.split()[-1:] != [version]:
        found = f"{path} runs: {first}; this command is {version}"
        return Finding(name, WARN, found, wanted, "restart sanlock with no VM running, it sees the old file")
    return Finding(name, PASS, f"{path} runs: {first}", wanted)


def check_modules(seen: str, environ: Mapping[str, str]) -> Finding:
    """Import libvirt-python and load sanlock's library with SEEN's interpreter, in the ENVIRON of sanlock.

    sanlock-python is not needed: see libsanlock.py.
    """
    name, wanted = "python", "libvirt-python and sanlock's client library for the killpath's interpreter"
    python = _interpreter(seen)
    answer = run([python, "-ISB", "-c", _PROBE], SECONDS, environ)
    if answer.status != 0:
        return Finding(name, FAIL, f"{python}: {answer.why}", wanted, "install python3")
    output = answer.stdout.strip()
    if "libvirt:" in output:
        return Finding(name, FAIL, f"{python}: {output}", wanted, "install python3-libvirt")
    if output:
        remedy = "install sanlock-lib (Debian: libsanlock-client1): leases are not looked at without it"
        return Finding(name, WARN, f"{python}: {output}", wanted, remedy)
    return Finding(name, PASS, f"{python} imports libvirt and loads sanlock's library", wanted)


def _interpreter(script: str) -> str:
    try:
        with open(script, "rb") as file:
            first = file.readline(256)
    except OSError:
        return PYTHON
    words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    return words[0] if words and "python" in words[0] else PYTHON


def _begins(path: str, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


def check_memory(limits: str) -> Finding:
    """LIMITS is the text of /proc/PID/limits of sanlock, which the killpath inherits them from."""
    name, wanted = "memory", "no limit, or one that leaves room for many machines at once"
    why, remedy = shortage(limits)
    if why:
        return Finding(name, FAIL, f"{why}: libvirt's own helper would take over", wanted, remedy)
    return Finding(name, PASS, "enough for the killpath", wanted)


def check_arguments(domains: Iterable[KnownDomain], uri: str, path: str) -> Finding:
    """The lengths of the killpath and of each domain's arguments, as libvirt registers them."""
    name, wanted = "arguments", f"at most {LONGEST} bytes each, for the path and for the arguments"
    if len(os.fsencode(path)) > LONGEST:
        return Finding(
            name, FAIL, f"{path} has {len(os.fsencode(path))} bytes", wanted, "a shorter LIBEXECDIR"
        )
    lengths = {
        domain.name: len(registered_arguments(uri, domain.uuid, domain.config.on_lockfailure))
        for domain in domains
        if domain.config
    }
    long = {name: length for name, length in lengths.items() if length > LONGEST}
    if long:
        found = ", ".join(f"{name}: {length} bytes" for name, length in long.items())
        return Finding(
            name, FAIL, found, wanted, "a shorter connection URI: libvirt does not start such a domain"
        )
    if not lengths:
        return Finding(name, PASS, "no domain", wanted)
    return Finding(
        name, PASS, f"{len(lengths)} domains, the longest has {max(lengths.values())} bytes", wanted
    )


def registered_arguments(uri: str, uuid: str, action: str) -> bytes:
    """What libvirt registers: virLockManagerSanlockRegisterKillscript() in lock_driver_sanlock.c."""
    words = (word.replace("\\", "\\\\").replace(" ", "\\ ") for word in (uri, uuid, action))
    return os.fsencode(" ".join(words))


def check_selinux(enforce: str | None, label: str | None) -> Finding:
    """ENFORCE is what /sys/fs/selinux/enforce holds, None without SELinux; LABEL that of the killpath."""
    name, wanted = "selinux", "the killpath may be run by sanlock_t, and connect to libvirtd"
    if enforce is None:
        return Finding(name, PASS, "SELinux is not on", wanted)
    if label is None:
        return not_looked_at(name, "the killpath's label cannot be read")
    kind = label.split(":")[2] if label.count(":") >= 2 else label
    mode = "enforcing" if enforce.strip() == "1" else "permissive"
    if kind != "bin_t":
        return Finding(name, PASS, f"{mode}, the killpath's type is {kind}", wanted)
    # The targeted policy lets sanlock_t execute no bin_t, not even the stock helper: EACCES, nobody is told.
    remedy = "install virt-sanlock-helper-selinux, then restorecon on the killpath"
    verdict = FAIL if mode == "enforcing" else WARN
    return Finding(name, verdict, f"{mode}, and sanlock_t may not run {kind}", wanted, remedy)


# Which boolean lets sanlock_t use which filesystem (sanlock.te of the targeted policy).
_BOOLEANS = {
    "sanlock_use_nfs": ("nfs", "nfs4"),
    "sanlock_use_samba": ("cifs", "smb3"),
    "sanlock_use_fusefs": ("fuse", "fuse.glusterfs", "fuse.ceph", "fuse.beegfs"),
}


def needed_booleans(fstype: str) -> list[str]:
    """The booleans of SELinux that have to be on, with the lease directory on FSTYPE."""
    return ["virt_use_sanlock", *(name for name, types in _BOOLEANS.items() if fstype in types)]


def check_booleans(enforce: str | None, states: Mapping[str, str]) -> Finding:
    """STATES: what /sys/fs/selinux/booleans holds for those that are needed, where the policy has them."""
    name, wanted = "selinux booleans", "libvirt may use sanlock, and sanlock the lease directory"
    if enforce is None:
        return Finding(name, PASS, "SELinux is not on", wanted)
    # "1 0" is on, and will be off at the next commit.
    off = [boolean for boolean, state in states.items() if state.split()[:1] != ["1"]]
    if off:
        verdict = FAIL if enforce.strip() == "1" else WARN
        remedy = f"setsebool -P {' '.join(f'{boolean}=on' for boolean in off)}"
        return Finding(name, verdict, f"off: {', '.join(off)}", wanted, remedy)
    return Finding(name, PASS, f"on: {', '.join(states) or 'none is needed'}", wanted)
