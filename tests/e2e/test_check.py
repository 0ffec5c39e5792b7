# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each check is made to fail for real, names the cause, and passes once its remedy was followed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .binding import hidden, libraries, sanlock_python
from .command import checks, install_ours, run
from .conftest import StackFactory
from .preconditions import need_fire_timeout, need_programs
from .recovery import TOP, leave_lockspace
from .stack import Stack

SANLOCK_CONF = "/etc/libvirt/qemu-sanlock.conf"


def edit(stack: Stack, path: str, pattern: str, line: str) -> None:
    """Replace the line of a file that matches PATTERN."""
    file = stack.path(path)
    text, number = re.subn(rf"^{pattern}.*$", line, file.read_text(), flags=re.MULTILINE)
    assert number == 1
    file.write_text(text)


def assert_found(found: dict[str, dict[str, str]], expected: dict[str, tuple[str, str, str]]) -> None:
    """EXPECTED: by name the verdict, words of what was found, words of the remedy."""
    seen = {name: (found[name]["verdict"], found[name]["found"], found[name]["remedy"]) for name in expected}
    for name, (verdict, words, remedy) in expected.items():
        assert seen[name][0] == verdict, seen[name]
        assert words in seen[name][1], seen[name]
        assert remedy in seen[name][2], seen[name]


def hide_roots_home(stack: Stack) -> None:
    """Give root an empty home, with this checkout where it is, if that is in there."""
    hide = "mount -t tmpfs tmpfs /root"
    if Path("/root") in TOP.parents:
        kept = "/run/stack/checkout"
        keep, put_back = f"mount --bind {TOP} {kept}", f"mkdir -p {TOP} && mount --bind {kept} {TOP}"
        hide = f"mkdir {kept} && {keep} && {hide} && {put_back}"
    stack.run("sh", "-c", hide)


def assert_passed(found: dict[str, dict[str, str]], *names: str) -> None:
    assert {name: found[name] for name in names if found[name]["verdict"] != "pass"} == {}


@pytest.fixture
def ours(calm: Stack) -> Iterator[Stack]:
    """The shared stack with our helper at libvirt's path, and its configuration put back afterwards."""
    install_ours(calm)
    paths = ("/etc/libvirt/qemu.conf", SANLOCK_CONF, calm.libvirtd.conf)
    kept = {path: calm.path(path).read_text() for path in paths}
    yield calm
    for path, text in kept.items():
        calm.path(path).write_text(text)


def test_a_host_in_order_fails_nothing_but_what_a_stack_lacks(ours: Stack) -> None:
    found = checks(ours)
    bad = {name: check["verdict"] for name, check in found.items() if check["verdict"] != "pass"}
    bad.pop("runtime directory", None)
    # Debian's script for it ends before it runs it.
    bad.pop("virt-sanlock-cleanup", None)
    # tmpfs is shared with no host, and there is no systemd.
    assert bad == {"lease directory": "warn", "recovery units": "fail"}
    result = run(ours, "check")
    assert result.returncode == 1
    shown = re.findall(r"^(\S.*?) +(?:pass|warn|fail)  ", result.stdout, re.MULTILINE)
    assert shown == list(found)
    number = {
        verdict: sum(check["verdict"] == verdict for check in found.values())
        for verdict in ("fail", "warn", "pass")
    }
    assert re.fullmatch(
        rf"{number['fail']} failed, {number['warn']} warnings?, {number['pass']} passed: NOT READY",
        result.stdout.splitlines()[-1],
    )


def test_files(ours: Stack) -> None:
    edit(ours, SANLOCK_CONF, "host_id", "host_id = 0")
    edit(ours, SANLOCK_CONF, "io_timeout", "io_timeout = 20")
    edit(ours, SANLOCK_CONF, "user", 'user = "nobody"')
    edit(ours, "/etc/libvirt/qemu.conf", "lock_manager", 'lock_manager = "lockd"')
    with ours.path(ours.libvirtd.conf).open("a") as conf:
        conf.write("max_clients = 5\n")
    ours.write("/etc/multipath.conf", "defaults {\n    no_path_retry queue\n}\n")
    ours.run("rm", "-rf", "/run/virt-sanlock-helper")
    ours.run("mkdir", "-m", "0777", "/run/virt-sanlock-helper")
    # The stack's /etc is links to the machine's.
    ours.run("mv", "/etc/cron.weekly", "/etc/cron.weekly.away")
    # Neither is needed: sanlock's other library has all calls, too.
    with hidden(ours, *sanlock_python(ours), libraries(ours)[0]):
        found = checks(ours)
    assert_passed(found, "python", "sanlock")
    expected = {
        "host_id": ("fail", "0", "set host_id in /etc/libvirt/qemu-sanlock.conf"),
        "io_timeout": ("warn", "20 s in the file, but the lockspace was joined with 1 s", "restart"),
        "lease owner": ("warn", "not what is configured", "restart libvirt's daemon"),
        "lock_manager": ("fail", "lockd: sanlock is not used", "set it"),
        "libvirtd limits": ("warn", "max_clients 5", "raise max_clients to 20"),
        "multipath": ("fail", "queue: for ever", "no_path_retry 1 in /etc/multipath.conf"),
        "runtime directory": ("fail", "0777", "chmod 0700 /run/virt-sanlock-helper"),
        "virt-sanlock-cleanup": ("warn", "not scheduled", "ln -s /usr/sbin/virt-sanlock-cleanup"),
    }
    assert_found(found, expected)
    # What the remedies ask for.
    edit(ours, SANLOCK_CONF, "host_id", "host_id = 1")
    edit(ours, SANLOCK_CONF, "io_timeout", "io_timeout = 1")
    edit(ours, "/etc/libvirt/qemu.conf", "lock_manager", 'lock_manager = "sanlock"')
    edit(ours, ours.libvirtd.conf, "max_clients", "max_clients = 20")
    ours.write("/etc/multipath.conf", "defaults {\n    no_path_retry 1\n}\n")
    ours.run("chmod", "0700", "/run/virt-sanlock-helper")
    ours.run("mkdir", "/etc/cron.weekly")
    ours.run("ln", "-s", "/usr/sbin/virt-sanlock-cleanup", "/etc/cron.weekly/")
    ours.libvirtd.restart()
    assert_passed(checks(ours), *expected)
    edit(ours, SANLOCK_CONF, "user", 'user = "root"')
    ours.libvirtd.restart()
    ours.run("rm", "-r", "/etc/cron.weekly", "/etc/multipath.conf")
    ours.run("mv", "/etc/cron.weekly.away", "/etc/cron.weekly")


def test_a_file_that_libvirt_refuses_is_named_with_its_line(ours: Stack) -> None:
    edit(ours, SANLOCK_CONF, "host_id", "host_id = one")
    text = ours.path(SANLOCK_CONF).read_text()
    line = text[: text.index("host_id")].count("\n") + 1
    found = checks(ours)
    assert_found(found, {"host_id": ("fail", f"line {line}: expecting a value", "correct that line")})
    # What else needs the file could not be read, and is reported so.
    assert found["lease room"]["found"].startswith("not checked: read /etc/libvirt/qemu-sanlock.conf")


def test_of_two_settings_libvirt_takes_the_first(ours: Stack) -> None:
    text = ours.path(SANLOCK_CONF).read_text()
    line = text[: text.index("host_id")].count("\n") + 1
    edit(ours, SANLOCK_CONF, "host_id", "host_id = 1\nhost_id = 9")
    ours.libvirtd.stop()
    leave_lockspace(ours)
    ours.libvirtd.start()
    (joined,) = ours.lockspaces()
    assert joined.host_id == 1
    found = checks(ours)
    assert_passed(found, "host_id", "lockspace")
    twice = f"host_id in line {line} counts, not in line {line + 1}"
    assert_found(found, {"configuration files": ("warn", twice, f"remove line {line + 1} of")})
    edit(ours, SANLOCK_CONF, "host_id = 9", "")
    assert_passed(checks(ours), "configuration files")


def test_the_killpath(ours: Stack, tmp_path: Path) -> None:
    ours.use_stock_helper(record=False)
    assert_found(checks(ours), {"killpath": ("fail", "libvirt's C helper", "activate")})
    broken = tmp_path / "helper"
    broken.write_text("#!/bin/sh\necho 'ImportError: no module sanlock_helper' >&2\nexit 1\n")
    broken.chmod(0o755)
    ours.install_helper(broken, record=False)
    assert_found(checks(ours), {"killpath": ("fail", "ImportError: no module sanlock_helper", "activate")})
    install_ours(ours)
    assert_passed(checks(ours), "killpath", "python")


def test_libvirtd_does_not_answer(ours: Stack) -> None:
    ours.libvirtd.stop()
    found = checks(ours)
    assert_found(
        found,
        {
            "libvirtd": ("fail", "Failed to connect socket", f"systemctl start {ours.libvirtd.name}.socket"),
            "authentication": ("warn", f"{ours.libvirtd.name} does not answer", ""),
            "leases": ("warn", "not checked: connect to qemu:///system", ""),
        },
    )
    # One line for one cause, and what follows from it in another.
    text = run(ours, "check").stdout
    assert text.count("Failed to connect socket") == 1
    assert re.search(r"^because of libvirtd: arguments, authentication, .*leases.*$", text, re.MULTILINE)
    ours.libvirtd.start()
    assert_passed(checks(ours), "libvirtd", "authentication", "leases")


def test_leases_and_disks_of_domains(ours: Stack) -> None:
    domain = ours.domain("vm1").start()
    device = ours.domain("device")
    xml = device.xml.replace("<disk type='file'", "<disk type='block'")
    xml = re.sub(r"<source file=\S+/>", "<source dev='/dev/sdz'/>", xml)
    ours.path(device.xml_path).write_text(xml)
    device.define()
    (lease,) = domain.leases()
    ours.path(lease.path).rename(ours.path(lease.path).with_suffix(".away"))
    assert_found(
        checks(ours),
        {
            "leases": (
                "fail",
                f"vm1: {lease.resource} of {domain.disks[0]} is not there",
                "start them again",
            ),
            "disk paths": ("fail", "device: /dev/sdz", "/dev/disk/by-path"),
        },
    )
    # No lease is held by a domain that was started while the lock manager was another.
    ours.path(device.xml_path).write_text(xml.replace("/dev/sdz", "/dev/disk/by-path/pci-0000"))
    device.define()
    domain.destroy()
    domain.start()
    found = checks(ours)
    assert_passed(found, "leases", "disk paths", "arguments", "lease room")
    assert found["leases"]["found"].startswith("1 leases")
    domain.destroy()
    domain.undefine()
    device.undefine()


def test_room_for_the_leases(ours: Stack) -> None:
    domain = ours.domain("vm2", disks=3).define()
    ours.run("mkdir", "-p", "/run/small")
    ours.run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "/run/small")
    edit(ours, SANLOCK_CONF, "disk_lease_dir", 'disk_lease_dir = "/run/small"')
    assert_found(
        checks(ours), {"lease room": ("fail", "2 MiB free, 3 disks have no lease yet (3 MiB)", "enlarge")}
    )
    ours.run("mount", "-o", "remount,size=20m", "/run/small")
    assert_passed(checks(ours), "lease room")
    ours.run("umount", "/run/small")
    found = checks(ours, "--connect", "qemu:///system?" + "x" * 100)
    assert_found(found, {"arguments": ("fail", "vm2: 1", "shorter connection URI")})
    domain.undefine()


def test_recovery_units(ours: Stack) -> None:
    # The stack's own /etc/systemd in the place of the machine's.
    ours.run("mv", "/etc/systemd", "/etc/systemd.away")
    names = ("virt-sanlock-helper-recover.path", "virt-sanlock-helper-recover.service")
    for name in names:
        ours.write(f"/etc/systemd/system/{name}", "[Install]\nWantedBy=multi-user.target\n")
    assert_found(checks(ours), {"recovery units": ("warn", f"{names[0]} disabled", "systemctl enable --now")})
    for name in names:
        ours.run("systemctl", "--root=/", "enable", name)
    assert_passed(checks(ours), "recovery units")
    ours.run("rm", "-r", "/etc/systemd")
    ours.run("mv", "/etc/systemd.away", "/etc/systemd")


def test_sanlock_with_no_grace_and_no_watchdog_daemon(stacks: StackFactory) -> None:
    stack = stacks(grace=0)
    # 3.8 takes it from the command line alone.
    remedy = (
        "-g"
        if stack.run("sanlock", "version").stdout.startswith("3.8")
        else "kill_grace_seconds in sanlock.conf"
    )
    assert_found(checks(stack), {"kill_grace_seconds": ("fail", "0 s: sanlock kills at once", remedy)})
    stack.libvirtd.stop()
    stack.sanlock.stop()
    found = checks(stack)
    assert_found(found, {"sanlock": ("fail", "does not answer", "systemctl start sanlock")})
    text = run(stack, "check").stdout
    assert text.count("does not answer: status 1") == 1
    assert re.search(r"^because of sanlock: memory, .*clock, .*$", text, re.MULTILINE)
    assert found["clock"]["verdict"] == "warn"
    # As the remedy asks, but with a watchdog that no process serves, and too much of a grace.
    command = stack.sanlock.command()[:-1]
    command[command.index("-w") + 1] = "1"
    stack.run(*command, "60", env=stack.sanlock.environment())
    stack.sanlock.wait_ready()
    assert_found(
        checks(stack),
        {
            "watchdog": ("fail", "wdmd does not run", "systemctl enable --now wdmd"),
            "clock": ("fail", "another host may write before SIGKILL", "lower kill_grace_seconds"),
            "lockspace": ("fail", "none is joined", f"systemctl restart {stack.libvirtd.name}"),
        },
    )
    stack.sanlock.stop()
    stack.sanlock.grace = 40
    stack.sanlock.start()
    stack.libvirtd.start()
    assert_passed(
        checks(stack), "sanlock", "kill_grace_seconds", "watchdog", "clock", "lockspace", "host_id unique"
    )


def test_a_host_id_that_is_taken(ours: Stack) -> None:
    leave_lockspace(ours)
    # Another host, alive, with the number that this one is about to take.
    ours.second_host(2).join()
    edit(ours, SANLOCK_CONF, "host_id", "host_id = 2")
    assert_found(checks(ours), {"host_id unique": ("fail", "host2 has 2 and is alive", "another host_id")})
    edit(ours, SANLOCK_CONF, "host_id", "host_id = 1")
    ours.libvirtd.restart()
    assert_passed(checks(ours), "lockspace", "host_id", "host_id unique")


def test_a_watchdog_that_fires_early(stack: Stack) -> None:
    stack.run("mount", "--bind", need_fire_timeout(), str(shutil.which("sanlock")))
    command = stack.sanlock.command()
    # The file's grace, and what follows from the watchdog where it has none.
    option = command.index("-g")
    del command[option : option + 2]

    def started_with(conf: str) -> dict[str, dict[str, str]]:
        stack.libvirtd.stop()
        stack.sanlock.stop()
        stack.write("/etc/sanlock/sanlock.conf", conf)
        stack.run(*command, env=stack.sanlock.environment())
        stack.sanlock.wait_ready()
        stack.libvirtd.start()
        return checks(stack)

    remedy = "set watchdog_fire_timeout in /etc/sanlock/sanlock.conf"
    found = started_with("watchdog_fire_timeout = 20\n")
    assert_found(
        found,
        {
            "watchdog_fire_timeout": ("fail", "20 s: below 30 sanlock's grace becomes 0", remedy),
            "kill_grace_seconds": ("fail", "0 s: sanlock kills at once", "raise watchdog_fire_timeout"),
        },
    )
    found = started_with("watchdog_fire_timeout = 45\n")
    assert_found(
        found,
        {
            "watchdog_fire_timeout": ("warn", "45 s", remedy),
            "kill_grace_seconds": ("warn", "15 s: no time for a second try", "raise watchdog_fire_timeout"),
        },
    )
    found = started_with("watchdog_fire_timeout = 60\n")
    assert_passed(found, "sanlock", "watchdog_fire_timeout", "kill_grace_seconds", "clock", "lockspace")


AUTH_CONF = """\
[auth-libvirt-localhost]
credentials=sanlock

[credentials-sanlock]
authname=sanlock
password={}
"""


def test_authentication(stack: Stack) -> None:
    stack.enable_sasl("sanlock", "open sesame")
    names = ("authentication", "auth.conf file", "auth.conf groups", "auth.conf mode")
    assert_found(
        checks(stack),
        {
            "authentication": ("fail", "auth_unix_rw is sasl", "[auth-libvirt-localhost]"),
            "auth.conf groups": (
                "fail",
                f"no authentication file, and {stack.libvirtd.name} asks",
                "[credentials-NAME]",
            ),
        },
    )
    good = AUTH_CONF.format("open sesame")
    for text, mode, expected in (
        (
            AUTH_CONF.format("wrong-Pa55word"),
            0o600,
            {"authentication": ("fail", "[credentials-sanlock]", "compare the credentials")},
        ),
        (
            good.replace("password=open sesame\n", ""),
            0o600,
            {
                "authentication": ("fail", "has no field 'password'", "add password=VALUE"),
                "auth.conf groups": ("fail", "without password", "add password=... to [credentials-sanlock]"),
            },
        ),
        (
            good.replace("localhost", "elsewhere"),
            0o600,
            {"auth.conf groups": ("fail", "no group for it", "add [auth-libvirt-localhost]")},
        ),
        (f"{good}oops\n", 0o600, {"auth.conf groups": ("fail", "auth.conf:7: neither a group", "a comment")}),
        (good, 0o644, {"auth.conf mode": ("fail", "0644", "chmod 0600 /etc/libvirt/auth.conf")}),
    ):
        stack.write_auth_conf(text, mode)
        result = run(stack, "check")
        assert_found(checks(stack), expected)
        assert "Pa55word" not in result.stdout + result.stderr
        assert result.returncode == 1
    stack.run("chmod", "0600", "/etc/libvirt/auth.conf")
    assert_passed(checks(stack), *names)
    # Not the environment of check's caller counts, but that of sanlock's children.
    result = run(stack, "check", "--quiet", LIBVIRT_AUTH_FILE="/missing")
    assert "auth" not in result.stdout


def test_a_file_that_hides_another(stack: Stack) -> None:
    stack.enable_sasl("sanlock", "open sesame")
    stack.write_auth_conf(AUTH_CONF.format("open sesame"))
    names = ("authentication", "auth.conf file", "auth.conf groups", "auth.conf mode")
    assert_passed(checks(stack), *names)
    # Root's own, not the machine's; an old one, forgotten there.
    hide_roots_home(stack)
    user_file = "/root/.config/libvirt/auth.conf"
    stack.write(user_file, AUTH_CONF.format("an older one"), 0o600)
    hides = f"{user_file} is in force and hides /etc/libvirt/auth.conf"
    assert_found(
        checks(stack),
        {
            "auth.conf file": ("warn", hides, f"move {user_file} away"),
            "authentication": ("fail", user_file, "compare the credentials"),
        },
    )
    stack.run("mv", user_file, f"{user_file}.away")
    assert_passed(checks(stack), *names)
    # In sanlock's own environment a name comes before all others, there or not.
    start_sanlock(stack, LIBVIRT_AUTH_FILE="/etc/libvirt/missing.conf")
    expected = (
        "fail",
        "/etc/libvirt/missing.conf is in force and cannot be read",
        "correct LIBVIRT_AUTH_FILE",
    )
    assert_found(checks(stack), {"auth.conf file": expected})
    start_sanlock(stack)
    assert_passed(checks(stack), *names)


def start_sanlock(stack: Stack, **environ: str) -> None:
    """Start it anew, with ENVIRON."""
    stack.sanlock.stop()
    stack.run(*stack.sanlock.command(), env={**stack.sanlock.environment(), **environ})
    stack.sanlock.wait_ready()


SERVER = "/run/export"
LEASE_DIR = "/run/leases"

# What a server with root_squash does to root: all that it makes is uid 65534's, and no owner is changed.
SQUASHED = ("--create-for-user=nobody", "--create-for-group=nogroup", "--chown-deny", "--chgrp-deny")


def mount_shared(stack: Stack, *options: str) -> None:
    """Mount what claims to be a GlusterFS volume; there is no NFS in the kernel of every test machine.

    By the option subtype, which newer versions of bindfs overrule with their own name.
    """
    stack.run("sh", "-c", 'ln -sf "$(command -v bindfs)" /run/glusterfs')
    stack.run("/run/glusterfs", *options, "-o", "subtype=glusterfs", SERVER, LEASE_DIR)


def restart_libvirtd(stack: Stack) -> None:
    """With the lockspace left, as after a reboot: libvirtd joins it when it starts."""
    stack.libvirtd.stop()
    if stack.lockspaces():
        leave_lockspace(stack)
    stack.libvirtd.start()


def test_storage_that_is_shared_and_squashes_root(stack: Stack) -> None:
    need_programs("bindfs")
    stack.run("mknod", "-m", "0666", "/dev/fuse", "c", "10", "229")
    edit(stack, SANLOCK_CONF, "disk_lease_dir", f'disk_lease_dir = "{LEASE_DIR}"')
    assert_found(checks(stack), {"lease directory": ("fail", "is not there", f"mkdir -m 0700 {LEASE_DIR}")})
    stack.run("mkdir", "-m", "0700", SERVER, LEASE_DIR)
    assert_found(checks(stack), {"lease directory": ("warn", "is on tmpfs", "mount NFS")})
    mount_shared(stack, *SQUASHED)
    restart_libvirtd(stack)
    found = checks(stack)
    assert_passed(found, "lease directory")
    assert_found(
        found,
        {
            "lockspace": ("fail", "none is joined", f"restart {stack.libvirtd.name}"),
            # libvirt has removed the file whose owner it could not change.
            "root_squash": ("warn", "no file of libvirt's shows", "with no_root_squash"),
        },
    )
    # Without user and group libvirt makes one, and fails over it later.
    text = stack.path(SANLOCK_CONF).read_text()
    stack.path(SANLOCK_CONF).write_text(re.sub(r"^(user|group) = .*\n", "", text, flags=re.MULTILINE))
    restart_libvirtd(stack)
    assert_passed(checks(stack), "lockspace", "root_squash", "lease owner")
    stack.path(SANLOCK_CONF).write_text(text)
    restart_libvirtd(stack)
    assert_found(
        checks(stack),
        {
            "lockspace": ("fail", "none is joined", f"restart {stack.libvirtd.name}"),
            "root_squash": ("fail", "the server squashes root", "with no_root_squash, then restart"),
            "lease owner": ("warn", "not what is configured", "unless root_squash forbids that"),
        },
    )
    stack.libvirtd.stop()
    stack.run("umount", LEASE_DIR)
    mount_shared(stack)
    stack.libvirtd.start()
    assert_passed(checks(stack), "lease directory", "lockspace", "root_squash", "lease owner", "lease room")


POLICY = Path(__file__).parents[2] / "packaging/selinux/virt_sanlock_helper.fc"


def test_a_label_that_sanlock_may_not_run(ours: Stack) -> None:
    """The labels are real, and so is what gives them; what the kernel reports of SELinux is not."""
    need_programs("setfiles")
    ours.run("mount", "-t", "tmpfs", "tmpfs", "/sys/fs")
    ours.write("/sys/fs/selinux/enforce", "1")
    helper = ours.helper_path
    os.setxattr(ours.path(helper), "security.selinux", b"system_u:object_r:bin_t:s0\0")
    expected = ("fail", "enforcing, and sanlock_t may not run bin_t", "install virt-sanlock-helper-selinux")
    assert_found(checks(ours), {"selinux": expected})
    ours.write("/sys/fs/selinux/enforce", "0")
    assert_found(checks(ours), {"selinux": ("warn", "permissive", "restorecon")})
    ours.write("/sys/fs/selinux/enforce", "1")
    # What restorecon does once the package's module is there.
    contexts = re.sub(r"gen_context\(([^,]+),([^)]+)\)", r"\1:\2", POLICY.read_text())
    ours.write("/run/stack/file_contexts", contexts)
    ours.run("setfiles", "-F", "/run/stack/file_contexts", helper)
    assert_passed(checks(ours), "selinux")
    ours.run("umount", "/sys/fs")
