# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of the joined lockspaces: is each the one that sanlock has open, and that other hosts see."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..leases.sanlock_status import SanlockStatus
from .finding import Finding, failed, passed
from .registry import check
from .remedies import joined_anew

if TYPE_CHECKING:
    from .facts import Facts


@dataclass(frozen=True)
class LockspaceFile:
    """Whether a file is at the path of a lockspace, and whether sanlock has that one open."""

    is_there: bool
    is_open: bool


def find_open(path: str, proc: Path) -> LockspaceFile:
    """The file at PATH as the process with the directory PROC in proc(5) has it.  Raises OSError."""
    # Each leads to the file itself, also to one that is deleted.
    links = list((proc / "fd").iterdir())
    wanted = _identity(f"{proc}/root{path}")
    is_open = wanted is not None and any(_identity(str(link)) == wanted for link in links)
    return LockspaceFile(wanted is not None, is_open)


def _identity(path: str) -> tuple[int, int] | None:
    """What distinguishes the file or device at PATH from others; None where there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Several nodes may be of one device.
    return (-1, found.st_rdev) if stat.S_ISBLK(found.st_mode) else (found.st_dev, found.st_ino)


def _files(facts: Facts) -> tuple[SanlockStatus, str, dict[str, LockspaceFile], dict[int, str]]:
    spaces = [space for space in facts.sanlock.lockspaces if space.joined and not space.lost]
    files = {space.name: find_open(space.path, facts.sanlock_proc) for space in spaces}
    names = {domain.pid: domain.name for domain in facts.known_domains if domain.pid}
    return facts.sanlock, facts.host.daemon, files, names


@check("lockspace file", "the file that sanlock renews is the one at its path", reads=_files)
def check_files(
    status: SanlockStatus, daemon: str, files: Mapping[str, LockspaceFile], names: Mapping[int, str]
) -> Finding:
    """Whether the FILES of joined lockspaces, by name, are those that sanlock has open.

    It goes on to renew one that was deleted or replaced, and nothing fails; another host makes or reads the
    one at the path, and takes the same leases.  NAMES: of domains by process id.
    """
    wrong = [space for space in status.lockspaces if space.name in files and not files[space.name].is_open]
    if not wrong:
        return passed(", ".join(space.path for space in status.lockspaces if space.name in files) or "none")
    found = ", ".join(
        f"{space.path} was {'replaced' if files[space.name].is_there else 'deleted'}" for space in wrong
    )
    remedy = " && ".join(joined_anew(space, daemon, files[space.name].is_there) for space in wrong)
    names_of_wrong = {space.name for space in wrong}
    pids = {lease.pid for lease in status.leases if lease.lockspace in names_of_wrong}
    holders = sorted(names.get(pid, f"process {pid}") for pid in pids)
    if holders:
        remedy += f"  # it does nothing while a lease is held: first shut down {', '.join(holders)}"
    return failed(f"{found} while sanlock has it joined: other hosts see another lockspace", remedy)
