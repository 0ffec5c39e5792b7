# SPDX-License-Identifier: LGPL-2.1-or-later
"""drill on a real stack: what it proves, which link it names when one broke, and that it leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, Callable

import pexpect.fdpexpect
import pytest

from tests.schemas import validated

from .binding import OURS, answers, call, hidden, sanlock_python
from .command import COMMAND, TRAMPOLINE, export_journal, install_ours, run
from .conftest import StackFactory
from .domains import Domain
from .leases import LOCKSPACE, Lease, Lockspace
from .stack import Stack
from .waiting import wait_for

# Half of an hour for all of them: `make e2e` runs them, `make modular` those that are marked so.
pytestmark = pytest.mark.long

NAME = "virt-sanlock-helper-drill"
FOLDER = f"/var/lib/libvirt/{NAME}"
NOTE = "/var/lib/virt-sanlock-helper/drill.json"
LINKS = (
    "lockspace joined",
    "lease held",
    "lease lost",
    "helper run",
    "helper is ours",
    "libvirtd reached",
    "state reached",
    "lease given up",
)
# Where a drill makes something.
PLACES = (
    "/var/lib/libvirt",
    "/var/lib/virt-sanlock-helper",
    "/var/log/libvirt/qemu",
    "/run/virt-sanlock-helper/records",
    "/run/virt-sanlock-helper/requests",
)


@pytest.fixture(scope="module")
def other(calm: Stack) -> Iterator[Domain]:
    """A virtual machine of the host, in whose stack our helper is installed."""
    install_ours(calm)
    domain = calm.domain("other", "pause").start()
    yield domain
    domain.destroy()
    domain.undefine()


def picture(stack: Stack) -> dict[str, Any]:
    """All that a drill must leave as it was."""
    files = stack.run("find", *PLACES, "-type", "f", "-o", "-type", "d", check=False).stdout
    return {
        "domains": stack.virsh("list --all --name").split(),
        "leases": sorted(stack.leases()),
        "lockspaces": stack.lockspaces(),
        "files": sorted(path for path in files.splitlines() if path not in PLACES),
        "qemu": sorted(process.pid for process in stack.processes("qemu-system-x86")),
    }


@contextlib.contextmanager
def untouched(stack: Stack, other: Domain) -> Iterator[None]:
    """The other virtual machine runs as before, under its lease, and nothing is left."""
    before = picture(stack)
    assert [lease.lockspace for lease in other.leases()] == [LOCKSPACE]
    yield
    assert picture(stack) == before
    assert other.state().name == "running"


def drill(stack: Stack, *words: str, status: int = 0, **env: str) -> dict[str, Any]:
    """What a drill reports."""
    answer = run(stack, "drill", "--yes", "--json", *words, **env)
    assert answer.returncode == status, answer.stdout + answer.stderr
    found = validated(answer.stdout, "drill")
    assert [link["name"] for link in found["links"]] == list(LINKS)
    assert [link["number"] for link in found["links"]] == list(range(1, 9))
    assert found["ok"] == (status == 0)
    return found


def link(found: dict[str, Any], name: str) -> dict[str, str]:
    answer: dict[str, str]
    (answer,) = (each for each in found["links"] if each["name"] == name)
    return answer


def verdicts(found: dict[str, Any]) -> list[str]:
    return [each["verdict"] for each in found["links"]]


def scratch_lockspaces(stack: Stack) -> list[Lockspace]:
    return [space for space in stack.lockspaces() if space.name.startswith(NAME)]


@pytest.mark.modular
@pytest.mark.parametrize(("action", "state"), [("pause", "paused (user)"), ("poweroff", "off")])
def test_the_chain_holds_and_nothing_is_left(calm: Stack, other: Domain, action: str, state: str) -> None:
    with untouched(calm, other):
        found = drill(calm, action)
    assert verdicts(found) == ["pass"] * 8, found
    assert link(found, "state reached")["found"].startswith(f"{state}, ")
    assert (found["action"], found["holder"], found["broken"]) == (action, "virtual machine", None)
    assert found["virt_type"] == "qemu"
    assert 0 <= found["seconds"] < 15
    uuid = found["domain"]["uuid"]
    lines = [line.message for line in calm.journal("virt-sanlock-helper")]
    # The helper did for it what it does for any other, but for a record: it is not to come back.
    (done,) = (line for line in lines if line.startswith(f"{action} {found['domain']['name']} {uuid}: done"))
    assert done.endswith("no lease held" if action == "pause" else "libvirt no longer knows it")
    assert [line for line in lines if "record" in line] == []
    assert [kill for kill in calm.sigkills() if kill.pid != other.qemu_pid()] == []


def test_a_drill_is_no_outage(calm: Stack, other: Domain) -> None:
    drill(calm)
    assert run(calm, "history", "--journal", export_journal(calm)).stdout.startswith("no outage")
    assert run(calm, "recover", "--list").stdout == ""


@pytest.mark.parametrize("has_sanlock_python", [True, False])
def test_without_a_virtual_machine(calm: Stack, other: Domain, has_sanlock_python: bool) -> None:
    modules = [] if has_sanlock_python else sanlock_python(calm)
    with untouched(calm, other), hidden(calm, *modules):
        found = drill(calm, "--qemu-less")
    tried = ["pass"] * 5 + ["not tried"] * 2 + ["pass"]
    assert (verdicts(found), found["holder"], found["action"]) == (tried, "process", "ignore")
    assert found["seconds"] is None


def test_where_no_virtual_machine_can_be_started_a_process_holds_the_lease(
    calm: Stack, other: Domain
) -> None:
    emulators = calm.run("sh", "-c", "ls /usr/bin/qemu-system-* /usr/bin/qemu-kvm 2>/dev/null", check=False)
    with hidden(calm, *emulators.stdout.split()):
        calm.run("rm", "-rf", "/var/cache/libvirt/qemu/capabilities")
        calm.libvirtd.restart()
        found = drill(calm)
    calm.libvirtd.restart()
    assert (found["holder"], found["broken"]) == ("process", None)
    assert "no emulator" in found["problems"][0]


def test_at_a_terminal_it_explains_itself_and_asks(calm: Stack, other: Domain) -> None:
    with untouched(calm, other):
        process, child = at_terminal(calm, "drill", "poweroff")
        # Lines end where the terminal does, and so may what is between two words.
        for text in (
            f"will:    join a lockspace of its own in {FOLDER}",
            "on_lockfailure poweroff",
            "touches: no other virtual machine",
            "risk:    none for this host: sanlock uses no watchdog",
        ):
            child.expect(r"\s+".join(map(re.escape, text.split())))
        child.expect_exact("drill? [y/N] ")
        assert scratch_lockspaces(calm) == []
        child.sendline("n")
        child.expect_exact("nothing was done")
        assert process.wait(30) == 1
        answer = run(calm, "drill")
        assert (answer.returncode, answer.stdout) == (2, "")
        assert answer.stderr == "virt-sanlock-helper: drill: there is no terminal to ask at (use --yes)\n"


def at_terminal(stack: Stack, *words: str) -> tuple[subprocess.Popen[str], Any]:
    """The command at a terminal of its own, which Ctrl-C reaches it through."""
    ours, theirs = os.openpty()
    command = ("setsid", "--ctty", "--wait", COMMAND, *words)
    process = stack.popen(*command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    return process, pexpect.fdpexpect.fdspawn(ours, encoding="utf-8", timeout=30)


def put(stack: Stack, text: str, mode: int) -> None:
    """Put TEXT at libvirt's path."""
    path = f"/run/stack/broken-{mode:o}-{len(text)}"
    stack.write(path, text, mode)
    stack.install_helper(path, record=False)


# Ended in each phase


@contextlib.contextmanager
def slow_killpath(stack: Stack) -> Iterator[None]:
    """The killpath takes longer than a drill waits for it: none has passed before a signal comes to it."""
    put(stack, "#!/bin/sh\nexec sleep 20\n", 0o755)
    try:
        yield
    finally:
        install_ours(stack)


Phase = Callable[[Stack], object]


def is_made(stack: Stack) -> object:
    return stack.path(f"{FOLDER}/lease").exists()


def is_joining(stack: Stack) -> object:
    return any(space.state == "ADD" for space in scratch_lockspaces(stack))


def is_joined(stack: Stack) -> object:
    return any(not space.state for space in scratch_lockspaces(stack))


def is_held(stack: Stack) -> object:
    return any(lease.lockspace.startswith(NAME) and not lease.state for lease in stack.leases())


def is_overwritten(stack: Stack) -> object:
    with contextlib.suppress(OSError):
        return is_held(stack) and not stack.path(f"{FOLDER}/lockspace").read_bytes()[:4].strip(b"\0")
    return False


PHASES = (is_made, is_joining, is_joined, is_held, is_overwritten)


def start_drill(stack: Stack, phase: Phase, *words: str) -> tuple[subprocess.Popen[str], int]:
    """A drill that has come to PHASE, and its process id inside."""
    process = stack.popen(COMMAND, "drill", "--yes", *words)
    wait_for(lambda: phase(stack) or process.poll() is not None, 30, phase.__name__)
    assert process.poll() is None, process.communicate()
    return process, stack.pid_inside(process)


@pytest.mark.parametrize("words", [(), ("--qemu-less",)], ids=["vm", "process"])
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_the_next_drill_removes_what_a_killed_one_left(
    calm: Stack, other: Domain, phase: Phase, words: tuple[str, ...]
) -> None:
    with untouched(calm, other):
        with slow_killpath(calm):
            process, inside = start_drill(calm, phase, *words)
            calm.signal(inside, signal.SIGKILL)
            process.wait(30)
        assert calm.path(NOTE).exists()
        answer = run(calm, "drill", "--yes")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert f"removed what the drill of process {inside} left, which was killed" in answer.stdout
        assert answer.stdout.splitlines()[-1].startswith("drill passed: its virtual machine was paused ")
    assert not calm.path(NOTE).exists()


@contextlib.contextmanager
def lost_by_killed_drill(stack: Stack, run: str, pid: int) -> Iterator[Callable[[], object]]:
    """sanlock is losing the lockspace of RUN, a drill of process PID; to call: write the note of that.

    What holds its lease stays until it is killed: its killpath does nothing.
    """
    name = f"{NAME}-{run}"
    space, path = f"{FOLDER}/lockspace", f"{FOLDER}/lease"
    stack.run("mkdir", FOLDER)
    for file in (space, path):
        stack.run("truncate", "--size=1M", file)
    made = answers(
        stack,
        OURS,
        call("write_lockspace", name.encode(), space, 0, 0, 1),
        call("write_resource", name.encode(), name.encode(), [(path, 0)]),
        call("add_lockspace", name.encode(), 1, space, 0, 1),
    )
    assert made == [None] * 3
    holder = stack.leaseholder(Lease(name, name, path, 0, 0, 0, ""), "/bin/true")
    try:
        stack.path(space).write_bytes(bytes(1 << 20))
        wait_for(lambda: [kill for kill in stack.sanlock_kills() if kill.pid == holder.pid], 30, "the loss")
        start = stack.path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[19]
        note = {"run": run, "folder": FOLDER, "pid": pid, "holder": holder.pid, "holder_start": int(start)}
        yield lambda: stack.write(NOTE, json.dumps(note), 0o600)
        assert not holder.is_alive()
    finally:
        holder.close()


def test_only_the_loss_of_another_lockspace_is_an_outage(calm: Stack, other: Domain) -> None:
    """A drill was killed after it had overwritten its lockspace, and its machine could not be ended yet."""
    drill(calm)  # the folder of the note is there
    with untouched(calm, other), lost_by_killed_drill(calm, "0123456789ab", 99999) as write_note:
        answer = run(calm, "drill", "--yes")
        assert (answer.returncode, answer.stdout) == (1, "")
        assert f"sanlock is losing {NAME}-0123456789ab: this is an outage, no time for" in answer.stderr
        write_note()
        answer = run(calm, "drill", "--yes")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "removed what the drill of process 99999 left, which was killed" in answer.stdout


@pytest.mark.parametrize(
    ("number", "phase", "status"),
    [(signal.SIGTERM, is_joining, 143), (signal.SIGTERM, is_overwritten, 143), (signal.SIGHUP, is_held, 129)],
)
def test_a_signal_ends_it_and_it_removes_all(
    calm: Stack, other: Domain, number: int, phase: Phase, status: int
) -> None:
    with untouched(calm, other), slow_killpath(calm):
        process, inside = start_drill(calm, phase)
        calm.signal(inside, number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status
        assert errors == "drill: it did not come to its end: removing what it made\n"


@pytest.mark.parametrize("phase", [is_joining, is_held], ids=lambda phase: phase.__name__)
def test_ctrl_c_ends_it_and_it_removes_all(calm: Stack, other: Domain, phase: Phase) -> None:
    with untouched(calm, other), slow_killpath(calm):
        process, child = at_terminal(calm, "drill", "--yes")
        wait_for(lambda: phase(calm), 30, phase.__name__)
        child.send("\x03")
        child.expect_exact("removing what it made")
        # A second one does not keep it from that.
        child.send("\x03")
        assert process.wait(60) == 130


def test_a_second_drill_names_the_first(calm: Stack, other: Domain) -> None:
    with untouched(calm, other):
        process, inside = start_drill(calm, is_joining)
        answer = run(calm, "drill", "--yes")
        assert answer.returncode == 1
        assert f"virt-sanlock-helper: drill: another drill is at work, process {inside} (" in answer.stderr
        assert process.wait(60) == 0


# Broken links


def test_a_helper_that_is_not_executable(calm: Stack, other: Domain) -> None:
    put(calm, "#!/bin/sh\n", 0o644)
    try:
        with untouched(calm, other):
            found = drill(calm, status=1)
    finally:
        install_ours(calm)
    assert found["broken"] == "helper run"
    assert link(found, "helper run")["found"] == f"{calm.helper_path} is not executable"
    assert link(found, "helper run")["remedy"] == f"chmod 755 {calm.helper_path}"
    assert verdicts(found)[3:] == ["fail", "skipped", "skipped", "fail", "fail"]


def test_a_helper_without_its_python(calm: Stack, other: Domain) -> None:
    put(calm, "#!/gone/python3 -ISB\n", 0o755)
    try:
        with untouched(calm, other):
            found = drill(calm, status=1)
    finally:
        install_ours(calm)
    assert found["broken"] == "helper run"
    assert link(found, "helper run")["found"].endswith("(its interpreter /gone/python3 is not there)")
    assert link(found, "helper run")["remedy"].startswith("install python3")


def test_libvirts_own_helper_in_the_place_of_ours(calm: Stack, other: Domain) -> None:
    calm.use_stock_helper(record=False)
    try:
        with untouched(calm, other):
            found = drill(calm, status=1)
            without = drill(calm, "--qemu-less", status=1)
    finally:
        install_ours(calm)
    for each in (found, without):
        assert each["broken"] == "helper is ours"
        assert "libvirt's C helper" in link(each, "helper is ours")["found"]
        assert link(each, "helper is ours")["remedy"].startswith("virt-sanlock-helper activate")
    # It does what it can, and a drill reports that too.
    assert verdicts(found) == ["pass"] * 4 + ["fail", "skipped", "pass", "pass"]


def test_libvirtds_socket_is_closed_when_the_helper_comes(calm: Stack, other: Domain) -> None:
    socket = calm.libvirtd.socket
    # However late it is moved: the helper comes after that.
    put(calm, f'#!/bin/sh\nuntil [ -e {socket}.away ]; do sleep 0.05; done\nexec {TRAMPOLINE} "$@"\n', 0o755)
    try:
        process, _ = start_drill(calm, is_held, "--json")
        calm.run("mv", socket, f"{socket}.away")
        try:
            printed = process.communicate(timeout=120)[0]
        finally:
            calm.run("mv", f"{socket}.away", socket)
    finally:
        install_ours(calm)
    found = validated(printed, "drill")
    assert (process.returncode, found["broken"]) == (1, "libvirtd reached"), found
    assert "Failed to connect socket" in link(found, "libvirtd reached")["found"]
    assert "systemctl start" in link(found, "libvirtd reached")["remedy"]
    # The drill's own virtual machine was ended all the same.
    assert not [each for each in calm.virsh("list --all --name").split() if each.startswith(NAME)]
    assert not calm.path(NOTE).exists()
    assert other.state().name == "running"


def test_what_sanlock_itself_kills_is_not_made_safe(stacks: StackFactory) -> None:
    stack = stacks(grace=8)
    put(stack, "#!/bin/sh\necho 'libvirt_sanlock_helper (virt-sanlock-helper) 0.1.0'\n", 0o755)
    found = drill(stack, "poweroff", status=1)
    assert found["broken"] == "helper is ours"
    assert verdicts(found)[6:] == ["fail", "fail"]
    assert found["seconds"] is None
    assert stack.sigkills() == []


def test_a_wrong_password(stack: Stack) -> None:
    install_ours(stack)
    stack.enable_sasl("libvirt", "right")
    stack.write_auth_conf(
        "[auth-libvirt-default]\ncredentials=a\n[credentials-a]\nauthname=libvirt\npassword=wrong\n"
    )
    found = drill(stack, status=1, **stack.libvirtd.virsh_env())
    assert found["broken"] == "libvirtd reached", found
    assert "authentication failed" in link(found, "libvirtd reached")["found"].lower()
    assert link(found, "libvirtd reached")["remedy"]
    assert "wrong" not in str(found)
    # Where the drill itself has no better one, its machine cannot be started.
    found = drill(stack, status=1)
    assert (found["broken"], verdicts(found)) == ("lease held", ["pass", "fail", *["skipped"] * 6])
    assert "authentication failed" in link(found, "lease held")["found"].lower()
    assert scratch_lockspaces(stack) == []
    assert not stack.path(FOLDER).exists()


def test_a_directory_without_direct_io_is_refused_with_a_remedy(calm: Stack, other: Domain) -> None:
    calm.run("mkdir", "/run/stack/ramfs")
    calm.run("mount", "-t", "ramfs", "ramfs", "/run/stack/ramfs")
    try:
        with untouched(calm, other):
            found = drill(calm, "--directory", "/run/stack/ramfs", status=1)
        assert calm.run("ls", "/run/stack/ramfs").stdout == ""
    finally:
        calm.run("umount", "/run/stack/ramfs")
    assert found["broken"] == "lockspace joined"
    assert "O_DIRECT" in link(found, "lockspace joined")["found"]
    assert link(found, "lockspace joined")["remedy"].startswith("drill --directory DIR")
    for words in (
        ("--directory", "/no such"),
        ("--directory", "relative"),
        ("restart",),
        ("pause", "--qemu-less"),
    ):
        answer = run(calm, "drill", "--yes", *words)
        assert (answer.returncode, answer.stdout) == (2, ""), words
        assert answer.stderr.startswith("virt-sanlock-helper"), words


def test_a_directory_that_a_link_leads_to(calm: Stack, other: Domain) -> None:
    """As where /var/lib/libvirt is on another filesystem."""
    calm.run("mkdir", "/var/lib/libvirt/images/else where")
    calm.run("ln", "-s", "else where", "/var/lib/libvirt/images/link")
    try:
        with untouched(calm, other):
            found = drill(calm, "--directory", "/var/lib/libvirt/images/link")
    finally:
        calm.run("rm", "/var/lib/libvirt/images/link")
        calm.run("rmdir", "/var/lib/libvirt/images/else where")
    assert found["directory"] == f"/var/lib/libvirt/images/else where/{NAME}"


def test_a_directory_that_is_refused_keeps_no_later_drill_from_its_work(calm: Stack, other: Domain) -> None:
    images = "/var/lib/libvirt/images"
    calm.run("mkdir", *(f"{images}/{name}" for name in ("open", "link", "file", "full")))
    calm.run("chmod", "0777", f"{images}/open")
    calm.run("ln", "-s", "/run/stack", f"{images}/link/{NAME}")
    calm.run("touch", f"{images}/file/{NAME}")
    calm.run("mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", f"{images}/full")
    try:
        with untouched(calm, other):
            for name, words, remedy in (
                ("open", "others may write", "drill --directory DIR, which only root may write to"),
                ("link", "no directory", f"mv {images}/link/{NAME} "),
                ("file", "no directory", f"mv {images}/file/{NAME} "),
                ("full", "No space left", "drill --directory DIR, where 2 MiB are free"),
            ):
                found = drill(calm, "--directory", f"{images}/{name}", status=1)
                assert found["broken"] == "lockspace joined"
                assert words in link(found, "lockspace joined")["found"]
                assert link(found, "lockspace joined")["remedy"].startswith(remedy)
                assert found["problems"] == []
                assert not calm.path(NOTE).exists()
    finally:
        calm.run("umount", f"{images}/full")
        calm.run("rm", "-r", *(f"{images}/{name}" for name in ("open", "link", "file", "full")))


def test_a_host_without_a_lock_manager_holds_no_lease(stack: Stack) -> None:
    install_ours(stack)
    conf = stack.path("/etc/libvirt/qemu.conf")
    conf.write_text(conf.read_text().replace("lock_manager", "#lock_manager"))
    stack.libvirtd.restart()
    found = drill(stack, status=1)
    assert found["broken"] == "lease held"
    assert 'lock_manager = "sanlock"' in link(found, "lease held")["remedy"]
    assert stack.virsh("list --all --name").split() == []
