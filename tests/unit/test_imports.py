# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the fast path imports: hundreds of these processes start in the same second."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sanlock_helper.install.paths import KILLPATHS

pytestmark = pytest.mark.pure

HELPER = Path(__file__).parents[2] / "helper"

# With what is built in, and fcntl, these are all until a request is handed over.
FAST = {"handover", "killpath"}

HEAVY = {
    "__future__", "argparse", "asyncio", "collections", "configparser", "contextlib", "dataclasses", "enum",
    "functools", "inspect", "json", "libvirt", "libvirtmod", "libvirt_auth", "logging", "os", "pathlib",
    "re", "sanlock", "site", "socket", "subprocess", "threading", "typing",
}  # fmt: skip

PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
import sanlock_helper
from sanlock_helper import killpath
assert killpath._is_plain(["qemu:///system", "6695eb01-f6a4-8304-79aa-97f2502e193f", "pause"])
print(*sys.modules)
"""


# What one has loaded that may have to serve.
STAND_BY = """
import sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper import killpath
from sanlock_helper.call import Invocation
Invocation.parse(["qemu:///system", "6695eb01-f6a4-8304-79aa-97f2502e193f", "pause"])
print(*sys.modules)
"""

# What is in the process before the first virtual machine is safe.
AGENT = """
import site, sys
sys.path.insert(0, sys.argv[1])
sys.path.insert(1, sys.argv[1] + "/../auth")
before = set(sys.modules)
from sanlock_helper.agent import agent, recorder
from sanlock_helper.records import directory
from sanlock_helper.virt import connection
print(*set(sys.modules) - before)
"""


def test_the_agent_imports_nothing_that_only_recovery_needs() -> None:
    pytest.importorskip("libvirt")
    command = ["/usr/bin/python3", "-IB", "-c", AGENT, str(HELPER)]
    modules = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "sanlock_helper.agent.recorder" in modules
    assert not modules & {"argparse", "dataclasses", "inspect", "json", "pathlib", "uuid", "xml"}
    # A connection without leases, test:///default, must not pay for these.
    assert not modules & {"ctypes", "sanlock", "sanlock_helper.leases.libsanlock"}


# One call, to its end, in a process that serves it alone.
CALL = """
import sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/../auth"]
from sanlock_helper.agent import service
from sanlock_helper.agent.requests import Request
from sanlock_helper.invocation import Invocation
from sanlock_helper.journal import Journal
from sanlock_helper.leases.grace import Deadline
journal = Journal(lambda *_: None, lambda _: None)
wanted = Invocation("test:///default", "6695eb01-f6a4-8304-79aa-97f2502e193f", "poweroff")
request = Request.of(wanted, Deadline(time.monotonic(), 40))
assert service.serve_alone(request, lambda: service.make_agent(journal, wanted.uri)) == 0
print(*sys.modules)
"""


def test_a_call_without_leases_pays_for_no_module_of_annotations() -> None:
    pytest.importorskip("libvirt")
    command = ["/usr/bin/python3", "-ISB", "-c", CALL, str(HELPER)]
    modules = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "libvirt" in modules
    assert not modules & {"collections", "contextlib", "enum", "functools", "heapq", "re", "typing"}


IMPORT = """
import sys
sys.path[:0] = sys.argv[1:]
from sanlock_helper.agent import service
service._import_libvirt()
import libvirt
print(libvirt.answer(), "typing" in sys.modules)
"""


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("from typing import Any, Dict, overload\n@overload\ndef answer(x: Dict[str, Any]): ...", "1 False"),
        ("from typing import Any, cast\nNUMBER = cast('Any', 1)", "1 True"),
        ("from typing import Dict\nclass Handles(Dict[str, int]): ...", "1 True"),
        ("import typing\ntyping.no_such_name", "no attribute"),
        ("raise ImportError('a library is missing')", "a library is missing"),
    ],
)
def test_libvirt_python_gets_the_whole_of_typing_where_it_needs_it(
    tmp_path: Path, source: str, printed: str
) -> None:
    (tmp_path / "libvirt.py").write_text(f"{source}\ndef answer(x=None): return 1\n")
    command = ["/usr/bin/python3", "-ISB", "-c", IMPORT, str(tmp_path), str(HELPER)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert printed in answer.stdout + answer.stderr


LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.leases import held as leases
before = set(sys.modules)
leases.load()
after = set(sys.modules)
leases.load()
for call in (leases.held_by, leases.release, leases.CachedLeases().of):
    try:
        call(1)
    except leases.LeasesUnknownError:
        pass
print(*after - before)
print(*set(sys.modules) - after)
"""

# What ctypes is made of, from its first structure on; from Python 3.14 on sysconfig and warnings, too.
CTYPES = """
import sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.leases import held as leases
before = set(sys.modules)
from ctypes import Structure, c_int
class Pair(Structure):
    _fields_ = (("one", c_int), ("two", c_int))
print(*set(sys.modules) - before)
"""


def modules(program: str, **environ: str) -> list[set[str]]:
    """The names in each line that PROGRAM prints."""
    command = ["/usr/bin/python3", "-IB", "-c", program, str(HELPER)]
    answer = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if "install sanlock-lib" in answer.stderr:
        pytest.skip("no sanlock library is installed")
    assert answer.returncode == 0, answer.stderr
    return [set(line.split()) for line in answer.stdout.split("\n")]


def test_nothing_is_imported_after_the_binding_is_loaded(tmp_path: Path) -> None:
    binding, later, _ = modules(LOAD, SANLOCK_RUN_DIR=str(tmp_path))
    ctypes = modules(CTYPES)[0]
    assert "_ctypes" in ctypes
    assert binding <= {"sanlock_helper.leases.libsanlock", *ctypes}
    assert later == set()


def opened(program: str, tmp_path: Path) -> list[str]:
    """The files and directories, but those of /proc, that an interpreter opens to run PROGRAM, in order."""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=open,openat", "-o", str(trace)]
    # Without byte code: one that is older than its source is opened before that.
    command += ["/usr/bin/python3", "-ISB", "-X", f"pycache_prefix={tmp_path}"]
    subprocess.run([*command, "-c", program, str(HELPER)], capture_output=True, check=True)
    calls = [
        line.split('"')[1] for line in trace.read_text().splitlines() if '"' in line and "ENOENT" not in line
    ]
    return [path for path in calls if not path.startswith("/proc")]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_fast_path_opens_its_own_modules_and_no_other_file(tmp_path: Path) -> None:
    bare = "import sys; sys.path.insert(0, sys.argv[1])"
    more = Counter(opened(PROBE, tmp_path)) - Counter(opened(bare, tmp_path))
    package = HELPER / "sanlock_helper"
    folders = {str(HELPER): 1, str(package): 1}
    modules = {Path(path).stem.split(".")[0] for path in more.keys() - folders.keys()}
    assert modules == {"__init__", *FAST}
    # One file a module: its byte code, or its source where that was never compiled.
    assert sum(more.values()) == len(folders) + len(modules)


# An agent that fails on a host whose disk hangs: the executable becomes libvirt's own helper.
FAILS = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/../auth"]
import ast, posix
from sanlock_helper.agent import service
from sanlock_helper.journal import Journal
__file__ = sys.argv[1] + "/libvirt_sanlock_helper"
program = ast.parse(open(__file__).read())
(fall_back,) = (
    statement.value.value
    for statement in program.body
    if isinstance(statement, ast.Assign) and statement.targets[0].id == "FALL_BACK"
)
service.make_agent(Journal(), "qemu:///system")
late = []
def execv(path, words):
    print("runs", *words[1:])
    print(*late)
    sys.stdout.flush()
    posix._exit(0)
posix.execv = execv
sys.argv[1:] = ["test:///x", "uuid", "pause"]
sys.addaudithook(lambda event, words: event == "import" and late.append(words[0]))
error = RuntimeError("a cursor \\x1b[1m, half a pair \\udcff, \\U0001f600\\u200b")
exec(fall_back.replace("/dev/log", "/dev/null"))
"""


def test_nothing_is_imported_when_a_failed_agent_becomes_libvirts_helper() -> None:
    pytest.importorskip("libvirt")
    if not any(Path(path).exists() for path in KILLPATHS):
        pytest.skip("no helper of libvirt's is installed")
    command = ["/usr/bin/python3", "-ISB", "-c", FAILS, str(HELPER)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "a cursor \\x1b[1m, half a pair \\udcff" in answer.stderr
    # The socket's module is part of the interpreter in Debian; elsewhere asking for sanlock's grace loads it.
    assert answer.stdout in ("runs test:///x uuid pause\n\n", "runs test:///x uuid pause\n_socket\n")


@pytest.mark.parametrize(
    ("program", "own"),
    [(PROBE, FAST), (STAND_BY, FAST | {"call", "inherited_descriptors", "invocation", "spool"})],
    ids=["hand-over", "stand-by"],
)
def test_c_modules_only_are_imported_before_a_process_serves(program: str, own: set[str]) -> None:
    command = [sys.executable, "-ISB", "-c", program, str(HELPER)]
    modules = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert not modules & HEAVY
    package = "sanlock_helper."
    assert {name[len(package) :] for name in modules if name.startswith(package)} == own
