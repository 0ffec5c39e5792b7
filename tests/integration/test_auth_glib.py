# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt_auth against libvirt's own code with the GLib of this machine, and with a newer one.

The newer one (packaging/newer-glib) runs under its own loader: this machine's interpreter and libvirt with
another libglib.  SANLOCK_HELPER_REQUIRE=1 turns its absence into a failure, on a machine whose own is older.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from libvirt_auth.glib import loaded_version
from tests.integration import auth_oracle
from tests.integration.auth_files import QUESTIONS, auth_files

ROOT = Path(__file__).parents[2]
NEWER = ROOT / ".venv/glib"

# Debian's interpreter: the loader of another C library is given its path.
PYTHON = "/usr/bin/python3"

# For each file: what libvirt answers, and what we do; and the version that we take GLib for.
PROBE = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from tests.integration import auth_oracle
from libvirt_auth import AuthConfig, AuthReferenceError, AuthSyntaxError
from libvirt_auth.glib import loaded_version
auth_oracle.library()
def ours(config, question):
    try:
        value = config.lookup(*question)
    except AuthReferenceError:
        return auth_oracle.REFERENCE_ERROR
    return None if value is None else value.encode()
questions = json.loads(sys.argv[3])
for line in sys.stdin:
    data = bytes.fromhex(line.strip())
    theirs = auth_oracle.lookups(data, questions)
    try:
        config = AuthConfig.from_bytes(data)
        mine = [ours(config, question) for question in questions]
    except AuthSyntaxError:
        mine = auth_oracle.SYNTAX_ERROR
    print(json.dumps([repr(theirs), repr(mine)]))
print(json.dumps(loaded_version()))
"""


def command(kind: str) -> list[str]:
    """What runs the probe with the GLib of KIND, and the version that it must have at least."""
    if not Path(PYTHON).exists():
        pytest.skip(f"no {PYTHON}")
    if kind == "here":
        return [PYTHON]
    loader = next(iter(NEWER.glob("ld-linux*")), None)
    if loader is None:
        if os.environ.get("SANLOCK_HELPER_REQUIRE") == "1" and loaded_version() < (2, 77, 3):
            pytest.fail("packaging/newer-glib .venv/glib is required")
        pytest.skip("no newer GLib: packaging/newer-glib .venv/glib")
    return [str(loader), "--library-path", str(NEWER), PYTHON]


def answers(kind: str, files: list[bytes]) -> tuple[list[tuple[str, str]], list[int]]:
    """libvirt's answers and ours to QUESTIONS, for each file, and GLib's version."""
    try:
        auth_oracle.library()
    except OSError as error:
        if os.environ.get("SANLOCK_HELPER_REQUIRE") == "1":
            pytest.fail(f"libvirt.so.0 is required: {error}")
        pytest.skip(f"no libvirt.so.0: {error}")
    arguments = ["-IB", "-c", PROBE, str(ROOT), str(ROOT / "auth"), json.dumps(QUESTIONS)]
    done = subprocess.run(
        [*command(kind), *arguments],
        input="".join(f"{data.hex()}\n" for data in files),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *pairs, version = map(json.loads, done.stdout.splitlines())
    return [tuple(pair) for pair in pairs], version


def password(value: bytes) -> bytes:
    return b"[auth-libvirt-h]\ncredentials=a\n[credentials-a]\nauthname=x\npassword=" + value + b"\n"


VALUES = [
    *[rb"Pa\dss", b"a\\", rb"C:\dir", rb"a\\", rb"a\\\\d", rb"\d\s", rb"\s\d", rb"\;", b"\\", b"\\x\\"],
    *[rb"\n\t\r\s", b"\\\xc3\xa4", b"\\\xff", b"\\\0d", b"a\\\0", rb"\\d", rb"\\\d", b"\\=", b"\\[", b"\\ "],
    *[b" \\d", b"\\\r", b"a" * 500 + b"\\q"],
]


@pytest.mark.parametrize("kind", ["here", "newer"])
def test_escapes(kind: str) -> None:
    files = [password(value) for value in VALUES]
    # In a reference, and in a field that is not asked for.
    files += [
        b"[auth-libvirt-h]\ncredentials=" + value + b"\n[credentials-" + value + b"]\n" for value in VALUES
    ]
    files += [password(b"plain\nrealm=" + value) for value in VALUES]
    pairs, version = answers(kind, files)
    for data, (theirs, mine) in zip(files, pairs):
        assert mine == theirs, data
    # Each kind of GLib was really asked.
    expected = "None" if tuple(version) >= (2, 79, 0) else repr(rb"Pa\dss")
    assert pairs[0][0].startswith(f"[{expected}, "), (version, pairs[0])
    assert kind == "here" or tuple(version) >= (2, 79, 0)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("kind", ["here", "newer"])
def test_files(kind: str) -> None:
    files: list[bytes] = []

    @settings(
        max_examples=3000,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(auth_files())
    def collect(data: bytes) -> None:
        files.append(data)

    collect()
    pairs, _ = answers(kind, files)
    assert len(pairs) == len(files) >= 3000
    for data, (theirs, mine) in zip(files, pairs):
        assert mine == theirs, data


def test_the_version_is_that_of_the_library() -> None:
    """The name of the mapped file has it; the library itself gives the same."""
    code = "import ctypes, sys; sys.path.insert(0, sys.argv[1]); lib = ctypes.CDLL('libglib-2.0.so.0'); "
    code += "from libvirt_auth import glib; print(glib.loaded_version(), glib._asked_version())"
    for kind in ("here", "newer") if NEWER.exists() else ("here",):
        run = [*command(kind), "-ISB", "-c", code, str(ROOT / "auth")]
        words = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
        half = len(words) // 2
        assert words[:half] == words[half + 1 :], (sys.executable, words)
