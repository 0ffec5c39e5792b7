# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line itself: its streams, and errors that no code expects."""

from __future__ import annotations

import argparse
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.cli import main as cli
from sanlock_helper.cli.verbs import VERBS, history
from sanlock_helper.errors import PermanentError

HELPER = Path(__file__).parents[3] / "helper"


def fail(_arguments: argparse.Namespace) -> int:
    raise ZeroDivisionError("one\ntwo")


def test_a_defect_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(history, "run", fail)
    assert cli.main(["history"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        r"virt-sanlock-helper: internal error: ZeroDivisionError('one\ntwo') in test_main.py, line "
    )
    assert error.count("\n") == 1


def test_an_error_cannot_move_the_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_arguments: argparse.Namespace) -> int:
        raise PermanentError("read a\x1b[2J", "b\nc", "d")

    monkeypatch.setattr(history, "run", run)
    assert cli.main(["history"]) == 1
    assert capsys.readouterr().err == "virt-sanlock-helper: read a\\x1b[2J: b\\nc (d)\n"


def test_any_text_can_be_written_to_any_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_arguments: argparse.Namespace) -> int:
        print("\u65e5 \udcff")
        return 0

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", "strict"))
    monkeypatch.setattr(history, "run", run)
    assert cli.main(["history"]) == 0
    assert written.getvalue() == b"\\u65e5 \\udcff\n"


# A host without libvirt-python, sanlock-python and what they need.
WITHOUT = """
import sys
for name in ("libvirt", "libvirtmod", "sanlock"):
    sys.modules[name] = None
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/../auth"]
from sanlock_helper.cli.main import main
status = main(sys.argv[2:])
if "loaded" in sys.argv:
    print(*sys.modules)
sys.exit(status)
"""


def without_libvirt(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-ISBc", WITHOUT, str(HELPER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["history", "--help"],
        ["history", "--journal", "/dev/null"],
        ["history", "--journal", "/dev/null", "--domain", "vm1", "--json"],
        ["auth", "check", "test:///default"],
        ["install-check", "--help"],
        ["activate", "--help"],
    ],
)
def test_a_verb_that_needs_no_libvirt_works_without(arguments: list[str]) -> None:
    result = without_libvirt(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def test_install_check_reports_that_libvirt_python_is_missing() -> None:
    result = without_libvirt("install-check")
    assert "internal error" not in result.stderr
    # On a host with libvirt's sanlock plugin it comes as far as the modules.
    assert "install python3-libvirt" in result.stdout or "libvirt" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["run", "pause", "vm1"],
        ["policy", "vm1"],
        ["recover"],
        ["history", "--journal", "/dev/null", "--domain", "7"],
    ],
)
def test_a_verb_that_needs_libvirt_names_what_to_install(arguments: list[str]) -> None:
    result = without_libvirt(*arguments)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("virt-sanlock-helper: load libvirt: ")
    # The command of this distribution, or of both families.
    assert re.search(r"\((?:apt|dnf) install python3-libvirt.*\)\n$", result.stderr)


def test_only_the_verb_that_was_asked_for_is_loaded() -> None:
    loaded = without_libvirt("history", "--journal", "/dev/null", "--domain", "loaded").stdout.split()
    verbs = {name.rpartition(".")[2] for name in loaded if name.startswith("sanlock_helper.cli.verbs.")}
    assert verbs == {"history"}


def test_each_verb_has_a_module_and_no_module_is_forgotten() -> None:
    modules = {path.stem.replace("_", "-") for path in (HELPER / "sanlock_helper/cli/verbs").glob("*.py")}
    assert modules - {"--init--"} == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str) -> None:
    module = importlib.import_module(f"sanlock_helper.cli.verbs.{verb.replace('-', '_')}")
    for text in (module.__doc__, module.add_arguments.__doc__, module.run.__doc__):
        assert text


def test_help_has_the_verbs_in_the_order_of_use() -> None:
    text = cli.make_parser("").format_help()
    places = [text.index(f"    {verb}") for verb in VERBS]
    assert places == sorted(places)
    assert list(VERBS) == [
        "check", "drill", "status", "run", "policy", "recover", "history", "auth", "agent",
        "install-check", "activate",
    ]  # fmt: skip


def test_streams_that_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert cli.main(["--version"]) == 0
