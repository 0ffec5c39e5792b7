# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is ours the helper that sanlock would run, now and after its next start?  Looks, and changes nothing."""

from __future__ import annotations

import importlib.util
import os
import stat
from typing import NamedTuple

from ..errors import PermanentError
from .host import Host

RUNTIME_DIR = "/run/virt-sanlock-helper"
SELINUX_FS = "/sys/fs/selinux/enforce"
SELINUX_TYPE = "virt_sanlock_helper_exec_t"


class Finding(NamedTuple):
    """One thing looked at: what was found, whether that serves, and else the next step."""

    what: str
    found: str
    ok: bool
    step: str = ""


def look(host: Host) -> list[Finding]:
    """All findings on HOST.

    Raises HelperError when libvirt's sanlock plugin is not installed.
    """
    host.stock()
    return [_program(host), _bindings(host), _running(host), _next_start(host), _label(host), _runtime(host)]


def _program(host: Host) -> Finding:
    answer = host.run([str(host.ours), "--version"])
    if answer.status == 0:
        return Finding("program", f"{host.ours} runs", True)
    return Finding("program", f"{host.ours}: {answer.why}", False, "reinstall virt-sanlock-helper")


def _bindings(_host: Host) -> Finding:
    if importlib.util.find_spec("libvirt") is None:
        return Finding("bindings", "no module libvirt", False, "install python3-libvirt")
    try:
        # sanlock-python is not needed, and newer distributions have none.
        from ..leases import libsanlock  # noqa: F401
    except PermanentError as error:
        return Finding("bindings", f"{error.what}: {error.why}", False, error.hint)
    return Finding("bindings", "libvirt-python and sanlock's client library are here", True)


def _running(host: Host) -> Finding:
    pid = host.sanlock_pid()
    if not pid:
        return Finding("now", "sanlock does not run", True)
    if host.sanlock_runs_ours(pid):
        return Finding("now", f"the running sanlock (pid {pid}) runs ours", True)
    found = f"the running sanlock (pid {pid}) runs another helper at {host.stock()}"
    if host.has_own_mounts(pid):
        # It was started with the drop-in, so the mount was there: an update of the owner took it away.
        return Finding("now", f"{found}: the bind was lost", False, " ".join(host.bind_command()))
    return Finding(
        "now",
        f"{found}: it was started before ours was installed",
        False,
        "move the VMs off this host, then restart sanlock or reboot; or, without that: "
        "virt-sanlock-helper activate",
    )


def _next_start(host: Host) -> Finding:
    stock = host.stock()
    if host.is_replaced():
        return Finding("next start", f"ours: {stock} is a link to it", True)
    if host.service("NeedDaemonReload") == "yes":
        return Finding("next start", "systemd has not read the drop-in yet", False, "systemctl daemon-reload")
    if f"{host.ours}:{stock}" in host.service("BindReadOnlyPaths"):
        return Finding("next start", f"ours: a drop-in binds it over {stock}", True)
    return Finding(
        "next start",
        f"another helper: no drop-in of sanlock.service binds ours over {stock}",
        False,
        "systemctl daemon-reload, or reinstall virt-sanlock-helper; see systemctl cat sanlock",
    )


def _label(host: Host) -> Finding:
    try:
        enforcing = host.path(SELINUX_FS).read_text(encoding="ascii").strip() == "1"
    except OSError:
        return Finding("label", "SELinux is off", True)
    mode = "enforcing" if enforcing else "permissive"
    try:
        label = os.getxattr(host.ours, "security.selinux").rstrip(b"\0").decode()
    except OSError as error:
        label = error.strerror or str(error)
    if SELINUX_TYPE in label.split(":"):
        return Finding("label", f"{label}, {mode}", True)
    step = f"install virt-sanlock-helper-selinux, then restorecon -v {host.ours}"
    return Finding("label", f"{label}, not {SELINUX_TYPE}, {mode}", False, step)


def _runtime(host: Host) -> Finding:
    try:
        status = host.path(RUNTIME_DIR).lstat()
    except OSError as error:
        found = error.strerror or str(error)
    else:
        mode = stat.filemode(status.st_mode)
        found = f"{mode}, owner {status.st_uid}"
        if (mode, status.st_uid) == ("drwx------", 0):
            return Finding("runtime directory", f"{RUNTIME_DIR}: {found}", True)
    step = f"rm -rf {RUNTIME_DIR}; systemd-tmpfiles --create virt-sanlock-helper.conf"
    return Finding("runtime directory", f"{RUNTIME_DIR}: {found}", False, step)
