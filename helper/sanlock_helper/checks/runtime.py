# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the killpath needs once it runs: its directory on tmpfs, and arguments that fit."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .finding import Finding, failed, passed, warned
from .lease_dir import Mount, Owner, mount_of
from .registry import check

if TYPE_CHECKING:
    from ..virt.inventory import KnownDomain
    from .facts import Facts

# SANLK_HELPER_ARGS_LEN and SANLK_HELPER_PATH_LEN less the NUL (sanlock src/sanlock_admin.h).
LONGEST = 127

_CREATE = "systemd-tmpfiles --create virt-sanlock-helper.conf"


def _runtime(facts: Facts) -> tuple[str, Owner | None, Mount]:
    path = str(facts.host.runtime_dir)
    owner = Owner.of_entry(path) if os.path.lexists(path) else None
    # Not where a symbolic link in its place leads to.
    parent, name = os.path.split(path)
    return path, owner, mount_of(os.path.join(os.path.realpath(parent), name), facts.mountinfo)


@check("runtime directory", reads=_runtime, what="runtime directory")
def check_runtime_dir(path: str, folder: Owner | None, mount: Mount) -> Finding:
    """The helper's runtime directory PATH on MOUNT; FOLDER is None when it is not there yet."""
    wanted = f"{path} on tmpfs, 0700 root"
    if mount.fstype != "tmpfs":
        remedy = "mount a tmpfs at /run: what is on a disk may be gone with it"
        return failed(f"{path} is on {mount.fstype}", remedy, wanted)
    if folder is None:
        return warned(f"{path} is not there yet: the helper makes it", _CREATE, wanted)
    if folder.kind != stat.S_IFDIR:
        return failed(f"{path} is not a directory", f"mv -n {path} {path}.away; {_CREATE}", wanted)
    remedy = f"chown root:root {path}; chmod 0700 {path}"
    if folder.uid != 0 or folder.mode & 0o022:
        return failed(f"{folder}: another user may write requests", remedy, wanted)
    if folder.mode != stat.S_IRWXU:
        return warned(f"{folder}", remedy, wanted)
    return passed(f"{folder}", wanted)


@check(
    "arguments",
    f"at most {LONGEST} bytes each, for the path and for the arguments",
    reads=lambda facts: (facts.domains, facts.host.uri, facts.killpath),
)
def check_arguments(domains: Iterable[KnownDomain], uri: str, path: str) -> Finding:
    """The lengths of the killpath and of each domain's arguments, as libvirt registers them."""
    if len(os.fsencode(path)) > LONGEST:
        return failed(f"{path} has {len(os.fsencode(path))} bytes", "a shorter LIBEXECDIR")
    lengths = {
        domain.name: len(registered_arguments(uri, domain.uuid, domain.config.on_lockfailure))
        for domain in domains
        if domain.config
    }
    long = {name: length for name, length in lengths.items() if length > LONGEST}
    if long:
        found = ", ".join(f"{name}: {length} bytes" for name, length in long.items())
        return failed(found, "a shorter connection URI: libvirt does not start such a domain")
    if not lengths:
        return passed("no domain")
    return passed(f"{len(lengths)} domains, the longest has {max(lengths.values())} bytes")


def registered_arguments(uri: str, uuid: str, action: str) -> bytes:
    """What libvirt registers: virLockManagerSanlockRegisterKillscript() in lock_driver_sanlock.c."""
    words = (word.replace("\\", "\\\\").replace(" ", "\\ ") for word in (uri, uuid, action))
    return os.fsencode(" ".join(words))
