# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's configuration files, one annotated example of every rule."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sanlock_helper.errors import PermanentError
from sanlock_helper.virt.libvirt_conf import (
    ConfSyntaxError,
    Value,
    given_again,
    in_force,
    parse_settings,
    read_conf,
)

from ..examples import part_of

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("# host_id = 1\n", {}),
        ("host_id = 1\n", {"host_id": 1}),
        ("host_id=-1", {"host_id": -1}),
        ("  host_id\t=\t1  # why\n", {"host_id": 1}),
        ("a = 1; b = 2\n", {"a": 1, "b": 2}),
        ("a = 1\na = 2\n", {"a": 1}),
        ('a = "1"; a = 2\n', {"a": "1"}),
        ("a = [ ]\na = [ 1 ]\n", {"a": []}),
        ('a = "x\'y"\n', {"a": "x'y"}),
        ("a = 'x\"y # z'\n", {"a": 'x"y # z'}),
        ('a = """x\n"y" """\nb = 1\n', {"a": 'x\n"y" ', "b": 1}),
        ('a = "back\\slash"\n', {"a": "back\\slash"}),
        ("a = [ ]\n", {"a": []}),
        ('a = [ "x",\n  2,\n]\n', {"a": ["x", 2]}),
        ("a = 1\r\nb = 2\r\n", {"a": 1, "b": 2}),
    ],
)
def test_accepted(text: str, values: dict[str, Value]) -> None:
    assert in_force(parse_settings(text)) == values


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a = 1\nhost_id\n", 2, "expecting an assignment"),
        ("= 1\n", 1, "expecting a name"),
        ("a =\n", 1, "expecting a value"),
        ("a = sanlock\n", 1, "expecting a value"),
        ('# c\na = "x\n', 2, "unterminated string"),
        ("a = 1 2\n", 1, "expecting a separator"),
        ("a = [ 1 2 ]\n", 1, "list is not closed with ]"),
        ("a = [ 1,\n", 2, "expecting a value"),
        ("\n\n", 3, "expecting a name, the file holds only blank lines"),
        ("a = " + "[" * 9000, 1, "lists in too many lists"),
        (f"a = {'1' * 5000}\n", 1, "a number of more than 64 bits"),
    ],
)
def test_refused_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfSyntaxError) as caught:
        parse_settings(text)
    assert (caught.value.line, caught.value.reason) == (line, reason)


def test_what_comes_again_is_named_with_both_lines() -> None:
    settings = parse_settings('# c\na = 1\nb = """\n"""; a = "2"\n\nA = 1\na = []\n')
    pairs = [(first.name, first.line, again.line) for first, again in given_again(settings)]
    assert pairs == [("a", 2, 4), ("a", 2, 7)]


def test_a_large_file_takes_its_share_of_time() -> None:
    lines = part_of(200_000)
    began = time.process_time()
    assert len(parse_settings("a = 1\n" * lines)) == lines
    assert time.process_time() - began < 10 * lines / 200_000


@pytest.mark.parametrize("kind", ["FIFO", "directory", "link to a FIFO", "link to /dev/zero"])
def test_what_is_no_regular_file_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "qemu-sanlock.conf"
    if kind == "directory":
        path.mkdir()
    elif kind == "link to /dev/zero":
        path.symlink_to("/dev/zero")
    else:
        target = path if kind == "FIFO" else tmp_path / "fifo"
        os.mkfifo(target)
        if kind != "FIFO":
            path.symlink_to(target)
    with pytest.raises(PermanentError, match=r"regular file|directory"):
        read_conf(path)


def test_no_file_has_no_settings(tmp_path: Path) -> None:
    assert read_conf(tmp_path / "none.conf") == {}
