# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's own settings, and whatever else may be in their place."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanlock_helper.checks.recovery import check_hold, check_settings
from sanlock_helper.virt.host_conf import KEYS, SECTION, HostConf, parse_host_conf, read_host_conf

TOP = Path(__file__).parents[3]


def test_no_file_is_as_good_as_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n\n[recover]\n")
    assert read_host_conf(f"{tmp_path}/none") == read_host_conf(f"{tmp_path}/empty") == HostConf()
    assert HostConf() == HostConf(default=False, side_by_side=8, order="priority")
    assert check_settings(HostConf()).verdict == "pass"


@pytest.mark.parametrize("start", ["", "\ufeff", "; a comment\n\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_all_settings(tmp_path: Path, start: str, end: str) -> None:
    lines = ["[recover]", "default = yes   # all of them", "side_by_side=1", "order = time ; as lost", ""]
    path = tmp_path / "conf"
    path.write_bytes((start + end.join(lines)).encode())
    found = read_host_conf(str(path))
    assert found == HostConf(True, 1, "time", frozenset(KEYS))
    assert check_settings(found).found == "default = yes, side_by_side = 1, order = time"


# A text, the values that count then (default, side_by_side, order), and the line and words of each problem.
WRONG: list[tuple[str, tuple[object, int, str], list[tuple[int, str]]]] = [
    ("[recover]\ndefault = yse\norder = time\n", (None, 8, "time"), [(2, "default is 'yse', not yes or no")]),
    ("[recover]\n\ndefault =\n", (None, 8, "priority"), [(3, "default is '', not yes or no")]),
    ("[recover]\ndefault = YES\n", (None, 8, "priority"), [(2, "default is 'YES'")]),
    ("[recover]\nside_by_side = 0\n", (False, 8, "priority"), [(2, "not a whole number from 1 to 64")]),
    ("[recover]\nside_by_side = 65\ndefault = yes\n", (True, 8, "priority"), [(2, "side_by_side is '65'")]),
    ("[recover]\nside_by_side = ²\n", (False, 8, "priority"), [(2, "side_by_side is '²'")]),
    ("[recover]\nside_by_side = 1e1\n", (False, 8, "priority"), [(2, "side_by_side is '1e1'")]),
    (f"[recover]\nside_by_side = {'9' * 5000}\n", (False, 8, "priority"), [(2, "(5000 characters)")]),
    ("[recover]\norder = Time\n", (False, 8, "priority"), [(2, "order is 'Time', not priority or time")]),
    ("[recover]\ndefualt = yes\n", (None, 8, "priority"), [(2, "unknown key 'defualt'; [recover] takes")]),
    ("[recover]\nDefault = yes\n", (None, 8, "priority"), [(2, "unknown key 'Default'")]),
    ("[recover]\nx = 1\ndefault = yes\n", (True, 8, "priority"), [(2, "unknown key 'x'")]),
    ("[recovery]\ndefault = yes\n", (None, 8, "priority"), [(1, "unknown section 'recovery'")]),
    ("[DEFAULT]\ndefault = yes\n", (None, 8, "priority"), [(1, "unknown section 'DEFAULT'")]),
    (
        "[recover]\ndefault = no\nside_by_side = -5\nx = 1\n[y]\nz = 1\n",
        (False, 8, "priority"),
        [(3, "side_by_side is '-5'"), (4, "unknown key 'x'"), (5, "unknown section 'y'")],
    ),
    # What is no file of settings counts as a whole as not given.
    ("default = yes\n", (None, 8, "priority"), [(1, "a setting before the first section, [recover]")]),
    ("[recover]\norder = time\norder = time\n", (None, 8, "priority"), [(3, "'order' is there twice")]),
    ("[recover]\n[x]\n[recover]\n", (None, 8, "priority"), [(3, "section 'recover' is there twice")]),
    ("[recover]\norder = time\ndefault\n", (None, 8, "priority"), [(3, "neither [recover] nor KEY = VALUE")]),
    ("[recover]\ndefault: yes\n", (None, 8, "priority"), [(2, "neither [recover] nor KEY = VALUE")]),
    ("\0", (None, 8, "priority"), [(1, "a setting before the first section")]),
    # A section's head stands alone: configparser itself drops what follows it.
    ("[recover] default = yes\n", (None, 8, "priority"), [(1, "neither [recover] nor KEY = VALUE")]),
    ("[recover]x\ndefault = yes\n", (None, 8, "priority"), [(1, "neither [recover] nor")]),
    ("[recover\ndefault = yes\n", (None, 8, "priority"), [(1, "neither [recover] nor")]),
    ("[recover]\norder = time\n[recover] default = yes\n", (None, 8, "time"), [(3, "unknown key '[reco")]),
    ("[recover]\n[x] y\n", (None, 8, "priority"), [(2, "neither [recover] nor")]),
    # Its own comments may have anything.
    ("[recover] ; [x]\nfoo = 1\n", (None, 8, "priority"), [(2, "unknown key 'foo'")]),
    ("[recover]\nfoo = 1 ; foo = 2\n  # foo = 3\n", (None, 8, "priority"), [(2, "unknown key 'foo'")]),
    # A value of two lines.
    ("[recover]\ndefault = yes\n  order = time\n", (None, 8, "priority"), [(2, r"'yes\norder = time'")]),
    ("[recover]\ndefault = %(order)s\n", (None, 8, "priority"), [(2, "default is '%(order)s'")]),
]


@pytest.mark.parametrize(("text", "values", "problems"), WRONG, ids=lambda value: ascii(value)[:40])
def test_what_is_wrong_is_named_with_its_line_and_the_rest_counts(
    tmp_path: Path, text: str, values: tuple[object, int, str], problems: list[tuple[int, str]]
) -> None:
    path = tmp_path / "conf"
    path.write_text(text)
    found = read_host_conf(str(path))
    assert (found.default, found.side_by_side, found.order) == values
    assert len(found.problems) == len(problems)
    for problem, (line, words) in zip(found.problems, problems):
        assert problem.startswith(f"{path}: line {line}: ")
        assert words in problem
    finding = check_settings(found)
    assert finding.verdict == "fail"
    assert all(problem in finding.found for problem in found.problems)
    assert "man virt-sanlock-helper" in finding.remedy


def test_what_is_no_file_of_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("fifo")
    (tmp_path / "lost").symlink_to("not mounted/conf")
    (tmp_path / "large").write_bytes(b"#" * 10_000_000)
    (tmp_path / "latin").write_bytes(b"[recover]\n# \xfc\n")
    (tmp_path / "utf-16").write_bytes("[recover]\ndefault = yes\n".encode("utf-16"))
    for name, words in {
        "fifo": "it is no regular file",
        "link": "it is no regular file",
        "lost": "it is a symbolic link to a file that is not there",
        "directory": "Is a directory",
        "loop": "Too many levels of symbolic links",
        "large": "it is larger than 64 KiB",
        "latin": "line 2 is not UTF-8",
        "utf-16": "line 1 is not UTF-8",
    }.items():
        found = read_host_conf(f"{tmp_path}/{name}")
        assert found.default is None
        (problem,) = found.problems
        assert problem == f"read {tmp_path}/{name}: {words}"
        assert found.remedy
        assert check_settings(found).verdict == "fail"
    found = read_host_conf("/dev/zero")
    assert found.problems == ("read /dev/zero: it is no regular file",)


def test_carriage_returns_alone_end_no_line(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_bytes(b"[recover]\rdefault = yes\r")
    found = read_host_conf(str(path))
    assert found.default is None
    assert found.problems == (f"{path}: line 1: neither [recover] nor KEY = VALUE",)


lines = st.sampled_from(
    [
        "[recover]",
        "[x]",
        "default = yes",
        "default = no",
        "order = time",
        "side_by_side = 3",
        " = ",
        "x",
        "#",
        "",
    ]
)


@given(st.text(max_size=200) | st.lists(lines | st.text(max_size=8), max_size=12).map("\n".join))
def test_any_text_has_settings_that_recovery_can_go_by(text: str) -> None:
    found = parse_host_conf(text)
    assert found.default in (True, False, None)
    assert 1 <= found.side_by_side <= 64
    assert found.order in ("priority", "time")
    for problem in found.problems:
        match = re.match(r"/etc/virt-sanlock-helper\.conf: line (\d+): ", problem)
        assert match is not None, problem
        assert 1 <= int(match[1]) <= text.count("\n") + text.count("\r") + 1
    # A default that is not the built-in one was given, and nothing is lost in silence.
    assert found.default is False or "default" in found.given or found.problems


def test_each_key_is_documented() -> None:
    page = (TOP / "packaging/man/virt-sanlock-helper.8.rst").read_text()
    configuration = page[page.index("CONFIGURATION\n===") : page.index("ENVIRONMENT\n===")]
    recovery = (TOP / "docs/recovery.md").read_text()
    for key in KEYS:
        assert f"\n``{key}``\n" in configuration
        assert re.search(rf"^    {key} = ", recovery, re.MULTILINE)
    assert f"    [{SECTION}]\n" in configuration
    assert f"    [{SECTION}]\n" in recovery
    example = configuration[configuration.index("    [recover]") : configuration.index("``default``")]
    assert parse_host_conf(re.sub("^    ", "", example, flags=re.MULTILINE)) == HostConf(
        given=frozenset(KEYS)
    )


def test_a_hold_is_a_warning() -> None:
    assert check_hold(None).verdict == "pass"
    found = check_hold(1e9)
    assert (found.verdict, found.remedy) == ("warn", "virt-sanlock-helper recover --release")
    assert found.found.startswith("held since 2001-09-")
