# SPDX-License-Identifier: LGPL-2.1-or-later
"""The truth table of `check`: each way to get libvirt's page on sanlock wrong, on a real host.

A row breaks the host, has `check` name that, runs the remedy of its line by a shell, and has `check` pass.
Where a remedy is not run, its whole text is compared, and the reason is beside it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest

from .command import checks, install_ours
from .domains import Domain
from .helper import stock_path
from .leases import Lease
from .namespace import CommandError
from .preconditions import need_programs
from .recovery import leave_lockspace
from .stack import Stack
from .truth import (
    LOCK_CONF,
    QEMU_CONF,
    assert_line,
    assert_mended,
    assert_passes,
    edit,
    follow,
    install_systemctl,
    without,
)

# Half of an hour for all of them: `make e2e` runs them, `make modular` those that are marked so.
pytestmark = pytest.mark.long


@pytest.fixture
def host(calm: Stack) -> Iterator[Stack]:
    """The shared stack with our helper at libvirt's path, and its configuration put back afterwards."""
    install_ours(calm)
    install_systemctl(calm)
    kept = {path: calm.path(path).read_text() for path in (QEMU_CONF, LOCK_CONF, calm.libvirtd.conf)}
    yield calm
    changed = [path for path, text in kept.items() if calm.path(path).read_text() != text]
    for path in changed:
        calm.path(path).write_text(kept[path])
    if changed or not calm.libvirtd.is_running():
        if calm.libvirtd.is_running():
            calm.libvirtd.stop()
        calm.libvirtd.start()


# libvirt


@contextlib.contextmanager
def emptied(host: Stack, folder: str) -> Iterator[None]:
    """FOLDER is empty."""
    host.run("mount", "-t", "tmpfs", "tmpfs", folder)
    try:
        yield
    finally:
        host.run("umount", folder)


def sanlock_major(stack: Stack) -> int:
    """The first number of its version."""
    return int(stack.run("sanlock", "version").stdout.partition(".")[0])


def install_owner(host: Stack, path: str) -> str:
    """The command that installs the package that PATH is of; Debian 13 has split Debian 12's."""
    return f"apt install {host.run('dpkg-query', '--search', path).stdout.partition(':')[0]}"


def test_plugin_missing(host: Stack) -> None:
    plugin = checks(host)["lock driver"]["found"]
    host.libvirtd.stop()
    with emptied(host, plugin.rpartition("/")[0]):
        # Not run: it installs a package.
        remedy = assert_line(checks(host), "lock driver", "fail", "sanlock.so is not there")
    assert remedy == install_owner(host, plugin)
    assert_passes(checks(host), "lock driver")


def test_helper_missing(host: Stack) -> None:
    folder = str(stock_path()).rpartition("/")[0]
    host.use_stock_helper(record=False)
    with emptied(host, folder):
        # Not run: it installs a package.
        remedy = assert_line(checks(host), "killpath", "fail", "libvirt's helper: not at")
    assert remedy == install_owner(host, str(stock_path()))
    install_ours(host)
    assert_passes(checks(host), "killpath")


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("", "none: no lease is taken for any disk"),
        ('lock_manager = "lockd"\n', "lockd: sanlock is not used"),
        ("lock_manager = 'nop' # none\n", "none: no lease is taken for any disk"),
    ],
)
def test_lock_manager_is_another(host: Stack, before: str, words: str) -> None:
    edit(host, QEMU_CONF, lambda text: before + without("lock_manager")(text).rstrip("\n"))
    assert_mended(host, "lock_manager", "fail", words, "lockspace", "configuration files")


@pytest.mark.parametrize(
    "first", ['lock_manager = "lockd"\n', '# one\nlock_manager="lockd" # old\nlock_manager = ""\n']
)
def test_lock_manager_comes_twice(host: Stack, first: str) -> None:
    edit(host, QEMU_CONF, lambda text: first + text)
    assert_mended(host, "lock_manager", "fail", "lockd: sanlock is not used; line ", "configuration files")


def test_libvirt_is_not_restarted(host: Stack) -> None:
    text = edit(host, QEMU_CONF, without("lock_manager"))
    host.libvirtd.restart()
    host.path(QEMU_CONF).write_text(text)
    assert_mended(host, "lock_manager", "fail", f"none in the running {host.libvirtd.name}", "lockspace")


def test_libvirt_is_not_restarted_since_another_driver(host: Stack) -> None:
    text = edit(host, QEMU_CONF, lambda text: 'lock_manager = "lockd"\n' + text)
    host.run("virtlockd", "--daemon", "--pid-file", "/run/virtlockd.pid")
    host.libvirtd.restart()
    host.path(QEMU_CONF).write_text(text)
    assert_mended(host, "lock_manager", "fail", "lockd in the running", "lockspace")


@pytest.mark.parametrize(
    ("path", "name", "line", "words"),
    [
        (QEMU_CONF, "lock_manager", "lock_manager = sanlock", "expecting a value"),
        (QEMU_CONF, "lock_manager", "lock_manager: 'sanlock", "expecting an assignment"),
        (QEMU_CONF, "lock_manager", "[qemu]\nlock_manager = \u201csanlock\u201d # ours", "expecting a name"),
        (LOCK_CONF, "host_id", "\ufeffhost_id = 1", "expecting a name"),
        (LOCK_CONF, "host_id", 'host_id = "1"', "host_id: '1' is no whole number"),
        (LOCK_CONF, "host_id", "host_id = -1", "host_id: -1 is no whole number"),
        (LOCK_CONF, "auto_disk_leases", "auto_disk_leases = yes", "expecting a value"),
        (LOCK_CONF, "auto_disk_leases", 'auto_disk_leases = "1"', "auto_disk_leases: '1' is no"),
        (LOCK_CONF, "auto_disk_leases", "auto_disk_leases = 2", "auto_disk_leases: 2 is no"),
        (LOCK_CONF, "user", "user = root\ngroup = 0", "expecting a value"),
        (LOCK_CONF, "group", "group = 0", "group: 0 is no text in quotes"),
    ],
)
def test_a_setting_that_libvirt_refuses(host: Stack, path: str, name: str, line: str, words: str) -> None:
    def change(text: str) -> str:
        rest = without("group" if "group" in line else name)(without(name)(text))
        return f"{line}\n{rest}" if "\ufeff" in line else f"{rest}\n{line}\n"

    edit(host, path, change)
    assert_mended(host, "configuration files", "fail", words, "lock_manager", "host_id", "lockspace")


@pytest.mark.parametrize(
    ("line", "found"), [("", "0, or none"), ("host_id = 0\n", "0, or none"), ("host_id = 2001\n", "2001")]
)
def test_host_id_is_none_that_a_host_may_have(host: Stack, line: str, found: str) -> None:
    edit(host, LOCK_CONF, lambda text: without("host_id")(text) + line)
    assert_mended(host, "host_id", "fail", found, "configuration files", "lockspace")
    # The one that the lockspace is joined with.
    assert "\nhost_id = 1\n" in host.path(LOCK_CONF).read_text()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("host_id", 7, "7 in the file, but the lockspace is joined as 1"),
        ("io_timeout", 2, "2 s in the file, but the lockspace was joined with 1 s"),
    ],
)
def test_a_setting_that_is_not_in_force(host: Stack, name: str, value: int, words: str) -> None:
    text = edit(host, LOCK_CONF, lambda text: f"{without(name)(text)}{name} = {value}\n")
    domain = host.domain("vm1").start()
    try:
        remedy = assert_line(checks(host), name, "warn", words)
        # It kills no VM.
        with pytest.raises(CommandError):
            follow(host, remedy)
        assert domain.state().name == "running"
        domain.destroy()
        assert_mended(host, name, "warn", words, "lockspace")
        host.path(LOCK_CONF).write_text(text)
        assert_mended(host, name, "warn", "in the file, but", "lockspace")
    finally:
        domain.undefine()


@pytest.mark.parametrize("joined", [True, False])
def test_a_lease_directory_that_is_not_absolute(host: Stack, joined: bool) -> None:
    folder = host.storage.leases
    edit(host, LOCK_CONF, lambda text: text.replace(f'"{folder}"', f'"{folder[1:]}"'))
    host.libvirtd.stop()
    leave_lockspace(host)
    if joined:
        host.libvirtd.start()
        assert host.lockspaces()[0].path == host.storage.lockspace_path[1:]
    words = f"{folder[1:]!r} is not absolute"
    assert_mended(host, "lease path", "fail", words, "lockspace", "lease owner")
    assert host.lockspaces()[0].path == host.storage.lockspace_path


def test_a_lease_directory_that_is_not_there(host: Stack) -> None:
    text = edit(
        host,
        LOCK_CONF,
        lambda text: re.sub("disk_lease_dir = .*", 'disk_lease_dir = "/var/lib/libvirt/images/l/l"', text),
    )
    host.libvirtd.stop()
    leave_lockspace(host)
    remedy = assert_line(checks(host), "lease directory", "fail", "images/l/l is not there")
    follow(host, remedy)
    host.libvirtd.start()
    found = checks(host)
    assert_passes(found, "lockspace", "lease owner", "lease room", "lease path")
    assert found["lease directory"]["verdict"] == "warn"
    host.path(LOCK_CONF).write_text(text)
    host.libvirtd.stop()
    leave_lockspace(host)
    host.libvirtd.start()
    host.run("rm", "-r", "/var/lib/libvirt/images/l")


@pytest.mark.parametrize("lines", ['user = "nosuch"\n', 'user = "root"\ngroup = "no such"\n', 'user = ""\n'])
def test_an_account_that_is_not_there(host: Stack, lines: str) -> None:
    edit(host, LOCK_CONF, lambda text: without("user")(without("group")(text)) + lines)
    host.libvirtd.stop()
    assert_mended(host, "lease owner", "fail", "there is no such account", "lockspace", "configuration files")


@pytest.mark.parametrize("comment", [True, False])
def test_automatic_leases_were_never_switched_on(host: Stack, comment: bool) -> None:
    """A host with no domain yet, whose administrator has set what libvirt's page has: the host_id."""
    new = "#auto_disk_leases = 1" if comment else ""
    edit(host, LOCK_CONF, lambda text: text.replace("auto_disk_leases = 1", new))
    host.libvirtd.stop()
    leave_lockspaces(host)
    host.libvirtd.start()
    assert_mended(host, "lockspace", "fail", "none is joined", "host_id", "lease owner")


# Domains


def with_source(domain: Domain, kind: str, source: str) -> Domain:
    """Define it with another source for its disk."""
    xml = domain.xml.replace("<disk type='file'", f"<disk type='{kind}'")
    xml = re.sub(r"<source file=\S+/>", source, xml)
    domain.host.path(domain.xml_path).write_text(xml)
    return domain.define()


def with_action(domain: Domain, line: str) -> Domain:
    """Define it with LINE in the place of its on_lockfailure."""
    xml = re.sub(r"<on_lockfailure>.*</on_lockfailure>", line, domain.xml)
    domain.host.path(domain.xml_path).write_text(xml)
    return domain.define()


def assert_refused(domain: Domain, words: str) -> None:
    """That libvirt does not start it, with WORDS.

    In the domain's log: virtlogd writes it, and libvirtd, which reads it there for its own error, may be
    earlier.
    """
    with pytest.raises(CommandError):
        domain.start()
    log = domain.host.path(f"/var/log/libvirt/qemu/{domain.name}.log")
    domain.host.wait_for(lambda: words in log.read_text(errors="replace"), 10, f"{words} in {log.name}")


@pytest.mark.parametrize(
    ("line", "verdict", "words"),
    [
        ("<on_lockfailure>restart</on_lockfailure>", "fail", "sanlock refuses restart of the vm: such"),
        ("<on_lockfailure>ignore</on_lockfailure>", "fail", "sanlock refuses ignore of the vm: such"),
        ("<on_lockfailure>default</on_lockfailure>", "warn", "none in the vm: sanlock sends SIGTERM"),
        ("", "warn", "none in the vm: sanlock sends SIGTERM"),
    ],
)
def test_on_lockfailure(host: Stack, line: str, verdict: str, words: str) -> None:
    domain = with_action(host.domain("the vm"), line)
    try:
        if verdict == "fail":
            assert_refused(domain, f"{re.sub('<.*?>', '', line)} is not supported by sanlock")
        assert_mended(host, "on_lockfailure", verdict, words)
        domain.start()
        assert_passes(checks(host), "on_lockfailure", "leases")
        domain.destroy()
        xml = host.virsh("dumpxml", domain.name)
        action = "poweroff" if "restart" in line else "pause"
        assert re.findall(r"<on_lockfailure>(\w+)<", xml) == [action]
        # What restart was meant for is recovery's task.
        assert ("recover=" in xml) == ("restart" in line)
    finally:
        domain.undefine()


def test_on_lockfailure_of_a_domain_without_a_lease(host: Stack) -> None:
    domain = with_action(host.domain("vm1", disks=0), "")
    assert_passes(checks(host), "on_lockfailure")
    domain.undefine()


def test_automatic_leases_are_off_and_a_domain_has_none(host: Stack) -> None:
    domain = host.domain("vm1").define()
    edit(host, LOCK_CONF, lambda text: text.replace("auto_disk_leases = 1", "auto_disk_leases = 0"))
    host.libvirtd.restart()
    try:
        assert_refused(domain, "no leases specified")
        assert_mended(host, "disks without a lease", "fail", "without any lease do not start: vm1", "leases")
        domain.start()
        assert len(domain.leases()) == 1
        domain.destroy()
    finally:
        domain.undefine()


def test_automatic_leases_are_off_and_a_domain_runs_without_one(host: Stack) -> None:
    domain = host.domain("vm1").define()
    lines = "auto_disk_leases = 0\nrequire_lease_for_disks = 0"
    edit(host, LOCK_CONF, lambda text: text.replace("auto_disk_leases = 1", lines))
    host.libvirtd.restart()
    other = host.domain("vm2").define()
    domain.start()
    try:
        words = "without any lease run vm1; without any lease would run unprotected: vm2"
        assert_mended(host, "disks without a lease", "fail", words, "leases")
        assert len(domain.leases()) == 1
        domain.destroy()
    finally:
        domain.undefine()
        other.undefine()


def test_a_domain_was_started_before_there_were_leases(host: Stack) -> None:
    text = edit(host, QEMU_CONF, without("lock_manager"))
    host.libvirtd.restart()
    domain = host.domain("vm 1").start()
    host.path(QEMU_CONF).write_text(text)
    host.libvirtd.restart()
    try:
        assert_mended(host, "leases", "fail", "vm 1: ")
        assert len(domain.leases()) == 1
        domain.destroy()
    finally:
        domain.undefine()


def test_a_remedy_is_for_the_domain_whose_name_is_anothers_id(host: Stack) -> None:
    """virsh takes a number for an id first: the other VM would be powered off."""
    other = host.domain("other").start()
    number = host.virsh("domid", "other").strip()
    text = edit(host, QEMU_CONF, without("lock_manager"))
    host.libvirtd.restart()
    domain = host.domain(number).start()
    host.path(QEMU_CONF).write_text(text)
    host.libvirtd.restart()
    pid = host.processes("qemu-system-x86")[0].pid
    try:
        assert_mended(host, "leases", "fail", f"{number}: ")
        assert host.is_alive(pid)
        assert other.state().name == "running"
        assert len(domain.leases()) == 1
    finally:
        for each in (host.virsh("domuuid", "other").strip(), domain.uuid):
            host.virsh("destroy", each)
            host.virsh("undefine", each)


@pytest.mark.parametrize("target", ["/dev", "/dev/disks/by-path"])
@pytest.mark.parametrize("kind", ["iscsi", "scsi"])
def test_target_of_a_pool(host: Stack, kind: str, target: str) -> None:
    source = {
        "iscsi": "<host name='192.168.254.8'/><device path='iqn.2026-11.example:disks'/>",
        "scsi": "<adapter name='host0'/>",
    }[kind]
    path = "/run/stack/pool.xml"
    host.write(
        path,
        f"<pool type='{kind}'><name>my pool</name><source>{source}</source>"
        f"<target><path>{target}</path></target></pool>",
    )
    host.virsh("pool-define", path)
    try:
        assert_mended(host, "storage pools", "fail", f"my pool ({kind}) {target}")
    finally:
        host.virsh("pool-undefine", "my pool")


def test_a_disk_that_is_a_volume(host: Stack) -> None:
    host.run("mkdir", "-p", "/run/volumes")
    pool = "<pool type='dir'><name>volumes</name><target><path>/run/volumes</path></target></pool>"
    host.write("/run/stack/pool.xml", pool)
    host.virsh("pool-define", "/run/stack/pool.xml")
    host.virsh("pool-start", "volumes")
    host.virsh("vol-create-as", "volumes", "a.img", "1M")
    text = edit(host, QEMU_CONF, without("lock_manager"))
    host.libvirtd.restart()
    domain = with_source(host.domain("vm1"), "volume", "<source pool='volumes' volume='a.img'/>")
    domain.start()
    host.path(QEMU_CONF).write_text(text)
    host.libvirtd.restart()
    try:
        assert_mended(host, "leases", "fail", "of /run/volumes/a.img is not ")
        assert checks(host)["leases"]["found"].startswith("1 leases")
        host.virsh("pool-destroy", "volumes")
        assert_line(checks(host), "leases", "warn", "the path of vm1: volume a.img of pool volumes")
        domain.destroy()
    finally:
        domain.undefine()
        host.virsh("pool-undefine", "volumes")


@pytest.mark.parametrize("kind", ["file", "block"])
@pytest.mark.parametrize(
    "device", ["rbd0", "sdz", "nbd3p1", "dm-7", "nvme0n1p2", "vdb", "dasdc", "mmcblk0p1"]
)
def test_a_device_whose_name_moves(host: Stack, device: str, kind: str) -> None:
    path = f"/dev/{device}"
    attribute = "dev" if kind == "block" else kind
    domain = with_source(host.domain("vm1"), kind, f"<source {attribute}='{path}'/>")
    host.run("mkdir", "-p", "/dev/disk/by-path")
    host.run("ln", "-s", f"../../{device}", "/dev/disk/by-path/pci-0000")
    try:
        assert_mended(host, "disk paths", "fail", f"vm1: {path}")
        assert "/dev/disk/by-path/pci-0000" in host.virsh("dumpxml", "vm1")
    finally:
        host.run("rm", "-r", "/dev/disk")
        domain.undefine()


def test_a_guest_that_crashed_and_is_preserved(host: Stack) -> None:
    """QEMU's own device panics for the guest: no guest runs here that could."""
    domain = host.domain("vm1")
    xml = domain.xml.replace("<devices>", "<on_crash>preserve</on_crash><devices>")
    xml = xml.replace("</devices>", "<panic model='isa'/></devices>")
    host.path(domain.xml_path).write_text(xml)
    domain.define().start()
    # Port 0x505 of the ISA device, written by QEMU's monitor.
    host.virsh("qemu-monitor-command", "--hmp", "vm1", "o /b 0x505 1")
    host.wait_for(lambda: domain.state().name == "crashed", 10, "the guest to be crashed")
    try:
        assert domain.leases() == []
        assert_passes(checks(host), "leases")
        domain.destroy()
    finally:
        domain.undefine()


# sanlock


OTHER = "__OTHER__"


def make_lockspace(stack: Stack, folder: str = "/var/lib/libvirt/images/own", name: str = OTHER) -> Lease:
    """A lockspace of a management program in FOLDER, joined, with a lease in it."""
    stack.run("mkdir", "-p", folder)
    ids, leases = f"{folder}/ids", f"{folder}/leases"
    stack.run("truncate", "-s", "1M", ids)
    stack.run("truncate", "-s", "2M", leases)
    stack.run("sanlock", "direct", "init", "-s", f"{name}:0:{ids}:0", "-o", "1")
    stack.run("sanlock", "direct", "init", "-r", f"{name}:vm:{leases}:1048576")
    stack.run("sanlock", "client", "add_lockspace", "-s", f"{name}:1:{ids}:0", "-o", "1")
    return Lease(name, "vm", leases, 1048576, 0, 0, "")


def leave(stack: Stack, name: str = OTHER) -> None:
    """Leave a lockspace, if it is joined."""
    for space in [space for space in stack.lockspaces() if space.name == name]:
        where = f"{name}:{space.host_id}:{space.path}:{space.offset}"
        stack.run("sanlock", "client", "rem_lockspace", "-s", where)


def test_none_is_joined(host: Stack) -> None:
    leave_lockspace(host)
    assert_mended(host, "lockspace", "fail", "none is joined", "lockspace file", "host_id unique")


@pytest.mark.parametrize("automatic", [0, 1])
def test_the_lockspace_of_a_lease_element_is_not_joined(host: Stack, automatic: int) -> None:
    lease = make_lockspace(host)
    disks = f"auto_disk_leases = {automatic}"
    if not automatic:
        edit(host, LOCK_CONF, lambda text: text.replace("auto_disk_leases = 1", disks))
        host.libvirtd.stop()
        leave_lockspaces(host)
        host.libvirtd.start()
    domain = host.domain("vm1", leases=[lease]).define()
    try:
        leave(host)
        with pytest.raises(CommandError, match="Failed to acquire lock"):
            domain.start()
        words = f"not joined: {OTHER}" if automatic else "none is joined"
        assert_mended(host, "lockspace", "fail", words, "disks without a lease")
        domain.start()
        assert "vm" in {lease.resource for lease in domain.leases()}
        assert_passes(checks(host), "leases", "lockspace file", "lease path", "lease owner", "clock")
        domain.destroy()
    finally:
        domain.undefine()
        leave(host)


def leave_lockspaces(stack: Stack) -> None:
    for space in stack.lockspaces():
        leave(stack, space.name)


def test_leases_of_lease_elements_are_where_the_directory_is_checked(host: Stack) -> None:
    """The io_timeout and the filesystem are those of what is in use."""
    lease = make_lockspace(host)
    edit(host, LOCK_CONF, lambda text: text.replace("auto_disk_leases = 1", "auto_disk_leases = 0"))
    edit(host, LOCK_CONF, lambda text: re.sub("disk_lease_dir = .*", 'disk_lease_dir = "/gone"', text))
    domain = host.domain("vm1", leases=[lease]).define()
    try:
        leave(host)
        slow = f"{OTHER}:1:/var/lib/libvirt/images/own/ids:0"
        host.run("sanlock", "client", "add_lockspace", "-s", slow, "-o", "2")
        found = checks(host)
        assert "lease lost 16 s" in found["clock"]["found"]
        assert found["lease directory"]["found"].startswith("/var/lib/libvirt/images/own/ids is on ")
        assert_passes(found, "lockspace", "lease room", "lease path", "root_squash", "lease owner", "leases")
    finally:
        domain.undefine()
        leave(host)


@pytest.fixture
def other_host(stack: Stack) -> Stack:
    """A stack whose host_id another host, that is alive, has taken."""
    install_ours(stack)
    install_systemctl(stack)
    stack.libvirtd.stop()
    leave_lockspace(stack)
    stack.second_host(1, "twin").join()
    return stack


@pytest.mark.parametrize("asked", [False, True])
def test_another_live_host_has_our_host_id(other_host: Stack, asked: bool) -> None:
    """Before sanlock is asked to join, and while it waits (list=add), which passed."""
    stack = other_host
    if asked:
        path = stack.storage.lockspace_path
        stack.popen("sanlock", "client", "add_lockspace", "-s", f"__LIBVIRT__DISKS__:1:{path}:0", "-o", "1")
        stack.wait_for(stack.lockspaces, 10, "sanlock to begin to join")
    stack.popen(*stack.libvirtd.command())
    found = checks(stack)
    assert_line(found, "lockspace", "fail", "not joined (yet)" if asked else "")
    follow(stack, assert_line(found, "host_id unique", "fail", "twin has 1 and is alive"))
    assert [space.host_id for space in stack.lockspaces()] == [2]
    assert_passes(checks(stack), "host_id unique", "lockspace", "host_id")


def test_another_live_host_has_our_host_id_and_our_name(stack: Stack) -> None:
    """Two hosts of one image; sanlock would take the place over at once."""
    install_ours(stack)
    install_systemctl(stack)
    stack.libvirtd.stop()
    leave_lockspace(stack)
    stack.second_host(1).join()
    follow(stack, assert_line(checks(stack), "host_id unique", "fail", "host1 has 1 and is alive"))
    assert_passes(checks(stack), "host_id unique", "lockspace", "host_id")


def test_another_live_host_has_our_host_id_in_the_lockspace_of_a_lease(host: Stack) -> None:
    lease = make_lockspace(host)
    leave(host)
    place = f"{OTHER}:1:/var/lib/libvirt/images/own/ids:0"
    other = host.second_host(5, "twin5")
    other.run("sanlock", "client", "add_lockspace", "-s", place, "-o", "1")
    domain = host.domain("vm1", leases=[lease]).define()
    host.popen("sanlock", "client", "add_lockspace", "-s", place, "-o", "1")
    host.wait_for(lambda: len(host.lockspaces()) == 2, 10, "sanlock to begin to join")
    try:
        remedy = assert_line(checks(host), "host_id unique", "fail", f"does not join {OTHER} until")
        follow(host, remedy)
        assert_passes(checks(host), "host_id unique", "lockspace")
    finally:
        domain.undefine()
        leave(host)


def test_a_name_that_sanlock_has_made_for_itself(stack: Stack) -> None:
    """A host that was reset finds its own place taken, under the name of its last run."""
    install_ours(stack)
    command = stack.sanlock.command()
    name = command.index("-e")
    del command[name : name + 2]
    stack.libvirtd.stop()
    leave_lockspace(stack)
    stack.sanlock.stop()
    for ends in (True, False):
        stack.run(*command, env=stack.sanlock.environment())
        stack.sanlock.wait_ready()
        if ends:
            stack.join_lockspace()
            stack.sanlock.kill()
    found = checks(stack)
    assert_passes(found, "host_id unique")
    assert found["host_id unique"]["found"] == "1 was this host's own before"


def test_the_file_of_a_joined_lockspace_is_deleted(host: Stack) -> None:
    domain = host.domain("vm1").start()
    host.path(host.storage.lockspace_path).unlink()
    words = f"{host.storage.lockspace_path} was deleted while sanlock has it joined"
    remedy = assert_line(checks(host), "lockspace file", "fail", words)
    assert remedy.endswith("first shut down vm1")
    # It kills no VM.
    with pytest.raises(CommandError):
        follow(host, remedy)
    assert domain.state().name == "running"
    domain.destroy()
    assert_mended(host, "lockspace file", "fail", words, "lockspace", "lockspace format")
    domain.undefine()


def test_the_file_of_a_joined_lockspace_is_replaced(host: Stack) -> None:
    """As when the directory is filled from a backup, or another filesystem is mounted over it."""
    path = host.storage.lockspace_path
    host.run("cp", path, f"{path}.new")
    host.run("mv", f"{path}.new", path)
    assert_mended(host, "lockspace file", "fail", f"{path} was replaced while", "lockspace")


def test_the_file_of_another_lockspace_is_deleted(host: Stack) -> None:
    lease = make_lockspace(host)
    domain = host.domain("vm1", leases=[lease]).define()
    try:
        host.path("/var/lib/libvirt/images/own/ids").unlink()
        assert_mended(host, "lockspace file", "fail", "own/ids was deleted", "lockspace")
        domain.start()
        domain.destroy()
    finally:
        domain.undefine()
        leave(host)


@pytest.mark.parametrize("lines", ["", 'user = "root"\n', 'group = "root"\nuser = "root"\n'])
def test_user_and_group_of_a_sanlock_that_is_not_root(stack: Stack, lines: str) -> None:
    """As on Fedora and RHEL: what libvirt makes is root's alone."""
    if sanlock_major(stack) >= 5:
        pytest.skip("sanlock 5 gives its directory in /run to root, and does not start as another user")
    install_ours(stack)
    stack.libvirtd.stop()
    leave_lockspace(stack)
    stack.sanlock.stop()
    stack.run("sh", "-c", "rm -f /run/sanlock/*")
    stack.run("chown", "sanlock:sanlock", "/run/sanlock", "/var/log/sanlock.log")
    command = stack.sanlock.command()
    for option in ("-U", "-G"):
        del command[command.index(option) : command.index(option) + 2]
    account = ("setpriv", "--reuid=sanlock", "--regid=sanlock", "--init-groups")
    stack.run(*account, *command, env=stack.sanlock.environment())
    stack.sanlock.wait_ready()
    install_systemctl(stack)
    text = without("user")(without("group")(stack.path(LOCK_CONF).read_text()))
    stack.path(LOCK_CONF).write_text(text + lines)
    stack.popen(*stack.libvirtd.command())
    stack.wait_for(stack.libvirtd.is_running, 10, "libvirtd")
    for missing in (False, True):
        if missing:
            stack.path(stack.storage.lockspace_path).unlink(missing_ok=True)
        found = checks(stack)
        remedy = assert_line(found, "lease owner", "fail", "libvirt makes files that sanlock may not open")
    follow(stack, remedy)
    found = checks(stack)
    assert_passes(found, "lease owner", "lockspace", "configuration files")
    domain = stack.domain("vm1").start()
    assert len(domain.leases()) == 1


# The host


@pytest.fixture
def units(host: Stack) -> Iterator[Stack]:
    """A stack with an /etc/systemd of its own, where no unit is enabled."""
    host.run("mv", "/etc/systemd", "/etc/systemd.away")
    host.run("mkdir", "-p", "/etc/systemd/system")
    yield host
    host.run("rm", "-r", "/etc/systemd")
    host.run("mv", "/etc/systemd.away", "/etc/systemd")


def enable(stack: Stack, *names: str) -> None:
    follow(stack, f"systemctl enable {' '.join(names)}")


def test_services_are_not_enabled(units: Stack) -> None:
    daemon = f"{units.libvirtd.name}.service"
    words = f"sanlock.service disabled: it is not started at boot, {daemon} disabled"
    assert_mended(units, "services", "fail", words)


@pytest.mark.parametrize("name", ["sanlock", "libvirtd"])
def test_one_service_is_masked(units: Stack, name: str) -> None:
    name = units.libvirtd.name if name == "libvirtd" else name
    enable(units, "sanlock", units.libvirtd.name)
    follow(
        units, f"systemctl disable {name} && systemctl mask {name} && systemctl disable {name}.socket || :"
    )
    assert_mended(units, "services", "fail", f"{name}.service masked")


def test_a_service_that_another_one_starts(units: Stack) -> None:
    """As vdsmd does on an oVirt host; or the socket, for libvirt's daemon."""
    units.write(
        "/etc/systemd/system/vdsmd.service",
        "[Unit]\nRequires=sanlock.service\n[Service]\nExecStart=/bin/true\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    name = units.libvirtd.name
    enable(units, "vdsmd", f"{name}.socket")
    found = checks(units)
    assert_passes(found, "services")
    assert "sanlock.service disabled, started by vdsmd.service" in found["services"]["found"]
    follow(units, "systemctl disable vdsmd")
    assert_line(checks(units), "services", "fail", "sanlock.service disabled: it is not started")


def test_a_watchdog_that_is_wanted_without_its_daemon(stack: Stack) -> None:
    """-w 0 as on libvirt's page, which this distribution does not read; wdmd, where that is meant."""
    install_ours(stack)
    stack.libvirtd.stop()
    leave_lockspace(stack)
    stack.sanlock.stop()
    command = stack.sanlock.command()
    watchdog = command.index("-w")
    del command[watchdog : watchdog + 2]
    for name in ("default", "systemd"):
        stack.run("rm", "-f", f"/etc/{name}")
        stack.run("mkdir", "-p", f"/etc/{name}")
    stack.write("/etc/sysconfig/sanlock", '# no wdmd here\nSANLOCKOPTS="-w 0"\n')
    stack.write("/etc/default/sanlock", 'enabled=1\nsanlock_opts="-H 100"\n')
    install_systemctl(stack, command)
    follow(stack, "systemctl start sanlock")
    found = checks(stack)
    assert_line(found, "watchdog", "fail", "wdmd does not run")
    remedy = assert_line(found, "services", "fail", "wdmd.service disabled: it is not started at boot")
    assert "systemctl enable wdmd.service" in remedy
    enable(stack, "sanlock", stack.libvirtd.name)
    words = "wdmd.service disabled: it starts only as long as sanlock.service wants it"
    follow(stack, assert_line(checks(stack), "services", "warn", words))
    assert_passes(checks(stack), "services")
    words = "SANLOCKOPTS = -w 0 in /etc/sysconfig/sanlock: sanlock.service does not read it"
    assert_mended(stack, "sanlock options", "warn", words, "watchdog")
    if sanlock_major(stack) < 5:
        assert stack.path("/etc/default/sanlock").read_text().endswith('\nsanlock_opts="-H 100 -w 0"\n')
    else:
        # Its unit has no options.
        assert stack.path("/etc/sanlock/sanlock.conf").read_text().endswith("use_watchdog = 0\n")
    stack.libvirtd.start()
    assert_passes(checks(stack), "lockspace", "services")


def test_a_directory_that_was_mounted_by_hand(host: Stack) -> None:
    need_programs("bindfs")
    folder = host.storage.leases
    host.run("sh", "-c", "test -e /dev/fuse || mknod -m 0666 /dev/fuse c 10 229")
    host.run("sh", "-c", 'ln -sf "$(command -v bindfs)" /run/glusterfs; mkdir -p "/run/my export"')
    host.run("rm", "-f", "/etc/fstab")
    host.write("/etc/fstab", f"# {folder}\n/dev/sda1 / ext4 rw 0 1")
    host.libvirtd.stop()
    leave_lockspace(host)
    # Over an empty folder: FUSE 2 needs the option nonempty for another one, and FUSE 3 refuses that option.
    host.run("mkdir", "-p", "/run/mounted")
    host.run("/run/glusterfs", "-o", "subtype=glusterfs", "/run/my export", "/run/mounted")
    host.run("mount", "--bind", "/run/mounted", folder)
    host.run("umount", "/run/mounted")
    try:
        host.libvirtd.start()
        host.path("/etc/fstab").write_text(f"x {folder}/ nfs rw,noauto 0 0\n")
        words = f"{folder} is noauto in fstab"
        assert_mended(host, "lease mount", "warn", words, "lease directory")
        host.path("/etc/fstab").write_text(f"# {folder}\n/dev/sda1 / ext4 rw 0 1\n")
        assert_mended(host, "lease mount", "warn", f"{folder} was mounted by hand")
        line = host.path("/etc/fstab").read_text().splitlines()[-1]
        assert line == f"glusterfs {folder} glusterfs defaults,_netdev 0 0"
        host.libvirtd.stop()
        leave_lockspace(host)
    finally:
        host.run("umount", folder)
        host.libvirtd.start()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("defaults {\n  no_path_retry queue\n}\n", "no_path_retry queue: for ever (defaults)"),
        ('defaults {\n  features "1 queue_if_no_path"\n}\n', "without no_path_retry: for ever (defaults)"),
        ('devices {\n device {\n features "1 queue_if_no_path"\n}\n}\n', "for ever (device)"),
        ("overrides {\n no_path_retry queue\n}\n", "for ever (overrides)"),
    ],
)
def test_multipath_that_queues_for_ever(host: Stack, text: str, words: str) -> None:
    host.write("/etc/multipath.conf", text)
    try:
        assert_mended(host, "multipath", "fail", words)
    finally:
        host.run("rm", "-rf", "/etc/multipath.conf", "/etc/multipath")
