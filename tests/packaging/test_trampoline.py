# SPDX-License-Identifier: LGPL-2.1-or-later
"""The executable when the program behind it is broken: libvirt's own helper takes over, and it is logged."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.private_run import PRIVATE_RUN

ROOT = Path(__file__).parents[2]
URI = "test:///default"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
BARE = {"PATH": os.defpath}

# A bound file stays what it was when sanlock started, over any number of updates.  To change it is to have
# hosts on which the old one runs the new program: think of them, then write the new sum here.
# The last reason: to reach syslog it forked, while threads of the program may live.
TRAMPOLINE = "3a51c02bdb847a06832a5ea549c83e720668e9c3c01484f5dc14576a9996890f"

# Logged by the executable when libvirt's helper takes over.
TAKES_OVER = "takes over, to"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the program whose libvirt helper is `echo`, an ELF program that prints its arguments."""
    for root in ("helper", "auth"):
        shutil.copytree(ROOT / root, tmp_path / root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("/bin/echo", tmp_path / "stock")
    set_stock(tmp_path, tmp_path / "stock")
    return tmp_path


def set_stock(checkout: Path, stock: Path) -> None:
    """Write STOCK into the copy of the executable, in the place of libvirt's paths."""
    set_constant(checkout, "STOCK", f'("{stock}",)')


def set_constant(checkout: Path, name: str, value: str) -> None:
    """Write VALUE into the copy of the executable."""
    executable = checkout / "helper" / "libvirt_sanlock_helper"
    lines = executable.read_text().splitlines(keepends=True)
    (number,) = (number for number, line in enumerate(lines) if line.startswith(f"{name} = "))
    lines[number] = f"{name} = {value}\n"
    executable.write_text("".join(lines))


@pytest.fixture
def syslog(checkout: Path) -> Iterator[socket.socket]:
    """What the copy of the executable takes for syslog."""
    path = checkout / "log"
    set_constant(checkout, "SYSLOG", repr(str(path)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(5)
        yield listening


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*PRIVATE_RUN, str(checkout / "helper" / "libvirt_sanlock_helper"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=20, env=BARE, stdin=subprocess.DEVNULL
    )


def test_it_does_not_change() -> None:
    executable = ROOT / "helper" / "libvirt_sanlock_helper"
    assert hashlib.sha256(executable.read_bytes()).hexdigest() == TRAMPOLINE
    assert executable.read_text().splitlines()[0] == "#!/usr/bin/python3 -ISB"


def test_whole_it_runs_the_program(checkout: Path) -> None:
    result = run(checkout, URI, UUID, "poweroff")
    assert (result.returncode, result.stdout) == (0, "")
    assert "verified off" in result.stderr
    assert TAKES_OVER not in result.stderr


def remove(name: str) -> str:
    """NAME: the module's, dotted, below sanlock_helper."""
    return f"rm helper/sanlock_helper/{name.replace('.', '/')}.py"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("rm -r helper/sanlock_helper/*", "cannot import name|No module named"),
        (remove("killpath"), "No module named 'sanlock_helper.killpath'"),
        (remove("handover"), "No module named 'sanlock_helper.handover'"),
        # Its request is in the spool by then.
        *(
            (remove(name), f"No module named 'sanlock_helper.{name}'")
            for name in ("call", "invocation", "spool")
        ),
        ("echo 'def f(:' >>helper/sanlock_helper/leases/grace.py", "SyntaxError: "),
        ("printf '\\0' >>helper/sanlock_helper/errors.py", "null bytes"),
        ("echo 'main = None' >>helper/sanlock_helper/killpath.py", "TypeError: "),
        # These are imported late, when the request is known to need libvirt.
        (remove("virt.connection"), "No module named 'sanlock_helper.virt.connection'"),
        ("rm -r auth/libvirt_auth", "No module named 'libvirt_auth'"),
        ("echo 'raise ImportError(\"libvirt.so.0: version missing\")' >helper/libvirt.py", "libvirt.so.0"),
    ],
)
def test_broken_it_becomes_libvirts_helper(checkout: Path, damage: str, why: str) -> None:
    subprocess.run(["sh", "-c", damage], cwd=checkout, check=True)
    result = run(checkout, URI, UUID, "pause", "4711")
    assert result.returncode == 0
    # Without the process id, which libvirt's helper does not know.
    assert result.stdout == f"{URI} {UUID} pause\n"
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"virt-sanlock-helper: pause {UUID}: this program failed: ")
    assert any(word in line for word in why.split("|"))
    assert f"{checkout}/stock takes over, to pause" in line
    assert "Traceback" not in result.stderr


def test_the_other_actions(checkout: Path) -> None:
    (checkout / "helper/sanlock_helper/killpath.py").unlink()
    # libvirt's helper refuses to restart: the half that makes the VM safe is left.
    assert run(checkout, URI, UUID, "restart").stdout == f"{URI} {UUID} poweroff\n"
    ignored = run(checkout, URI, UUID, "ignore")
    assert (ignored.returncode, ignored.stdout) == (0, "")
    assert "nothing is done, as asked" in ignored.stderr


@pytest.mark.parametrize("arguments", [(), ("--version",), (URI, UUID), ("--budget=1", URI, UUID, "pause")])
def test_only_what_sanlock_passes_is_handed_on(checkout: Path, arguments: tuple[str, ...]) -> None:
    (checkout / "helper/sanlock_helper/killpath.py").unlink()
    result = run(checkout, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert "reinstall virt-sanlock-helper" in result.stderr


# Two processes have handed over and gone; in a /run of its own.
AFTER_OTHERS = """
import sys, time
sys.path.insert(0, "helper")
from sanlock_helper.invocation import Invocation
from sanlock_helper.spool import Spool
spool = Spool.open()
for uri, action, age in ("test:///a", "pause", 1), ("test:///b", "restart", 2), ("test:///c", "pause", 90):
    spool.write(Invocation(uri, sys.argv[1], action), time.monotonic() - age)
"""
PRIVATE = """
mount -t tmpfs run /run
/usr/bin/python3 -ISBc "$0" "$1"
# Until the last process that it has started is over.
({damage}; exec {executable} {uri} $1 pause) | cat
echo "left: $(ls /run/virt-sanlock-helper/requests | wc -l)" >&2
"""


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        *(
            (remove(name), f"No module named 'sanlock_helper.{name}'")
            for name in ("agent.service", "agent.agent")
        ),
        ("echo 'def perform(): pass' >>helper/sanlock_helper/agent/service.py", "TypeError: perform() takes"),
        ("echo 'Grace = None' >>helper/sanlock_helper/agent/service.py", "TypeError: 'NoneType' object"),
        # Too few to import all of it with, or to list the spool with once it fails.
        *((f"ulimit -n {number}", "Too many open files") for number in (8, 9, 10, 11, 12)),
    ],
)
def test_requests_of_others_are_handed_on_too(checkout: Path, damage: str, why: str) -> None:
    executable = checkout / "helper" / "libvirt_sanlock_helper"
    script = PRIVATE.format(damage=damage, executable=executable, uri=URI)
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, AFTER_OTHERS, UUID],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    # libvirt's helper does not know restart, and what came too long ago is over.
    assert sorted(result.stdout.splitlines()) == [
        f"test:///a {UUID} pause",
        f"test:///b {UUID} poweroff",
        f"{URI} {UUID} pause",
    ]
    assert result.stderr.count(why) == 3
    assert "left: 0\n" in result.stderr


# An agent has ended just now; in a /run of its own.
STORM = """
mount -t tmpfs run /run
{executable} {uri} $1 pause 2>/dev/null
{damage}
for _ in $(seq -w 1 60); do {executable} {uri} ${{1%??}}$_ pause 2>/dev/null & done
wait
ls /run/virt-sanlock-helper/requests >&2
"""


@pytest.mark.parametrize(
    "damage", ["echo 'def f(:' >>helper/sanlock_helper/spool.py", remove("agent.service")]
)
def test_none_relies_on_one_that_cannot_load_the_rest(checkout: Path, damage: str) -> None:
    script = STORM.format(damage=damage, executable=checkout / "helper" / "libvirt_sanlock_helper", uri=URI)
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", UUID],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    # Two processes may see to one request.
    assert set(result.stdout.splitlines()) == {f"{URI} {UUID[:-2]}{n:02} pause" for n in range(1, 61)}
    assert result.stderr == ""


def test_requests_of_others_are_handed_on_by_the_verb_that_runs_an_action(checkout: Path) -> None:
    command = checkout / "helper" / "virt-sanlock-helper"
    script = PRIVATE.replace("{executable} {uri} $1 pause", "{executable} run --yes -c {uri} pause $1")
    result = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c"),
            script.format(damage=remove("agent.service"), executable=command, uri=URI),
            *(AFTER_OTHERS, UUID),
        ],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    lines = result.stdout.splitlines()
    assert {f"test:///a {UUID} pause", f"test:///b {UUID} poweroff"} <= set(lines)
    assert "left: 0\n" in result.stderr


@pytest.mark.parametrize("kind", ["copy", "link", "hard link", "nothing", "folder"])
def test_it_never_runs_itself(checkout: Path, kind: str) -> None:
    (checkout / "helper/sanlock_helper/killpath.py").unlink()
    executable = checkout / "helper" / "libvirt_sanlock_helper"
    other = checkout / "other"
    set_stock(checkout, other)
    if kind == "copy":
        shutil.copy(executable, other)
    elif kind == "link":
        other.symlink_to(executable)
    elif kind == "hard link":
        os.link(executable, other)
    elif kind == "folder":
        other.mkdir()
    result = run(checkout, URI, UUID, "pause")
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert "FAILED: libvirt's own helper is not here either" in line


def test_one_that_was_put_aside_comes_first(checkout: Path) -> None:
    (checkout / "helper/sanlock_helper/killpath.py").unlink()
    shutil.copy("/bin/true", checkout / "stock.distrib")
    result = run(checkout, URI, UUID, "pause")
    assert (result.returncode, result.stdout) == (0, "")
    assert "stock.distrib takes over" in result.stderr


def test_one_that_cannot_be_run_is_logged(checkout: Path) -> None:
    (checkout / "helper/sanlock_helper/killpath.py").unlink()
    (checkout / "stock.distrib").write_bytes(b"\x7fELF but no program")
    (checkout / "stock.distrib").chmod(0o755)
    result = run(checkout, URI, UUID, "pause")
    assert result.stdout == f"{URI} {UUID} pause\n"
    assert "stock.distrib cannot be run: Exec format error" in result.stderr


MOST = 20


@pytest.mark.parametrize("free", [1, 2, 3, 4])
@pytest.mark.parametrize("broken", [True, False])
def test_inherited_descriptors_take_all_that_it_may_have(checkout: Path, broken: bool, free: int) -> None:
    executable = checkout / "helper" / "libvirt_sanlock_helper"
    if broken:
        (checkout / "helper/sanlock_helper/agent/service.py").unlink()
    # With one it cannot even import the program: libvirt's helper takes over.
    script = f"""
import os, resource, sys
for number in range(3, {MOST} - {free}):
    os.dup2(0, number)
resource.setrlimit(resource.RLIMIT_NOFILE, ({MOST}, {MOST}))
os.execv(sys.argv[1], sys.argv[1:])
"""
    command = ["/usr/bin/python3", "-c", script, str(executable), URI, UUID, "pause"]
    shell = 'mount -t tmpfs run /run; exec "$@"'
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", shell, "sh", *command],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert result.returncode == 0, result.stderr
    to_stock = broken or free == 1
    assert (TAKES_OVER in result.stderr, "verified paused" in result.stderr) == (to_stock, not to_stock)
    assert result.stdout == (f"{URI} {UUID} pause\n" if to_stock else "")


# A program with a thread that never ends; a fork is a defect.
WITH_THREADS = """
import _thread, posix
def fork():
    posix.write(2, b"forked\\n")
    posix._exit(9)
posix.fork = posix.forkpty = posix.fork1 = fork
def main(arguments):
    lock = _thread.allocate_lock()
    lock.acquire()
    _thread.start_new_thread(lock.acquire, ())
    raise RuntimeError(ERROR)
"""


def break_it(checkout: Path, error: str) -> None:
    """The program raises RuntimeError(ERROR) while a thread of it lives."""
    text = WITH_THREADS.replace("ERROR", ascii(error))
    (checkout / "helper/sanlock_helper/killpath.py").write_text(text)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("plain", "plain"),
        ("Größe 5 €", "Größe 5 €"),
        ("a\nb\r\0\x1b[2J\x7f", "a b\\r\\x00\\x1b[2J\\x7f"),
        ("\x85\x9b\u2028\u202e\u200f", "\\x85\\x9b\\u2028\\u202e\\u200f"),
        ("/\udcff\udcfe", "/\\udcff\\udcfe"),
        ("x" * 100_000, "x" * 900 + " ... "),
        ("€" * 100_000, "€" * 900 + " ... "),
    ],
)
def test_the_line_is_one_datagram_sent_without_a_fork(
    checkout: Path, syslog: socket.socket, error: str, shown: str
) -> None:
    break_it(checkout, error)
    result = run(checkout, URI, UUID, "pause")
    assert (result.returncode, result.stdout) == (0, f"{URI} {UUID} pause\n")
    line = syslog.recv(1 << 20).decode()
    # <daemon.crit>; the process id is the one that libvirt's helper then has.
    assert re.match(
        rf"<26>virt-sanlock-helper\[\d+\]: pause {UUID}: this program failed: RuntimeError: ", line
    )
    assert shown in line
    assert "\n" not in line
    assert line.endswith(f"{checkout}/stock takes over, to pause")
    assert len(line.encode()) < 8192
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"virt-sanlock-helper: pause {UUID}: this program failed: ")


@pytest.mark.parametrize("argument", ["a\nb", "\x9b31m", "\u202e", os.fsdecode(b"\xff")])
def test_an_argument_forges_no_line(checkout: Path, syslog: socket.socket, argument: str) -> None:
    break_it(checkout, "plain")
    result = run(checkout, URI, argument, "ignore")
    line = syslog.recv(1 << 20).decode()
    assert all(c.isprintable() for c in line)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["nobody reads", "gone", "a file", "refused"])
def test_a_syslog_that_does_not_take_it_holds_nothing_up(
    checkout: Path, syslog: socket.socket, kind: str
) -> None:
    break_it(checkout, "plain")
    path = checkout / "log"
    if kind == "nobody reads":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"<13>x", str(path))
    elif kind == "refused":
        syslog.close()
    else:
        path.unlink()
        if kind == "a file":
            path.touch()
    start = time.monotonic()
    result = run(checkout, URI, UUID, "pause")
    assert result.stdout == f"{URI} {UUID} pause\n"
    assert time.monotonic() - start < 5
