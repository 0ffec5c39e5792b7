# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a checkout offers to a developer: the targets of make, what they install, the linters."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from tests.e2e.preconditions import need_programs

TOP = Path(__file__).parents[2]
MAKEFILE = (TOP / "Makefile").read_text()


def targets() -> set[str]:
    """The targets of the Makefile that are no files."""
    match = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert match
    return set(match[1].split())


def make(folder: Path, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run make in FOLDER, with the programs of PATH before all others."""
    environ = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):
        environ.pop(name, None)
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def test_make_alone_lists_each_target_and_makes_nothing() -> None:
    result = make(TOP)
    assert result.returncode == 0
    listed = re.findall(r"^make ([a-z0-9]+) +\S", result.stdout, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == targets()
    assert len(listed) == len(result.stdout.splitlines())


# With the variables that stand before it.
PROGRAM = re.compile(r"(?:PYTHONPATH=(\S+) )?\$\(BIN\)/python -m (tests\.[a-z_.]+)")


@pytest.mark.parametrize(("path", "module"), sorted(set(PROGRAM.findall(MAKEFILE))))
def test_each_program_of_a_target_can_be_loaded(path: str, module: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path:
        environ["PYTHONPATH"] = path
    is_package = (TOP / module.replace(".", "/")).is_dir()
    code = f"import {module}{'.__main__' * is_package}"
    subprocess.run([sys.executable, "-c", code], cwd=TOP, env=environ, check=True)


# A Debian where no package is installed and each one can be had.
PROGRAMS = {
    "dpkg-query": "exit 1",
    "apt-cache": 'echo "$2 | 1.0 | somewhere"',
    "apt-get": 'echo "$*" >>"$(dirname "$0")/apt-get.log"',
    "id": "echo 0",
}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy of the checkout's Makefile and packaging, beside programs that stand for such a Debian's."""
    shutil.copytree(TOP / "packaging", tmp_path / "packaging")
    shutil.copy(TOP / "Makefile", tmp_path)
    (tmp_path / "bin").mkdir()
    for name, body in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("target", ["", "help", "demo", "test", "unit", "lint", "packaging", "bench"])
def test_no_target_but_deps_installs_a_package(bare: Path, target: str) -> None:
    # No virtual environment is made here: the interpreter that would make it fails.
    result = make(bare, *target.split(), "PYTHON=false", path=bare / "bin")
    assert not (bare / "bin/apt-get.log").exists()
    if target not in ("", "help"):
        assert result.returncode != 0
        assert re.search(r"missing: .*python3-libvirt.*make deps", result.stderr), result.stderr


def test_deps_installs_what_is_missing(bare: Path) -> None:
    result = make(bare, "deps", path=bare / "bin")
    assert result.returncode == 0, result.stderr
    calls = (bare / "bin/apt-get.log").read_text().splitlines()
    assert calls[0].startswith("update")
    assert re.search(r"install .*\bpython3-libvirt\b.*\bsanlock\b.*\bshellcheck\b", calls[1])


def test_deps_comes_first_whatever_the_number_of_jobs(bare: Path) -> None:
    make(bare, "-j4", "deps", "test", "PYTHON=false", path=bare / "bin")
    assert (bare / "bin/apt-get.log").exists()
    assert ".NOTPARALLEL:" in MAKEFILE


def recipe(target: str) -> list[str]:
    """The commands of TARGET."""
    match = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert match
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in match[1].splitlines()]


def test_pre_commit_runs_what_make_lint_runs() -> None:
    text = (TOP / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"^ +entry: (.+)$", text, re.MULTILINE) == recipe("lint")
    # Tools of this checkout alone: nothing is fetched.
    assert re.findall(r"^ +- repo: (.+)$", text, re.MULTILINE) == ["local"]
    assert set(re.findall(r"^ +language: (.+)$", text, re.MULTILINE)) == {"system"}


def test_ci_installs_what_it_needs_and_runs_the_readmes_test_command() -> None:
    (command,) = re.findall(r"^    (make (?:deps )?test)\b", (TOP / "README.md").read_text(), re.MULTILINE)
    assert command == "make deps test"
    assert f"\n{command} REQUIRE=1\n" in (TOP / ".ci/run").read_text()


# Stands for pytest, in one half of `make test` and in the other.
PYTEST = """\
#!/bin/sh
case $* in
    *--ignore=*) half=computes; status=$COMPUTES ;;
    *) half=waits; status=$WAITS ;;
esac
echo "$half, $*"
[ "$status" = 0 ] || printf '%s\n' '=== FAILURES ===' "$half: E assert 1 == 2"
exit "$status"
"""


@pytest.fixture
def both(tmp_path: Path) -> Callable[[int, int], subprocess.CompletedProcess[str]]:
    """A function that runs tests/both where what waits, and what computes, end with these statuses."""
    for path in ("tests", ".venv/bin"):
        (tmp_path / path).mkdir(parents=True)
    shutil.copy(TOP / "tests/both", tmp_path / "tests")
    pytest_path = tmp_path / ".venv/bin/pytest"
    pytest_path.write_text(PYTEST)
    pytest_path.chmod(0o755)

    def run(waits: int, computes: int) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "WAITS": str(waits), "COMPUTES": str(computes)}
        command = [str(tmp_path / "tests/both")]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize(("waits", "computes", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)])
def test_make_test_fails_with_either_half(
    both: Callable[[int, int], subprocess.CompletedProcess[str]], waits: int, computes: int, status: int
) -> None:
    result = both(waits, computes)
    assert result.returncode == status
    shown = [line.split(",")[0] for line in result.stdout.splitlines()]
    assert [line for line in shown if line in ("waits", "computes")] == ["waits", "computes"]
    # A log may be kept by its end alone: that has what failed, in whichever half.
    failed = [f"{half}: E assert 1 == 2" for half in ("computes",) * computes + ("waits",) * waits]
    assert shown[len(shown) - 2 * len(failed) :][1::2] == failed
    words = f"what waits ended with status {waits}, what computes with status {computes}"
    assert (words in result.stderr) == bool(status)


def test_make_test_runs_each_suite_in_one_half(
    both: Callable[[int, int], subprocess.CompletedProcess[str]],
) -> None:
    waits, computes = both(0, 0).stdout.splitlines()
    alone = set(re.findall(r" tests/(\w+)", waits))
    assert alone == {"e2e", "faults"}
    # The packages have a target of their own.
    assert set(re.findall(r"--ignore=tests/(\w+)", computes)) == alone | {"packaging"}
    assert computes.endswith(" tests")
    for words in (waits, computes):
        assert "-m not long" in words


def test_the_shell_scripts_are_clean() -> None:
    need_programs("shellcheck")
    listed = subprocess.run([TOP / "tests/shell", "--list"], capture_output=True, text=True, check=True)
    scripts = set(listed.stdout.split())
    assert {"./.ci/run", "./packaging/install", "./tests/pure", "./tests/matrix/build-modular"} <= scripts
    subprocess.run([TOP / "tests/shell"], check=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("packaging/new", "#!/bin/sh\ncd $1\n"),
        ("tests/with blank", "#!/bin/bash\ncd $1\n"),
        ("packaging/completion/new.bash", "f() {\n    cd $1\n}\n"),
    ],
)
def test_a_fault_in_a_shell_script_is_found(tmp_path: Path, name: str, text: str) -> None:
    need_programs("shellcheck")
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (tmp_path / "a.py").write_text("#!/bin/sh\ncd $1\n")
    result = subprocess.run([TOP / "tests/shell", tmp_path], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert path.name in result.stdout
    assert "a.py" not in result.stdout
