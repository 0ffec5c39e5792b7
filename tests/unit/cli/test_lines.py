# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines that fit the terminal: prose, commands that are pasted, tables; and how wide that is."""

from __future__ import annotations

import io
import os
import pty
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanlock_helper.cli.remedy_parts import pieces_of, steps_of
from sanlock_helper.cli.tables import table
from sanlock_helper.cli.text_width import LEAST, USUAL, cells, columns_of
from sanlock_helper.cli.wrapping import Piece, continued, plain_text, wrap
from sanlock_helper.escapes import printable

from ..examples import part_of


@pytest.mark.parametrize(
    ("text", "wide"),
    [
        ("vm1", 3),
        ("", 0),
        ("é", 1),
        ("e\u0301", 1),
        ("日本", 4),
        ("\uff56\uff4d", 4),
        ("\u1112\u1161\u11ab", 2),
        ("가", 2),
        ("\U0001f600", 2),
        ("a\u20dd", 1),
    ],
)
def test_how_many_columns_a_text_takes(text: str, wide: int) -> None:
    assert cells(text) == wide


@pytest.fixture
def terminal() -> Iterator[io.TextIOWrapper]:
    """A terminal that reports no width."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        yield stream
    os.close(ours)


@pytest.mark.parametrize(
    ("environ", "columns"),
    [
        ({}, USUAL),
        ({"COLUMNS": "100"}, 100),
        ({"COLUMNS": "0"}, USUAL),
        ({"COLUMNS": "-5"}, USUAL),
        ({"COLUMNS": "wide"}, USUAL),
        ({"COLUMNS": ""}, USUAL),
        ({"COLUMNS": "1e3"}, USUAL),
        ({"COLUMNS": "٨٠"}, USUAL),
        ({"COLUMNS": "9" * 5000}, USUAL),
        ({"COLUMNS": "3"}, LEAST),
    ],
)
def test_the_width_of_a_terminal_that_reports_none(
    terminal: io.TextIOWrapper, environ: dict[str, str], columns: int
) -> None:
    assert columns_of(terminal, environ) == columns


def test_a_pipe_has_no_width() -> None:
    assert columns_of(io.StringIO(), {"COLUMNS": "40"}) is None


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(20, 90), st.integers(0, 50)
)
@settings(max_examples=part_of(300))
def test_no_line_is_longer_and_no_word_is_lost(text: str, width: int, indent: int) -> None:
    text = printable(text)
    lines = plain_text(wrap([Piece(text)], width, indent))
    assert all(cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert plain_text(wrap([Piece(text)], None, indent)) == [text]


WORDS = st.lists(
    st.text(
        st.characters(exclude_characters="\n\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=90
    ),
    min_size=1,
    max_size=6,
)


@given(WORDS, st.integers(20, 60), st.integers(0, 10))
@settings(max_examples=part_of(60))
def test_a_command_that_is_broken_works_when_it_is_pasted(words: list[str], width: int, used: int) -> None:
    lines = continued(f"show {shlex.join(words)}", width, used)
    assert all(cells(line) + (used if number == 0 else 0) <= width for number, line in enumerate(lines))
    script = 'show() { printf "%s\\0" "$@"; }\n' + "\n".join(lines)
    answer = subprocess.run(["sh"], input=script.encode(), check=True, capture_output=True)
    assert answer.stdout.decode().split("\0")[:-1] == words


@pytest.mark.parametrize(
    ("remedy", "commands"),
    [
        ("systemctl start sanlock", ["systemctl start sanlock"]),
        ("systemctl start a.socket; journalctl -u a", ["systemctl start a.socket", "journalctl -u a"]),
        ("move them away; or, without that: virt-sanlock-helper activate", ["virt-sanlock-helper activate"]),
        ("see ls -l /dev/disk/by-*", ["ls -l /dev/disk/by-*"]),
        ("mount NFS, GFS2 or the like there", []),
        ("mount -a; mount /srv", ["mount -a", "mount /srv"]),
        ("run one version of sanlock on all hosts: here, sanlock 5", []),
        ("apt install x, or dnf install y", ["apt install x", "dnf install y"]),
        ("sed -i 's/a; b: c/d, e/' x && rm y; z", ["sed -i 's/a; b: c/d, e/' x && rm y"]),
        ("virsh dumpxml $(virsh domuuid x), then read it", ["virsh dumpxml $(virsh domuuid x)"]),
        ("! sanlock client status | grep x && rm y  # z", ["! sanlock client status | grep x && rm y"]),
        ("truncate -s 0 x && systemctl restart y", ["truncate -s 0 x && systemctl restart y"]),
        ("apt install --reinstall x", ["apt install --reinstall x"]),
        ("install python3", []),
        ("rm a && ls b  # or: ls c; it's needed", ["rm a && ls b"]),
        ("sed -i 's/ # x/y/' z  # as 'that' is", ["sed -i 's/ # x/y/' z"]),
        ("virsh list | grep -e 'a; b' | wc -l", ["virsh list | grep -e 'a; b' | wc -l"]),
        ("", []),
    ],
)  # fmt: skip
def test_the_commands_of_a_remedy(remedy: str, commands: list[str]) -> None:
    pieces = pieces_of(remedy)
    assert [piece.text for piece in pieces if piece.is_command] == commands
    assert "".join(piece.text for piece in pieces) == remedy
    steps = [piece.text for step in steps_of(pieces) for piece in step]
    assert [step for step in steps if step in commands] == commands


@given(st.text(st.sampled_from("rm ls;:,()'\"\\ sed virsh a/-")))
@settings(max_examples=part_of(300))
def test_any_remedy_is_taken_apart_without_loss(remedy: str) -> None:
    assert "".join(piece.text for piece in pieces_of(remedy)) == remedy


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_command_within_prose_is_not_broken(width: int) -> None:
    command = "virsh destroy a-long-name-of-a-vm"
    lines = plain_text(
        wrap(pieces_of(f"a VM that runs without its leases: {command}; start it again"), width, 4)
    )
    assert any(command in line for line in lines)


HEAD = ("NAME", "STATE", "LEASES", "AT A LOSS")
ROWS = [
    ("vm1", "running", "__LIBVIRT__DISKS__: 1", "paused at 8 s, else SIGKILL at 48 s; resumed later"),
    ("日本-" + "x" * 60, "shut off", "-", "nothing, it is off"),
]


@pytest.mark.parametrize("width", [20, 40, 80, 100, 200])
def test_a_table_fits(width: int) -> None:
    lines = [line for row in table(HEAD, ROWS, width) for line in plain_text(row)]
    assert all(cells(line) <= width for line in lines), lines
    text = " ".join(" ".join(lines).split())
    assert "NAME" in text
    for row in ROWS:
        for cell in row[1:]:
            assert cell == "-" or cell in text or cell.replace(" ", "") in text.replace(" ", "")


def test_what_has_no_room_in_a_row_stands_below_it() -> None:
    head, first, second = (plain_text(lines) for lines in table(HEAD, ROWS, 40))
    assert head == ["NAME  STATE     LEASES"]
    assert first[0] == "vm1   running   __LIBVIRT__DISKS__: 1"
    assert first[1].startswith("    at a loss: paused")
    # A long name has a line of its own.
    assert second[-2].split() == ["shut", "off", "-"]


def test_a_table_in_a_pipe_has_one_line_for_each_row() -> None:
    assert [len(lines) for lines in table(HEAD, ROWS)] == [1, 1, 1]
