# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/benchmarks.md is written by make bench, part by part."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import report

PAGE = """\
# Benchmarks

<!-- make bench: storms -->

    old

<!-- end: storms -->

Between.

<!-- make bench: one_call -->
<!-- end: one_call -->
"""


@pytest.mark.parametrize("part", ["storms", "one_call"])
def test_a_table_is_replaced_and_nothing_else(part: str) -> None:
    page = report.replace(PAGE, part, "\n2026-01-01\n\na table\n  a row\n")
    assert (
        f"<!-- make bench: {part} -->\n\n    2026-01-01\n\n    a table\n      a row\n\n<!-- end: {part} -->"
        in page
    )
    other = "one_call" if part == "storms" else "storms"
    assert report.replace(page, part, "old") == report.replace(PAGE, part, "old")
    assert page.partition(f"make bench: {other}")[2].partition("end")[0] in PAGE
    assert page.startswith("# Benchmarks\n")
    assert "\nBetween.\n" in page


@pytest.mark.parametrize(
    "page",
    [
        "",
        PAGE.replace("<!-- end: storms -->\n", ""),
        PAGE + PAGE,
        "<!-- end: storms -->\n<!-- make bench: storms -->\n",
    ],
)
def test_a_page_without_the_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="no place for storms"):
        report.replace(page, "storms", "a table")


def test_each_part_has_its_place_in_the_page() -> None:
    page = report.PAGE.read_text()
    makefile = (report.TOP / "Makefile").read_text()
    (parts,) = re.findall(r"for part in ([\w ]+); do", makefile)
    assert re.findall(r"<!-- make bench: (\w+) -->", page) == parts.split()
    for part in parts.split():
        assert f"<!-- make bench: {part} -->" in report.replace(page, part, "a table")


def test_the_machine_is_described(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Fast CPU 3\nmodel name\t: Fast CPU 3\n")
    (tmp_path / "meminfo").write_text("MemTotal:        8123456 kB\nMemFree: 1 kB\n")
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/osrelease").write_text("6.1.0-18-amd64\n")
    assert report.machine(tmp_path, 2) == "Fast CPU 3, 2 cores, 7.7 GiB, Linux 6.1.0-18-amd64"
    lines = report.heading(0.0).splitlines()
    assert lines[0].startswith("1970-01-01")
    assert re.search(r"libvirt (\d|none).*, sanlock (\d|none).*, QEMU (\d|none).*, Python 3\.\d", lines[2])


def test_a_changed_program_is_marked_and_a_changed_page_is_not(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    assert report.commit(tmp_path) == ""
    for folder in ("helper", "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("one\n")
    name = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-q", "-m", "x"]):
        subprocess.run([git, "-C", str(tmp_path), *words], check=True)
    clean = report.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "docs/file").write_text("two\n")
    assert report.commit(tmp_path) == clean
    (tmp_path / "helper/file").write_text("two\n")
    assert report.commit(tmp_path) == f"{clean}-dirty"


@pytest.mark.parametrize("status", [0, 1])
def test_what_a_part_prints_is_in_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)

    def measure() -> int:
        print("a table")
        return status

    assert report.run("storms", measure, page) == status
    assert capsys.readouterr().out == "a table\n"
    written = page.read_text().partition("make bench: storms")[2].partition("end: storms")[0]
    assert "\n    a table\n" in written
    assert "    old\n" not in written
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


def test_a_part_that_could_not_measure_leaves_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert report.run("storms", lambda: report.NOT_MEASURED, page) == 0
    assert page.read_text() == PAGE


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["none"],
        ["storms", "one", "2"],
        ["standing", "one"],
        ["standing", "none", "2"],
        ["standing", "one", "0"],
        ["standing", "one", "-1"],
        ["standing", "one", "2", "3"],
    ],
)
def test_what_is_no_part_and_no_row_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(words) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_each_part_can_be_loaded_as_make_bench_loads_it() -> None:
    pytest.importorskip("libvirt")
    command = re.search(
        r"PYTHONPATH=(\S+) \$\(BIN\)/python -m tests.bench", (report.TOP / "Makefile").read_text()
    )
    assert command is not None
    parts = ", ".join(f"tests.bench.{part}" for part in bench.PARTS)
    program = f"import {parts}; print(*tests.bench.standing.ROUNDS)"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        cwd=report.TOP,
        env={"PYTHONPATH": command[1]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (loaded.stdout.split(), loaded.stderr) == (list(bench.ROWS), "")
