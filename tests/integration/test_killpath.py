# SPDX-License-Identifier: LGPL-2.1-or-later
"""The executable as a process, on libvirt's embedded test driver: what it depends on, and what it prints."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.private_run import PRIVATE_RUN

HELPER = Path(__file__).parents[2] / "helper" / "libvirt_sanlock_helper"
URI = "test:///default"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
# What sanlock.service gives: no HOME, nothing of a login.
BARE = {"PATH": os.defpath}


def helper(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options.setdefault("env", BARE)
    options.setdefault("stdin", subprocess.DEVNULL)
    command: list[Any] = [*PRIVATE_RUN, str(HELPER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, **options)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("poweroff", "found running, destroyed, verified off"),
        ("pause", "found running, suspended, verified paused"),
        ("restart", "found running, destroyed, started again, verified running again"),
        ("ignore", "sanlock sends SIGKILL at"),
    ],
)
def test_actions(action: str, words: str) -> None:
    result = helper(URI, UUID, action)
    assert result.returncode == 0
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"virt-sanlock-helper: {action} ")
    assert words in line


@pytest.mark.parametrize(
    "arguments", [(), ("a", "b"), (URI, UUID, "kill"), (URI, "x", "pause"), ("", UUID, "pause")]
)
def test_a_usage_error_is_one_line_and_the_usage(arguments: tuple[str, ...]) -> None:
    result = helper(*arguments)
    assert result.returncode == 2
    first, *rest = result.stderr.splitlines()
    assert first.startswith("virt-sanlock-helper: usage error: ")
    assert rest[0].startswith("usage: ")


def test_help_and_version() -> None:
    text = helper("--help")
    assert (text.returncode, text.stderr) == (0, "")
    assert "on_lockfailure" in text.stdout
    version = helper("--version")
    assert re.fullmatch(r"libvirt_sanlock_helper \(virt-sanlock-helper\) \d+\.\d+\.\d+\n", version.stdout)


def test_help_into_a_closed_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        result = subprocess.run(
            [str(HELPER), "--help"], env=BARE, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PATH": "", "HOME": "/nonexistent", "LC_ALL": "tlh_QO.KOI8-R", "TZ": "Nowhere"},
        {"PYTHONPATH": "/nonexistent", "PYTHONHOME": "/nonexistent", "PYTHONSTARTUP": "/nonexistent"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    ],
)
def test_the_environment_does_not_matter(environment: dict[str, str]) -> None:
    assert helper(URI, UUID, "poweroff", env=environment).returncode == 0


def test_a_domain_name_in_utf8_in_the_c_locale(tmp_path: Path) -> None:
    host = tmp_path / "host.xml"
    host.write_text(
        f"<node><domain type='test'><name>dömäin</name><uuid>{UUID}</uuid><memory>8192</memory>"
        "<os><type>hvm</type></os></domain></node>"
    )
    result = helper(f"test://{host}", UUID, "poweroff", env={"LC_ALL": "C"})
    assert result.returncode == 0, result.stderr
    assert "dömäin" in result.stderr


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "libvirt.py").write_text("raise SystemExit('the wrong libvirt')")
    assert helper(URI, UUID, "poweroff", cwd=gone).returncode == 0
    command = f'cd "{gone}" && rm -r "{gone}" && exec "{HELPER}" {URI} {UUID} poweroff'
    assert subprocess.run([*PRIVATE_RUN, "/bin/sh", "-c", command], env=BARE, check=False).returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_standard_descriptors_do_not_matter(closed: str) -> None:
    command = f'exec "{HELPER}" {URI} {UUID} poweroff {closed}'
    assert subprocess.run([*PRIVATE_RUN, "/bin/sh", "-c", command], env=BARE, check=False).returncode == 0


def test_through_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(HELPER)
    (tmp_path / "two").symlink_to("one")
    command = [*PRIVATE_RUN, str(tmp_path / "two"), URI, UUID, "poweroff"]
    assert subprocess.run(command, env=BARE, stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_started_by_its_name_in_its_folder() -> None:
    command = [*PRIVATE_RUN, "./libvirt_sanlock_helper", URI, UUID, "poweroff"]
    assert subprocess.run(command, cwd=HELPER.parent, env=BARE, check=False).returncode == 0


INSPECT = """
import os, sys
sys.argv[1:] = []
sys.path.insert(0, {helper!r})
from sanlock_helper.inherited_descriptors import close_inherited_descriptors
close_inherited_descriptors({keep})
print(sorted(os.listdir("/proc/self/fd"), key=int))
"""


# Every number below the limit is in use but for so many; the spool is there.
FEW_FREE = """
import os, resource, sys
free, *command = sys.argv[1:]
os.spawnv(os.P_WAIT, command[0], command)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = []
try:
    while True:
        opened.append(os.open("/dev/null", os.O_RDONLY))
        os.set_inheritable(opened[-1], True)
except OSError:
    pass
for descriptor in opened[len(opened) - int(free):]:
    os.close(descriptor)
os.execv(command[0], command)
"""


@pytest.mark.parametrize("free", range(2, 8))
def test_inherited_descriptors_leave_few(free: int) -> None:
    """One is for the interpreter itself, and one for the executable's way to the program."""
    command = [
        *PRIVATE_RUN,
        "/usr/bin/python3",
        "-ISBc",
        FEW_FREE,
        str(free),
        str(HELPER),
        URI,
        UUID,
        "poweroff",
    ]
    result = subprocess.run(command, env=BARE, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "takes over" not in result.stderr
    assert result.stderr.count("verified off") == 2


@pytest.mark.parametrize("keeps", [False, True])
def test_inherited_descriptors_are_closed(keeps: bool) -> None:
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    # A free one: this process may have more open than one expects, and open another one at the same time.
    high = fcntl.fcntl(kept[0], fcntl.F_DUPFD_CLOEXEC, 251)
    keep = (high,) if keeps else ()
    code = INSPECT.format(helper=str(HELPER.parent), keep=keep)
    result = subprocess.run(
        [sys.executable, "-ISB", "-c", code],
        pass_fds=(*kept, high),
        capture_output=True,
        text=True,
        check=True,
    )
    for descriptor in (*kept, high):
        os.close(descriptor)
    # 3 is the listing itself.
    assert result.stdout == f"{['0', '1', '2', '3', *map(str, keep)]}\n"


def test_no_byte_code_is_written(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    ignore = "__pycache__"
    for root in ("helper", "auth"):
        subprocess.run(["cp", "-r", str(HELPER.parents[1] / root), str(copy.parent / root)], check=True)
    for cache in tmp_path.rglob(ignore):
        subprocess.run(["rm", "-r", str(cache)], check=True)
    command = [*PRIVATE_RUN, str(tmp_path / "helper" / HELPER.name), URI, UUID, "poweroff"]
    subprocess.run(command, env=BARE, check=True, stderr=subprocess.DEVNULL)
    assert list(tmp_path.rglob(ignore)) == []


def test_interrupted(tmp_path: Path) -> None:
    # No daemon listens there: it tries until it is interrupted.
    uri = f"qemu+unix:///system?socket={tmp_path}/none"
    process = subprocess.Popen(
        [*PRIVATE_RUN, str(HELPER), uri, UUID, "pause"], env=BARE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "trying again" in process.stderr.readline()
    process.send_signal(2)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted, the outcome is not known" in stderr
    assert "Traceback" not in stderr


def test_the_budget_is_kept(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/none"
    start = time.monotonic()
    result = helper("--budget=1", uri, UUID, "pause")
    assert result.returncode == 1
    assert 1 <= time.monotonic() - start < 2.5
