# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of the stack itself, with libvirt's own helper."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from . import journal, preconditions
from .conftest import StackFactory
from .domains import Domain, State
from .leases import LOCKSPACE, SIGRUNPATH, Lease, parse_kills, parse_leases, parse_lockspaces
from .stack import CommandError, Stack, StackError
from .waiting import WaitTimeout, wait_for

pytestmark = pytest.mark.modular

TESTS = Path(__file__).resolve().parents[1]

# From the storage's failure to the helper: at most 8 times io_timeout, plus a slow machine.
LOSS = 20

RUNNING = State("running", "booted")
PAUSED = State("paused", "user")
OFF = State("shut off", "destroyed")

FAILING_HELPER = """\
#!/bin/sh
echo "I was called with $#" >&2
exit 3
"""


def ended_calls(stack: Stack) -> int:
    """How many calls of the helper have ended."""
    return sum(call.end is not None for call in stack.helper_calls())


# One outage, start to end


def test_outage_with_libvirts_helper(stack: Stack) -> None:
    off = stack.domain("off", on_lockfailure="poweroff").start()
    held = stack.domain("held", on_lockfailure="pause").start()
    pids = {"poweroff": off.qemu_pid(), "pause": held.qemu_pid()}
    assert (off.state(), held.state()) == (RUNNING, RUNNING)
    assert [lease.lockspace for lease in held.leases()] == [LOCKSPACE]

    stack.storage.fail()
    wait_for(lambda: ended_calls(stack) == 2, LOSS, "two calls of the helper")

    assert (off.state(), held.state()) == (OFF, PAUSED)
    assert (off.qemu_pid(), held.qemu_pid()) == (None, pids["pause"])
    wait_for(lambda: stack.leases() == [], 5, "the leases to be released")
    assert {kill.pid: kill.signal for kill in stack.sanlock_kills()} == {
        pids["poweroff"]: SIGRUNPATH,
        pids["pause"]: SIGRUNPATH,
    }
    assert stack.sigkills() == []
    calls = {call.argv[2]: call for call in stack.helper_calls()}
    assert calls["poweroff"].argv == ("qemu:///system", off.uuid, "poweroff")
    assert calls["pause"].argv == ("qemu:///system", held.uuid, "pause")
    failed_at = stack.storage.failed_at
    assert failed_at is not None
    for call in calls.values():
        assert call.status == 0
        assert call.end is not None
        assert failed_at < call.start <= call.end
        assert "HOME" not in call.environ
    # sanlock logs to syslog, too.
    assert any("sig 100" in line.message for line in stack.journal("sanlock"))

    stack.storage.restore()
    stack.join_lockspace()
    held.resume()
    off.start()

    assert (off.state(), held.state().name) == (RUNNING, "running")
    assert held.qemu_pid() == pids["pause"]
    assert [lease.version for lease in held.leases()] == [2]


def test_storage_that_returns_in_time_costs_nothing(stack: Stack) -> None:
    domain = stack.domain("guest", on_lockfailure="poweroff").start()
    leases = domain.leases()

    stack.storage.fail()
    time.sleep(4)
    stack.storage.restore()

    # Past the moment at which it would have been lost.
    time.sleep(5)
    assert domain.state() == RUNNING
    assert domain.leases() == leases
    assert stack.sanlock_kills() == []


def test_sigkill_is_observed(stacks: StackFactory, tmp_path: Path) -> None:
    stack = stacks(grace=2)
    stack.install_helper(write_helper(tmp_path))
    holder = stack.leaseholder(stack.make_resource("lease"), stack.helper_path, "a b", "ignore")

    stack.storage.fail(resources=True)
    # The status of setpriv and its like: killed by signal 9.
    assert holder.wait(LOSS) == -signal.SIGKILL or holder.wait(0) == 128 + signal.SIGKILL

    # sanlock logs in a thread of its own.
    wait_for(stack.sigkills, 5, "sanlock's SIGKILL in its log")
    assert [kill.pid for kill in stack.sigkills()] == [holder.pid]
    assert [kill.signal for kill in stack.sanlock_kills()] == [SIGRUNPATH, signal.SIGKILL]
    (call,) = stack.helper_calls()
    assert (call.argv, call.status, call.stderr) == (
        ("a b", "ignore"),
        3,
        "I was called with 2\n",
    )


def test_second_host(stack: Stack) -> None:
    domain = stack.domain("guest").start()
    (lease,) = domain.leases()
    other = stack.second_host()
    other.join()

    with pytest.raises(WaitTimeout, match="host 2 to take"):
        other.take(lease, timeout=0.5)

    domain.suspend()
    assert domain.leases() == []
    other.take(lease)
    (taken,) = other.leases()
    assert (taken.resource, taken.version) == (lease.resource, lease.version + 1)
    with pytest.raises(CommandError, match="Lease is held by another host"):
        domain.resume()

    other.give_back(lease)
    domain.resume()
    (again,) = domain.leases()
    assert again.version == lease.version + 2


def test_second_host_takes_what_the_first_one_lost(stack: Stack) -> None:
    domain = stack.domain("guest").start()
    (lease,) = domain.leases()
    other = stack.second_host()
    other.join()

    stack.storage.fail(resources=True)
    wait_for(lambda: ended_calls(stack) == 1, LOSS, "the call of the helper")
    wait_for(lambda: not other.lockspaces(), LOSS, "the second host to lose it too")
    stack.storage.restore()
    stack.join_lockspace()
    other.join()

    assert other.take(lease) < 10
    other.give_back()
    # libvirt does not check which host had the lease in between.
    domain.resume()
    assert [again.version for again in domain.leases()] == [lease.version + 2]


# Daemons


def test_killed_daemons_start_again(stack: Stack) -> None:
    domain = stack.domain("guest").start()
    pid = domain.qemu_pid()

    stack.libvirtd.kill()
    assert not stack.libvirtd.is_running()
    with pytest.raises(CommandError):
        stack.virsh("list")
    stack.libvirtd.start()
    assert (domain.state().name, domain.qemu_pid()) == ("running", pid)

    stack.sanlock.kill()
    stack.sanlock.start()
    assert stack.lockspaces() == []
    stack.join_lockspace()
    (lockspace,) = stack.lockspaces()
    assert (lockspace.name, lockspace.host_id, lockspace.state) == (LOCKSPACE, 1, "")

    stack.sanlock.stop()
    assert not stack.sanlock.is_running()

    stack.virtlogd.restart()
    assert stack.virtlogd.is_running()


def test_frozen_libvirtd_answers_after_thaw(calm: Stack) -> None:
    calm.libvirtd.freeze()
    with pytest.raises(CommandError, match="ran out of time") as caught:
        calm.virsh("list", timeout=0.5)
    assert caught.value.status is None
    calm.libvirtd.thaw()
    assert calm.virsh("list") == ""
    # The command that ran out of time is gone from the inside too.
    wait_for(lambda: not calm.processes("virsh"), 5, "the end of virsh")


def test_sasl(stack: Stack) -> None:
    stack.enable_sasl("operator", "open sesame")
    assert stack.virsh("list") == ""
    assert virsh_with_auth_conf(stack, "operator", "open sesame").returncode == 0
    wrong = virsh_with_auth_conf(stack, "operator", "wrong")
    assert wrong.returncode == 1
    assert "authentication failed" in wrong.stderr
    stack.remove_auth_conf()
    stack.remove_auth_conf()
    assert not stack.path("/etc/libvirt/auth.conf").exists()


def virsh_with_auth_conf(stack: Stack, user: str, password: str) -> subprocess.CompletedProcess[str]:
    stack.write_auth_conf(
        f"[credentials-c]\nauthname={user}\npassword={password}\n[auth-libvirt-localhost]\ncredentials=c\n"
    )
    assert stack.path("/etc/libvirt/auth.conf").stat().st_mode & 0o777 == 0o600
    return stack.run("virsh", "-c", "qemu:///system", "list", check=False)


# Domains


def test_domain_with_two_disks_and_metadata(calm: Stack) -> None:
    metadata = '<lockfailure xmlns="urn:virt-sanlock-helper:1" recover="yes"/>'
    domain = calm.domain("two", "poweroff", disks=2, metadata=metadata).define()
    assert domain.state().name == "shut off"
    assert domain.qemu_pid() is None
    domain.start()
    assert len(domain.leases()) == 2
    xml = calm.virsh("dumpxml", domain.uuid)
    assert "<on_lockfailure>poweroff</on_lockfailure>" in xml
    assert 'recover="yes"' in xml
    domain.destroy()
    domain.undefine()
    assert domain.state() == State("absent", "")


def test_transient_domain_is_gone_when_off(calm: Stack) -> None:
    domain = calm.domain("passing", transient=True)
    with pytest.raises(ValueError, match="transient"):
        domain.define()
    assert domain.start().state() == RUNNING
    domain.suspend()
    assert domain.state() == PAUSED
    domain.resume()
    domain.destroy()
    assert domain.state() == State("absent", "")


def test_many_domains(calm: Stack) -> None:
    domains = [calm.domain(f"many-{n}", transient=n % 2 == 0) for n in range(6)]
    calm.start_all(domains)
    assert len({domain.qemu_pid() for domain in domains} - {None}) == 6
    assert len(calm.processes("qemu-system-x86")) == 6
    for domain in domains:
        domain.destroy()
        if not domain.transient:
            domain.undefine()


def test_start_all_reports_a_failure(calm: Stack) -> None:
    # What sanlock's driver reported of it is not always there: libvirtd reads it from the domain's log, which
    # virtlogd may write a moment later.
    with pytest.raises(CommandError, match=r"create /.*/never\.xml failed with status 1: .*Failed to create"):
        calm.start_all([calm.domain("never", on_lockfailure="restart", transient=True)])


# The helper


def write_helper(folder: Path) -> Path:
    path = folder / "helper"
    path.write_text(FAILING_HELPER)
    path.chmod(0o755)
    return path


def test_helper_is_replaced_and_put_back(calm: Stack, tmp_path: Path) -> None:
    ours = write_helper(tmp_path)
    stock = calm.path(calm.stock_helper).read_bytes()

    calm.install_helper(ours)
    recorded = calm.run(calm.helper_path, "x", "y z", check=False, env={"SEEN": "yes"})
    assert recorded.returncode == 3
    call = calm.helper_calls()[-1]
    assert (call.argv, call.status, call.stderr) == (
        ("x", "y z"),
        3,
        "I was called with 2\n",
    )
    assert call.environ["SEEN"] == "yes"
    assert call.end is not None
    assert abs(call.end - time.time()) < 5

    calm.install_helper(ours, record=False)
    assert calm.path(calm.helper_path).read_text() == FAILING_HELPER
    assert calm.run(calm.helper_path, check=False).stderr == "I was called with 0\n"

    calm.use_stock_helper(record=False)
    assert calm.path(calm.helper_path).read_bytes() == stock
    calm.use_stock_helper()
    calm.run(calm.helper_path, check=False)
    assert "uri uuid action" in calm.helper_calls()[-1].stderr

    calm.forget_helper_calls()
    assert calm.helper_calls() == []


def test_the_stack_has_the_chosen_daemon_and_clients_reach_it(calm: Stack) -> None:
    chosen = calm.libvirtd
    others = {"libvirtd", "virtqemud"} - {chosen.name}
    running = {process.comm for process in calm.processes()}
    assert chosen.name in running
    assert not others & running
    assert calm.path(chosen.socket).is_socket()
    assert calm.path(chosen.logs[0]).exists()
    # What old clients use is there with either.
    assert calm.path("/run/libvirt/libvirt-sock").is_socket()
    assert calm.virsh("uri").strip() == "qemu:///system"
    old = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"
    assert calm.run("virsh", "-q", "-c", old, "uri").stdout.strip() == old


# What is private


def test_files_do_not_reach_the_machine(calm: Stack) -> None:
    for folder in ("/etc/sanlock", "/etc/libvirt", "/var/lib/virt-sanlock-helper", "/run"):
        inside = f"{folder}/of-the-stack"
        calm.write(inside, "x", mode=0o640)
        assert calm.run("stat", "-c", "%a %s", inside).stdout == "640 1\n"
        assert not os.path.exists(inside)
    assert calm.run("cat", "/etc/passwd").stdout == Path("/etc/passwd").read_text()
    assert calm.run("ls", "/dev/kvm", check=False).returncode != 0


def test_commands_get_a_services_environment(calm: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTSIDE", "1")
    words = calm.run("env", env={"MORE": "2"}).stdout.splitlines()
    assert sorted(word.split("=")[0] for word in words) == ["LANG", "MORE", "PATH"]
    assert calm.run("pwd").stdout == "/\n"
    assert calm.run("cat", input="in").stdout == "in"


def test_command_error_has_all(calm: Stack) -> None:
    with pytest.raises(CommandError) as caught:
        calm.run("sh", "-c", "echo out; echo err >&2; exit 7")
    error = caught.value
    assert (error.status, error.stdout, error.stderr) == (7, "out\n", "err\n")
    assert error.command[0] == "sh"


def test_killing_a_popen_kills_what_it_stands_for(calm: Stack) -> None:
    process = calm.popen("sleep", "1000")
    wait_for(lambda: calm.processes("sleep"), 5, "the sleep")
    process.kill()
    process.communicate()
    wait_for(lambda: not calm.processes("sleep"), 5, "the end of the sleep")


def test_syslog_is_recorded(calm: Stack) -> None:
    script = "import syslog; syslog.openlog('me', syslog.LOG_PID, syslog.LOG_DAEMON)"
    script += "; syslog.syslog(syslog.LOG_CRIT, 'a: b [c] \u20ac')"
    before = time.time()
    calm.run("/usr/bin/python3", "-ISc", script)
    (line,) = wait_for(lambda: calm.journal("me"), 5, "the message")
    assert (line.priority, line.facility, line.level) == (26, "daemon", "crit")
    assert line.message == "a: b [c] \u20ac"
    assert line.pid > 1
    assert before - 1 < line.time < time.time() + 1


def test_two_stacks_at_once(stacks: StackFactory) -> None:
    def one(on_disk: bool) -> tuple[Stack, Domain]:
        stack = stacks(on_disk=on_disk)
        return stack, stack.domain("same").start()

    with ThreadPoolExecutor(2) as pool:
        pairs = list(pool.map(one, (False, True)))
    for stack, domain in pairs:
        assert domain.state() == RUNNING
        assert stack.virsh("list", "--name").split() == ["same"]


# What is left behind: nothing


def mounts() -> set[str]:
    """The mounts that the machine itself sees."""
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def loop_devices() -> str:
    """The loop devices in use."""
    return subprocess.run(["losetup", "--all"], check=True, capture_output=True, text=True).stdout


def members(namespace: str) -> list[int]:
    """The pids, on the outside, of the processes in a PID namespace."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == namespace:
                found.append(int(name))
        except OSError:
            continue
    return found


# Prints what it has, and then does what its argument asks for.
OWNER = """
import json, os, sys, time
sys.path.insert(0, {tests!r})
from e2e.stack import Stack

with Stack(on_disk=True) as stack:
    stack.domain("guest").start()
    init = stack.init_pid
    print(json.dumps([init, os.readlink(f"/proc/{{init}}/ns/pid"), stack.backing]), flush=True)
    if sys.argv[1] == "raise":
        raise KeyError("the test body")
    time.sleep(1000)
"""


def own_and_end(how: str) -> None:
    """Let another process own a stack and end as asked; find what it leaves."""
    command = [sys.executable, "-c", OWNER.format(tests=str(TESTS)), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        init, namespace, backing = json.loads(owner.stdout.readline())
        if how == "raise":
            assert b"KeyError" in owner.communicate()[1]
        else:
            assert len(members(namespace)) >= 5
            assert os.path.isdir(backing)
            owner.send_signal(getattr(signal, how))
            owner.communicate()
    wait_for(lambda: not members(namespace), 10, f"the end of all processes after {how}")
    wait_for(lambda: not os.path.exists(f"/proc/{init}"), 10, f"the end of PID 1 after {how}")
    assert not os.path.exists(backing)


@pytest.mark.usefixtures("machine")
def test_nothing_is_left() -> None:
    before = (mounts(), loop_devices())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(own_and_end, ("raise", "SIGKILL", "SIGINT", "SIGTERM")))
    assert (mounts(), loop_devices()) == before


@pytest.mark.usefixtures("machine")
def test_nothing_is_left_when_the_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(on_disk=True)
    monkeypatch.setattr(stack.libvirtd, "command", lambda: ["false"])
    with pytest.raises(StackError, match=r"(?s)command false failed.*sanlock\.log"):
        stack.start()
    assert not stack.is_open()
    assert stack.backing
    assert not os.path.exists(stack.backing)


def test_missing_machine_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditions, "missing", lambda: ("root",))
    monkeypatch.delenv(preconditions.REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="missing: root"):
        preconditions.require_machine()
    monkeypatch.setenv(preconditions.REQUIRE, "1")
    with pytest.raises(pytest.fail.Exception, match="missing: root"):
        preconditions.require_machine()


# Parsing and waiting, without a stack


def test_status_is_parsed() -> None:
    lines = [
        "daemon x",
        "p 60 qemu",
        "s LS:1:/p:0 ADD",
        "r LS:R:/q:0:7 p 60",
        "r LS:S:/q:0:SH p 2 REM",
    ]
    (lockspace,) = parse_lockspaces(lines)
    assert (lockspace.host_id, lockspace.state) == (1, "ADD")
    assert parse_leases(lines) == [
        Lease("LS", "R", "/q", 0, 7, 60, ""),
        Lease("LS", "S", "/q", 0, -1, 2, "REM"),
    ]


def test_kills_are_parsed() -> None:
    log = (
        "2026-11-22 19:57:49 959 [5]: s1 check_our_lease failed 8\n"
        "2026-11-22 19:57:49 959 [5]: s1 kill 60 sig 100 count 1\n"
        "2026-11-22 19:58:30 999 [5]: s1 kill 60 sig 9 count 41\n"
    )
    assert [(k.pid, k.signal, k.tries, k.monotonic) for k in parse_kills(log)] == [
        (60, 100, 1, 959),
        (60, 9, 41, 999),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-22 19:58:30 999 [6]: s1 kill 61 sig 9 count 41",
        "sanlock[5]: 2026-11-22 19:58:30 999 [5]: s1 kill 61 sig 9 count 41",
        "2026-11-22 19:58:30 999 [5]: s1 kill 61 sig 9 count 41, said another daemon",
        "2026-02-31 19:58:30 999 [5]: s1 kill 61 sig 9 count 41",
        "2026-11-22 19:58:30 999 [5]: path /\\xff\x85\u2028\0\r",
    ],
)
def test_lines_of_others_are_no_kills(line: str) -> None:
    own = "2026-11-22 19:57:49 959 [5]: s1 kill 60 sig 100 count 1"
    for log in (f"{own}\n{line}\n", f"{line}\n{own}\n", f"{own}\n{line}"):
        assert [kill.pid for kill in parse_kills(log, {5})] == [60]


def test_a_log_that_others_write_to(stack: Stack) -> None:
    log = stack.path("/var/log/sanlock.log")
    with log.open("ab") as file:
        file.write(b"open /\xff\xfe\n2026-11-22 19:58:30 999 [77777]: s1 kill 60 sig 9 count 41\n")
    stack.path(stack.libvirtd.logs[0]).write_bytes(b"\xff\n")
    send = "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect('/dev/log')\n"
    for message in (b"no priority", b"<999>none such", b"<5", b"\xff\xfe", b"<13>a\x85\xe2\x80\xa8b"):
        stack.run("/usr/bin/python3", "-ISc", f"{send}s.send({message!r})")
    wait_for(lambda: stack.journal() and stack.journal()[-1].message.startswith("a\\x85"), 5, "the messages")
    messages = [line.message for line in stack.journal()]
    assert messages[-5:-2] == ["no priority", "none such", "<5"]
    assert stack.sanlock_kills() == []
    stack.sanlock.kill()
    stack.sanlock.start()
    assert len(stack.sanlock.pids) == 2
    domain = stack.domain("guest")
    stack.libvirtd.restart()
    pid = domain.start().qemu_pid()
    stack.storage.fail()
    kills = wait_for(stack.sanlock_kills, 30, "the loss")
    assert [(kill.pid, kill.signal) for kill in kills] == [(pid, SIGRUNPATH)]
    stack.report()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<29>Nov  2 19:57:49 me[12]: done", ("daemon", "notice", "me", "done")),
        ("<29>Nov 22 19:57:49 me: done\0", ("daemon", "notice", "me", "done")),
        ("<13>no ident here", ("user", "notice", "", "no ident here")),
        ("<190>me: a\nb", ("local7", "info", "me", "a\nb")),
        ("no priority", ("user", "notice", "", "no priority")),
        ("<999>none such", ("user", "notice", "", "none such")),
        ("", ("user", "notice", "", "")),
    ],
)
def test_syslog_is_parsed(raw: str, expected: tuple[str, str, str, str]) -> None:
    line = journal.parse(json.dumps({"time": 1.5, "pid": 12, "raw": raw}))
    assert (line.facility, line.level, line.ident, line.message) == expected


def test_wait_for_names_what_it_waited_for() -> None:
    with pytest.raises(WaitTimeout, match=r"waited 0\.1 s for rain; last read: 0"):
        wait_for(lambda: 0, 0.1, "rain")
    assert wait_for(lambda: "wet", 0, "rain") == "wet"


def test_a_command_that_was_stopped_leaves_nothing_outside(stacks: StackFactory) -> None:
    stack = stacks()
    command = stack.popen("sleep", "1000")
    stack.wait_for(lambda: stack.processes("sleep"), 10, "the command")
    stack.signal(stack.processes("sleep")[0].pid, signal.SIGSTOP)
    stat = Path(f"/proc/{command.pid}/stat")
    stack.wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 10, "nsenter to stop")
    stack.close()
    assert not stat.exists()
