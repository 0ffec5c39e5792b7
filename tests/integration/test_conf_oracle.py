# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt_conf against libvirt's own C code: what counts, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sanlock_helper.errors import PermanentError
from sanlock_helper.virt.libvirt_conf import Value, read_conf
from tests.integration import conf_oracle

NAMES = ("a", "b", "host_id", "Ab_1")


@pytest.fixture(autouse=True, scope="module")
def oracle() -> None:
    try:
        conf_oracle.library()
    except OSError as error:
        if os.environ.get("SANLOCK_HELPER_REQUIRE") == "1":
            pytest.fail(f"libvirt.so.0 is required: {error}")
        pytest.skip(f"no libvirt.so.0: {error}")


def plain(value: Value) -> conf_oracle.Value:
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if isinstance(value, int) else value.encode("utf-8", "surrogateescape")


def ours(path: Path) -> str | dict[str, conf_oracle.Value]:
    try:
        values = read_conf(path)
    except PermanentError:
        return conf_oracle.REFUSED
    return {name: plain(value) for name, value in values.items() if name in NAMES}


def compare(path: Path, data: bytes) -> str | dict[str, conf_oracle.Value]:
    path.write_bytes(data)
    expected = conf_oracle.settings(str(path), NAMES)
    assert ours(path) == expected, data
    return expected


TWICE = [
    (b"host_id = 1\nhost_id = 2\n", 1),
    (b"host_id = 1; host_id = 2\n", 1),
    (b"host_id = 2 ;host_id=1", 2),
    (b"host_id = 1\n\n# host_id = 3\n host_id=2 # last\n", 1),
    (b'host_id = "1"\nhost_id = 2\n', b"1"),
    (b'host_id = 1\nhost_id = "2"\n', 1),
    (b"host_id = []\nhost_id = 2\n", []),
    (b'host_id = [ "x", 2 ]\nhost_id = [ "y" ]\n', [b"x", 2]),
    (b'host_id = """1\nhost_id = 2"""\nhost_id = 3\n', b"1\nhost_id = 2"),
    (b"host_id = 1\r\nhost_id = 2\r\n", 1),
    (b"host_id = -1\nhost_id = 2\n", -1),
    (b"host_id = 1\n" + b"host_id = 2\n" * 500, 1),
]


@pytest.mark.parametrize(("data", "value"), TWICE)
def test_of_two_settings_the_first_counts(tmp_path: Path, data: bytes, value: object) -> None:
    found = compare(tmp_path / "conf", data)
    assert isinstance(found, dict)
    assert found["host_id"] == value


@pytest.mark.parametrize(
    "data",
    [
        *[
            b"",
            b"\n",
            b" ",
            b"\n\n \t\n",
            b"\r\n",
            b"#",
            b"# x\n",
            b"\n# x",
            b"# x\n  \n",
            b" # x",
            b";",
            b"a=1;",
        ],
        *[
            b"a=1;;b=2",
            b"a=1; # c\nb=2",
            b"a=1 # c; b=2",
            b"a=1 b=2",
            b"a=+1",
            b"a=-",
            b"a=-0",
            b"a=1x",
            b"a=0x1",
        ],
        *[
            b"a=1.5",
            b'a=""""""',
            b'a="""x"""',
            b'a="""x',
            b'a="""',
            b'a=""',
            b'a="""x"""\n',
            b'a="x\ny"',
            b"a='x",
        ],
        *[
            b"a=[1,2",
            b"a=[1 2]",
            b"a=[,]",
            b"a=[1,]",
            b"a=[1,,2]",
            b"a=[[1],['x']]",
            b"a=[1,\n2\n]\n",
            b"a=[1]b=2",
        ],
        *[
            b"a=[ # c\n1]",
            b"a\n=1",
            b"a=\n1",
            b"1a=1",
            b"_a=1",
            b"a-b=1",
            b"a.b=1",
            b"\xef\xbb\xbfa=1",
            b"a='\xff'",
        ],
        *[
            b"a='x\0y'",
            b"a\0=1",
            b"\0",
            b"a=1\0",
            b"a=1\n\0",
            b"a='x\ry'",
            b'a="""x\r\ny"""\n',
            b"a=1\rb=2",
            b"\fa=1",
        ],
        *[
            b"a = 9223372036854775807",
            b"a=1\n   ",
            b"a=1;   ",
            b"a=1 ",
            b"a",
            b"a ",
            b"=",
            b"a=",
            b"a= # c",
            b"A=1",
        ],
    ],
)
def test_one_line(tmp_path: Path, data: bytes) -> None:
    compare(tmp_path / "conf", data)


PIECES = st.sampled_from(
    [
        *[
            b"a",
            b"b",
            b"host_id",
            b"Ab_1",
            b"=",
            b"=",
            b"=",
            b" = ",
            b"1",
            b"2",
            b"-3",
            b"+4",
            b"'x'",
            b'"y"',
        ],
        *[
            b'"""',
            b"'",
            b'"',
            b"[",
            b"]",
            b",",
            b" ",
            b"\t",
            b"\n",
            b"\n",
            b"\n",
            b"\r\n",
            b"\r",
            b";",
            b"#",
            b"\\",
        ],
        *[b"\xff", b"\xc3\xa4", b".", b"_", b"[ 'x', 1 ]", b'"""x\ny"""'],
    ]
)
SETTING = st.tuples(
    st.sampled_from([b"a", b"b", b"host_id"]),
    st.sampled_from([b"=", b" = ", b"\t=", b"= "]),
    st.sampled_from([b"1", b"2", b"-3", b"'x'", b'"y"', b"[ 'x', 1 ]", b'"""x\ny"""', b"[]"]),
    st.sampled_from([b"\n", b"\n", b"\n", b";", b" ; ", b" # c\n", b"\r\n", b"\n\n# c\n"]),
).map(b"".join)
FILES = st.one_of(st.lists(SETTING, max_size=6), st.lists(st.one_of(PIECES, SETTING), max_size=8)).map(
    b"".join
)


@pytest.mark.usefixtures("untraced")
def test_files(tmp_path: Path) -> None:
    counts = {"accepted": 0, "refused": 0, "twice": 0}

    @settings(
        max_examples=6000,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(FILES)
    def run(data: bytes) -> None:
        found = compare(tmp_path / "conf", data)
        counts["refused" if found == conf_oracle.REFUSED else "accepted"] += 1
        counts["twice"] += isinstance(found, dict) and data.count(b"host_id") > 1

    run()
    print(counts)
    # A strategy that only makes broken files would prove nothing.
    assert min(counts.values()) > 100, counts
