# SPDX-License-Identifier: LGPL-2.1-or-later
"""What versions of GLib make of a value with a backslash that begins no escape."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_auth import AuthConfig, AuthReferenceError
from libvirt_auth.glib import NEWEST, Version, loaded_version

pytestmark = pytest.mark.pure

HEAD = b"[auth-libvirt-h]\ncredentials=a\n[credentials-a]\nauthname=x\n"
OLD, MIDDLE, NEW = (2, 74, 6), (2, 78, 3), (2, 84, 4)


@pytest.mark.parametrize(
    ("value", "old", "middle", "new"),
    [
        (rb"Pa\dss", r"Pa\dss", r"Pa\dss", None),
        (b"a\\", "a", None, None),
        (rb"C:\dir", r"C:\dir", r"C:\dir", None),
        (rb"\;", r"\;", r"\;", None),
        (b"\\", "", None, None),
        (b"\\d\\", "\\d", None, None),
        (rb"a\\", "a\\", "a\\", "a\\"),
        (rb"C:\\dir", r"C:\dir", r"C:\dir", r"C:\dir"),
        (rb"\s\n\t\r\\", " \n\t\r\\", " \n\t\r\\", " \n\t\r\\"),
        (b"plain", "plain", "plain", "plain"),
    ],
)
def test_values(value: bytes, old: str | None, middle: str | None, new: str | None) -> None:
    data = HEAD + b"password=" + value
    found = [
        AuthConfig.from_bytes(data, glib=version).lookup("libvirt", "h", "password")
        for version in (OLD, MIDDLE, NEW)
    ]
    assert found == [old, middle, new]
    for version, answer in zip((OLD, MIDDLE, NEW), found):
        config = AuthConfig.from_bytes(data, glib=version)
        # Whichever GLib is here: an administrator who moves on to another one is warned.
        assert config.odd_fields("libvirt", "h") == (("password",) if new != old else ())
        why = config.why_none("libvirt", "h", "password")
        assert bool(why) == (answer is None)
        assert "dss" not in why
        assert "dir" not in why


@pytest.mark.parametrize(
    ("version", "invalid", "last"),
    [
        ((2, 68, 4), True, True), ((2, 76, 6), True, True), ((2, 77, 2), True, True),
        ((2, 77, 3), False, False), ((2, 78, 0), True, False), ((2, 78, 6), True, False),
        ((2, 79, 0), False, False), ((2, 80, 4), False, False), (NEWEST, False, False),
    ],
)  # fmt: skip
def test_versions(version: tuple[int, int, int], invalid: bool, last: bool) -> None:
    glib = Version(lambda: version)
    assert (glib.keeps_invalid_escapes(), glib.drops_last_backslash()) == (invalid, last)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("libglib-2.0.so.0.7400.6", (2, 74, 6)),
        ("libglib-2.0.so.0.8400.4", (2, 84, 4)),
        ("libglib-2.0.so.0.7703.0", (2, 77, 3)),
        ("libglib-2.0.so.0.5600.4", (2, 56, 4)),
    ],
)
def test_the_name_of_the_library(tmp_path: Path, name: str, version: tuple[int, int, int]) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        f"7f-80 r-xp 00000000 fe:00 1 /usr/lib/libc.so.6\n7f-80 r--p 0 fe:00 2 /usr/lib64/{name}\n"
    )
    assert loaded_version(str(maps)) == version


def test_nothing_is_asked_where_no_value_needs_it() -> None:
    def fail() -> tuple[int, int, int]:
        raise AssertionError("asked")

    version = Version(fail)
    from libvirt_auth.keyfile import KeyFile

    keyfile = KeyFile(("password",), version)
    keyfile.read_bytes(b"[g]\npassword=a\\sb\\\\\nother=\\q\n", "x")
    assert keyfile.value("g", "password") == "a b\\"
    keyfile.read_bytes(b"[g]\npassword=\\q\n", "x")
    with pytest.raises(AssertionError, match="asked"):
        keyfile.value("g", "password")


def test_a_reference() -> None:
    data = rb"[auth-libvirt-h]" + b"\ncredentials=a\\d\n[credentials-a\\d]\npassword=x\n"
    assert AuthConfig.from_bytes(data, glib=OLD).lookup("libvirt", "h", "password") == "x"
    with pytest.raises(AuthReferenceError, match=r"backslash that begins no escape, and GLib 2\.84\.4"):
        AuthConfig.from_bytes(data, glib=NEW).lookup("libvirt", "h", "password")
