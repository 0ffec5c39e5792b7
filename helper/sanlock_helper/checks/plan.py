# SPDX-License-Identifier: LGPL-2.1-or-later
"""All checks, in the order in which an administrator would go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import libvirt_auth

from ..errors import HelperError
from ..leases.grace import DEFAULT_GRACE
from ..leases.sanlock_status import JoinedLockspace
from ..threads import within
from ..virt import libvirt_daemon
from ..virt.qemu_sanlock_conf import LOCKSPACE
from . import auth_conf, configuration, killpath, lease_dir, leases, libvirtd, sanlock, system
from .facts import Facts, sanlock_settings
from .finding import FAIL, Finding, not_looked_at

# A check that hangs (storage that is gone) must not keep the others from being told.
SECONDS = 30.0


@dataclass(frozen=True)
class Check:
    """One check: its name, and the call that returns its Finding."""

    name: str
    call: Callable[[], Finding]


def run_checks(checks: list[Check], seconds: float = SECONDS) -> Iterator[Finding]:
    """Run one after the other.  What cannot be looked at is a warning that says why; nothing is raised."""
    for check in checks:
        try:
            yield within(seconds, check.name, check.call)
        except HelperError as error:
            yield not_looked_at(check.name, f"{error.what}: {error.why}", error.hint)
        except OSError as error:
            yield not_looked_at(check.name, error)
        except Exception as error:
            # A defect of ours must cost one check, not the report on the host.
            yield not_looked_at(check.name, f"internal error: {error!r}")


def make_checks(facts: Facts) -> list[Check]:
    """The checks of this host."""
    return [*_user(), *_killpath(facts), *_libvirtd(facts), *_configuration(facts), *_sanlock(facts),
            *_storage(facts), *_domains(facts), *_system(facts)]  # fmt: skip


def _user() -> Iterator[Check]:
    yield Check("user", lambda: system.check_user(os.geteuid()))


def _killpath(facts: Facts) -> Iterator[Check]:
    yield Check(
        "killpath", lambda: killpath.check_killpath(facts.killpath, facts.seen_killpath, facts.environ)
    )
    yield Check("python", lambda: killpath.check_modules(facts.seen_killpath, facts.environ))
    yield Check("memory", lambda: killpath.check_memory((facts.sanlock_proc / "limits").read_text()))
    yield Check("selinux", lambda: killpath.check_selinux(_enforce(facts), _label(facts.seen_killpath)))
    yield Check("selinux booleans", lambda: killpath.check_booleans(_enforce(facts), _booleans(facts)))
    yield Check(
        "runtime directory",
        lambda: system.check_runtime_dir(
            str(facts.host.runtime_dir),
            _owner(str(facts.host.runtime_dir)),
            lease_dir.mount_of(str(facts.host.runtime_dir), facts.mountinfo),
        ),
    )


def _libvirtd(facts: Facts) -> Iterator[Check]:
    host = facts.host
    yield Check(
        "libvirtd",
        lambda: libvirtd.check_libvirtd(
            facts.attempt, host.daemon, host.uri, libvirt_daemon.remedy(host.files)
        ),
    )
    yield Check(
        "authentication",
        lambda: libvirtd.check_authentication(
            facts.attempt, facts.daemon_conf.get("auth_unix_rw"), host.daemon
        ),
    )
    yield Check("auth.conf file", lambda: auth_conf.check_auth_file(host.uri, facts.environ))
    yield Check(
        "auth.conf groups",
        lambda: auth_conf.check_auth_groups(host.uri, facts.environ, facts.asks_for_sasl, host.daemon),
    )
    yield Check(
        "auth.conf mode",
        lambda: auth_conf.check_auth_mode(libvirt_auth.find_auth_file(host.uri, facts.environ)),
    )
    yield Check(
        "libvirtd limits",
        lambda: libvirtd.check_limits(facts.daemon_conf, len(facts.running), _grace(facts), host.daemon),
    )


def _configuration(facts: Facts) -> Iterator[Check]:
    yield Check("configuration files", lambda: configuration.check_files(facts.files, facts.sanlock_conf))
    yield Check(
        "lock_manager",
        lambda: configuration.check_lock_manager(facts.qemu_conf.get("lock_manager"), facts.host.daemon),
    )
    yield Check(
        "host_id",
        lambda: _readable("host_id", facts) or configuration.check_host_id(facts.lock_conf, _joined(facts)),
    )
    yield Check(
        "io_timeout",
        lambda: (
            _readable("io_timeout", facts) or configuration.check_io_timeout(facts.lock_conf, _joined(facts))
        ),
    )
    yield Check(
        "disk lease owner", lambda: configuration.check_lease_owner(facts.lock_conf, _sanlock_plugin(facts))
    )


def _sanlock(facts: Facts) -> Iterator[Check]:
    yield Check("sanlock", lambda: _sanlock_runs(facts))
    yield Check("kill_grace_seconds", lambda: sanlock.check_grace(facts.sanlock))
    yield Check(
        "watchdog",
        lambda: sanlock.check_watchdog(
            facts.sanlock,
            _command_line(facts),
            (facts.host.run / "wdmd/wdmd.sock").exists(),
            sanlock_settings(facts.sanlock_conf),
        ),
    )
    yield Check("watchdog_fire_timeout", lambda: sanlock.check_fire_timeout(facts.sanlock))
    yield Check(
        "clock",
        lambda: sanlock.check_clock(
            sanlock.timeline_of(facts.sanlock, facts.lock_conf),
            facts.sanlock.number("use_watchdog") != 0,
            sanlock.lockspaces_without_clock(facts.sanlock),
        ),
    )
    yield Check(
        "lockspace", lambda: sanlock.check_lockspace(facts.sanlock, facts.lock_conf, facts.host.daemon)
    )
    yield Check(
        "lockspace format",
        lambda: sanlock.check_format(
            facts.sanlock, facts.lock_conf, lambda: sanlock.read_format(str(_lockspace_path(facts)))
        ),
    )
    yield Check(
        "host_id unique",
        lambda: sanlock.check_unique(
            facts.sanlock, facts.lock_conf, lambda: sanlock.read_slots(str(_lockspace_path(facts)))
        ),
    )


def _storage(facts: Facts) -> Iterator[Check]:
    def mount() -> lease_dir.Mount:
        return _lease_mount(facts)

    yield Check(
        "lease directory",
        lambda: lease_dir.check_shared(
            facts.lock_conf.disk_lease_dir, os.path.isdir(facts.lock_conf.disk_lease_dir), mount()
        ),
    )
    yield Check("lease path", lambda: lease_dir.check_path(facts.lock_conf.disk_lease_dir))
    yield Check("lease room", lambda: _room(facts))
    yield Check(
        "lease owner",
        lambda: lease_dir.check_owner(
            facts.lock_conf,
            lease_dir.Owner.of(facts.lock_conf.disk_lease_dir),
            _owner(str(_lockspace_path(facts))),
            _daemon_identity(facts),
        ),
    )
    yield Check(
        "root_squash",
        lambda: lease_dir.check_root_squash(facts.lock_conf, mount(), _owner(str(_lockspace_path(facts)))),
    )


def _domains(facts: Facts) -> Iterator[Check]:
    yield Check("arguments", lambda: killpath.check_arguments(facts.domains, facts.host.uri, facts.killpath))
    yield Check(
        "leases",
        lambda: leases.check_leases(facts.running, facts.lock_conf, facts.sanlock, _present(facts)),
    )
    yield Check("disk paths", lambda: leases.check_disk_paths(facts.domains))


def _system(facts: Facts) -> Iterator[Check]:
    host = facts.host
    yield Check(
        "multipath",
        lambda: system.check_multipath(
            system.multipath_config(host.etc), sanlock.timeline_of(facts.sanlock, facts.lock_conf)
        ),
    )
    yield Check("recovery units", lambda: system.check_recovery_units(system.unit_states()))
    yield Check(system.CLEANUP, lambda: system.check_cleanup(system.schedules(host.etc, host.var, host.lib)))


# Reading for the checks


def _sanlock_runs(facts: Facts) -> Finding:
    try:
        return sanlock.check_running(facts.sanlock)
    except HelperError as error:
        return Finding("sanlock", FAIL, error.why, "a running daemon", error.hint)


def _readable(name: str, facts: Facts) -> Finding | None:
    """A file that libvirt refuses is a failure, not something unseen; None for one that can be read."""
    try:
        facts.lock_conf  # noqa: B018  read for its errors
    except HelperError as error:
        return Finding(name, FAIL, f"{error.what}: {error.why}", "a file that libvirt can read", error.hint)
    return None


def _joined(facts: Facts) -> JoinedLockspace | None:
    try:
        space = facts.sanlock.lockspace(LOCKSPACE)
    except HelperError:
        return None
    return space if space and space.joined else None


def _grace(facts: Facts) -> int:
    try:
        grace = facts.sanlock.number("kill_grace_seconds")
    except HelperError:
        grace = None
    return DEFAULT_GRACE if grace is None else grace


def _command_line(facts: Facts) -> list[str]:
    raw = (facts.sanlock_proc / "cmdline").read_bytes()
    return [os.fsdecode(word) for word in raw.split(b"\0")]


def _daemon_identity(facts: Facts) -> lease_dir.Identity:
    return lease_dir.identity_of((facts.sanlock_proc / "status").read_text())


def _enforce(facts: Facts) -> str | None:
    path = facts.host.sys / "fs/selinux/enforce"
    return path.read_text() if path.exists() else None


def _booleans(facts: Facts) -> dict[str, str]:
    folder = facts.host.sys / "fs/selinux/booleans"
    names = killpath.needed_booleans(_lease_mount(facts).fstype) if folder.exists() else []
    return {name: (folder / name).read_text() for name in names if (folder / name).exists()}


def _lease_mount(facts: Facts) -> lease_dir.Mount:
    return lease_dir.mount_of(os.path.realpath(facts.lock_conf.disk_lease_dir), facts.mountinfo)


def _sanlock_plugin(facts: Facts) -> bytes | None:
    """libvirt's sanlock driver: below /usr/lib/TRIPLET on Debian, below /usr/lib64 on Fedora and RHEL."""
    lib = facts.host.lib
    folders = [lib.with_name("lib64"), lib, *sorted(lib.glob("*-linux-*"))]
    paths = (folder / "libvirt/lock-driver/sanlock.so" for folder in folders)
    return next((path.read_bytes() for path in paths if path.exists()), None)


def _label(path: str) -> str | None:
    try:
        return os.getxattr(path, "security.selinux").rstrip(b"\0").decode("ascii", "backslashreplace")
    except OSError:
        return None


def _owner(path: str) -> lease_dir.Owner | None:
    return lease_dir.Owner.of(path) if os.path.exists(path) else None


def _lockspace_path(facts: Facts) -> Path:
    return Path(facts.lock_conf.disk_lease_dir) / LOCKSPACE


def _present(facts: Facts) -> list[str]:
    try:
        return os.listdir(facts.lock_conf.disk_lease_dir)
    except FileNotFoundError:
        return []


def _room(facts: Facts) -> Finding:
    path = facts.lock_conf.disk_lease_dir
    found = os.statvfs(path)
    joined = _joined(facts)
    align = int(joined.values.get("align_size", lease_dir.MIB)) if joined else lease_dir.MIB
    missing = (
        leases.missing_leases(facts.domains, _present(facts)) if facts.lock_conf.auto_disk_leases else set()
    )
    return lease_dir.check_room(path, found.f_bavail * found.f_frsize, len(missing), align)
