# SPDX-License-Identifier: LGPL-2.1-or-later
"""Remedies as commands for a shell, by root: what more than one check asks for.

What a command cannot know, or must not decide, follows it as a comment.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..numbers import whole_number
from ..virt.domain_argument import quoted_argument
from ..virt.libvirt_conf import Setting, Value
from ..virt.qemu_sanlock_conf import LOCKSPACE

if TYPE_CHECKING:
    from ..leases.sanlock_status import JoinedLockspace
    from ..virt.inventory import KnownDomain


# What has sanlock read its files again.
RESTART = "systemctl restart sanlock  # with no VM running: while a lockspace is joined it goes on as it is"


def restart(daemon: str) -> str:
    """The command that has libvirt's DAEMON read its files again, and join its lockspace."""
    return f"systemctl restart {daemon}"


def give(path: str | Path, settings: Sequence[Setting], values: Iterable[tuple[str, Value]]) -> str:
    """The command that gives VALUES to settings of libvirt's file PATH, which has SETTINGS.

    The first setting of a name counts, so that one is changed; one that is not there is added.  A line with
    more than one setting, which libvirt allows, is left: "" for such a one.
    """
    edits, added = [], []
    for name, value in values:
        text = f"{name} = {_conf_value(value)}"
        line = next((setting.line for setting in settings if setting.name == name), None)
        if line is None:
            added.append(text)
        elif line not in _lines_of_one(settings):
            return ""
        else:
            edits.append(f"-e {shlex.quote(f'{line}c {text}')}")
    commands = [f"sed -i {' '.join(edits)} {shlex.quote(str(path))}"] if edits else []
    if added:
        # The file's last line may have no end.
        lines = " ".join(map(shlex.quote, ("", *added)))
        commands.append(f"printf '%s\\n' {lines} >> {shlex.quote(str(path))}")
    return " && ".join(commands)


def give_sanlock(path: str, name: str, value: int | None) -> str:
    """The command that gives VALUE to the setting NAME of sanlock.conf, PATH; None takes the setting away."""
    file, folder = shlex.quote(path), shlex.quote(path.rpartition("/")[0])
    # read_config_file() in sanlock src/main.c takes no setting from an indented line.
    gone = shlex.quote(rf"/^{name}[ \t=]/d")
    commands = [f"mkdir -p {folder} && touch {file} && sed -i {gone} {file}"]
    if value is not None:
        # The file's last line may have no end.
        commands.append(f"printf '%s\\n' '' {shlex.quote(f'{name} = {value}')} >> {file}")
    return " && ".join(commands)


def remove(path: str | Path, settings: Sequence[Setting], lines: Iterable[int]) -> str:
    """The command that removes LINES of libvirt's file PATH, which has SETTINGS; "" as for give()."""
    gone = sorted(set(lines))
    if not gone or not _lines_of_one(settings).issuperset(gone):
        return ""
    return f"sed -i {shlex.quote(';'.join(f'{line}d' for line in gone))} {shlex.quote(str(path))}"


def _lines_of_one(settings: Sequence[Setting]) -> set[int]:
    """The lines that have one setting, and none that may go on in the next: a list, a tripled quote."""
    count = Counter(setting.line for setting in settings)
    return {
        setting.line
        for setting in settings
        if count[setting.line] == 1
        and isinstance(setting.value, (int, str))
        and "\n" not in str(setting.value)
    }


def _conf_value(value: Value) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def sanlock_path(path: str) -> str:
    """PATH as sanlock's command line takes it: sanlock_path_import() in sanlock ``src/client.c``."""
    return re.sub(r"([:\\])", r"\\\1", path)


def add_lockspace(name: str, host_id: int | str, path: str, offset: int = 0, io_timeout: int = 0) -> str:
    """The command that joins a lockspace; IO_TIMEOUT is in seconds, 0 for sanlock's default."""
    where = shlex.quote(f"{name}:{host_id}:{sanlock_path(path)}:{offset}")
    return f"sanlock client add_lockspace -s {where}{f' -o {io_timeout}' if io_timeout else ''}"


def rem_lockspace(name: str, host_id: int, path: str, offset: int = 0) -> str:
    """The command that leaves a lockspace; sanlock kills at once what holds a lease in it."""
    where = shlex.quote(f"{name}:{host_id}:{sanlock_path(path)}:{offset}")
    return f"sanlock client rem_lockspace -s {where}"


def joined_anew(space: JoinedLockspace, daemon: str, is_there: bool = True) -> str:
    """The command that has sanlock leave SPACE and join it at its path; libvirt's own by its DAEMON.

    IS_THERE: whether its file is; it is made where not.  To leave it sanlock kills what holds a lease there,
    so the command asks first.
    """
    pattern = shlex.quote(f"^r {re.escape(space.name)}:")
    commands = [
        f"! sanlock client status | grep {pattern}",
        rem_lockspace(space.name, space.host_id, space.path, space.offset),
    ]
    if space.name == LOCKSPACE:
        # libvirt makes the file where there is none.
        return " && ".join([*commands, restart(daemon)])
    if not is_there:
        where = shlex.quote(f"{space.name}:0:{sanlock_path(space.path)}:{space.offset}")
        size = space.offset + (whole_number(space.values.get("align_size", "")) or 1 << 20)
        commands += [f"truncate -s {size} {shlex.quote(space.path)}", f"sanlock direct init -s {where}"]
    joins = add_lockspace(space.name, space.host_id, space.path, space.offset, space.io_timeout)
    return " && ".join([*commands, joins])


def called(domain: KnownDomain) -> str:
    """What names DOMAIN in such a command."""
    return quoted_argument(domain.name, domain.uuid)


def redefine(domain: str, *edits: str) -> str:
    """The command that changes the definition of DOMAIN, as by called(), by sed's EDITS; not what runs."""
    script = " ".join(f"-e {shlex.quote(edit)}" for edit in edits)
    # Without security-info the passwords of graphics would be lost.
    xml = f"virsh dumpxml --inactive --security-info {domain}"
    return f"{xml} | sed {script} | virsh define /dev/stdin"


def started_again(domains: Iterable[KnownDomain]) -> str:
    """The command that ends DOMAINS and starts them again, now under leases.

    A transient domain, whose definition ends with it, is left.
    """
    commands = []
    for domain in domains:
        name = called(domain)
        defined = f"virsh list --all --persistent --uuid | grep -qxF {domain.uuid}"
        commands.append(f"{defined} && virsh destroy {name} && virsh start {name}")
    remark = "or shut them down from inside, and start them again: they run unprotected"
    return f"{'; '.join(commands)}  # {remark}"
