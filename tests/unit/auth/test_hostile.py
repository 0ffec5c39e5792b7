# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are made to cost much: what they take stays in proportion to their size, and small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from libvirt_auth import AuthConfig, AuthFileError

from ..examples import FULL

pytestmark = pytest.mark.pure

AUTH = Path(__file__).resolve().parents[3] / "auth"

# What an emergency may take of the host, beyond the interpreter and its libraries.
MOST_MIB = 64
MIB = 1 << 20

HEAD = b"[auth-libvirt-h]\ncredentials=a\n[credentials-a]\npassword=hunter2\n"


def numbered(pattern: bytes) -> Callable[[int], bytes]:
    """Lines of PATTERN, each with a number of its own."""

    def make(size: int) -> bytes:
        length = len(pattern % 100000)
        return b"".join(pattern % number for number in range(100000, 100000 + size // length))

    return make


def repeated(line: bytes) -> Callable[[int], bytes]:
    return lambda size: line * (size // len(line))


# Every byte of the file is of the shape, less what leads to the password.
SHAPES: dict[str, Callable[[int], bytes]] = {
    "groups": numbered(b"[%d]\n"),
    "auth groups": numbered(b"[auth-libvirt-%d]\n"),
    "credentials groups": numbered(b"[credentials-%d]\nrealm=\n"),
    "tiny groups": repeated(b"[g]\n"),
    "the group itself again": repeated(b"[credentials-a]\n"),
    "names": numbered(b"%d=\n"),
    "the name itself again": repeated(b"password=hunter2\n"),
    "locales": numbered(b"password[%d]=x\n"),
    "escapes": lambda size: b"password=" + b"\\\\" * (size // 2),
    "blanks as escapes": lambda size: b"realm=" + b"\\s" * (size // 2) + b"\n",
    "one line": lambda size: b"realm=" + b"x" * size,
    "one name": lambda size: b"x" * size + b"=",
    "one group": lambda size: b"[" + b"x" * size + b"]",
    "blank lines": repeated(b"\n"),
    "blanks": repeated(b" "),
    "comments": repeated(b"#\n"),
    "line ends": repeated(b"\r\n"),
    "carriage returns": repeated(b"\r"),
    "NULs": repeated(b"\0"),
    "lines of NULs": repeated(b"\0\n"),
    "no UTF-8": repeated(b"realm=\xff\xfe\n"),
    "brackets": repeated(b"[" * 50 + b"\n"),
    "binary": lambda size: bytes(range(256)) * (size // 256),
}

PROBE = f"""
import sys, time
sys.path.insert(0, {str(AUTH)!r})
from libvirt_auth import AuthConfig, AuthSyntaxError
def peak():
    # Not ru_maxrss: that begins with what the process had that started this one.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
AuthConfig.from_bytes(b"[g]\\n").lookup("libvirt", "h", "password")
# The memory for the first is measured: the second, which is smaller, needs no more.
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    before, began = peak(), time.process_time()
    try:
        config = AuthConfig.from_bytes(data)
        names = ("username", "authname", "password", "realm")
        answers = [config.lookup("libvirt", "h", name) for name in names]
        config.lookup("libvirt", "other", "password")
        found = answers[2][-8:]
    except AuthSyntaxError as error:
        assert "hunter" not in f"{{error}} {{error!r}}", error
        found = "refused"
    print(time.process_time() - began, (peak() - before) / 1024, found)
"""


def costs(folder: Path, *files: bytes) -> list[tuple[float, float, str]]:
    """For each of FILES seconds of a processor, MiB of memory, and the end of the password that was found."""
    paths = [folder / f"auth{number}.conf" for number in range(len(files))]
    for path, data in zip(paths, files):
        path.write_bytes(data)
    command = [sys.executable, "-ISBc", PROBE, *map(str, paths)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    rows = [line.split() for line in answer.splitlines()]
    return [(float(words[0]), float(words[1]), " ".join(words[2:])) for words in rows]


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mebibyte(tmp_path: Path, shape: str) -> None:
    make = SHAPES[shape]
    size = MIB if FULL else MIB // 8
    data = HEAD + make(size - len(HEAD) - 64)
    assert size - 256 <= len(data) <= size
    eighth = HEAD + make(size // 8)
    (seconds, mib, found), (seconds_of_eighth, _, _) = costs(tmp_path, data, eighth)
    assert mib < MOST_MIB
    assert seconds < 8
    if shape not in ("one name", "one group", "blanks", "carriage returns"):
        assert found in ("hunter2", "refused", "\\" * 8)
    # In proportion: with twice the share for a machine that is busy with other things.
    assert seconds < 8 * 2 * seconds_of_eighth + 0.2


@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB, 100 * MIB])
def test_a_larger_file_is_refused_with_the_limit(tmp_path: Path, size: int) -> None:
    path = tmp_path / "auth.conf"
    path.write_bytes(HEAD)
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(AuthFileError) as caught:
        AuthConfig.from_file(str(path))
    assert str(caught.value) == f"{path}: larger than 1 MiB, which is the most that is read of it"
    assert caught.value.hint
    assert "hunter" not in f"{caught.value!r} {caught.value.hint}"


def test_nothing_shows_what_was_read() -> None:
    config = AuthConfig.from_bytes(HEAD)
    config.lookup("libvirt", "h", "password")
    assert "hunter" not in f"{config!r} {vars(config)!r}"
