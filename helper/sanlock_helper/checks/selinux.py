# SPDX-License-Identifier: LGPL-2.1-or-later
"""SELinux: whether sanlock_t may run the killpath, and use the lease directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .finding import FAIL, WARN, Finding, judged, not_checked, passed, warned
from .killpath import is_ours
from .lease_dir import lease_mount
from .registry import check

if TYPE_CHECKING:
    from .facts import Facts

# Of packaging/selinux/virt_sanlock_helper.fc.
TYPE = "virt_sanlock_helper_exec_t"


@check(
    "selinux",
    "the killpath may be run by sanlock_t, and connect to libvirtd",
    reads=lambda facts: (facts.enforce, *_labelled(facts)),
    what="label",
)
def check_selinux(enforce: str | None, label: str | None, path: str = "PATH") -> Finding:
    """ENFORCE is what /sys/fs/selinux/enforce holds, None without SELinux; LABEL the killpath's at PATH."""
    if enforce is None:
        return passed("SELinux is off")
    remedy = f"install virt-sanlock-helper-selinux, then restorecon -v {path}"
    if label is None:
        return not_checked("the killpath has no label that can be read", remedy)
    kind = label.split(":")[2] if label.count(":") >= 2 else label
    mode = "enforcing" if enforce.strip() == "1" else "permissive"
    if kind == TYPE:
        return passed(f"{label}, {mode}")
    if kind != "bin_t":
        return warned(f"{mode}, and the killpath's type is {kind}, not {TYPE}", remedy)
    # The targeted policy lets sanlock_t execute no bin_t, not even the stock helper: EACCES, which sanlock
    # does not log.
    verdict = FAIL if mode == "enforcing" else WARN
    return judged(verdict, f"{mode}, and sanlock_t may not run {kind}", remedy)


def _labelled(facts: Facts) -> tuple[str | None, str]:
    """The label of this program's killpath, and its path on this host."""
    ours = str(facts.installation.ours)
    runs = facts.sanlock_pid is not None and is_ours(facts.seen_killpath, facts.environ)
    path = facts.seen_killpath if runs else ours
    try:
        label = os.getxattr(path, "security.selinux").rstrip(b"\0").decode("ascii", "backslashreplace")
    except OSError:
        return None, ours
    return label, ours


# Which boolean lets sanlock_t use which filesystem (sanlock.te of the targeted policy).
_BOOLEANS = {
    "sanlock_use_nfs": ("nfs", "nfs4"),
    "sanlock_use_samba": ("cifs", "smb3"),
    # One type for all: fusefs_t.
    "sanlock_use_fusefs": ("fuse", "fuseblk"),
}


def needed_booleans(fstype: str) -> list[str]:
    """The booleans of SELinux that have to be on, with the lease directory on FSTYPE, as in "fuse.ceph"."""
    kind = fstype.partition(".")[0]
    return ["virt_use_sanlock", *(name for name, types in _BOOLEANS.items() if kind in types)]


@check(
    "selinux booleans",
    "libvirt may use sanlock, and sanlock the lease directory",
    reads=lambda facts: (facts.enforce, _booleans(facts)),
    anyone=True,
)
def check_booleans(enforce: str | None, states: Mapping[str, str]) -> Finding:
    """STATES: what /sys/fs/selinux/booleans holds for those that are needed, where the policy has them."""
    if enforce is None:
        return passed("SELinux is not on")
    # "1 0" is on, and will be off at the next commit.
    off = [boolean for boolean, state in states.items() if state.split()[:1] != ["1"]]
    if off:
        verdict = FAIL if enforce.strip() == "1" else WARN
        remedy = f"setsebool -P {' '.join(f'{boolean}=on' for boolean in off)}"
        return judged(verdict, f"off: {', '.join(off)}", remedy)
    return passed(f"on: {', '.join(states) or 'none is needed'}")


def _booleans(facts: Facts) -> dict[str, str]:
    """The booleans that are needed, as the kernel has them, as far as the policy has them."""
    folder = facts.host.sys / "fs/selinux/booleans"
    names = needed_booleans(lease_mount(facts).fstype) if folder.exists() else []
    return {name: (folder / name).read_text() for name in names if (folder / name).exists()}
