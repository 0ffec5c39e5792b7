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
from .paths import NAME

_DPKG_HINT = "see docs/install.md, Debian"
# Our executable under whatever prefix; see paths.py.
_OURS = f"/virt-sanlock-helper/{NAME}"


def is_active(host: Host) -> bool:
    """Whether the administrator has asked for it: libvirt's helper was put aside."""
    return os.path.lexists(_aside(host))


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
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        # Behind the link of another installation libvirt's helper is put aside already.
        if not _is_our_link(path):
            _put_aside(host, stock, beside)
        beside.symlink_to(host.ours)
        beside.rename(path)
    except OSError as error:
        raise _refused(f"activate {stock}", path, error) from error
    return f"{stock} is now a link to {host.ours}; libvirt's helper is at {stock}{ASIDE}"


def _put_aside(host: Host, stock: str, beside: Path) -> None:
    """Give libvirt's helper at STOCK its second name; BESIDE is a name that is free.

    Raises HelperError and OSError.
    """
    path, aside = host.path(stock), _aside(host)
    if path.is_dir():
        raise HelperError(
            f"activate {stock}", "it is a directory", f"rmdir {stock}; then reinstall libvirt's package"
        )
    # An activation that was killed has given it that name.
    if not _is_one_entry(path, aside):
        if os.path.lexists(aside) and _is_diverted(host, stock):
            why = f"{stock}{ASIDE} is there already: it was diverted by another"
            raise HelperError(f"activate {stock}", why, f"see dpkg-divert --list '{stock}'")
        # rename(2) of a hard link to its own file does nothing, so the new name comes by way of a third.  A
        # symbolic link, which may lead to another filesystem or nowhere, is kept as it is.
        os.link(path, beside, follow_symlinks=False)
        beside.rename(aside)
    if _is_dpkgs(host, stock):
        try:
            _divert(host, "--add", stock, "--no-rename")
        except HelperError:
            aside.unlink()
            raise


def undo(host: Host) -> str:
    """Put libvirt's own helper back; returns what was done.

    What another put at its path, or diverted, is left as it is.
    """
    stock = host.stock()
    path, aside = host.path(stock), _aside(host)
    try:
        if _is_our_link(path) or host.is_replaced():
            # Before the file: what a failure leaves can be undone again.
            if _is_dpkgs(host, stock) or _is_diverted(host, stock):
                _divert(host, "--remove", stock, "--no-rename")
            if os.path.lexists(aside):
                aside.rename(path)
            else:
                # libvirt's package is gone, and its helper with it.
                path.unlink()
        elif os.path.lexists(aside) and not path.is_symlink() and not _is_diverted(host, stock):
            # An update of the owner's RPM has put a newer one there.
            aside.unlink()
        else:
            return f"{stock} was not replaced: nothing to undo"
    except OSError as error:
        raise _refused(f"undo {stock}", path, error) from error
    return f"{stock} is libvirt's own helper again"


def after_update(host: Host) -> list[str]:
    """Put right what an update of the owner's package undid: the link, the bind; returns what was done."""
    done = []
    # Where dpkg has diverted it, its updates do not come to the path.
    if is_active(host) and not host.is_replaced() and not _is_diverted(host, host.stock()):
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


def _is_one_entry(path: Path, other: Path) -> bool:
    """Whether both are names of the same file, or of the same symbolic link."""
    return os.path.lexists(other) and os.path.samestat(path.lstat(), other.lstat())


def _is_dpkgs(host: Host, stock: str) -> bool:
    """Whether dpkg would put its own file back; rpm has triggers for that, dpkg has diversions."""
    if host.run(["rpm", "-qf", stock]).status == 0:
        return False
    return host.run(["dpkg-query", "-S", stock]).status == 0


def _is_our_link(path: Path) -> bool:
    """Whether PATH is a symbolic link to this program's executable, of this or of another installation."""
    return path.is_symlink() and os.readlink(path).endswith(_OURS)


def _is_diverted(host: Host, stock: str) -> bool:
    """Whether dpkg has a diversion of STOCK, by an administrator or a package."""
    return bool(host.run(["dpkg-divert", "--listpackage", stock]).stdout.strip())


def _divert(host: Host, verb: str, stock: str, *options: str) -> None:
    command = ["dpkg-divert", "--local", *options, "--divert", f"{stock}{ASIDE}", verb, stock]
    answer = host.run(command)
    if answer.status != 0:
        raise HelperError(" ".join(command), answer.why, _DPKG_HINT)
