# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the password of auth.conf, and those in a domain's XML, are found during and after an outage."""

from __future__ import annotations

import signal
import stat
from pathlib import Path

import pytest

from . import command
from .lease_loss import AUTH_CONF, HELPER, LOSS, RUNTIME_DIR, URI, story, wait_for_calls
from .recovery import POLICY, RUN_RECORDS, STATE_RECORDS
from .sasl import USERS
from .stack import Stack
from .waiting import wait_for

PASSWORD = "Mk7-open sesame"
SCREEN = "Mk7vnc42"
COMM = "libvirt_sanlock"

# What the stack's own virsh reads.
OURS = {"/run/stack/auth.conf"}

# The most that the helper and libvirt's client log.
DEBUG = {"VIRT_SANLOCK_HELPER_DEBUG": "1", "LIBVIRT_DEBUG": "1"}


def found_in(stack: Stack, secret: str, *folders: str) -> set[str]:
    """The files below FOLDERS with SECRET in them, by their paths inside."""
    return {
        f"{folder}/{path.relative_to(stack.path(folder))}"
        for folder in folders
        for path in stack.path(folder).rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    }


def output(stack: Stack) -> str:
    """All that the helper printed or logged."""
    calls = "".join(call.stdout + call.stderr for call in stack.helper_calls())
    return calls + "".join(line.message for line in story(stack))


@pytest.fixture
def stack(stack: Stack) -> Stack:
    """One with SASL, and a transient domain whose XML has a password."""
    stack.install_helper(HELPER)
    stack.enable_sasl("sanlock", PASSWORD)
    stack.write_auth_conf(AUTH_CONF.format("sanlock", PASSWORD))
    return stack


def start_with_screen(stack: Stack) -> str:
    """A transient domain with a screen that asks for a password; its UUID."""
    domain = stack.domain("screen", "poweroff", transient=True, metadata=POLICY)
    screen = f"<graphics type='vnc' socket='/run/stack/vnc' passwd='{SCREEN}'/></devices>"
    stack.path(domain.xml_path).write_text(domain.xml.replace("</devices>", screen))
    domain.start()
    return domain.uuid


def private(path: Path) -> bool:
    status = path.stat()
    wanted = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
    return status.st_uid == 0 and stat.S_IMODE(status.st_mode) == wanted


def test_an_outage_leaves_no_password_behind(stack: Stack) -> None:
    uuid = start_with_screen(stack)
    held = stack.domain("held", "pause", metadata=POLICY).start()
    # The server has a copy of its own.
    assert found_in(stack, PASSWORD, "/etc/libvirt") == {"/etc/libvirt/auth.conf", USERS}
    stack.storage.fail()
    calls = wait_for_calls(stack, 2, LOSS)
    assert {call.status for call in calls.values()} == {0}
    assert held.state().name == "paused"
    assert "verified off" in output(stack)
    assert PASSWORD not in output(stack) + "".join(repr(call.environ) for call in calls.values())
    assert SCREEN not in output(stack)
    assert found_in(stack, PASSWORD, "/run", STATE_RECORDS, "/var/log") == OURS

    # The record needs the XML as it was, to start the domain with; on tmpfs, then on disk.
    record = f"{RUN_RECORDS}/{uuid}.record"
    assert found_in(stack, SCREEN, RUNTIME_DIR) == {record}
    assert command.run(stack, "recover", **DEBUG).returncode == 1
    copy = f"{STATE_RECORDS}/{uuid}.record"
    assert found_in(stack, SCREEN, RUNTIME_DIR, STATE_RECORDS) == {copy}
    for path in (RUNTIME_DIR, RUN_RECORDS, copy, f"{STATE_RECORDS}/{held.uuid}.record"):
        assert private(stack.path(path)), path
    for words in (
        ["recover", "--list", "--json"],
        ["status", "--json"],
        ["history", "--json"],
        ["check", "--json"],
    ):
        answer = command.run(stack, *words, "--debug")
        assert held.uuid in answer.stdout or words[0] == "check", answer
        assert not {PASSWORD, SCREEN} & {
            word for word in (PASSWORD, SCREEN) if word in answer.stdout + answer.stderr
        }

    # It is gone with its record.
    assert command.run(stack, "recover", "--forget", uuid).returncode == 0
    assert found_in(stack, SCREEN, RUNTIME_DIR, STATE_RECORDS) == set()
    assert SCREEN not in output(stack)


@pytest.mark.parametrize("environ", [{}, DEBUG], ids=["quiet", "debug"])
def test_a_process_that_has_logged_in_shows_no_password(stack: Stack, environ: dict[str, str]) -> None:
    """While it waits for libvirtd, with the password in its memory; and when it dies."""
    held = stack.domain("held", "pause").start()
    pid = held.qemu_pid()
    assert pid is not None
    # QEMU does not answer its monitor: the suspend waits, in a session that was authenticated.
    stack.signal(pid, signal.SIGSTOP)
    stack.write("/run/dead/here", "")
    script = f'cd /run/dead && ulimit -c unlimited && exec "{HELPER}" --budget=20 {URI} {held.uuid} pause'
    with stack.popen("sh", "-c", script, env=environ) as call:
        (process,) = wait_for(lambda: stack.processes(COMM), 10, "the helper")
        wait_for(lambda: stack.virsh("domcontrol", held.uuid).startswith("occupied"), 10, "the suspend")
        proc = Path(f"/proc/{stack.init_pid}/root/proc/{process.pid}")
        read = b"".join((proc / name).read_bytes() for name in ("cmdline", "environ", "comm", "status"))
        limits = (proc / "limits").read_text()
        stack.signal(process.pid, signal.SIGABRT)
        _, printed = call.communicate(timeout=10)
    stack.signal(pid, signal.SIGCONT)
    assert PASSWORD.encode() not in read
    assert PASSWORD not in printed
    assert [line.split()[4] for line in limits.splitlines() if line.startswith("Max core file")] == ["1"]
    assert [path.name for path in stack.path("/run/dead").iterdir()] == ["here"]
    assert found_in(stack, PASSWORD, "/run", "/var/log") == OURS
    assert PASSWORD not in output(stack)


@pytest.mark.parametrize(
    "text",
    [
        AUTH_CONF.format("nobody", PASSWORD),
        f"[auth-libvirt-localhost]\n{PASSWORD}\n",
        f"{PASSWORD}\n",
        f"[auth-libvirt-localhost]\ncredentials=a\n[credentials-a]\nauthname=sanlock\npassword={PASSWORD}x\\\n",
    ],
    ids=["refused", "no item", "no file", "odd escape"],
)
def test_a_login_that_fails_shows_none_either(stack: Stack, text: str) -> None:
    held = stack.domain("held", "pause").start()
    stack.write_auth_conf(text)
    printed = ""
    for words in (
        [str(HELPER), "--budget=1", URI, held.uuid, "pause"],
        [command.COMMAND, "auth", "check", URI],
        [command.COMMAND, "--debug", "auth", "test", URI],
        [command.COMMAND, "--debug", "run", "--yes", "pause", held.uuid],
        [command.COMMAND, "--debug", "check"],
        [command.COMMAND, "--debug", "status"],
    ):
        answer = stack.run(*words, check=False, env=DEBUG)
        printed += answer.stdout + answer.stderr
    assert "auth.conf" in printed
    assert PASSWORD not in printed + output(stack)
    assert held.state().name == "running"
