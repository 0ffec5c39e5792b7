# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put ours in the place of libvirt's helper on the host itself, and take it back.

For a host whose sanlock cannot be restarted now: a symbolic link works at once.  It changes a file of another
package, so it is made on the administrator's command only, and made again after that package's updates.
At no moment is there no helper at the path: files come and go by rename(2).
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import HelperError, needs_root
from .host import ASIDE, Host

_DPKG_HINT = "see docs/install.md, Debian"


def is_active(host: Host) -> bool:
    """Whether the administrator has asked for it: libvirt's helper was put aside."""
    return _aside(host).exists()


def activate(host: Host) -> str:
    """Put ours in the place of libvirt's helper; returns what was done.

    Raises HelperError when that cannot be.
    """
    stock = host.stock()
    path = host.path(stock)
    if host.is_replaced():
        return f"{stock} is a link to {host.ours} already"
    if not os.access(host.ours, os.X_OK):
        raise HelperError(f"activate {host.ours}", "not an executable", "reinstall virt-sanlock-helper")
    try:
        # A second name, then the first is taken over: rename(2) of a hard link to its own file does nothing,
        # so the new name comes by way of a third.
        beside = path.with_name(f"{path.name}.new")
        beside.unlink(missing_ok=True)
        os.link(path, beside)
        beside.rename(_aside(host))
        if _is_dpkgs(host, stock):
            try:
                _divert(host, "--add", stock, "--no-rename")
            except HelperError:
                _aside(host).unlink()
                raise
        beside.symlink_to(host.ours)
        beside.rename(path)
    except OSError as error:
        raise _refused(f"activate {stock}", path, error) from error
    return f"{stock} is now a link to {host.ours}; libvirt's helper is at {stock}{ASIDE}"


def undo(host: Host) -> str:
    """Put libvirt's own helper back; returns what was done."""
    stock = host.stock()
    path, aside = host.path(stock), _aside(host)
    if not aside.exists():
        return f"{stock} was not replaced: nothing to undo"
    try:
        if path.is_symlink():
            aside.rename(path)
        else:
            # An update of the owner has put a newer one there.
            aside.unlink()
        if _is_dpkgs(host, stock):
            _divert(host, "--remove", stock, "--no-rename")
    except OSError as error:
        raise _refused(f"undo {stock}", path, error) from error
    return f"{stock} is libvirt's own helper again"


def after_update(host: Host) -> list[str]:
    """Put right what an update of the owner's package undid: the link, the bind; returns what was done."""
    done = []
    if is_active(host) and not host.is_replaced():
        done.append(activate(host))
    pid = host.sanlock_pid()
    # Binds stack, so check first; and a sanlock that was started without a mount namespace takes none.
    if pid and host.has_own_mounts(pid) and not host.sanlock_runs_ours(pid):
        answer = host.run(host.bind_command())
        if answer.status != 0:
            raise HelperError(" ".join(host.bind_command()), answer.why, "restart sanlock when no VM runs")
        done.append(f"bound {host.ours} over {host.stock()} in the running sanlock (pid {pid})")
    return done


def _refused(what: str, path: Path, error: OSError) -> HelperError:
    """The error for what the system does not let this process do with PATH."""
    why = error.strerror or str(error)
    if os.geteuid() != 0:
        return needs_root(what, why)
    return HelperError(what, why, f"see findmnt -T {path}; lsattr -d {path.parent} {path}")


def _aside(host: Host) -> Path:
    path = host.path(host.stock())
    return path.with_name(path.name + ASIDE)


def _is_dpkgs(host: Host, stock: str) -> bool:
    """Whether dpkg would put its own file back; rpm has triggers for that, dpkg has diversions."""
    if host.run(["rpm", "-qf", stock]).status == 0:
        return False
    return host.run(["dpkg-query", "-S", stock]).status == 0


def _divert(host: Host, verb: str, stock: str, *options: str) -> None:
    command = ["dpkg-divert", "--local", *options, "--divert", f"{stock}{ASIDE}", verb, stock]
    answer = host.run(command)
    if answer.status != 0:
        raise HelperError(" ".join(command), answer.why, _DPKG_HINT)
