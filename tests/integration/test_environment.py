# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the caller's environment, home and working directory make the executables run: none of their code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.private_run import PRIVATE_RUN

HELPER = Path(__file__).parents[2] / "helper"
EXECUTABLES = {
    "the killpath": [str(HELPER / "libvirt_sanlock_helper"), "test:///default"],
    "the command": [str(HELPER / "virt-sanlock-helper"), "run", "--yes", "--connect", "test:///default"],
}
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

# What both import, or Python by itself, under every name that a folder on sys.path could give it.
MODULES = (
    "libvirt",
    "libvirtmod",
    "sitecustomize",
    "usercustomize",
    "resource",
    "sanlock",
    "json",
    "argparse",
)


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")


def plant(folder: Path, mark: Path) -> None:
    """Code that touches MARK, as each of MODULES and of our packages."""
    folder.mkdir(parents=True, exist_ok=True)
    code = f"open({str(mark)!r}, 'w').close()\n"
    for name in MODULES:
        (folder / f"{name}.py").write_text(code)
    for name in ("sanlock_helper", "libvirt_auth"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(code)


def version() -> str:
    command = ["/usr/bin/python3", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, dict[str, str], Path]:
    """A folder full of code, an environment that leads to it in every way, and what that code makes."""
    mark, folder = tmp_path / "ran", tmp_path / "planted"
    plant(folder, mark)
    plant(folder / ".local/lib" / version() / "site-packages", mark)
    environ = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "PYTHONPATH": str(folder),
        "PYTHONUSERBASE": str(folder / ".local"),
        "PYTHONSTARTUP": str(folder / "sitecustomize.py"),
        "PYTHONINSPECT": "1",
        "PYTHONBREAKPOINT": "sitecustomize.x",
        "PYTHONPYCACHEPREFIX": str(folder / "cache"),
        "PYTHONWARNINGS": "error",
        "PYTHONVERBOSE": "1",
    }
    return folder, environ, mark


def test_this_environment_runs_code_where_it_counts(planted: tuple[Path, dict[str, str], Path]) -> None:
    folder, environ, mark = planted
    subprocess.run(
        ["/usr/bin/python3", "-c", "import libvirt"],
        env=environ,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert mark.exists()


@pytest.mark.parametrize("home", ["", "lib"])
@pytest.mark.parametrize("name", EXECUTABLES)
def test_it_runs_none_here(planted: tuple[Path, dict[str, str], Path], name: str, home: str) -> None:
    folder, environ, mark = planted
    if home:
        environ["PYTHONHOME"] = str(folder / home)
    program = EXECUTABLES[name]
    words = [*program, UUID, "pause"] if len(program) == 2 else [*program, "pause", UUID]
    result = subprocess.run(
        [*PRIVATE_RUN, *words],
        env=environ,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, mark.exists()) == (0, False), result.stderr
    assert "verified paused" in result.stdout + result.stderr
    assert "import " not in result.stderr
    assert not (folder / "cache").exists()


def test_they_give_no_privilege() -> None:
    """Another user who runs them is that user: root's environment alone counts, and root gives it."""
    for program in EXECUTABLES.values():
        status = os.stat(program[0])
        assert status.st_mode & 0o7022 == 0, program
        assert "security.capability" not in os.listxattr(program[0])


def test_an_installation_gives_none_either(tmp_path: Path) -> None:
    environ = {**os.environ, "DESTDIR": str(tmp_path), "PREFIX": "/usr", "STOCK_HELPER": ""}
    install = HELPER.parent / "packaging/install"
    subprocess.run([install], env=environ, capture_output=True, check=True, umask=0o022)
    files = [path for path in tmp_path.rglob("*") if not path.is_symlink()]
    assert any(path.name == "libvirt_sanlock_helper" for path in files)
    for path in files:
        assert path.stat().st_mode & 0o7022 == 0, path
        assert "security.capability" not in os.listxattr(path)


# What an agent does first, then a child that fails; the arguments are the folders of the packages.
CHILD = """
import posix, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sys.path[:0] = sys.argv[1:]
from sanlock_helper.agent.service import prepare_process
from sanlock_helper.journal import Journal
prepare_process(Journal())
pid = posix.posix_spawn("/bin/false", ["false"], {})
print(posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1]))
"""


def test_an_agent_learns_how_its_children_end_whatever_its_caller_ignores() -> None:
    command = ["/usr/bin/python3", "-ISB", "-c", CHILD, str(HELPER), str(HELPER.parent / "auth")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("1\n", "")
