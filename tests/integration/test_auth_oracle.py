# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt_auth against libvirt's own C code, on files and environments that no administrator would write.

At least 20,000 files in each run of the suite: half of them the same every time, half of them
new. SANLOCK_HELPER_REQUIRE=1 turns a missing library into a failure.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from libvirt_auth import AuthConfig, AuthFileError, AuthReferenceError, AuthSyntaxError, find_auth_file
from libvirt_auth.uri import URI
from tests.integration import auth_oracle
from tests.integration.auth_files import QUESTIONS, auth_files

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
AUTH = HERE.parents[1] / "auth"

FILES_PER_RUN = 10_100


@pytest.fixture(autouse=True, scope="module")
def oracle() -> None:
    try:
        auth_oracle.library()
    except OSError as err:
        if os.environ.get("SANLOCK_HELPER_REQUIRE") == "1":
            pytest.fail(f"libvirt.so.0 is required: {err}")
        pytest.skip(f"no libvirt.so.0: {err}")


def ours(data: bytes) -> str | list[object]:
    """Return what auth_oracle.lookups() does, from libvirt_auth."""
    try:
        config = AuthConfig.from_bytes(data)
    except AuthSyntaxError:
        return auth_oracle.SYNTAX_ERROR
    answers: list[object] = []
    for question in QUESTIONS:
        try:
            value = config.lookup(*question)
        except AuthReferenceError:
            answers.append(auth_oracle.REFERENCE_ERROR)
        else:
            answers.append(None if value is None else value.encode())
    return answers


def compare(counts: dict[str, int], data: bytes) -> None:
    expected = auth_oracle.lookups(data, QUESTIONS)
    counts["files"] += 1
    for answer in [expected] if isinstance(expected, str) else expected:
        counts["value" if isinstance(answer, bytes) else str(answer)] += 1
    assert ours(data) == expected, data


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("derandomize", [True, False], ids=["same", "random"])
def test_files(derandomize: bool) -> None:
    counts = dict.fromkeys(
        ["files", "value", "None", auth_oracle.SYNTAX_ERROR, auth_oracle.REFERENCE_ERROR], 0
    )

    @settings(
        max_examples=FILES_PER_RUN,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(auth_files())
    def run(data: bytes) -> None:
        compare(counts, data)

    began = time.monotonic()
    run()
    print(counts, f"{time.monotonic() - began:.1f} s")
    assert counts["files"] >= 10_000
    # A strategy that only makes broken files would prove nothing.
    for outcome in ("value", "None", auth_oracle.SYNTAX_ERROR, auth_oracle.REFERENCE_ERROR):
        assert counts[outcome] >= 500, counts


def test_letters() -> None:
    """A locale may hold letters and digits: both know the same ones, but for recent additions."""

    def differ(text: str) -> bool:
        data = b"[g]\n" + "".join(f"k[{letter}]=v\n" for letter in text).encode()
        return ours(data) != auth_oracle.lookups(data, QUESTIONS)

    differing: list[str] = []
    for start in range(0x80, 0x110000, 0x80):
        block = [chr(code) for code in range(start, start + 0x80) if not 0xD800 <= code < 0xE000]
        letters = "".join(filter(str.isalnum, block))
        # A file with a single other character is refused, so each needs a file of its own: samples.
        others = [letter for letter in block[:: 1 if start < 0x800 else 64] if not letter.isalnum()]
        differing += letters if letters and differ(letters) else ""
        differing += filter(differ, others)
    assert len(differing) < 10_000
    assert all(ord(letter) > 0x7FF for letter in differing)


def test_not_regular(tmp_path: Path) -> None:
    """What is not a regular file is refused by both (libvirt would wait on a FIFO)."""
    assert not auth_oracle.can_load(str(tmp_path))
    assert not auth_oracle.can_load(str(tmp_path / "missing"))
    assert not auth_oracle.can_load("/dev/null")
    for path in (str(tmp_path), str(tmp_path / "missing"), "/dev/null"):
        with pytest.raises(AuthFileError):
            AuthConfig.from_file(path)


# GLib reads the environment once, so each environment needs a process of its own.
PROBE = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import auth_oracle
from libvirt_auth import find_auth_file
from libvirt_auth.uri import URI
rows = []
for uri in json.loads(sys.argv[3]):
    theirs = auth_oracle.find_auth_file(uri)
    parts = URI(uri)
    scheme = parts.scheme + ("+" + parts.transport if parts.transport else "")
    rows.append([uri, theirs, [scheme, parts.server, find_auth_file(uri)]])
print(json.dumps(rows))
"""


def probe(environ: dict[str, str], uris: list[str], cwd: Path) -> Iterator[tuple[str, object, object]]:
    command = [sys.executable, "-c", PROBE, str(HERE), str(AUTH), json.dumps(uris)]
    done = subprocess.run(
        command, env=environ, cwd=cwd, check=True, capture_output=True, text=True, timeout=60
    )
    for uri, theirs, mine in json.loads(done.stdout):
        if theirs is not None:
            yield uri, theirs, mine


URIS = [
    "test:///default", "test+unix:///default", "qemu:///system", "qemu+ssh://root@h.example:22/system",
    "qemu+libssh2://[fe80::1]:22/system", "qemu+tls://u:p@h/system?no_verify=1", "esx://h%41x/?authfile=",
    "test:///d?authfile=/a%20b", "test:///d?authfile=/1&authfile=/2", "test:///d?authfile", "test:///d?=v&authfile=/x",
    "test:///d?x;authfile=/a", "test:///d?x;authfile=/a;y", "test:///d?a=1;authfile=/q&b", "test:///d?a&b;authfile=/q",
    "test:///d?&&;;authfile=/x", "test:///d?auth%66ile=/e+f#fragment?authfile=/no", "test:///d?authfile=/a?b/c",
    "test:///d?authfile=/%41%00b", "test:///d?authfile=/%ff%C3%A9", "test:///d?Authfile=/1", "test:///d?authfile=a=b=c",
    "test:///d#?authfile=/no", "test:opaque?authfile=/x", "test://?authfile=/x", "test://:22/x", "test://h?authfile=rel",
    "test://user%40x@h/", "test:///d?authfile=%2e%2E/x", "test:///d?authfile=/%zz", "test:///d?name=authfile=/x",
]  # fmt: skip


def test_uris(tmp_path: Path) -> None:
    compared = list(probe({"HOME": str(tmp_path)}, URIS, tmp_path))
    assert len(compared) >= len(URIS) - 1  # %zz is invalid
    for uri, theirs, mine in compared:
        assert mine == theirs, uri


@pytest.mark.parametrize("xdg", [None, "", "xdg", "xdg///", "relative", "/", "//", "unreadable"])
@pytest.mark.parametrize("home", [None, "", "home", "home//", "empty", "relative"])
def test_environments(tmp_path: Path, home: str | None, xdg: str | None) -> None:
    for directory in ("xdg", "home/.config", ".config", "relative", "relative/.config"):
        (tmp_path / directory / "libvirt").mkdir(parents=True)
        (tmp_path / directory / "libvirt/auth.conf").touch()
    environ = {"LOGNAME": "nobody"}
    for variable, value in (("HOME", home), ("XDG_CONFIG_HOME", xdg)):
        if value is not None:
            plain = value in ("", "relative") or value.startswith("/")
            environ[variable] = value if plain else f"{tmp_path}/{value}"
    for uri, theirs, mine in probe(environ, ["test:///default"], tmp_path):
        assert mine == theirs, uri


@pytest.mark.parametrize("logname", [None, "nobody", "no-such-user", pwd.getpwuid(os.getuid())[0]])
@pytest.mark.parametrize("file", [None, "", "/no/such/file", "rel"])
def test_auth_file_variable(tmp_path: Path, file: str | None, logname: str | None) -> None:
    environ = {} if file is None else {"LIBVIRT_AUTH_FILE": file}
    if logname is not None:
        environ["LOGNAME"] = logname
    for uri, theirs, mine in probe(environ, ["test:///d", "test:///d?authfile=/x"], tmp_path):
        assert mine == theirs, uri


def test_uri_of_nothing() -> None:
    """Strings without a scheme reach this code only if libvirt knows them, as "xen"."""
    assert (URI("xen").scheme, URI("xen").server, URI("").parameters) == ("xen", None, [])
    assert find_auth_file("", {"LIBVIRT_AUTH_FILE": "x"}) == "x"
